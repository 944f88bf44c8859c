"""The second stage, snapshot by snapshot.

A snapshot is written ``snap(n, last=…, epoch=…, source=…)``: a pane that counts n events.
"""

from __future__ import annotations

import msgspec

from tidegauge.processors.core.aggregate import Aggregate
from tidegauge.processors.core.merge import Bounds, Merge, route
from tidegauge.schemas.pane import PaneBatch, PaneSnapshot

MINUTE = 1_700_000_040
KEY = ("requests", "applied")
NAME = ("intake", MINUTE, KEY)


def snap(
    count: int, last: int, *, epoch: int = 0, source: int = 0, start: int = MINUTE, watermark: float = 0.0
) -> PaneBatch:
    panes = [PaneSnapshot("intake", KEY, start, [count], [])]
    return PaneBatch("requests", source, epoch, last, watermark, panes)


def heard(source: int, watermark: float) -> PaneBatch:
    return PaneBatch("requests", source, 0, 0, watermark, [])


def idle(source: int, watermark: float) -> PaneBatch:
    return PaneBatch("requests", source, 0, 0, watermark, [], idle=True)


def shown(merge: Merge) -> dict[int, int]:
    """What the store would be given: count by pane start."""
    return {start: total.counters[0] for _, start, _, total in merge.changed(merge.backlog)}


def restarted(merge: Merge, shards: dict[str, bytes], *, sources: int = 1) -> Merge:
    """What a new worker makes of what was stored."""
    again = Merge(100.0, sources, msgspec.json.decode(msgspec.json.encode(merge.bounds), type=Bounds))
    again.restore(shards.items())
    return again


def saved(merge: Merge) -> dict[str, bytes]:
    return dict(merge.unsaved())


def test_a_newer_snapshot_replaces_the_older() -> None:
    merge = Merge(100.0)
    merge.apply(snap(3, last=5))
    merge.apply(snap(7, last=9))
    assert shown(merge) == {MINUTE: 7}


def test_an_old_snapshot_never_replaces_a_newer_one() -> None:
    merge = Merge(100.0)
    merge.apply(snap(7, last=9))
    merge.apply(snap(3, last=5))
    merge.apply(snap(7, last=9))
    assert shown(merge) == {MINUTE: 7}


def test_an_old_epoch_never_replaces_a_newer_one_however_far_it_was() -> None:
    merge = Merge(100.0)
    merge.apply(snap(7, last=9))
    merge.apply(snap(2, last=11, epoch=10))
    merge.apply(snap(6, last=50, epoch=0))
    assert shown(merge) == {MINUTE: 9}


def test_epochs_of_a_source_add_up() -> None:
    #   epoch 0: 3 → 7 (final)   epoch 10: 1 → 4 (final)   epoch 20: 2
    merge = Merge(100.0)
    for n, last, epoch in ((3, 5, 0), (7, 9, 0), (1, 10, 10), (4, 19, 10), (2, 21, 20)):
        merge.apply(snap(n, last, epoch=epoch))
    assert shown(merge) == {MINUTE: 7 + 4 + 2}


def test_sources_add_up() -> None:
    merge = Merge(100.0, 2)
    merge.apply(snap(3, last=5, source=0))
    merge.apply(snap(4, last=2, source=1))
    assert shown(merge) == {MINUTE: 7}


def test_a_repeat_is_handed_to_the_store_again() -> None:
    merge = Merge(100.0)
    merge.apply(snap(3, last=5))
    shown(merge)
    assert shown(merge) == {}
    merge.apply(snap(3, last=5))
    assert shown(merge) == {MINUTE: 3}


def test_a_view_of_a_newer_worker_is_left_alone() -> None:
    merge = Merge(100.0)
    merge.apply(PaneBatch("requests", 0, 0, 1, 0.0, [PaneSnapshot("tomorrow", ("x",), MINUTE, [1], [])]))
    assert len(merge) == 0
    assert shown(merge) == {}


def test_what_was_saved_goes_on_where_it_was() -> None:
    merge = Merge(100.0)
    merge.apply(snap(7, last=9))
    merge.apply(snap(2, last=11, epoch=10))
    again = restarted(merge, saved(merge))
    assert shown(again) == {}
    again.apply(snap(7, last=9))  # read again
    again.apply(snap(5, last=12, epoch=10))
    assert shown(again) == {MINUTE: 12}


def test_only_what_changed_is_saved_again_under_the_same_name() -> None:
    merge = Merge(100.0)
    merge.apply(snap(1, last=1))
    first = saved(merge)
    merge.apply(snap(1, last=1))
    assert saved(merge) == {}
    merge.apply(snap(2, last=2))
    assert saved(merge).keys() == first.keys()


