"""The sketch against numpy, and its algebra: merging is addition."""

from __future__ import annotations

from math import isclose
from random import Random

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegauge.processors.core.sketch import MAX_VALUE, RELATIVE_ERROR, Sketch
from tidegauge.schemas.pane import LARGEST, SketchSnapshot

# From single nanoseconds to a week of them, and the clusters and repeats of real latencies.
VALUES = st.one_of(st.integers(0, 10**15), st.integers(0, 100), st.integers(10**9, 10**9 + 10**8))
LISTS = st.lists(VALUES, max_size=60)
PERCENTILES = (0.0, 0.01, 0.5, 0.9, 0.95, 0.99, 1.0)


def sketch_of(values: list[int]) -> Sketch:
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    return sketch


@given(st.lists(VALUES, min_size=1, max_size=200), st.floats(0, 1))
@settings(max_examples=400, deadline=None)
def test_quantiles_are_within_one_percent_of_numpys(values: list[int], q: float) -> None:
    sketch = sketch_of(values)
    for each in (*PERCENTILES, q):
        estimate = sketch.quantile(each)
        assert estimate is not None
        assert isclose(estimate, float(np.quantile(values, each)), rel_tol=0.01, abs_tol=1e-9)


def test_the_stated_error_is_below_one_percent() -> None:
    assert 0 < RELATIVE_ERROR < 0.01


@given(LISTS)
def test_count_sum_and_extremes_are_exact(values: list[int]) -> None:
    sketch = sketch_of(values)
    assert (sketch.count, sketch.total) == (len(values), sum(values))
    if values:
        assert (sketch.minimum, sketch.maximum) == (min(values), max(values))
        assert (sketch.quantile(0.0), sketch.quantile(1.0)) == (min(values), max(values))


@given(LISTS, st.lists(st.floats(0, 1), max_size=5))
def test_several_quantiles_at_once_are_those_asked_one_by_one(values: list[int], qs: list[float]) -> None:
    sketch = sketch_of(values)
    assert sketch.quantiles(qs) == [sketch.quantile(q) for q in qs]


@given(st.lists(LISTS, max_size=6), st.randoms())
def test_merging_in_any_order_equals_one_pass(parts: list[list[int]], random: Random) -> None:
    one_pass = sketch_of([value for part in parts for value in part]).snapshot()
    sketches = [sketch_of(part) for part in parts]
    random.shuffle(sketches)
    merged = Sketch()
    while len(sketches) > 1:  # pairs first: merging is associative, too
        sketches.append(sketches.pop(0))
        left = sketches.pop(0)
        left.merge(sketches.pop(0))
        sketches.append(left)
    for sketch in sketches:
        merged.merge(sketch)
    assert msgspec.json.encode(merged.snapshot()) == msgspec.json.encode(one_pass)


@given(LISTS, LISTS)
def test_merging_leaves_the_other_sketch_as_it_was(mine: list[int], theirs: list[int]) -> None:
    other = sketch_of(theirs)
    before = other.snapshot()
    sketch = sketch_of(mine)
    sketch.merge(other)
    sketch.add(7)
    assert other.snapshot() == before


@given(LISTS, LISTS)
def test_a_snapshot_survives_the_wire_and_can_be_added_to(first: list[int], second: list[int]) -> None:
    raw = msgspec.json.encode(sketch_of(first).snapshot())
    restored = Sketch.restore(msgspec.json.decode(raw, type=SketchSnapshot))
    assert msgspec.json.encode(restored.snapshot()) == raw
    for value in second:
        restored.add(value)
    assert restored.snapshot() == sketch_of(first + second).snapshot()


def test_an_empty_sketch_has_no_quantiles() -> None:
    assert Sketch().quantiles((0.5, 0.99)) == [None, None]


def test_a_total_beyond_64_bits_stands_at_the_largest_number_that_can_be_stored() -> None:
    one, two = Sketch(), Sketch()
    for _ in range(3):
        one.add(MAX_VALUE)
        two.add(MAX_VALUE)
    one.merge(two)
    assert one.total == LARGEST
    assert one.quantile(0.5) == MAX_VALUE
