"""What ``tidegauge doctor`` looks at, and what it says to do about each fault. Nothing is written anywhere but locks.

Each check stands alone: one that finds its server away says so, and the others go on. Texts come from the errors that
name settings; no secret and nothing of an event is among them.
"""

from __future__ import annotations

import http.client
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from . import doctor_kafka, doctor_store
from .errors import BrokerUnavailableError, TidegaugeError
from .finding import Check, Finding, State
from .settings import Settings

_DISK_LOW: Final = 1 << 30
_PRICES_OLD_DAYS: Final = 120


def examine(settings: Settings) -> Iterator[Finding]:
    """Run all checks, each when it is asked for."""
    of_kafka = (doctor_kafka.topics, doctor_kafka.permissions, doctor_kafka.reading, doctor_kafka.clock)
    checks: tuple[tuple[str, Check], ...] = (
        ("broker", doctor_kafka.broker),
        ("topics", doctor_kafka.topics),
        ("permissions", doctor_kafka.permissions),
        ("reading", doctor_kafka.reading),
        ("clock", doctor_kafka.clock),
        ("store", doctor_store.store),
        ("clock", doctor_store.clock),
        ("disk", _disk),
        ("prices", _prices),
        ("worker", _worker),
    )
    away = False
    for name, check in checks:
        if away and check in of_kafka:
            continue  # the broker's own line has said it
        try:
            yield from check(settings)
        except BrokerUnavailableError as error:
            refused = "Authorization" in str(error)  # it answers, and others of its checks may do
            away = away or not refused
            mend = "have Kafka's ACLs allow it" if refused else "start Kafka, or mend the settings in [kafka]"
            yield Finding(name, "FAIL", str(error), mend)
        except TidegaugeError as error:
            yield Finding(name, "FAIL", str(error), _mend(name))


def _mend(name: str) -> str:
    return {
        "store": "start the store, or mend the settings in [store] and [influxdb]",
        "prices": "mend the file, or clear prices.override_file",
    }.get(name, "mend that and run it again")


def _disk(settings: Settings) -> Iterator[Finding]:
    if not settings.store.url.startswith("sqlite:///"):
        return
    folder = Path(settings.store.url.removeprefix("sqlite:///")).absolute().parent
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    state: State = "WARN" if free < _DISK_LOW else "OK"
    mend = "make room: a full disk holds the worker up" if state == "WARN" else ""
    yield Finding("disk", state, f"{free / 1e9:.1f} GB free at {folder}", mend)


def _prices(settings: Settings) -> Iterator[Finding]:
    from .commands.worker import prices
    from .processors.core.pricing import newest_price
    from .sinks.open import open_store
    from .sinks.query import rows

    table = prices(settings)
    newest = newest_price(datetime.now(UTC).date())
    age = (datetime.now(UTC).date() - newest).days
    what = f"{table.version}, whose newest price began on {newest}"
    if age > _PRICES_OLD_DAYS:
        mend = "upgrade genai-prices, or give what has changed since in prices.override_file"
        yield Finding("prices", "WARN", f"{what}, {age} days ago", mend)
    else:
        yield Finding("prices", "OK", what)
    url = settings.store.url
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file():
        return
    try:
        with closing(open_store(settings, readonly=True)) as store:
            found = rows(store, "cost", start=int(time.time()) - 3_600, by=["model"])
    except TidegaugeError:
        return  # the store's finding
    unpriced = sorted(str(row["model"]) for row in found if row.get("unpriced_requests"))
    if unpriced:
        when = datetime.now(UTC).strftime("%H:%M UTC")
        yield Finding(
            "prices",
            "WARN",
            f"without a price in the hour before {when}: {', '.join(unpriced[:10])}",
            "give them one in prices.override_file (docs/guides/prices.md)",
        )


def _worker(settings: Settings) -> Iterator[Finding]:
    worker = settings.worker
    if not worker.web_port:
        return
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(worker.web_host, worker.web_host)  # noqa: S104
    connection = http.client.HTTPConnection(host, worker.web_port, timeout=5)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        said = answer.read(1_000).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        yield Finding("worker", "WARN", f"none answers at {host}:{worker.web_port}", "run: tidegauge worker")
        return
    finally:
        connection.close()
    if answer.status == 200:
        yield Finding("worker", "OK", f"the one at {host}:{worker.web_port} is ready")
    else:
        yield Finding("worker", "WARN", f"not ready: {said}", "see docs/guides/health.md")
