"""The command line's promises, for every command: help with an example, exit codes, and one clear line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tidegauge.cli import COMMANDS, Interrupted, _signals, main
from tidegauge.commands import demo
from tidegauge.errors import UnavailableError
from tidegauge.local_stack import LocalStack
from tidegauge.processors.core.views import COST_DAILY
from tidegauge.sinks.local import LocalStore
from tidegauge.sinks.panes import points

NOBODY = ["--bootstrap-servers", "127.0.0.1:1"]
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,374,44\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("trace.csv").write_text(TRACE)
    Path("empty").touch()
    Path("folder").mkdir()
    Path("binary").write_bytes(bytes(range(256)) * 20)
    Path("no-section.toml").write_text("kafka = 3\n")
    Path("no-secret.toml").write_text("[kafka]\nsasl_password = 5\n")
    Path("prices.toml").write_text("[prices]\noverride_file = 'binary'\n")
    Path("no-prices.toml").write_text("[prices]\noverride_file = 'nothing'\n")
    return tmp_path


def ends(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    assert printed.err.startswith("tidegauge")
    return code, printed.err


@pytest.mark.parametrize(
    "command",
    [[name] for name in COMMANDS]
    + [["topics", "create"], ["topics", "check"], ["deadletter", "list"], ["deadletter", "resend"], []],
    ids=" ".join,
)
def test_every_command_has_help_with_an_example(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main([*command, "--help"]) == 0
    assert f"example: {' '.join(['tidegauge', *command])}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "COMMAND"),
        ("sail", "invalid choice: 'sail'"),
        ("topics", "create|check"),
        ("deadletter", "list|resend"),
        ("deadletter list --limit 0", "a whole number from 1 on"),
        ("deadletter list --offset 5", "expected partition:offset"),
        ("topics check --bootstrap-servers here", "expected host:port, got 'here'"),
        ("replay trace.csv", "--format"),
        ("replay trace.csv --format xml", "invalid choice: 'xml'"),
        ("replay trace.csv --format azure --speed 0", "a number above 0"),
        ("replay trace.csv --format azure --speed=-2", "a number above 0"),
        ("replay trace.csv --format azure --speed nan", "a number above 0"),
        ("replay trace.csv --format azure --speed fast", "expected recorded, max"),
        ("replay trace.csv --format azure --limit 0", "a whole number from 1 on"),
        ("replay trace.csv --format azure --batch 0", "from 1 to 10000"),
        ("replay trace.csv --format azure --shuffle 1 --speed 2", "--shuffle: needs --speed max"),
        ("replay trace.csv --format azure --move-to soon", "--move-to soon"),
        ("replay trace.csv --format azure --move-to 5", "2001 to 2096"),
        ("replay trace.csv --format azure --move-to 1700000000000", "not milliseconds"),
        ("replay trace.csv --format azure --map time=a", "takes no column map"),
        ("replay trace.csv --format azure --set model", "expected FIELD=VALUE"),
        ("replay trace.csv --format azure --set colour=red", "'colour' is no field"),
        ("replay trace.csv --format azure --set input_tokens=many", "gen_ai.usage.input_tokens"),
        ("replay trace.csv --format azure --bootstrap-servers a:b", "expected host:port, got 'a:b'"),
        ("replay trace.csv --format csv", "no column for 'time'"),
        (
            "replay trace.csv --format csv --map time=when",
            "no column 'when' in the file; its columns are TIME",
        ),
        ("replay binary --format azure", "no column 'TIMESTAMP' in the file"),
        ("simulate --rate 0", "a number above 0"),
        ("simulate --seconds nan", "a number above 0"),
        ("simulate --events 0", "a whole number from 1 on"),
        ("simulate --speed max", "needs --seconds or --events"),
        ("simulate --start nan", "--start nan"),
        ("simulate --start 1700000000000", "not milliseconds"),
        ("simulate --incident cost --incident-at soon", "is no duration"),
        ("simulate --config binary", "expected TOML"),
        ("simulate --config no-section.toml --bootstrap-servers x:1", "kafka: expected a section"),
        ("simulate --config no-secret.toml", "kafka.sasl_password: Expected `str`"),
        ("demo --seconds 0", "a number above 0"),
        ("demo --rate many", "a number above 0"),
        ("demo --replay trace.csv", "needs --format"),
        ("demo --replay trace.csv --format xml", "invalid choice"),
        ("demo --replay trace.csv --format csv", "no column for 'time'"),
        ("demo --format azure", "need --replay"),
        ("worker --config prices.toml", "prices.override_file binary: expected TOML"),
        ("worker --bootstrap-servers a:b", "expected host:port"),
        ("query latency --last 999999w", "is too long"),
        ("query latency --last 1h --every 99999999999w", "is too long"),
        ("query latency --from=-5", "from 0 on"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2_before_anything_is_started(
    capsys: pytest.CaptureFixture[str], folder: Path, line: str, told: str
) -> None:
    before = sorted(folder.iterdir())
    code, printed = ends(capsys, *line.split())
    assert (code, told in printed) == (2, True), printed
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("replay nothing --format azure", "nothing: No such file"),
        ("replay folder --format azure", "folder: Is a directory"),
        ("replay empty --format azure", "empty: holds no event of the format azure"),
        (
            "replay trace.csv --format jsonl",
            "holds no event of the format jsonl; line 1: message: valid JSON",
        ),
        ("demo --replay nothing --format azure", "nothing: No such file"),
        ("demo --replay empty --format csv", "holds no event"),
        ("demo --data trace.csv --seconds 1", "trace.csv"),
        ("worker --config no-prices.toml", "prices.override_file nothing: No such file"),
        ("simulate --config nothing", "settings file nothing: No such file"),
        ("query latency --store sqlite:///binary", "file is not a database"),
        ("query latency --store sqlite:///folder", "no store at"),
        ("query latency --data empty", "no store at"),
        *(
            (f"{command} --bootstrap-servers 127.0.0.1:1", "Kafka at 127.0.0.1:1: Connection refused")
            for command in (
                "replay trace.csv --format azure",
                "simulate",
                "topics create",
                "topics check",
                "deadletter list",
                "deadletter resend",
                "worker",
            )
        ),
    ],
)
def test_what_is_missing_is_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], line: str, told: str
) -> None:
    code, printed = ends(capsys, *line.split())
    assert (code, told in printed) == (1, True), printed


def test_a_worker_without_its_kafka_leaves_no_store_behind(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    ends(capsys, "worker", *NOBODY)
    assert not (folder / "tidegauge-data").exists()


def test_a_trace_that_is_no_text_sends_no_control_sequences_to_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, printed = ends(capsys, "replay", "binary", "--format", "azure")
    assert "\x1b" not in printed


@pytest.fixture
def store() -> Path:
    path = Path("data", "tidegauge.db")
    store = LocalStore(path)
    pane = COST_DAILY.empty()
    pane.counters[0] = 1
    store.write(points(COST_DAILY, 1_700_006_400, ("s", "", "", "p", "m"), pane))
    store.close()
    return path


def query(output: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [
        sys.executable,
        "-m",
        "tidegauge.cli",
        "query",
        "cost_1d",
        "--data",
        "data",
        "--output",
        output,
    ]
    return subprocess.run(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        check=False,
        **options,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize("output", ["table", "json", "csv", "parquet"])
@pytest.mark.usefixtures("store")
def test_a_reader_that_has_left_is_no_error(output: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        answer = query(output, stdout=writing)
    finally:
        os.close(writing)
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize("output", ["table", "json", "csv", "parquet"])
@pytest.mark.usefixtures("store")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_exit_code_1(output: str) -> None:
    with Path("/dev/full").open("wb") as full:
        answer = query(output, stdout=full)
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
    assert "No space left on device" in answer.stderr


@pytest.mark.usefixtures("store")
def test_an_output_that_was_closed_beforehand_is_no_traceback() -> None:
    answer = query("json", preexec_fn=lambda: os.close(1))
    assert (answer.returncode, answer.stderr) == (0, "")


def test_two_demos_do_not_share_a_folder(folder: Path) -> None:
    with LocalStack(folder / "data"):
        with pytest.raises(UnavailableError, match="in use by another demo"), LocalStack(folder / "data"):
            pass
        with LocalStack(folder / "other"):
            pass
    with LocalStack(folder / "data"):
        pass


def test_a_demo_sets_aside_the_store_that_holds_some_of_today_and_no_other(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.time", lambda: 1_700_006_400 + 86_400)
    demo._set_aside(store)
    assert store.exists()
    monkeypatch.setattr("time.time", lambda: 1_700_006_400 + 86_399)
    demo._set_aside(store)
    assert not store.exists()
    (aside,) = store.parent.glob("tidegauge-*.db")
    assert str(aside) in capsys.readouterr().out
    kept = LocalStore(aside, readonly=True)
    assert len(list(kept.read("cost_1d"))) == 1
    kept.close()


class Finalised:
    """Has a signal come where Python can raise nothing."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_comes_where_nothing_can_be_raised_is_not_lost() -> None:
    def command() -> None:
        with _signals():
            Finalised()
            threading.Event().wait(20)

    with pytest.raises(Interrupted) as caught:
        command()
    assert caught.value.signal == signal.SIGTERM
