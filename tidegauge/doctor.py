"""What ``tidegauge doctor`` looks at, and what it says to do about each fault. Nothing is written anywhere but locks.

Each check stands alone: one that finds its server away says so, and the others go on. Texts come from the errors that
name settings; no secret and nothing of an event is among them.
"""

from __future__ import annotations

import http.client
import shutil
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Literal

from .broker import admin_client, knock
from .errors import BrokerUnavailableError, TidegaugeError
from .settings import Settings
from .topics import check_topics, topic_specs

State = Literal["OK", "WARN", "FAIL"]
_CLOCK_TOLERANCE: Final = 2.0
_DISK_LOW: Final = 1 << 30
_OPERATIONS: Final = {"READ": 3, "WRITE": 4, "DESCRIBE": 8}
"""Bits of Kafka's AclOperation, as in its answers to describe."""


@dataclass(frozen=True)
class Finding:
    """What one check found; ``mend`` says what to do, where there is something to do."""

    check: str
    state: State
    found: str
    mend: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Run all checks, each when it is asked for."""
    checks: tuple[tuple[str, Callable[[Settings], Iterator[Finding]]], ...] = (
        ("broker", _broker),
        ("topics", _topics),
        ("permissions", _permissions),
        ("store", _store),
        ("clock", _clock),
        ("disk", _disk),
        ("prices", _prices),
        ("worker", _worker),
    )
    away = False
    for name, check in checks:
        if away and name in ("topics", "permissions"):
            continue  # the broker's own line has said it
        try:
            yield from check(settings)
        except BrokerUnavailableError as error:
            away = True
            yield Finding(name, "FAIL", str(error), "start Kafka, or mend the settings named in [kafka]")
        except TidegaugeError as error:
            yield Finding(name, "FAIL", str(error), _mend(name))


def _mend(name: str) -> str:
    return {
        "store": "start the store, or mend the settings in [store] and [influxdb]",
        "prices": "mend the file, or clear prices.override_file",
    }.get(name, "mend that and run it again")


def _broker(settings: Settings) -> Iterator[Finding]:
    knock(settings.kafka)
    with admin_client(settings.kafka):
        yield Finding("broker", "OK", f"Kafka answers at {settings.kafka.bootstrap_servers}")


def _topics(settings: Settings) -> Iterator[Finding]:
    problems = check_topics(settings)
    for problem in problems:
        state: State = "FAIL" if problem.fatal else "WARN"
        yield Finding("topics", state, f"{problem.topic}: {problem.what}", problem.mend)
    if not problems:
        yield Finding("topics", "OK", f"{len(topic_specs(settings))} topics are as they must be")


def _permissions(settings: Settings) -> Iterator[Finding]:
    silent, missing = [], []
    with admin_client(settings.kafka) as admin:
        described = admin.describe_topics([spec.name for spec in topic_specs(settings)])
    for topic in described:
        if topic["error_code"]:
            continue  # is missing, which is said above
        told = topic.get("topic_authorized_operations", topic.get("authorized_operations"))
        if isinstance(told, int):
            allowed = {name for name, bit in _OPERATIONS.items() if told >= 0 and told & 1 << bit}
        else:
            allowed = {str(name) for name in told or ()} & set(_OPERATIONS)
        name = topic.get("name") or topic.get("topic")
        if not allowed:
            silent.append(str(name))
        elif lacking := sorted(set(_OPERATIONS) - allowed):
            missing.append(f"{name}: may not {', '.join(lacking)}")
    for found in missing:
        yield Finding("permissions", "FAIL", found, "have Kafka's ACLs allow it")
    if silent:
        yield Finding(
            "permissions",
            "WARN",
            f"the broker does not tell what we may do with {', '.join(silent)}",
            "ask who may",
        )
    if not missing and not silent:
        number = sum(not topic["error_code"] for topic in described)
        yield Finding("permissions", "OK", f"{number} topics may be read and written")


def _store(settings: Settings) -> Iterator[Finding]:
    from .sinks.open import open_store

    url = settings.store.url
    path = url.removeprefix("sqlite:///")
    if url.startswith("sqlite:///") and not Path(path).is_file():
        yield Finding(
            "store", "WARN", f"no file yet at {Path(path).absolute()}", "start a worker: it makes it"
        )
        return
    with closing(open_store(settings)) as store:
        store.check()
    yield Finding("store", "OK", f"{url} can be read and written")


def _clock(settings: Settings) -> Iterator[Finding]:
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
    # The header tells whole seconds, cut off.
    offset = max(0.0, abs(ahead - 0.5) - 0.5)
    if offset > _CLOCK_TOLERANCE:
        yield Finding(
            "clock", "WARN", f"{offset:.0f} s apart from InfluxDB's", "let NTP set the clocks of all machines"
        )
    else:
        yield Finding("clock", "OK", f"within {_CLOCK_TOLERANCE:g} s of InfluxDB's")


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
    from .processors.core.views import MEASUREMENTS
    from .sinks.open import open_store
    from .sinks.query import rows

    prices(settings)
    yield Finding("prices", "OK", "the price table and its overrides can be read")
    assert "cost" in MEASUREMENTS
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
