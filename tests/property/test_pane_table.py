"""Panes held as columns against sums by hand, with numbers up to the largest that the wire allows."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegauge.processors.core.pane_table import MAX_BLOCK, PaneTable, group
from tidegauge.processors.core.sketch import MAX_VALUE, Sketch
from tidegauge.processors.core.views import Distribution, View
from tidegauge.schemas.pane import LARGEST, PaneSnapshot

FINE = View("fine", ("who",), 60, ("a", "b"), (Distribution("x", "s", 1), Distribution("y", "s", 1)))
COARSE = View("coarse", ("who",), 3600, ("a", "b"), (Distribution("x", "s", 1), Distribution("y", "s", 1)))
SUMS = View("sums", ("who",), 3600, ("a", "b"))

COUNTS = st.one_of(st.integers(0, 3), st.integers(0, 10**18))
VALUES = st.one_of(st.none(), st.integers(0, 3), st.integers(0, MAX_VALUE), st.integers(10**9, 10**9 + 50))
EVENTS = st.lists(st.tuples(st.integers(0, 5), COUNTS, COUNTS, VALUES, VALUES), min_size=1, max_size=30)


def by_hand(blocks: list[list[tuple[int, ...]]], to: dict[int, str]) -> dict[str, tuple[object, ...]]:
    counters: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    sketches: dict[str, list[Sketch]] = defaultdict(lambda: [Sketch(), Sketch()])
    for who, a, b, x, y in (event for block in blocks for event in block):
        key = to[who]
        counters[key] = [counters[key][0] + a, counters[key][1] + b]
        for sketch, value in zip(sketches[key], (x, y), strict=True):
            if value is not None:
                sketch.add(value)
    return {key: (counters[key], [sketch.snapshot() for sketch in sketches[key]]) for key in counters}


def shown(snapshots: list[PaneSnapshot]) -> dict[str, tuple[object, ...]]:
    return {pane.key[0]: (pane.counters, pane.sketches) for pane in snapshots}


@given(st.lists(EVENTS, min_size=1, max_size=4))
@settings(deadline=None)
def test_rows_hold_what_a_clerk_would_count_and_so_do_the_coarser_ones(blocks: list) -> None:
    fine, coarse, sums = PaneTable(FINE), PaneTable(COARSE), PaneTable(SUMS)
    half = {who: f"half {who % 2}" for who in range(6)}
    latest: dict[str, tuple[object, ...]] = {}
    for block in blocks:
        present = sorted({event[0] for event in block})
        assigned = np.array([present.index(event[0]) for event in block], dtype=np.int64)
        counters = np.array([event[1:3] for event in block], dtype=np.int64).T
        values = [
            (
                np.array([event[i] or 0 for event in block], dtype=np.int64),
                np.array([event[i] is not None for event in block]),
            )
            for i in (3, 4)
        ]
        groups = group(assigned, len(present), counters, values)
        fine.add(np.array([fine.row(0, (f"who {who}",)) for who in present]), groups)
        halves = sorted({who % 2 for who in present})
        to = np.array([halves.index(who % 2) for who in present])
        for table in (coarse, sums):
            rows = np.array([table.row(0, (f"half {h}",)) for h in halves])
            table.add(rows, groups.regroup(to, len(halves)))
        latest |= shown(fine.take())
    assert latest == by_hand(blocks, {who: f"who {who}" for who in range(6)})
    assert shown(coarse.take()) == by_hand(blocks, half)
    assert shown(sums.take()) == {key: (counters, []) for key, (counters, _) in by_hand(blocks, half).items()}


@pytest.mark.parametrize(
    ("number", "total"), [(2**39 + 1, 400 * MAX_BLOCK * (2**39 + 1)), (2**62 - 1, LARGEST)]
)
def test_the_largest_blocks_are_summed_exactly_or_stand_at_the_largest_number(
    number: int, total: int
) -> None:
    numbers = np.full((2, MAX_BLOCK), number, dtype=np.int64)
    groups = group(np.zeros(MAX_BLOCK, dtype=np.int64), 1, numbers)
    table = PaneTable(SUMS)
    for _ in range(400):  # 13 million events
        table.add(np.array([table.row(0, ("one",))]), groups)
    (pane,) = table.take()
    assert pane.counters == [total] * 2


def test_a_number_of_any_size_can_be_added_to_one_counter() -> None:
    table = PaneTable(SUMS)
    table.add_exactly(table.row(0, ("one",)), 0, 2**62 - 7)
    table.add_exactly(table.row(0, ("one",)), 0, 1)
    table.add_exactly(table.row(0, ("one",)), 1, 10**24)
    assert table.take()[0].counters == [2**62 - 6, LARGEST]


def test_only_what_changed_is_shown_and_it_is_shown_whole() -> None:
    table = PaneTable(SUMS)
    for n in range(100):  # more than the table begins with
        table.add_exactly(table.row(n * 3600, ("one",)), 0, n + 1)
    assert len(table.take()) == 100
    assert not table.pending
    table.add_exactly(table.row(7 * 3600, ("one",)), 0, 1)
    (pane,) = table.take()
    assert (pane.start, pane.counters) == (7 * 3600, [9, 0])
