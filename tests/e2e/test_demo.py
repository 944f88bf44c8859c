"""``tidegauge demo`` as a newcomer runs it, with its embedded broker."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tidegauge.cli import main

MAP = "time=when:%d.%m.%Y, %H:%M:%S,model=model,duration=ms*0.001,input_tokens=in,output_tokens=out"
ROWS = "when,model,ms,in,out\n" + "".join(
    f'"{15 - n % 3:02}.11.2023, 10:{n % 60:02}:00",gpt-4o,{100 + n},{1_000 + n},{n}\n' for n in range(120)
)


def demo(*flags: str, data: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tidegauge.cli", "demo", "--plain", "--data", str(data), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def asked(capsys: pytest.CaptureFixture[str], data: Path, *question: str) -> list[dict[str, object]]:
    assert main(["query", *question, "--data", str(data), "--output", "json"]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def test_a_trace_out_of_order_is_stored_whole_in_every_view_and_again_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, data = tmp_path / "trace.csv", tmp_path / "data"
    trace.write_text(ROWS)
    answers = []
    for _ in range(2):
        process = demo(
            "--replay", str(trace), "--format", "csv", "--map", MAP, "--set", "provider=openai", data=data
        )
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0, printed
        assert "events: applied 120" in printed
        answers.append(
            [asked(capsys, data, view, "--every", "1d") for view in ("latency", "cost", "cost_1d")]
        )
    assert answers[0] == answers[1]
    latency, cost, daily = answers[0]
    assert [row["requests"] for row in latency] == [40, 40, 40]
    assert daily == cost
    assert sum(int(str(row["input_tokens"])) for row in daily) == sum(1_000 + n for n in range(120))
    assert all(row["unpriced_requests"] == 0 for row in daily)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_leaves_no_process_however_it_is_ended(tmp_path: Path, end: signal.Signals) -> None:
    process = demo(data=tmp_path / "data")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("starting: ")
    mine = children(process.pid)
    assert len(mine) >= 2
    # Opened before the end, so that no later process of the same number is taken for one of these.
    watched = [os.pidfd_open(pid) for pid in mine]
    process.send_signal(end)
    try:
        printed, _ = process.communicate(timeout=120)
    finally:
        process.kill()  # else a demo that does not end would slow down all tests after this one
    assert process.returncode == (-end if end == signal.SIGKILL else 0), printed
    for pid, descriptor in zip(mine, watched, strict=True):
        if alive(pid):
            assert select.select([descriptor], [], [], 20)[0], f"process {pid} is still there"
        os.close(descriptor)
