"""The second stage, when a pane is rebuilt: what is replaced, what goes on, and what is refused.

A share of a source is written ``share(before, current)``: so many events of sealed epochs, and of the worker's epoch.
"""

from __future__ import annotations

import msgspec

from tidegauge.processors.core.merge import Bounds, Merge
from tidegauge.schemas.pane import PaneBatch, PaneSnapshot
from tidegauge.schemas.rebuilt import RebuiltBatch, RebuiltPane, RebuiltShare, RebuiltSource

MINUTE = 1_700_000_040
KEY = ("requests", "applied")
NAME = ("intake", MINUTE, KEY)
PASSED = MINUTE + 1_000.0  # a watermark that closes the minute; the horizon is 100 s


def snap(count: int, last: int, *, epoch: int = 0, source: int = 0, watermark: float = 0.0) -> PaneBatch:
    return PaneBatch(
        "requests", source, epoch, last, watermark, [PaneSnapshot("intake", KEY, MINUTE, [count], [])]
    )


def heard(source: int, watermark: float, last: int = 0, *, idle: bool = False) -> PaneBatch:
    return PaneBatch("requests", source, 0, last, watermark, [], idle=idle)


def share(before: int, current: int = 0, *, source: int = 0) -> RebuiltShare:
    return RebuiltShare(source, [before] if before else [], [], [current] if current else [], [])


def read(epoch: int, last: int, *, source: int = 0, closed: float = 0.0) -> RebuiltSource:
    return RebuiltSource(source, epoch, last, closed)


def rebuilt(sources: list[RebuiltSource], *shares: RebuiltShare, view: str = "intake") -> RebuiltBatch:
    return RebuiltBatch("test", 1, "requests", sources, [RebuiltPane(view, KEY, MINUTE, list(shares))])


def shown(merge: Merge) -> dict[int, int]:
    merge.release()
    return {start: total.counters[0] for _, start, _, total in merge.changed(merge.backlog)}


def given_up(*, sources: int = 1) -> Merge:
    """The pane had 3 events of source 0; the other source is idle."""
    merge = Merge(100.0, sources)
    merge.apply(snap(3, last=5, watermark=PASSED))
    for source in range(1, sources):
        merge.apply(heard(source, 0.0, last=4, idle=True))
    assert shown(merge) == {MINUTE: 3}
    assert len(merge.evict()) == 1
    return merge


def test_what_sealed_epochs_held_is_replaced_and_the_current_epoch_goes_on() -> None:
    #   epoch 0: 7    epoch 10: 2, then 5    recounted: 8 (one was late), and 2
    merge = Merge(100.0)
    merge.apply(snap(7, last=9))
    merge.apply(snap(2, last=11, epoch=10))
    assert merge.rebuild(rebuilt([read(10, 11)], share(8, 2))) == []
    assert shown(merge) == {MINUTE: 10}
    merge.apply(snap(5, last=13, epoch=10))
    assert shown(merge) == {MINUTE: 13}
    merge.apply(snap(1, last=21, epoch=20))
    assert shown(merge) == {MINUTE: 14}


def test_a_snapshot_that_is_newer_than_what_was_recounted_stays() -> None:
    merge = Merge(100.0)
    merge.apply(snap(5, last=13, epoch=10))
    assert merge.rebuild(rebuilt([read(10, 11)], share(8, 2))) == []
    assert shown(merge) == {MINUTE: 13}


def test_a_snapshot_of_the_same_offset_is_replaced_for_its_price_may_be_another() -> None:
    merge = Merge(100.0)
    merge.apply(snap(5, last=13, epoch=10))
    assert merge.rebuild(rebuilt([read(10, 13)], share(0, 6))) == []
    assert shown(merge) == {MINUTE: 6}


def test_what_an_older_epoch_sends_afterwards_is_in_what_was_recounted() -> None:
    merge = Merge(100.0)
    assert merge.rebuild(rebuilt([read(10, 11)], share(8))) == []
    merge.apply(snap(7, last=9))
    assert shown(merge) == {MINUTE: 8}
    merge.apply(snap(2, last=12, epoch=10))
    assert shown(merge) == {MINUTE: 10}


def test_a_source_of_which_nothing_was_found_adds_nothing_any_more() -> None:
    merge = Merge(100.0, 2)
    merge.apply(snap(3, last=5))
    merge.apply(snap(4, last=5, source=1))
    assert merge.rebuild(rebuilt([read(10, 11), read(10, 11, source=1)], share(3))) == []
    merge.apply(snap(4, last=6, source=1))
    assert shown(merge) == {MINUTE: 3}


