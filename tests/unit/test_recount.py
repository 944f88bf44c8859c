"""A source's log counted again, in the two ways that a rebuild reads it."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass

import pytest

from tidegauge.errors import SettingsError
from tidegauge.processors.core.ingest import Checkpoint, IngestConfig
from tidegauge.processors.core.pricing import PriceTable
from tidegauge.processors.core.recount import (
    BEFORE,
    CURRENT,
    LATE,
    Current,
    Recount,
    Row,
    Stretch,
    assemble,
    total,
)
from tidegauge.schemas.codec import encode
from tidegauge.schemas.pane import PaneSnapshot
from tidegauge.schemas.request import RequestEvent
from tidegauge.spool import Spool

DAY = 86_400
NOON = 1_700_006_400 // DAY * DAY + DAY // 2
CONFIG = IngestConfig(600.0, 300.0, epoch_events=1_000, epoch_seconds=1e6)
STRETCH = Stretch(NOON, NOON + 60)
PRICES = PriceTable()


@dataclass
class Record:
    offset: int
    timestamp: int
    value: bytes


def log(*events: tuple[str, float] | tuple[str, float, str]) -> list[Record]:
    """Events by id, seconds after noon, and service."""
    return [
        Record(
            n,
            (NOON + 10 * DAY) * 1000,
            encode(RequestEvent(event[0], NOON + event[1], service=(*event, "")[2])),
        )
        for n, event in enumerate(events)
    ]


def recount(spool: Spool, config: IngestConfig = CONFIG, stretch: Stretch = STRETCH) -> Recount:
    return Recount("requests", 0, config, PRICES, stretch, 0, spool.memory())


def services(panes: list[PaneSnapshot], view: str = "requests_1h") -> Counter[str]:
    return Counter({pane.key[0]: pane.counters[0] for pane in panes if pane.view == view})


def outcomes(panes: list[PaneSnapshot]) -> Counter[str]:
    return Counter({pane.key[1]: pane.counters[0] for pane in panes if pane.view == "intake"})


def test_late_events_wait_until_all_others_have_had_their_places() -> None:
    #   two series a day; "late" comes before "b", and would have taken its place
    config = IngestConfig(600.0, 300.0, max_series=2, max_dimension_values=9)
    with closing(Spool()) as spool:
        counting = recount(spool, config, Stretch(NOON - DAY, NOON + DAY))
        counting.apply(log(("1", 5_000, "a"), ("2", 0, "late"), ("3", 5_000, "b"), ("4", 5_000, "c")))
        panes = counting.take(end=True)
        assert services(panes) == {"a": 1, "b": 1, "__other__": 1}
        assert outcomes(panes) == {"applied": 3, "late": 1}
        assert services(list(counting.late_panes([]))) == {"__other__": 1}
        assert (counting.counted, counting.late_count) == (3, 1)


def test_late_events_that_were_admitted_for_one_round_leave_their_place_for_the_next() -> None:
    config = IngestConfig(600.0, 300.0, max_series=2, max_dimension_values=9)
    records = log(("1", 5_000, "a"), ("2", 0, "late"), ("3", 5_000, "b"))
    with closing(Spool()) as spool:
        counting = recount(spool, config, Stretch(NOON - DAY, NOON + DAY))
        counting.apply(records[:2])
        counting.take(end=True)
        assert services(list(counting.late_panes([]))) == {"late": 1}
        counting.apply(records[2:])
        assert services(counting.take(end=True)) == {"b": 1}
        assert services(list(counting.late_panes([]))) == {"__other__": 1}


def test_repeats_are_recognised_however_far_apart_and_late_ones_among_them() -> None:
    with closing(Spool()) as spool:
        counting = recount(spool)
        many = [(f"other-{n}", 700.0 + DAY) for n in range(3_000)]  # three epochs
        counting.apply(log(("1", 10), *many, ("1", 10), ("2", 20), ("2", 20)))
        panes = counting.take(end=True)
        assert services(panes) == {"": 1}
        assert services(list(counting.late_panes([]))) == {"": 1}
        repeats: Counter[str] = Counter()
        for pane in panes:
            if pane.view == "intake":
                repeats[pane.key[1]] += pane.counters[0]
        assert repeats == {"applied": 3_001, "late": 1, "duplicate": 2}
        assert counting.knows("2")
        assert not counting.knows("3")


def test_each_partition_has_a_memory_of_its_own() -> None:
    with closing(Spool()) as spool:
        first, second = spool.memory(), spool.memory()
        assert [first.new("a"), first.new("a"), second.new("a")] == [True, False, True]
        first.keep(b"1")
        first.keep(b"2")
        assert (list(first.kept()), list(second.kept())) == ([b"1", b"2"], [])


def test_the_workers_epoch_is_counted_as_the_worker_does_and_late_ones_are_told() -> None:
    records = log(("0", 0), ("1", 0), ("2", 5_000), ("3", 1), ("3", 1), ("1", 0), ("4", 2), ("5", 5_000))
    checkpoint = Checkpoint(previous=0, epoch=2, watermark=NOON + 0.0, last=6)
    current = Current("requests", 0, CONFIG, PRICES, STRETCH, checkpoint, [])
    current.apply(records[: checkpoint.last + 1])
    assert [event.id for event in current.late] == ["3", "4"]
    assert current.counted == 1
    assert services(current.take()) == {"": 1}
    assert current.closed() == NOON + 5_000 - CONFIG.allowed_lateness


def test_a_worker_that_ends_its_epochs_elsewhere_is_noticed() -> None:
    checkpoint = Checkpoint(previous=0, epoch=0, last=5)
    config = IngestConfig(600.0, 300.0, epoch_events=3)
    current = Current("requests", 0, config, PRICES, STRETCH, checkpoint, [])
    current.apply(log(*((str(n), 0) for n in range(6))))
    with pytest.raises(SettingsError, match=r"worker\.epoch_events"):
        current.take()


def test_shares_of_a_pane_are_put_together() -> None:
    def row(partition: int, share: int, count: int, start: int = NOON) -> Row:
        return Row(partition, share, PaneSnapshot("intake", ("requests", "applied"), start, [count], []))

    with closing(Spool()) as spool:
        for partition, share, count in ((1, CURRENT, 5), (0, BEFORE, 1), (0, BEFORE, 2), (0, LATE, 3)):
            spool.add("requests", partition, share, [row(partition, share, count).pane], STRETCH)
        spool.add("requests", 0, BEFORE, [row(0, BEFORE, 9, NOON + 60).pane], STRETCH)  # not of the stretch
        spool.add("feedback", 0, BEFORE, [row(0, BEFORE, 9).pane], STRETCH)
        (pane,) = assemble(spool.rows("requests"))
        assert [(s.partition, s.counters, s.current_counters) for s in pane.shares] == [
            (0, [6], []),
            (1, [], [5]),
        ]
        assert total(pane).counters == [11]
        spool.forget_moving("requests")
        (pane,) = assemble(spool.rows("requests"))
        assert total(pane).counters == [3]


@pytest.mark.parametrize(
    ("view", "start", "covered"),
    [
        ("requests", NOON - 60, False),
        ("requests", NOON, True),
        ("requests", NOON + 60, False),
        ("requests_1h", NOON, True),
        ("requests_1h", NOON - 3_600, False),
        ("cost_1d", NOON - DAY // 2, True),
        ("cost_1d", NOON + DAY // 2, False),
    ],
)
def test_a_stretch_covers_what_overlaps_it(view: str, start: int, covered: bool) -> None:  # noqa: FBT001
    assert STRETCH.covers(view, start) is covered
    assert STRETCH.first == NOON - DAY // 2
    assert STRETCH.holds(STRETCH.first)
    assert not STRETCH.holds(STRETCH.first + DAY)
