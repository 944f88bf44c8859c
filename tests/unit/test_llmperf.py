"""Percentiles of the llmperf leaderboard's runs, as the core computes them, against the authors' own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from tests.support.llmperf import RUNS, check, run
from tidegauge.processors.core.aggregate import Aggregate
from tidegauge.processors.core.ingest import Ingest, IngestConfig
from tidegauge.processors.core.pricing import PriceTable
from tidegauge.processors.core.views import MEASUREMENTS, REQUESTS, FieldValue
from tidegauge.schemas.codec import encode
from tidegauge.schemas.request import RequestEvent


@dataclass
class Record:
    offset: int
    timestamp: int
    value: bytes | None


def latency(events: Iterable[RequestEvent]) -> dict[str, FieldValue]:
    """The fields of the latency measurement of all the events' minutes together."""
    records = [Record(n, int(event.time * 1000), encode(event)) for n, event in enumerate(events)]
    ingest = Ingest("requests", 0, IngestConfig(), PriceTable())
    ingest.apply(records)
    total = REQUESTS.empty()
    minutes = [
        pane for batch in ingest.flush(0.0).batches for pane in batch.panes if pane.view == REQUESTS.name
    ]
    assert len(minutes) > 1
    for pane in minutes:
        total.merge(Aggregate.restore(pane.counters, pane.sketches))
    return REQUESTS.fields(MEASUREMENTS["latency"].measurement, total)


@pytest.mark.parametrize("name", RUNS)
def test_percentiles_are_within_one_percent_of_those_the_authors_computed(name: str) -> None:
    check(run(name), latency(run(name).events(streamed=True)), latency(run(name).events(streamed=False)))
