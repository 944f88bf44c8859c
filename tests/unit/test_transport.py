"""Which fetched runs of records may be handed over; the rest of the transport is tried on a real Kafka."""

from __future__ import annotations

from faust.types import TP

from tidegauge.processors.engine.transport import Chunk, Continuity

REQUESTS = TP("requests", 0)


def test_a_run_that_was_fetched_elsewhere_sends_the_reader_back_to_where_the_state_ends() -> None:
    continuity = Continuity()
    continuity.begin({REQUESTS: 100})
    assert continuity.gap(REQUESTS, 514) == 100
    assert continuity.gap(REQUESTS, 100) is None
    continuity.took(REQUESTS, 513)
    assert continuity.gap(REQUESTS, 514) is None


def test_a_chunk_that_waited_for_the_agent_over_a_seek_is_dropped() -> None:
    continuity = Continuity()
    waiting = Chunk("requests", 0, [], continuity.seek(REQUESTS))
    assert continuity.is_current(waiting)
    continuity.begin({REQUESTS: 0})
    assert not continuity.is_current(waiting)
    assert continuity.is_current(Chunk("requests", 0, [], continuity.seek(REQUESTS)))


def test_a_run_that_overlaps_what_was_taken_is_believed() -> None:
    continuity = Continuity()
    continuity.begin({REQUESTS: 100})
    assert continuity.gap(REQUESTS, 0) is None
    continuity.took(REQUESTS, 50)
    assert continuity.gap(REQUESTS, 51) is None
    assert continuity.gap(REQUESTS, 101) == 100


def test_a_gap_that_is_there_again_is_one_of_the_log() -> None:
    continuity = Continuity()
    continuity.begin({REQUESTS: 10})
    assert [continuity.gap(REQUESTS, 12) for _ in range(4)] == [10, 10, 10, None]
    continuity.took(REQUESTS, 20)
    assert continuity.gap(REQUESTS, 22) == 21


def test_doubts_end_with_a_new_assignment() -> None:
    continuity = Continuity()
    continuity.begin({REQUESTS: 10})
    assert continuity.gap(REQUESTS, 12) == 10
    continuity.begin({REQUESTS: 5})
    assert continuity.gap(REQUESTS, 12) == 5


def test_partitions_without_a_known_position_are_not_judged() -> None:
    assert Continuity().gap(REQUESTS, 7) is None


def test_a_seek_of_one_partition_leaves_the_chunks_of_others_as_they_are() -> None:
    continuity = Continuity()
    waiting = Chunk("requests", 1, [], continuity.seek(TP("requests", 1)))
    continuity.begin({REQUESTS: 0})
    assert continuity.is_current(waiting)
