"""The watchdog's judgement, with the clock passed in."""

from __future__ import annotations

from tidegauge.processors.core.progress import Standing, Watchdog

A, B = ("requests", 0), ("requests", 1)


def test_a_partition_that_stands_with_something_to_read_is_found_after_its_time_and_not_before() -> None:
    watchdog = Watchdog()
    watchdog.look(0, {A: Standing(5, 9)})
    watchdog.look(59, {A: Standing(5, 12)})
    assert watchdog.stalled(60) == []
    watchdog.look(60, {A: Standing(5, 12)})
    (stalled,) = watchdog.stalled(60)
    assert str(stalled) == "requests/0 stands at offset 5 for 60 s with 7 records to read"


def test_a_partition_that_moves_is_not_stalled_however_far_behind() -> None:
    watchdog = Watchdog()
    for second in range(0, 600, 30):
        watchdog.look(second, {A: Standing(second, 1_000_000)})
    assert watchdog.stalled(60) == []


def test_time_without_anything_to_read_does_not_count() -> None:
    watchdog = Watchdog()
    watchdog.look(0, {A: Standing(5, 5)})
    watchdog.look(1_000, {A: Standing(5, 6)})
    watchdog.look(1_000, {A: Standing(5, 6), B: Standing(0, None)})
    assert watchdog.stalled(60) == []
    watchdog.look(1_060, {A: Standing(5, 6), B: Standing(0, None)})
    assert [one.partition for one in watchdog.stalled(60)] == [0]


def test_waiting_for_a_server_does_not_count_and_the_time_begins_anew_after_it() -> None:
    watchdog = Watchdog()
    watchdog.look(0, {A: Standing(5, 9)})
    watchdog.look(500, {A: Standing(5, 9)}, waiting=True)
    assert watchdog.stalled(60) == []
    watchdog.look(559, {A: Standing(5, 9)})
    assert watchdog.stalled(60) == []
    watchdog.look(560, {A: Standing(5, 9)})
    assert len(watchdog.stalled(60)) == 1


def test_a_partition_that_comes_back_begins_anew_and_one_that_has_gone_is_not_blamed() -> None:
    watchdog = Watchdog()
    watchdog.look(0, {A: Standing(5, 9), B: Standing(5, 9)})
    watchdog.look(100, {B: Standing(5, 9)})
    assert [one.partition for one in watchdog.stalled(60)] == [1]
    watchdog.look(110, {A: Standing(5, 9)})
    assert watchdog.stalled(60) == []