def test_a_pane_is_given_up_only_when_all_sources_have_passed_it() -> None:
    #   horizon 100 s    pane ends at MINUTE + 60    source 1 is slow
    merge = Merge(100.0, 2)
    merge.apply(snap(3, last=5, watermark=MINUTE + 1_000.0))
    shown(merge)
    assert list(merge.evict()) == []  # of source 1 nothing is known yet
    merge.apply(heard(1, MINUTE + 159.0))
    assert list(merge.evict()) == []
    merge.apply(snap(4, last=1, source=1))
    assert shown(merge) == {MINUTE: 7}
    merge.apply(heard(1, MINUTE + 160.0))
    assert len(list(merge.evict())) == 1
    assert len(merge) == 0


def test_a_pane_that_the_store_has_not_got_is_never_given_up() -> None:
    merge = Merge(100.0)
    merge.apply(snap(3, last=5, watermark=MINUTE + 1_000.0))
    assert list(merge.evict()) == []
    assert shown(merge) == {MINUTE: 3}
    assert len(list(merge.evict())) == 1


def test_a_shard_given_up_is_not_saved_again() -> None:
    merge = Merge(100.0)
    merge.apply(snap(3, last=5, watermark=MINUTE + 1_000.0))
    shown(merge)
    assert list(merge.evict())
    assert saved(merge) == {}


def test_a_pane_given_up_is_not_begun_anew() -> None:
    merge = Merge(100.0)
    merge.apply(snap(7, last=9))
    merge.apply(snap(2, last=11, epoch=10, watermark=MINUTE + 1_000.0))
    shown(merge)
    assert list(merge.evict())
    merge.apply(snap(2, last=12, epoch=10))
    assert shown(merge) == {}
    assert (merge.repeats, merge.late_panes) == (1, 0)


def test_a_restart_does_not_begin_anew_what_was_given_up() -> None:
    # Else the 2 events of the current epoch, sent again, would replace all 9 in the store.
    merge = Merge(100.0)
    merge.apply(snap(7, last=9))
    merge.apply(snap(2, last=11, epoch=10, watermark=MINUTE + 1_000.0))
    shards = saved(merge)
    shown(merge)
    for name in merge.evict():
        del shards[name]
    again = restarted(merge, shards)
    again.apply(snap(2, last=12, epoch=10))
    assert shown(again) == {}
    assert (again.repeats, again.late_panes) == (1, 0)


def test_a_crash_before_the_deletion_is_made_good_later() -> None:
    merge = Merge(100.0)
    merge.apply(snap(7, last=9, watermark=MINUTE + 1_000.0))
    shards = saved(merge)
    shown(merge)
    gone = list(merge.evict())
    again = restarted(merge, shards)
    again.apply(heard(0, MINUTE + 1_000.0))
    assert list(again.evict()) == gone


# Idle sources


def test_an_idle_source_is_not_waited_for() -> None:
    merge = Merge(100.0, 2)
    merge.apply(snap(3, last=5, watermark=MINUTE + 1_000.0))
    shown(merge)
    merge.apply(heard(1, 0.0))
    assert merge.evict() == []
    merge.apply(idle(1, 0.0))
    assert len(merge.evict()) == 1


def test_what_an_idle_source_has_a_part_in_is_kept_until_it_closes_it() -> None:
    merge = Merge(100.0, 2)
    merge.apply(snap(3, last=5, watermark=MINUTE + 1_000.0))
    merge.apply(snap(4, last=1, source=1, watermark=float(MINUTE)))
    merge.apply(idle(1, float(MINUTE)))
    shown(merge)
    assert merge.evict() == []
    merge.apply(snap(5, last=2, source=1, watermark=MINUTE + 160.0))
    assert shown(merge) == {MINUTE: 8}
    assert len(merge.evict()) == 1


def woken(base: int | None = None) -> tuple[Merge, dict[str, bytes]]:
    """Source 0 counted 3 and went on; the pane was given up; source 1 was idle and now counts 4 there."""
    merge = Merge(100.0, 2)
    merge.apply(snap(3, last=5, watermark=MINUTE + 1_000.0))
    merge.apply(idle(1, 0.0))
    shards = saved(merge)
    assert shown(merge) == {MINUTE: 3}
    for name in merge.evict():
        del shards[name]
    merge.apply(snap(4, last=1, source=1))
    if base is not None:
        merge.found(NAME, Aggregate([base], []))
    return merge, shards


def test_an_idle_source_that_wakes_up_adds_to_what_the_store_holds() -> None:
    merge, _ = woken()
    assert shown(merge) == {}  # not before the store was asked: it would be replaced by less
    assert merge.backlog == 1
    assert merge.unfounded() == [NAME]
    merge.found(NAME, Aggregate([3], []))
    assert shown(merge) == {MINUTE: 7}
    merge.apply(snap(6, last=2, source=1))
    assert shown(merge) == {MINUTE: 9}


