"""The llmperf leaderboard's runs through Kafka, a worker and the store, against the authors' own percentiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.deployment import Pipeline
from tests.support.llmperf import RUNS, check, run
from tests.support.servers import Kafka
from tidegauge.schemas.codec import encode


@pytest.mark.slow
def test_stored_percentiles_are_within_one_percent_of_those_the_authors_computed(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    runs = [run(name) for name in RUNS]
    events = [
        event for each in runs for streamed in (True, False) for event in each.events(streamed=streamed)
    ]
    events.sort(key=lambda event: event.time)  # they lie weeks apart, more than an event may be late
    (tmp_path / "runs.jsonl").write_bytes(b"".join(encode(event) + b"\n" for event in events))
    pipeline = Pipeline(tmp_path, kafka.bootstrap_servers, topic_prefix)
    pipeline.create_topics()
    with pipeline.worker() as worker:
        pipeline.do("replay", "runs.jsonl", "--format", "jsonl")
        worker.wait(
            "all stored",
            lambda: pipeline.holds({"intake": ("events", len(events)), "latency": ("requests", len(events))}),
        )
        worker.end()

    rows = pipeline.query("latency", "--by", "provider,service")
    stored = {(row["provider"], row["service"]): row for row in rows}
    assert len(stored) == 2 * len(runs)
    for each in runs:
        check(each, stored[each.name, "streamed"], stored[each.name, "whole"])
