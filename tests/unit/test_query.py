"""Answers from stored panes, against a plain recomputation and against numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.errors import SinkUnavailableError, StateError, UsageError
from tidegauge.processors.core.aggregate import Aggregate
from tidegauge.processors.core.views import COST_DAILY, MEASUREMENTS, REQUESTS, USERS_DAILY
from tidegauge.sinks.base import Point, Rejection, Store
from tidegauge.sinks.local import LocalStore
from tidegauge.sinks.panes import points
from tidegauge.sinks.query import columns, query, rows

KEY = ("shop", "", "", "openai", "gpt-4o", "", "")
START = 1_700_000_040
HOUR = START - START % 3600
DAY = START - START % 86_400
LATENCY = MEASUREMENTS["latency"].measurement


class Panes(Store):
    """Points in memory, for the question alone."""

    def __init__(self, stored: Sequence[Point] = ()) -> None:
        self.stored = list(stored)

    def check(self) -> None:
        pass

    def write(self, points: Sequence[Point]) -> list[Rejection]:
        self.stored += points
        return []

    def read(
        self,
        measurement: str,
        start: int | None = None,
        end: int | None = None,
        where: Mapping[str, str] | None = None,
    ) -> Iterator[Point]:
        for point in sorted(self.stored, key=lambda p: (p.time, sorted(p.tags.items()))):
            if (
                point.measurement == measurement
                and (start is None or point.time >= start)
                and (end is None or point.time < end)
                and all(point.tags[name] == value for name, value in (where or {}).items())
            ):
                yield point

    def close(self) -> None:
        pass


def pane(latencies: Sequence[int]) -> Aggregate:
    """A pane of requests with these latencies in milliseconds."""
    made = REQUESTS.empty()
    for value in latencies:
        made.counters[0] += 1
        made.sketches[0].add(value * 1_000_000)
    return made


def key(model: str) -> tuple[str, ...]:
    return (*KEY[:4], model, "", "")


def fill(
    store: Store, minutes: Sequence[Sequence[int]], key: tuple[str, ...] = KEY, start: int = START
) -> None:
    """A pane for every minute that has latencies."""
    for n, latencies in enumerate(minutes):
        if latencies:
            store.write(points(REQUESTS, start + 60 * n, key, pane(latencies)))


def counts(found: Sequence[Mapping[str, object]]) -> list[tuple[object, object]]:
    return [(row["time"], row["requests"]) for row in found]


@pytest.fixture
def store() -> Panes:
    return Panes()


def test_panes_merge_into_one_row_with_percentiles_within_one_percent(store: Panes) -> None:
    values = np.random.default_rng(1).lognormal(7, 1, 900).astype(int).tolist()
    fill(store, [values[:300], values[300:600], values[600:]])
    (row,) = rows(store, "latency")
    assert row["requests"] == 900
    for q in (50, 90, 95, 99):
        assert row[f"latency_p{q}"] == pytest.approx(np.quantile(values, q / 100) / 1000, rel=0.01)
    assert row["latency_max"] == max(values) / 1000


PANES = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(["a", "b"]), st.lists(st.integers(0, 90_000), max_size=3)),
    max_size=25,
    unique_by=lambda pane: pane[:2],
)
BOUND = st.none() | st.integers(HOUR - 600, HOUR + 3000)


@given(PANES, BOUND, BOUND, st.integers(1, 10), st.none() | st.integers(1, 6))
def test_every_row_equals_the_merge_of_the_panes_in_its_span(
    panes: list[tuple[int, str, list[int]]],
    start: int | None,
    end: int | None,
    minutes: int,
    steps: int | None,
) -> None:
    if start is not None and end is not None and start >= end:
        start, end = end, start + 1
    every, length = 60 * minutes, 60 * minutes * (steps or 1)
    held = {(HOUR + 60 * n, model): pane(values) for n, model, values in panes}
    store = Panes([p for (time, model), a in held.items() for p in points(REQUESTS, time, key(model), a)])
    found = rows(
        store,
        "latency",
        start=start,
        end=end,
        every=every,
        window=None if steps is None else length,
        by=["model"],
    )
    expected = {}
    in_reach = sorted({time for time, _ in held if end is None or time < end})
    if start is not None and length > every:
        in_reach = [time for time in in_reach if time >= start - start % every - length + every]
    elif start is not None:
        in_reach = [time for time in in_reach if time >= start - start % 60]
    for model in ("a", "b"):
        mine = [time for time in in_reach if (time, model) in held]
        if not mine:
            continue
        first = (min(mine) if start is None else max(start, 0)) // every * every
        last = (max(mine) if end is None else end - 1) // every * every
        for step in range(first, last + 1, every):
            begin = step + every - length
            inside = [time for time in mine if begin <= time < step + every]
            if inside:
                total = REQUESTS.empty()
                for time in inside:
                    total.merge(held[time, model])
                expected[begin, model] = total
    assert [(row["time"], row["model"]) for row in found] == sorted(expected)
    for row in found:
        fields = REQUESTS.fields(LATENCY, expected[row["time"], row["model"]])  # type: ignore[index]
        for rate in ("requests_per_second", "error_rate"):
            del fields[rate]
        assert {name: row[name] for name in fields} == fields


def test_a_rolling_window_ends_at_every_step_and_starts_where_its_time_says(store: Panes) -> None:
    fill(store, [[10], [20, 20], [], [40]])
    assert counts(rows(store, "latency", every=60, window=120)) == [
        (START - 60, 1),  # ends with the first minute
        (START, 3),
        (START + 60, 2),
        (START + 120, 1),
    ]


def test_the_first_window_of_a_range_is_full_and_the_last_ends_with_the_range(store: Panes) -> None:
    fill(store, [[10], [20, 20], [30], [], []])
    found = rows(store, "latency", start=START + 60, end=START + 300, every=60, window=180)
    assert counts(found) == [(START - 60, 3), (START, 4), (START + 60, 3), (START + 120, 1)]


def test_windows_step_over_a_gap_of_years(store: Panes) -> None:
    fill(store, [[10]], start=60)
    fill(store, [[10]])
    found = rows(store, "latency", every=60, window=120)
    assert [row["time"] for row in found] == [0, 60, START - 60]


def test_a_pane_cannot_be_divided_so_it_counts_where_it_overlaps_the_range() -> None:
    users = USERS_DAILY.empty()
    users.counters[0] = 7
    store = Panes(points(USERS_DAILY, DAY, ("shop", "ann"), users))
    at_noon = DAY + 43_200
    (row,) = rows(store, "users", start=at_noon, end=at_noon + 3600)
    assert (row["time"], row["requests"]) == (DAY, 7)
    assert rows(store, "users", start=DAY + 86_400) == []
    assert rows(store, "users", end=DAY) == []


def test_one_row_of_the_whole_range_has_the_time_of_the_range_for_every_group(store: Panes) -> None:
    fill(store, [[10], []], key("a"))
    fill(store, [[], [10]], key("b"))
    assert [row["time"] for row in rows(store, "latency", by=["model"])] == [START, START]
    early = rows(store, "latency", start=START - 600, by=["model"])
    assert [row["time"] for row in early] == [START - 600, START - 600]


def test_rates_are_over_the_seconds_that_the_range_and_the_row_have_in_common(store: Panes) -> None:
    fill(store, [[10]] * 10, start=HOUR)

    def rates(**arguments: int | None) -> list[object]:
        return [row["requests_per_second"] for row in rows(store, "latency", **arguments)]  # type: ignore[arg-type]

    assert rates() == [10 / 600]
    assert rates(start=HOUR, end=HOUR + 1200) == [10 / 1200]
    assert rates(start=HOUR + 180, end=HOUR + 480, every=300) == [2 / 120, 3 / 180]
    assert rates(every=60) == [1 / 60] * 10
    assert rates(start=HOUR + 300, every=300, window=600) == [10 / 600]


def test_dimensions_not_asked_for_are_merged_and_those_asked_for_told_apart(store: Panes) -> None:
    fill(store, [[10]])
    fill(store, [[30, 30]], key("o3"))
    assert [row["requests"] for row in rows(store, "latency")] == [3]
    by_model = rows(store, "latency", by=["model", "model"])
    assert [(row["model"], row["requests"]) for row in by_model] == [("gpt-4o", 1), ("o3", 2)]
    assert [row["requests"] for row in rows(store, "latency", where={"model": "o3"})] == [2]


def test_rows_have_the_same_fields_and_none_for_what_is_not_known(store: Panes) -> None:
    fill(store, [[10], [20]])
    store.write(points(REQUESTS, START + 120, KEY, REQUESTS.empty()))
    found = rows(store, "latency", every=60, by=["service"])
    assert {tuple(row) for row in found} == {tuple(columns("latency", ["service"]))}
    assert found[2]["latency_p50"] is None
    assert found[0]["time_to_first_chunk_p50"] is None


def test_a_mean_cost_that_only_some_rows_know_is_in_all_of_them() -> None:
    priced, unpriced = COST_DAILY.empty(), COST_DAILY.empty()
    for made, cost, without in ((priced, 30, 0), (unpriced, 0, 2)):
        made.counters[COST_DAILY.counters.index("requests")] = 2
        made.counters[COST_DAILY.counters.index("cost_nano_usd")] = cost
        made.counters[COST_DAILY.counters.index("unpriced_requests")] = without
    store = Panes(points(COST_DAILY, DAY, ("shop", "", "", "openai", "a"), priced))
    store.write(points(COST_DAILY, DAY, ("shop", "", "", "openai", "b"), unpriced))
    found = rows(store, "cost_1d", by=["model"])
    assert [row["cost_per_request_nano_usd"] for row in found] == [15.0, None]


def test_the_frame_keeps_counts_as_integers_and_times_in_utc(store: Panes) -> None:
    fill(store, [[10]])
    store.write(points(REQUESTS, START + 60, KEY, REQUESTS.empty()))
    frame = query(store, "latency", every=60, by=["model"])
    assert list(frame.columns[:3]) == ["time", "model", "requests"]
    assert frame["requests"].dtype == frame["latency_count"].dtype == np.int64
    assert frame["latency_p50"].isna().tolist() == [False, True]
    assert frame["time"].iloc[0].timestamp() == START
    assert str(frame["time"].dt.tz) == "UTC"


def test_the_frame_of_no_rows_has_the_columns_and_types_of_any_other(store: Panes) -> None:
    empty = query(store, "latency", by=["model"])
    fill(store, [[10]])
    full = query(store, "latency", by=["model"])
    assert empty.empty
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()


@pytest.mark.parametrize(
    "damage",
    [
        {"latency_sketch": "[1"},
        {"latency_sketch": "[1,1,1,1,0,[1],[1,2]]"},
        {"requests": "many"},
        {"latency_count": 3, "latency_sketch": None},
        {"latency_count": 2},
    ],
)
def test_a_damaged_pane_is_named_and_never_counted_wrongly(store: Panes, damage: dict[str, object]) -> None:
    fill(store, [[10]])
    (point,) = (p for p in store.stored if p.measurement == "latency")
    fields = {name: value for name, value in (dict(point.fields) | damage).items() if value is not None}
    store.stored = [Point(point.measurement, point.tags, point.time, fields)]  # type: ignore[arg-type]
    with pytest.raises(StateError, match=f"pane of latency at {START}"):
        rows(store, "latency")


def test_a_pane_that_is_half_written_is_looked_at_again(store: Panes) -> None:
    """InfluxDB shows the fields of a new point one by one."""
    fill(store, [[10, 20]])
    whole = rows(store, "latency")
    points = store.stored

    class HalfWritten(Panes):
        looks = 0

        def read(self, *arguments: Any) -> Iterator[Point]:
            self.looks += 1
            for point in super().read(*arguments):
                hidden = "latency_sketch" if self.looks < 3 else ""
                fields = {name: value for name, value in point.fields.items() if name != hidden}
                yield Point(point.measurement, point.tags, point.time, fields)

    assert rows(HalfWritten(points), "latency") == whole


@pytest.mark.parametrize(
    ("view", "arguments", "told"),
    [
        ("speed", {}, "no view 'speed'"),
        ("latency", {"every": 90}, "multiple of this view's panes of 60 s, not 90 s"),
        ("latency", {"every": 0}, "multiple of this view's panes"),
        ("users", {"every": 3600}, "multiple of this view's panes of 86400 s"),
        ("latency", {"by": ["colour"]}, "no dimension 'colour' here; there are service,"),
        ("latency", {"where": {"user": "ann"}}, "no dimension 'user'"),
        ("latency", {"window": 60}, "--window"),
        ("latency", {"every": 120, "window": 180}, "--window"),
        ("latency", {"start": 60, "end": 60}, "must start before it ends"),
    ],
)
def test_wrong_use_is_told_in_one_line(
    store: Panes, view: str, arguments: dict[str, object], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        rows(store, view, **arguments)  # type: ignore[arg-type]


def test_a_reader_of_a_missing_file_is_told_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(SinkUnavailableError, match=r"nothing-here\.db"):
        LocalStore(tmp_path / "nothing-here.db", readonly=True)
