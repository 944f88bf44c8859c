"""The first stage, record by record: epochs, restarts, duplicates, time, retention."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.ingest_log import (
    ONE_EPOCH,
    START,
    event,
    ingest,
    only,
    outcomes,
    panes,
    records,
)
from tidegauge.processors.core.ingest import Checkpoint, Outbox

# Epochs


def test_an_epoch_is_sealed_before_the_event_that_would_exceed_it() -> None:
    #   0 1 2 3 │ 4 5
    stage = ingest()
    stage.apply(records(*map(event, range(4))))
    assert not stage.sealed
    stage.apply(records(event(4), event(5), first=4))
    assert stage.sealed
    first, second = stage.flush(0.0).batches
    assert (first.epoch, first.last) == (0, 3)
    assert (second.epoch, second.last) == (4, 5)


def test_an_array_is_never_cut_by_an_epoch() -> None:
    stage = ingest()
    stage.apply(records(event(0), [event(n) for n in range(1, 9)], event(9)))
    first, second = stage.flush(0.0).batches
    assert (first.epoch, first.last, second.epoch, second.last) == (0, 1, 2, 2)
    assert outcomes(Outbox([first], [], [], Checkpoint())) == {"applied": 9}


def test_an_epoch_is_sealed_when_kafkas_clock_has_moved_on() -> None:
    stage = ingest()
    stage.apply(records(event(0), event(1), event(2), seconds=500))
    assert [batch.epoch for batch in stage.flush(0.0).batches] == [0, 2]


def test_refused_events_count_for_the_epoch_too() -> None:
    stage = ingest()
    stage.apply(records(b"{", b"{", b"{", b"{", event(4)))
    assert [batch.epoch for batch in stage.flush(0.0).batches] == [0, 4]


def test_snapshots_are_absolute_since_their_epoch_began() -> None:
    stage = ingest(ONE_EPOCH)
    stage.apply(records(event(0), event(1)))
    assert only(stage.flush(0.0))["requests"] == 2
    stage.apply(records(event(2), first=2))
    assert only(stage.flush(1.0))["requests"] == 3
    assert not stage.pending or not stage.flush(1.0).batches


def test_records_read_twice_are_skipped() -> None:
    stage = ingest(ONE_EPOCH)
    assert stage.apply(records(event(0), event(1))) == 2
    assert stage.apply(records(event(0), event(1), event(2))) == 1
    assert only(stage.flush(0.0))["requests"] == 3


def test_wide_panes_wait_and_the_announced_watermark_waits_with_them() -> None:
    # Else the second stage gives up the hour before it has heard of it.
    stage = ingest(ONE_EPOCH)
    stage.apply(records(event(0)))
    (batch,) = stage.flush(0.0).batches
    assert batch.watermark == START
    stage.apply(records(event(1, time=START + 200.0), first=1))
    (batch,) = stage.flush(1.0).batches
    assert {pane.view for pane in batch.panes} == {"requests", "intake"}
    assert batch.watermark == START
    (batch,) = stage.flush(20.0).batches
    assert {pane.view for pane in batch.panes} == {"requests_1h", "cost_1d"}
    assert batch.watermark == START + 200.0


def test_a_whole_flush_leaves_no_pane_waiting_however_soon_it_comes_again() -> None:
    stage = ingest(ONE_EPOCH)
    for n in range(3):
        stage.apply(records(event(n, time=START + 100.0 * n), first=n))
        (batch,) = stage.flush(0.1 * n, whole=True).batches
        assert {pane.view for pane in batch.panes} == {"requests", "intake", "requests_1h", "cost_1d"}
        assert batch.watermark == START + 100.0 * n


def test_an_idle_partition_tells_its_watermark_and_no_panes() -> None:
    stage = ingest(ONE_EPOCH)
    stage.apply(records(event(0)))
    stage.flush(0.0)
    batch = stage.idle()
    assert (batch.idle, batch.watermark, batch.panes) == (True, START, [])


# Restarts and duplicates


def test_a_duplicate_is_counted_as_such_and_not_folded() -> None:
    stage = ingest()
    stage.apply(records(event("a"), event("a")))
    out = stage.flush(0.0)
    assert only(out)["requests"] == 1
    assert outcomes(out) == {"applied": 1, "duplicate": 1}


@pytest.mark.parametrize(
    ("distance", "outcome"),
    [
        (3, "duplicate"),  # a 1 2 a            the same epoch
        (7, "duplicate"),  # a 1 2 3 │ 4 5 6 a  the epoch after
        (8, "applied"),  #   a 1 2 3 │ 4 5 6 7 │ a  beyond the horizon of one to two epochs
    ],
)
@pytest.mark.parametrize("restart", [False, True])
def test_duplicates_are_recognised_over_the_horizon_with_and_without_a_restart(
    distance: int,
    outcome: str,
    restart: bool,  # noqa: FBT001
) -> None:
    log = records(event("a"), *(event(n) for n in range(1, distance)), event("a"))
    stage = ingest()
    stage.apply(log[:distance])
    outs = [stage.flush(0.0)]
    if restart:
        stage = ingest(checkpoint=outs[0].checkpoint, admitted=outs[0].admitted)
        stage.apply(log[stage.position : distance])
        assert stage.position == distance
    stage.apply(log[distance:])
    outs.append(stage.flush(1.0))
    expected = Counter({"applied": distance})
    expected[outcome] += 1
    assert outcomes(*outs) == dict(expected)


def test_after_a_restart_the_previous_epoch_is_read_for_its_ids_alone() -> None:
    log = records(*map(event, range(6)))
    stage = ingest()
    stage.apply(log)
    checkpoint = stage.flush(0.0).checkpoint
    assert checkpoint == Checkpoint(previous=0, epoch=4, watermark=float(START), last=5)
    again = ingest(checkpoint=checkpoint)
    assert again.position == 0
    assert again.apply(log[:4]) == 0
    assert not again.pending
    assert again.catching_up
    assert again.apply(log[4:]) == 2
    assert not again.catching_up
    (batch,) = again.flush(0.0).batches
    assert (batch.epoch, batch.last) == (4, 5)


def test_a_dead_letter_that_was_delivered_is_not_delivered_again() -> None:
    log = records(event(0), b"{", b"[")
    stage = ingest()
    stage.apply(log[:2])
    out = stage.flush(0.0)
    assert [letter.offset for letter in out.letters] == [1]
    again = ingest(checkpoint=out.checkpoint)
    again.apply(log)
    assert [letter.offset for letter in again.flush(0.0).letters] == [2]


# Time


def test_an_event_beyond_the_lateness_is_counted_late_and_not_folded() -> None:
    stage = ingest()
    stage.apply(records(event(0), event(1, time=START - 600.0), event(2, time=START - 600.5)))
    out = stage.flush(0.0)
    assert outcomes(out) == {"applied": 2, "late": 1}
    assert sum(c["requests"] for c in panes(out, "cost_1d").values()) == 2


def test_an_event_of_the_future_is_refused_and_moves_no_watermark() -> None:
    stage = ingest()
    stage.apply(records(event(0, time=START + 300.0), event(1, time=START + 301.5)))
    out = stage.flush(0.0)
    assert outcomes(out) == {"applied": 1, "refused_future_time": 1}
    assert stage.watermark == START + 300.0
    (letter,) = out.letters
    assert (letter.offset, letter.refused.error.field) == (1, "time")


def test_a_refused_future_event_may_come_again_when_its_time_has_come() -> None:
    stage = ingest()
    stage.apply(records(event("a", time=START + 400.0)))
    stage.apply(records(event("a", time=START + 400.0), first=200))
    assert outcomes(stage.flush(0.0)) == {"refused_future_time": 1, "applied": 1}


def test_a_bad_event_costs_that_event_alone() -> None:
    stage = ingest()
    stage.apply(records([event(0), {"id": 7}, event(1)], b"\xff", None))
    out = stage.flush(0.0)
    counted = outcomes(out)
    assert counted.pop("applied") == 2
    assert sum(counted.values()) == 3
    assert [letter.refused.index for letter in out.letters] == [1, None, None]


# Retention


def test_what_retention_took_before_it_was_read_is_told() -> None:
    stage = ingest(checkpoint=Checkpoint(previous=0, epoch=4, watermark=0.0, last=5))
    assert stage.skip_to(10) == 4
    assert stage.position == 10


def test_what_retention_took_after_it_was_delivered_is_not_lost() -> None:
    stage = ingest(checkpoint=Checkpoint(previous=0, epoch=4, watermark=0.0, last=9))
    assert stage.skip_to(6) == 0
    assert stage.position == 10
