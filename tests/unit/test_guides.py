"""The guides' examples are run, as far as they need no server."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tidegauge.cli import build_parser
from tidegauge.commands.replay import check_trace
from tidegauge.processors.core.price_overrides import Overrides
from tidegauge.processors.core.pricing import PriceTable
from tidegauge.processors.core.views import REQUESTS
from tidegauge.sinks.local import LocalStore
from tidegauge.sinks.panes import points

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
DAY_OF_2026 = 1_772_000_000.0


def blocks(guide: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (GUIDES / guide).read_text(), re.DOTALL)


def commands(guide: str) -> list[list[str]]:
    lines = "\n".join(blocks(guide, "")).replace("\\\n", " ").splitlines()
    plain = [line.split("    #")[0] for line in lines if line.startswith("tidegauge ") and "[" not in line]
    return [shlex.split(re.split(r" [|>] ", line)[0])[1:] for line in plain]


@pytest.mark.parametrize("guide", ["replay.md", "querying.md", "operations.md", "health.md"])
def test_the_commands_are_commands(guide: str) -> None:
    shown = commands(guide)
    assert len(shown) >= 3
    for command in shown:
        build_parser(command[0]).parse_args(command)


def test_the_maps_read_records_such_as_those_files_hold(tmp_path: Path) -> None:
    samples = {
        "synthetic_trace.jsonl": '{"timestamp": 27, "input_length": 6755, "output_length": 500, "hash_ids": [0]}',
        "LEETCODE_EASY_EVAL.csv": "model,latency,cost,timestamp,answer_token\n"
        'openaichat/gpt-4-0613,2.73,0.0011,"07/11/2023, 01:04:13",107',
        "groq.jsonl": '{"n": 1, "end_to_end_latency_s": 0.89, "ttft_s": 0.29, "number_output_tokens": 150,'
        ' "number_input_tokens": 550}',
    }
    tried = 0
    for command in commands("replay.md"):
        args = build_parser("replay").parse_args(command)
        if args.map:
            file = tmp_path / args.file
            file.write_text(samples[args.file] + "\n")
            check_trace(str(file), args.format, args.map, args.set)
            tried += 1
    assert tried == len(samples)


def test_the_price_file_prices_what_it_names() -> None:
    (text,) = blocks("prices.md", "toml")
    table = PriceTable(Overrides.parse(text, "prices.md"))
    claude = table.unit("anthropic", "claude-sonnet-4-5-20250929", DAY_OF_2026)
    own = table.unit("vllm", "llama-3.3-70b-instruct", DAY_OF_2026)
    assert claude is not None
    assert own is not None
    assert claude.cost(1_000_000, 0, 0, 0, 0, 0)[0] == 2_400_000_000
    assert own.cost(0, 1_000_000, 0, 0, 0, 0)[0] == 400_000_000


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalStore(tmp_path / "tidegauge-data" / "tidegauge.db")
    pane = REQUESTS.empty()
    pane.sketches[0].add(1_500_000_000)
    pane.counters[0] = 1
    for minute in (0, 1):
        store.write(
            points(REQUESTS, 1_700_000_040 + minute * 60, ("s", "", "t", "p", "gpt-4o", "", ""), pane)
        )
    store.close()
    (code,) = blocks("querying.md", "python")
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102 (our own document)
    assert names["p95"].to_numpy().tolist() == [[1.5], [1.5]]  # type: ignore[attr-defined]
