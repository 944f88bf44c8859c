from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tidegauge.errors import SinkUnavailableError, UsageError
from tidegauge.processors.core.views import REQUESTS
from tidegauge.processors.engine.merging import points
from tidegauge.sinks.local import LocalStore
from tidegauge.sinks.query import query, rows

KEY = ("shop", "", "", "openai", "gpt-4o", "", "")
START = 1_700_000_040


def fill(store: LocalStore, minutes: list[list[int]], key: tuple[str, ...] = KEY) -> None:
    """One pane a minute, with these latencies in milliseconds."""
    for n, latencies in enumerate(minutes):
        pane = REQUESTS.empty()
        for value in latencies:
            pane.counters[0] += 1
            pane.sketches[0].add(value * 1_000_000)
        store.write(points(REQUESTS, START + 60 * n, key, pane))


@pytest.fixture
def store(tmp_path: Path):
    store = LocalStore(tmp_path / "points.db")
    yield store
    store.close()


def test_panes_merge_into_one_row_with_percentiles_within_one_percent(store: LocalStore) -> None:
    values = np.random.default_rng(1).lognormal(7, 1, 900).astype(int).tolist()
    fill(store, [values[:300], values[300:600], values[600:]])
    (row,) = rows(store, "latency")
    assert row["requests"] == 900
    for q in (50, 90, 95, 99):
        assert row[f"latency_p{q}"] == pytest.approx(np.quantile(values, q / 100) / 1000, rel=0.01)
    assert row["latency_max"] == max(values) / 1000


def test_a_rolling_window_ends_at_every_step_and_starts_where_its_time_says(store: LocalStore) -> None:
    fill(store, [[10], [20, 20], [], [40]])
    spans = rows(store, "latency", every=60, window=120)
    assert [(row["time"], row["requests"]) for row in spans] == [
        (START - 60, 1),  # ends with the first minute
        (START, 3),
        (START + 60, 2),
        (START + 120, 1),
    ]


def test_dimensions_not_asked_for_are_merged_and_those_asked_for_told_apart(store: LocalStore) -> None:
    fill(store, [[10]])
    fill(store, [[30, 30]], (*KEY[:4], "o3", "", ""))
    assert [row["requests"] for row in rows(store, "latency")] == [3]
    by_model = rows(store, "latency", by=["model"])
    assert [(row["model"], row["requests"]) for row in by_model] == [("gpt-4o", 1), ("o3", 2)]
    assert [row["requests"] for row in rows(store, "latency", where={"model": "o3"})] == [2]


def test_the_frame_keeps_counts_as_integers(store: LocalStore) -> None:
    fill(store, [[10]])
    frame = query(store, "latency", every=60)
    assert frame["requests"].dtype == np.int64
    assert frame["time"].iloc[0].timestamp() == START


@pytest.mark.parametrize(
    ("view", "arguments", "told"),
    [
        ("speed", {}, "no view 'speed'"),
        ("latency", {"every": 90}, "multiple of this view's panes of 60 s"),
        ("latency", {"by": ["colour"]}, "no dimension 'colour'"),
        ("latency", {"window": 60}, "--window"),
    ],
)
def test_wrong_use_is_told_in_one_line(
    store: LocalStore, view: str, arguments: dict[str, object], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        rows(store, view, **arguments)  # type: ignore[arg-type]


def test_a_reader_of_a_missing_file_is_told_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(SinkUnavailableError, match=r"nothing-here\.db"):
        LocalStore(tmp_path / "nothing-here.db", readonly=True)
