"""``tidegauge query`` as a person or a program runs it."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tidegauge.cli import main
from tidegauge.processors.core.views import GUARDRAILS, REQUESTS, View
from tidegauge.sinks.local import LocalStore
from tidegauge.sinks.panes import points

START = 1_700_000_040  # 2023-11-14T22:14:00Z
Ask = Callable[..., str]


def requests(store: LocalStore, at: int, model: str, latencies: list[int], **counters: int) -> None:
    pane = REQUESTS.empty()
    for value in latencies:
        pane.sketches[0].add(value * 1_000_000)
    for name, value in {"requests": len(latencies), **counters}.items():
        pane.counters[REQUESTS.counters.index(name)] = value
    store.write(points(REQUESTS, at, ("shop", "", "", "openai", model, "a,b=c", ""), pane))


def simple(store: LocalStore, view: View, at: int, key: tuple[str, ...], counters: list[int]) -> None:
    pane = view.empty()
    pane.counters[: len(counters)] = counters
    store.write(points(view, at, key, pane))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    store = LocalStore(folder / "tidegauge.db")
    requests(store, START, "gpt-4o", [100, 200, 300], input_tokens=2**53 + 1, cost_nano_usd=1_500_000_000)
    requests(store, START, "[/red]\x1b[31m", [], requests=1, errors=1, unpriced_requests=1)
    requests(store, START + 60, "gpt-4o", [400], unpriced_requests=1)
    simple(store, GUARDRAILS, START, ("shop", "pii", "input", "block", "1", "gpt-4o", "", ""), [8, 2])
    store.close()
    return folder


@pytest.fixture
def ask(data: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    def run(*arguments: str) -> str:
        assert main(["query", *arguments, "--data", str(data)]) == 0
        return capsys.readouterr().out

    return run


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["query", *arguments])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return code, printed.err


def test_json_is_flat_objects_with_exact_integers_and_null_for_the_unknown(ask: Ask) -> None:
    found = json.loads(ask("latency", "--every", "1m", "--by", "model", "--output", "json"))
    assert [(row["time"], row["model"], row["requests"], row["errors"]) for row in found] == [
        ("2023-11-14T22:14:00Z", "[/red]\x1b[31m", 1, 1),
        ("2023-11-14T22:14:00Z", "gpt-4o", 3, 0),
        ("2023-11-14T22:15:00Z", "gpt-4o", 1, 0),
    ]
    assert found[0]["latency_p50"] is None
    assert found[1]["latency_p50"] == pytest.approx(0.2, rel=0.01)
    assert found[2]["latency_p99"] == 0.4
    (cost,) = json.loads(ask("cost", "--output", "json"))
    assert cost["input_tokens"] == 2**53 + 1
    assert cost["cost_nano_usd"] == 1_500_000_000
    assert cost["unpriced_requests"] == 2
    (checks,) = json.loads(ask("guardrails", "--by", "guardrail", "--output", "json"))
    assert (checks["guardrail"], checks["checks"], checks["triggers"], checks["rate"]) == ("pii", 8, 2, 0.25)


def test_csv_holds_what_json_holds(ask: Ask) -> None:
    question = ("latency", "--every", "1m", "--by", "model,service")
    table = list(csv.DictReader(io.StringIO(ask(*question, "--output", "csv"), newline="")))
    expected = json.loads(ask(*question, "--output", "json"))
    assert table == [{k: "" if v is None else str(v) for k, v in row.items()} for row in expected]


def test_parquet_goes_to_standard_output_with_types(data: Path) -> None:
    command = [sys.executable, "-m", "tidegauge.cli", "query", "cost", "--data", str(data), "--every", "60s"]
    answer = subprocess.run([*command, "--output", "parquet"], capture_output=True, check=True)
    table = pd.read_parquet(io.BytesIO(answer.stdout))
    assert table["input_tokens"].tolist() == [2**53 + 1, 0]
    assert str(table["time"].dt.tz) == "UTC"
    assert table["time"].iloc[0].timestamp() == START


def test_parquet_is_not_thrown_at_a_terminal(data: Path) -> None:
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "tidegauge.cli", "query", "cost", "--data", str(data)]
    answer = subprocess.run(
        [*command, "--output", "parquet"], stdout=terminal, stderr=subprocess.PIPE, check=False, text=True
    )
    os.close(terminal)
    os.close(controller)
    assert answer.returncode == 2
    assert "send it to a file, as in … > cost.parquet" in answer.stderr


def test_the_table_is_in_units_that_people_read_and_takes_no_orders_from_names(ask: Ask) -> None:
    latency = ask("latency", "--by", "model")
    assert "400 ms" in latency
    assert r"[/red]\x1b[31m" in latency
    assert "\x1b[31m" not in latency
    cost = ask("cost", "--by", "model")
    assert "$1.500000" in cost
    assert "unpriced" in cost
    assert "25.00%" in ask("guardrails")


@pytest.mark.parametrize(
    ("form", "printed"), [("json", "[]\n"), ("csv", "time,model,requests,"), ("table", "requests")]
)
def test_no_data_is_an_empty_answer_and_a_line_beside_it(
    data: Path, capsys: pytest.CaptureFixture[str], form: str, printed: str
) -> None:
    question = ["latency", "--last", "1h", "--by", "model", "--output", form, "--data", str(data)]
    assert main(["query", *question]) == 0
    answer = capsys.readouterr()
    assert printed in answer.out
    assert answer.err == "no latency in this range\n"


def test_the_last_hour_ends_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = int(time.time())
    store = LocalStore(tmp_path / "tidegauge.db")
    for ago in (0, 1800, 5400):
        requests(store, (now - ago) // 60 * 60, "a", [100])
    store.close()
    url = f"sqlite:///{tmp_path}/tidegauge.db"
    assert main(["query", "latency", "--last", "1h", "--output", "json", "--store", url]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["requests"] == 2
    assert row["requests_per_second"] == pytest.approx(2 / 3600, rel=0.04)


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        ("2023-11-14T22:15:00Z", None, 1),
        ("2023-11-14T23:15:00+01:00", None, 1),
        ("2023-11-14", "2023-11-15", 5),
        ("2023-11-15", None, None),
        (str(START), str(START + 60), 4),
        (None, "2023-11-14T22:15:00", 4),
    ],
)
def test_times_are_rfc_3339_dates_or_unix_seconds(
    ask: Ask, start: str | None, end: str | None, found: int | None
) -> None:
    bounds = [text for flag, t in (("--from", start), ("--to", end)) if t for text in (flag, t)]
    answer = json.loads(ask("latency", *bounds, "--output", "json"))
    assert [row["requests"] for row in answer] == ([] if found is None else [found])


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (["model=gpt-4o"], 4),
        (["model=gpt-4o,service=shop"], 4),
        (["model=gpt-4o", "service=other"], None),
        (["prompt=a,b=c"], 5),
        (["prompt=a,b=c,model=gpt-4o"], 4),
        (["team="], 5),
    ],
)
def test_conditions_may_be_repeated_or_separated_by_commas_and_hold_commas(
    ask: Ask, where: list[str], found: int | None
) -> None:
    flags = [text for condition in where for text in ("--where", condition)]
    answer = json.loads(ask("latency", *flags, "--output", "json"))
    assert [row["requests"] for row in answer] == ([] if found is None else [found])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["speed"], "no view 'speed'; there are"),
        ([], "VIEW"),
        (["latency", "--by", "colour"], "no dimension 'colour'"),
        (["latency", "--where", "colour=red"], "no dimension 'colour'"),
        (["latency", "--where", "model"], "write it as dimension=value"),
        (["latency", "--where", "model=a,model=b"], "model has a value already"),
        (["latency", "--every", "90s"], "panes of 60 s"),
        (["latency", "--every", "soon"], "no duration"),
        (["latency", "--every", "0s"], "whole seconds"),
        (["latency", "--window", "1h"], "--window must be a multiple of --every"),
        (["latency", "--from", "yesterday"], "expected RFC 3339"),
        (["latency", "--from", "1700000000000"], "not milliseconds"),
        (["latency", "--to", "inf"], "--to"),
        (["latency", "--from", "2024-01-02", "--to", "2024-01-01"], "must start before it ends"),
        (["latency", "--last", "1h", "--from", "2024-01-01"], "--last stands alone"),
        (["latency", "--data", "a", "--store", "sqlite:///b"], "one of them"),
        (["latency", "--store", "postgres://x"], "store.url"),
        (["latency", "--output", "xml"], "--output"),
    ],
)
def test_wrong_use_ends_with_2_and_one_line_even_without_a_store(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, line = failure(capsys, *arguments)
    assert code == 2
    assert told in line


def test_a_store_that_is_not_there_ends_with_1_and_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for flags, place in (
        ([], tmp_path / "tidegauge-data" / "tidegauge.db"),
        (["--data", "demo"], tmp_path / "demo" / "tidegauge.db"),
        (["--store", "sqlite:///x.db"], tmp_path / "x.db"),
    ):
        code, line = failure(capsys, "latency", *flags)
        assert code == 1
        assert str(place) in line
    assert list(tmp_path.iterdir()) == []