def test_a_pane_is_refused_where_a_source_has_gone_on_to_its_next_epoch() -> None:
    merge = Merge(100.0)
    merge.apply(snap(7, last=9))
    merge.apply(snap(2, last=11, epoch=10))
    assert merge.rebuild(rebuilt([read(0, 9)], share(1, 7))) == [0]
    assert shown(merge) == {MINUTE: 9}


def test_a_view_of_a_newer_version_is_refused() -> None:
    assert Merge(100.0).rebuild(rebuilt([read(0, 9)], share(1), view="tomorrow")) == [0]


def test_a_partition_that_was_not_read_refuses() -> None:
    merge = Merge(100.0)
    merge.apply(snap(7, last=9, source=3))
    assert merge.rebuild(rebuilt([read(0, 9)], share(1))) == [0]


def test_a_pane_that_was_given_up_is_replaced_where_its_sources_cannot_change_it() -> None:
    merge = given_up()
    merge.apply(heard(0, PASSED, last=50))
    assert merge.rebuild(rebuilt([read(0, 5, closed=PASSED - 100)], share(1, 3))) == []
    assert shown(merge) == {MINUTE: 4}
    merge.apply(snap(3, last=5))  # sent again
    assert shown(merge) == {MINUTE: 4}


def test_a_pane_that_was_given_up_is_refused_where_a_source_may_have_changed_it_since() -> None:
    #   recounted up to offset 4 of source 1, which woke up since, counted 4 there, and closed the pane
    merge = given_up(sources=2)
    merge.apply(snap(4, last=7, source=1, watermark=PASSED))
    for name in merge.unfounded():
        merge.found(name, None)
    shown(merge)
    assert len(merge.evict()) == 1
    basis = [read(0, 5, closed=PASSED - 100), read(0, 4, source=1)]
    assert merge.rebuild(rebuilt(basis, share(1, 3))) == [0]
    assert merge.backlog == 0
    basis[1] = read(0, 7, source=1, closed=PASSED - 100)
    assert merge.rebuild(rebuilt(basis, share(1, 3), share(0, 4, source=1))) == []
    assert shown(merge) == {MINUTE: 8}


def test_a_source_that_was_idle_and_wakes_up_goes_on_from_a_rebuilt_pane() -> None:
    merge = given_up(sources=2)
    basis = [read(0, 5, closed=PASSED - 100), read(0, 4, source=1)]
    assert merge.rebuild(rebuilt(basis, share(1, 3))) == []
    assert shown(merge) == {MINUTE: 4}
    merge.apply(snap(4, last=7, source=1))
    assert merge.unfounded() == []
    assert shown(merge) == {MINUTE: 8}


def test_what_the_store_held_of_a_pane_is_replaced_too() -> None:
    merge = given_up(sources=2)
    merge.apply(snap(4, last=7, source=1))
    (name,) = merge.unfounded()
    basis = [read(0, 5, closed=PASSED - 100), read(0, 7, source=1)]
    assert merge.rebuild(rebuilt(basis, share(1, 3), share(0, 4, source=1))) == []
    assert merge.unfounded() == []
    merge.found(name, None)  # the store's answer, which was under way
    assert shown(merge) == {MINUTE: 8}


def test_a_pane_that_only_the_store_held_is_saved_before_the_store_is_changed() -> None:
    merge = given_up(sources=2)
    basis = [read(0, 5, closed=PASSED - 100), read(0, 4, source=1)]
    merge.rebuild(rebuilt(basis, share(1, 3)))
    assert merge.changed(9) == []
    assert merge.backlog == 1
    assert merge.evict() == []
    assert merge.release()
    shards = dict(merge.unsaved())
    again = Merge(100.0, 2, msgspec.json.decode(msgspec.json.encode(merge.bounds), type=Bounds))
    again.restore(shards.items())
    again.apply(snap(4, last=7, source=1))
    assert again.unfounded() == []
    assert shown(again) == {MINUTE: 8}


def test_bounds_of_an_older_version_do_not_say_how_far_a_source_was() -> None:
    old = msgspec.json.decode(
        b'{"evicted": 1700000900.0, "sources": [["requests", 0, 0.0, true, 3]]}', type=Bounds
    )
    merge = Merge(100.0, 1, old)
    assert merge.rebuild(rebuilt([read(3, 9)], share(8))) == [0]
    merge.apply(PaneBatch("requests", 0, 3, 9, 0.0, [], idle=True))
    assert merge.rebuild(rebuilt([read(3, 9)], share(8))) == []
