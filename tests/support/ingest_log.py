"""Logs for the first stage, and what it made of them.

Logs are written as lists of messages; record n has offset n and, unless told, was appended n seconds after START.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tidegauge.processors.core.cardinality import Admitted
from tidegauge.processors.core.ingest import Checkpoint, Ingest, IngestConfig, Outbox
from tidegauge.processors.core.pricing import PriceTable
from tidegauge.processors.core.views import VIEWS
from tidegauge.schemas.codec import encode
from tidegauge.schemas.request import RequestEvent

START = 1_700_010_000
CONFIG = IngestConfig(allowed_lateness=600.0, future_tolerance=300.0, epoch_events=4, epoch_seconds=1_000.0)
ONE_EPOCH = IngestConfig(allowed_lateness=600.0, future_tolerance=300.0)
PRICES = PriceTable()


@dataclass
class Record:
    offset: int
    timestamp: int
    value: bytes | None


def event(identity: object, **fields: Any) -> RequestEvent:
    return RequestEvent(id=str(identity), time=fields.pop("time", float(START)), **fields)


def records(*messages: object, first: int = 0, seconds: int = 1) -> list[Record]:
    return [
        Record(n, (START + n * seconds) * 1000, m if isinstance(m, bytes | None) else encode(m))
        for n, m in enumerate(messages, first)
    ]


def ingest(
    config: IngestConfig = CONFIG,
    checkpoint: Checkpoint | None = None,
    admitted: list[Admitted] | None = None,
) -> Ingest:
    return Ingest("requests", 0, config, PRICES, checkpoint, admitted or [])


def outcomes(*outboxes: Outbox) -> dict[str, int]:
    """Events by outcome; epochs add up, and of each the newest snapshot counts."""
    newest = {
        (batch.epoch, pane.key, pane.start): pane.counters[0]
        for out in outboxes
        for batch in out.batches
        for pane in batch.panes
        if pane.view == "intake"
    }
    result: Counter[str] = Counter()
    for (_, key, _), n in newest.items():
        result[key[1]] += n
    return dict(result)


def panes(out: Outbox, view: str) -> dict[tuple[str, ...], dict[str, int]]:
    """The counters of a view's panes by key."""
    return {
        pane.key: dict(zip(VIEWS[view].counters, pane.counters, strict=True))
        for batch in out.batches
        for pane in batch.panes
        if pane.view == view
    }


def only(out: Outbox, view: str = "requests") -> dict[str, int]:
    (counters,) = panes(out, view).values()
    return counters
