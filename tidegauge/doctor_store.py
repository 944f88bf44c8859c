"""What ``tidegauge doctor`` looks at in the store: whether it can be used, how long it keeps points, its clock."""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

from .doctor_kafka import apart
from .finding import Finding
from .settings import Settings

_DAY: Final = 86_400


def store(settings: Settings) -> Iterator[Finding]:
    """Whether it can be read and written, and keeps points for long enough."""
    from .sinks.open import open_store

    url = settings.store.url
    path = url.removeprefix("sqlite:///")
    if url.startswith("sqlite:///") and not Path(path).is_file():
        yield Finding(
            "store", "WARN", f"no file yet at {Path(path).absolute()}", "start a worker: it makes it"
        )
        return
    with closing(open_store(settings)) as opened:
        opened.check()
        keeps = opened.retention()
    yield from _retention(settings, keeps)
    yield Finding("store", "OK", f"{url} can be read and written")


def _retention(settings: Settings, keeps: int) -> Iterator[Finding]:
    if not keeps:
        return  # for ever
    needed = _DAY + settings.worker.allowed_lateness
    if keeps < needed:
        what = f"it keeps points for {keeps:,} s, and a day's pane is written until {needed:,.0f} s after it begins"
        yield Finding(
            "store", "FAIL", what, "raise the bucket's retention: what is older is refused and lost"
        )
    elif keeps < settings.topics.retention_hours * 3_600:
        what = f"it keeps points for {keeps:,} s, less than Kafka keeps events (topics.retention_hours)"
        yield Finding(
            "store", "WARN", what, "raise the bucket's retention: it would not take a rebuild of all that"
        )


def clock(settings: Settings) -> Iterator[Finding]:
    """Our clock against InfluxDB's."""
    if settings.store.url != "influxdb":
        return
    secured = settings.influxdb
    context = None
    if secured.url.startswith("https"):
        context = ssl.create_default_context(cafile=secured.ssl_ca_cert or None)
        if not secured.verify_ssl:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(  # noqa: S310 — the setting allows http and https alone
            f"{secured.url.rstrip('/')}/ping", timeout=secured.timeout, context=context
        ) as answer:
            ahead = time.time() - parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (OSError, ValueError, TypeError, http.client.HTTPException):
        return  # that it does not answer is the store's finding
    # The header tells whole seconds, cut off: theirs is up to a second more.
    yield apart("InfluxDB", min(0.0, 1 - ahead) if ahead > 0 else -ahead)