def test_an_idle_source_may_also_wake_up_where_the_store_holds_nothing() -> None:
    merge, _ = woken()
    merge.found(NAME, None)
    assert shown(merge) == {MINUTE: 4}


def test_a_repeat_of_what_the_store_holds_is_not_added_to_it() -> None:
    merge, _ = woken(base=3)
    merge.apply(snap(3, last=7))
    assert shown(merge) == {MINUTE: 7}
    assert merge.repeats == 1


def test_what_the_store_held_is_counted_once_over_a_crash() -> None:
    merge, shards = woken(base=3)
    shards |= saved(merge)
    assert shown(merge) == {MINUTE: 7}  # written; then the worker dies
    again = restarted(merge, shards, sources=2)
    again.apply(snap(4, last=1, source=1))
    assert again.unfounded() == []
    assert shown(again) == {MINUTE: 7}


def test_a_pane_that_waits_for_the_store_is_neither_saved_nor_given_up() -> None:
    # Saved without the store's share it would look whole to the next worker.
    merge, _ = woken()
    assert len(restarted(merge, saved(merge), sources=2)) == 0
    merge.apply(heard(1, MINUTE + 1_000.0))
    assert merge.evict() == []
    assert merge.unfounded() == [NAME]


def test_what_breaks_a_sources_word_is_counted() -> None:
    merge = Merge(100.0)
    merge.apply(snap(7, last=9, watermark=MINUTE + 1_000.0))
    shown(merge)
    merge.evict()
    merge.apply(snap(1, last=11, epoch=10))
    assert shown(merge) == {}
    assert merge.late_panes == 1


# Memory


def test_of_what_waits_the_newest_and_the_oldest_are_given_out_in_turn() -> None:
    merge = Merge(100.0)
    for n in range(8):
        merge.apply(snap(n + 1, last=n, start=MINUTE + 60 * n))
    stamp = merge.waiting.stamp
    first = [(start - MINUTE) // 60 for _, start, _, _ in merge.changed(4)]
    assert first == [7, 6, 0, 1]
    merge.apply(snap(9, last=9, start=MINUTE + 60 * 9))
    second = [(start - MINUTE) // 60 for _, start, _, _ in merge.changed(4)]
    assert second == [9, 5, 2, 3]
    assert not merge.waiting.taken_up_to(stamp)
    assert [(start - MINUTE) // 60 for _, start, _, _ in merge.changed(4)] == [4]
    assert merge.waiting.taken_up_to(stamp)


def test_what_always_changes_does_not_keep_the_rest_waiting_for_ever() -> None:
    merge = Merge(100.0)
    for n in range(6):
        merge.apply(snap(1, last=n, start=MINUTE + 60 * n))
    stamp = merge.waiting.stamp
    rounds = 0
    while not merge.waiting.taken_up_to(stamp):
        merge.changed(2)
        for n in range(20):
            merge.apply(snap(rounds, last=100 + 20 * rounds + n, start=MINUTE + 6_000 + 60 * n))
        rounds += 1
    assert rounds == 5  # the first round found nothing newer, and took both of its halves from them


def test_panes_are_given_out_bit_by_bit_and_each_change_once() -> None:
    merge = Merge(100.0)
    for n in range(5):
        merge.apply(snap(n + 1, last=n, start=MINUTE + 60 * n))
    first = merge.changed(2)
    again = first[-1][1]
    merge.apply(snap(9, last=9, start=again))
    assert merge.backlog == 4
    rest = merge.changed(10)
    assert sorted(start for _, start, _, _ in first + rest) == sorted(
        [again, *(MINUTE + 60 * n for n in range(5))]
    )
    assert [total.counters for _, start, _, total in rest if start == again] == [[9]]


def test_a_pane_that_was_packed_goes_on_where_it_was() -> None:
    merge = Merge(100.0)
    merge.apply(snap(3, last=5))
    shown(merge)
    first = saved(merge)
    assert saved(merge) == {}  # and packs what was not touched
    merge.apply(snap(4, last=1, source=1))
    assert shown(merge) == {MINUTE: 7}
    assert saved(merge).keys() == first.keys()


def test_all_panes_of_a_series_take_the_same_route_and_series_spread() -> None:
    keys = [(f"service-{n}",) for n in range(1_000)]
    routes = [route("requests", key, 4) for key in keys]
    assert routes == [route("requests", key, 4) for key in keys]
    assert all(200 < routes.count(partition) < 300 for partition in range(4))
