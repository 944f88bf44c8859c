"""The pipeline's own figures: how they are asked for, named and refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tidegauge.errors import SinkUnavailableError, UsageError
from tidegauge.processors.engine.lease import Lease
from tidegauge.processors.engine.name import own_name
from tidegauge.processors.engine.storage import Storage
from tidegauge.sinks.base import Point, Rejection
from tidegauge.sinks.local import LocalStore
from tidegauge.sinks.query import query, rows

HOUR = 1_699_999_200


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(tmp_path / "x.db")
    yield store
    store.close()


def _tell(
    store: LocalStore, at: int, worker: str, topic: str = "", partition: str = "", **fields: float
) -> None:
    tags = {"worker": worker, "topic": topic, "partition": partition}
    assert store.write([Point("pipeline", tags, HOUR + at, fields)]) == []


def test_a_counter_shows_what_it_rose_by_and_begins_again_with_its_process(store: LocalStore) -> None:
    for at, value in ((-10, 100), (0, 130), (10, 150), (20, 7), (30, 9)):
        _tell(store, at, "a", "requests", events_applied=value)
    _tell(store, 10, "b", "requests", events_applied=5)
    (row,) = rows(store, "pipeline", start=HOUR, end=HOUR + 60)
    assert row["events_applied"] == 30 + 20 + 7 + 2 + 5
    steps = rows(store, "pipeline", start=HOUR, end=HOUR + 60, every=20)
    assert [row["events_applied"] for row in steps] == [55, 9]


def test_a_partition_that_changed_hands_counts_once_and_lag_adds_up_over_partitions(
    store: LocalStore,
) -> None:
    _tell(store, 0, "a", "requests", "0", lag_records=50, watermark_seconds=20.0, still_seconds=3.0)
    _tell(store, 10, "b", "requests", "0", lag_records=40, watermark_seconds=30.0, still_seconds=0.0)
    _tell(store, 10, "b", "requests", "1", lag_records=2, watermark_seconds=25.0, still_seconds=1.0)
    (row,) = rows(store, "pipeline")
    assert (row["lag_records"], row["watermark_seconds"], row["still_seconds"]) == (42, 25.0, 3.0)
    by_worker = rows(store, "pipeline", by=["worker"])
    assert [(row["worker"], row["lag_records"]) for row in by_worker] == [("a", 50), ("b", 42)]
    (one,) = rows(store, "pipeline", where={"partition": "1"})
    assert one["lag_records"] == 2


def test_a_figure_that_nobody_told_is_none_and_a_frame_has_it_as_nan(store: LocalStore) -> None:
    _tell(store, 0, "a", ready=1)
    _tell(store, 10, "b", ready=0)
    frame = query(store, "pipeline")
    assert frame["ready"].to_list() == [0.0]
    assert frame["lag_records"].isna().all()


def test_what_makes_no_sense_of_gauges_is_wrong_use(store: LocalStore) -> None:
    with pytest.raises(UsageError, match="--window"):
        rows(store, "pipeline", every=60, window=120)
    with pytest.raises(UsageError, match="no dimension 'model' here; there are worker, topic, partition"):
        rows(store, "pipeline", by=["model"])


def test_a_name_is_held_by_one_and_free_again_after_it() -> None:
    with own_name("pipeline-query-test") as first, own_name("pipeline-query-test") as second:
        assert (first, second) == ("pipeline-query-test", "pipeline-query-test/2")
    with own_name("pipeline-query-test") as again:
        assert again == first


class Refusing(LocalStore):
    away = False

    def write(self, points: Sequence[Point]) -> list[Rejection]:
        if self.away:
            raise SinkUnavailableError("away")
        return [Rejection(point, "field type conflict") for point in points]


async def test_refused_figures_are_counted_and_told_once_and_missed_ones_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Refusing(tmp_path / "x.db")
    storage = Storage(store, Lease(10), logging.getLogger("test"))
    points = [Point("pipeline", {}, HOUR, {"lag_records": 1})] * 3
    with caplog.at_level("WARNING"):
        await storage.tell(points)
        await storage.tell(points)
    assert storage.own_refused == 6
    assert [record.getMessage() for record in caplog.records] == [
        "the store refuses the pipeline's own figures: field type conflict; said once, and counted on"
    ]
    store.away = True
    await storage.tell(points)
    assert (storage.own_refused, storage.own_missed) == (6, 3)
    storage.close()
