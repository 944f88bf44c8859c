from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tidegauge.commands.demo_view import Dashboard
from tidegauge.processors.core.views import COST_DAILY, GUARDRAILS, REQUESTS, USERS_DAILY
from tidegauge.sinks.local import LocalStore
from tidegauge.sinks.panes import points

MINUTE = 1_700_000_040  # 2023-11-14 22:14 UTC
DAY = MINUTE - MINUTE % 86_400


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(tmp_path / "points.db")
    yield store
    store.close()


def requests(store: LocalStore, at: int, model: str, count: int, **counters: int) -> None:
    pane = REQUESTS.empty()
    for _ in range(count):
        pane.sketches[0].add(1_500_000_000)
    for name, value in {"requests": count, **counters}.items():
        pane.counters[REQUESTS.counters.index(name)] = value
    store.write(points(REQUESTS, at, ("shop", "", "", "p", model, "", ""), pane))


def shown(store: LocalStore, width: int = 120, height: int = 40) -> str:
    console = Console(width=width, height=height, file=StringIO())
    console.print(Dashboard(store).render(width, height))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_models_name_is_shown_as_it_is_and_never_taken_for_markup_or_control(store: LocalStore) -> None:
    for model in ("[/x]", "\x1b[2Jgone"):
        requests(store, MINUTE, model, 3)
    text = shown(store)
    assert "[/x]" in text
    assert "\\x1b[2Jgone" in text


def test_it_shows_latency_cost_guardrails_days_and_users(store: LocalStore) -> None:
    requests(store, MINUTE, "dear", 40, errors=10, cost_nano_usd=2_500_000_000)
    requests(store, MINUTE, "free?", 2, unpriced_requests=2)
    simple = [
        (GUARDRAILS, MINUTE, ("shop", "pii", "input", "block", "1", "dear", "", ""), [8, 2]),
        (COST_DAILY, DAY, ("shop", "", "", "p", "dear"), [42, 10, 0, 0, 0, 0, 0, 0, 0, 2_500_000_000]),
        (USERS_DAILY, DAY, ("shop", "somebody-with-a-long-name-7"), [3, 0, 0, 1_250_000_000]),
    ]
    for view, at, key, counters in simple:
        pane = view.empty()
        pane.counters[: len(counters)] = counters
        store.write(points(view, at, key, pane))
    lines = {line.split()[0].strip("│"): line for line in shown(store).splitlines() if line.split()}
    head, dear, free = shown(store).splitlines()[0], lines["dear"], lines["free?"]
    assert "42 requests" in head
    assert "23.8% errors" in head
    assert "$2.5000 + 2 unpriced" in head
    assert "1.50 s" in dear
    assert "25.0%" in dear
    assert "$2.5000" in dear
    assert "unpriced" in free
    assert "$0" not in free
    below = lines["pii"]
    assert "25.00%" in below
    assert "11-14" in below
    assert "…-name-7" in below
    assert "$1.2500" in below


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (100, 30), (200, 60)])
def test_nothing_runs_over_the_edge_of_the_terminal(store: LocalStore, width: int, height: int) -> None:
    for number in range(30):
        requests(store, MINUTE + number * 60, f"a-model-with-a-rather-long-name-{number}", 1_000 + number)
        pane = GUARDRAILS.empty()
        pane.counters[:2] = [10**9, 10**8]
        store.write(
            points(
                GUARDRAILS,
                MINUTE,
                ("s", f"guardrail-{number}", "retrieval", "fallback", "", "", "", ""),
                pane,
            )
        )
    lines = shown(store, width, height).splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= width


def test_only_the_newest_hour_counts(store: LocalStore) -> None:
    requests(store, MINUTE, "old", 5)
    requests(store, MINUTE + 3600, "new", 7)
    text = shown(store)
    assert "7 requests" in text
    assert "old" not in text


def test_an_empty_store_is_waited_for(store: LocalStore) -> None:
    assert "waiting for the first events" in shown(store)
