"""What the benchmarks compute and print; that they measure is seen where there is a Kafka."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import emitter
import latency
import msgspec
import pytest
import scaling
import series
import support
import throughput
import traffic
import workers
from request_generator import requests

from tidegauge.schemas.codec import Codec, encode
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import Settings, StoreSettings
from tidegauge.sinks.base import Point
from tidegauge.sinks.local import LocalStore

ROOT = Path(__file__).parents[2]
PROGRAMS = re.findall(r"^BENCHMARKS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()


def main(name: str, *arguments: str) -> int:
    module = importlib.import_module(name)
    before, sys.argv = sys.argv, [f"{name}.py", *arguments]
    try:
        return int(module.main())
    finally:
        sys.argv = before


def test_make_bench_runs_every_program_and_no_helper() -> None:
    with_flags = {file.stem for file in (ROOT / "benchmarks").glob("*.py") if "= parser(" in file.read_text()}
    assert set(PROGRAMS) == with_flags


@pytest.mark.parametrize("name", PROGRAMS)
class TestEveryProgram:
    def test_explains_its_flags_and_gives_an_example(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as end:
            main(name, "--help")
        assert end.value.code == 0
        said = capsys.readouterr().out
        assert all(flag in said for flag in ("--quick", "--output {table,json}", "--bootstrap-servers"))
        assert f"example: python benchmarks/{name}.py --quick --output json" in said

    def test_refuses_an_unknown_output_with_exit_code_2(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as end:
            main(name, "--output", "xml")
        assert end.value.code == 2
        assert "--output" in capsys.readouterr().err

    def test_says_in_one_line_that_the_kafka_named_is_not_there(self, name: str) -> None:
        port = emitter.dead_port()
        with pytest.raises(SystemExit) as end:
            main(name, "--quick", "--bootstrap-servers", f"127.0.0.1:{port}")
        # A text as the code is printed, and makes the exit code 1.
        assert isinstance(end.value.code, str)
        assert end.value.code.startswith(f"Kafka at 127.0.0.1:{port}: ")
        assert "\n" not in end.value.code


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("throughput", ("--events", "0"), "--events: expected a whole number above 0, got '0'"),
        ("scaling", ("--rounds", "-1"), "--rounds: expected a whole number above 0, got '-1'"),
        ("latency", ("--seconds", "1.5"), "--seconds: expected a whole number above 0, got '1.5'"),
        ("series", ("--events", "9999"), "--events: expected at least 10,000, one of each series"),
        ("series", ("--span", "9"), "--span: expected at least 10 seconds"),
    ],
)
def test_a_wrong_number_is_refused_by_the_name_of_its_flag(
    name: str, arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(name, *arguments)
    assert end.value.code == 2
    assert expected in capsys.readouterr().err


class TestThroughput:
    @pytest.fixture
    def report(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """Of made-up runs: seconds for 1,000 events by program and round."""
        seconds = {"ceiling": [1.0, 2.0, 4.0], "hand_written": [4.0] * 3, "idiomatic_faust": [1.0] * 3}
        worker = {"single.": [8.0, 2.0, 4.0], "arrays.": [1.0, 2.0, 2.0]}

        def run_role(name: str, servers: str, topic: str, events: int) -> support.Measured:
            return support.Measured(events, seconds[name].pop(0), 0.5)

        def run_workers(settings: Settings, events: int) -> support.Measured:
            kind = settings.topics.prefix.partition(".")[2]
            return support.Measured(events, worker[kind].pop(0), 0.03)

        for name, fake in {"run_role": run_role, "run_workers": run_workers}.items():
            monkeypatch.setattr(throughput, name, fake)
        for name in ("recreate", "delete_run"):
            monkeypatch.setattr(throughput, name, lambda *_: None)
        monkeypatch.setattr(throughput, "load", lambda *_: 812.4)
        return throughput.run("kafka:9092", 1_000, 100, 3)

    def test_rows_are_medians_over_the_rounds(self, report: dict[str, Any]) -> None:
        rows = {row["name"]: row for row in report["rows"]}
        assert list(rows) == [
            "ceiling",
            "hand_written",
            "worker_single",
            "worker_arrays",
            "idiomatic_faust",
        ]
        assert rows["ceiling"] == {
            "name": "ceiling",
            "events_per_s": 500.0,
            "cpu_us_per_event": 500.0,
            "events": 1_000,
            "rounds": 3,
        }
        assert rows["worker_single"]["events_per_s"] == 250.0
        assert rows["worker_single"]["cpu_us_per_event"] == 30.0

    def test_ratios_are_of_events_per_second(self, report: dict[str, Any]) -> None:
        assert report["ratios"] == {
            "of_ceiling": 0.5,
            "of_hand_written": 1.0,
            "of_idiomatic_faust": 2.5,
            "arrays_to_single": 2.0,
        }

    def test_the_report_is_json_and_a_table(
        self, report: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        support.show(report, "json", throughput.print_table)
        assert json.loads(capsys.readouterr().out) == report
        support.show(report, "table", throughput.print_table)
        table = capsys.readouterr().out
        assert re.search(r"worker_single +250 +30\.0 +1,000\n", table)
        assert re.search(r"of_idiomatic_faust +2\.5\n", table)


def test_a_row_of_the_emitter_is_what_a_call_costs_with_kafka_dead() -> None:
    settings = emitter.settings_for(f"127.0.0.1:{emitter.dead_port()}", "bench.")
    row = emitter.measure(settings, "dead", "call", 20, 0, 0.0)
    for (
        thread
    ) in threading.enumerate():  # a client that still looks for its Kafka would disturb the next tests
        if thread is not threading.current_thread():
            thread.join(30)
    assert row.calls == 20
    assert 0 < row.median_us <= row.p99_us <= row.max_us
    assert row.balanced, "41 calls were made; each is delivered or dropped under a reason"
    assert sum(row.dropped.values()) == 41


class TestLatency:
    def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(self) -> None:
        values = [float(n) for n in range(100, 0, -1)]
        assert [latency.percentile(values, q) for q in (0.5, 0.95, 0.99, 1.0)] == [50.0, 95.0, 99.0, 100.0]
        assert latency.percentile([7.0], 0.99) == 7.0

    def test_the_nth_probe_seen_of_a_partition_is_the_nth_emitted(self) -> None:
        assert latency.ways([[1.0, 2.0], [5.0]], [[2.5, 2.5], [9.0]]) == [1.5, 0.5, 4.0]

    @pytest.mark.parametrize("seen", [[[1.5]], [[1.5, 2.5, 2.6]]])
    def test_a_probe_too_few_or_too_many_gives_no_figure(self, seen: list[list[float]]) -> None:
        with pytest.raises(SystemExit, match=f"partition 0: 2 probes were emitted and {len(seen[0])} stored"):
            latency.ways([[1.0, 2.0]], seen)

    def test_the_watch_notes_each_partitions_probes_when_it_first_sees_them(self, tmp_path: Path) -> None:
        store = LocalStore(tmp_path / "store.db")
        reading = workers.Reading(Settings(store=StoreSettings(f"sqlite:///{store.path}")))
        watch = latency.Watch(reading)
        assert watch.look() == 0
        minute = watch._start

        def put(prompt: str, time: int, count: int, service: str = traffic.PROBE_SERVICE) -> None:
            store.write([Point("latency", {"service": service, "prompt": prompt}, time, {"requests": count})])

        put("0", minute - 60, 9)  # before the first probe
        put("0", minute, 9, service="assistant")
        put("1", minute, 2)
        assert watch.look() == 2
        put("1", minute + 60, 1)
        put("3", minute, 1)
        assert watch.look() == 4
        assert [len(seen) for seen in watch.seen] == [0, 3, 0, 1]
        assert watch.seen[1][0] == watch.seen[1][1] < watch.seen[1][2]
        reading.close()
        store.close()


def run_of(seconds: float, *shares: int, kafka: bool = True, cpu: float = 0.02) -> workers.WorkersRun:
    cores = {"workers": 1.0, "benchmark": 0.1} | ({"kafka": 0.5, "others": 0.0} if kafka else {})
    return workers.WorkersRun(1_000, seconds, cpu, 2 * seconds, cores, shares)


def test_an_end_in_order_is_not_broken_off_by_a_second_signal() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            support._unwind(signal.SIGTERM, None)
        assert end.value.code == 143
        os.kill(os.getpid(), signal.SIGTERM)  # ends the tests unless it is ignored
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_point_that_is_still_being_written_is_left_to_the_next_look(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store.db")
    reading = workers.Reading(Settings(store=StoreSettings(f"sqlite:///{store.path}")))
    store.write([Point("latency", {"service": "a"}, 0, {"errors": 1})])
    assert reading.requests() == 0
    store.write([Point("latency", {"service": "a"}, 0, {"requests": 3})])
    assert reading.requests() == 3
    reading.close()
    store.close()


class TestScaling:
    def test_rows_are_medians_over_the_rounds(self) -> None:
        row = scaling.row([run_of(1.0, 400, 600), run_of(4.0, 500, 500), run_of(2.0, 700, 300)])
        assert (row.workers, row.rounds, row.events_per_s, row.stored_per_s) == (2, 3, 500.0, 250.0)
        assert row.shares == [0.4, 0.6]
        assert row.cpu_us_per_event == 20.0
        assert row.kafka_cpu_us_per_event == 2_000.0

    def test_a_worker_without_a_share_gives_no_figure(self) -> None:
        with pytest.raises(SystemExit, match="one worker got no partition"):
            scaling.row([run_of(1.0, 500, 500), run_of(1.0, 1_000, 0)])

    def test_the_ratio_stands_beside_what_the_cores_allow(self) -> None:
        one, two = scaling.row([run_of(2.0, 1_000)]), scaling.row([run_of(1.6, 500, 500, cpu=0.8)])
        # 800 µs of the workers and 1,600 µs of Kafka an event: two cores can do 833 events/s, 1.667 times one's 500.
        assert scaling.compare(one, two, 2) == {
            "two_to_one": 1.25,
            "stored_two_to_one": 1.25,
            "cores_allow": 1.667,
            "of_what_cores_allow": 0.75,
        }

    def test_somebody_elses_kafka_leaves_open_what_the_cores_allow(self) -> None:
        rows = [scaling.row([run_of(2.0, *shares, kafka=False)]) for shares in ((1_000,), (500, 500))]
        assert rows[0].kafka_cpu_us_per_event is None
        assert set(scaling.compare(*rows, 2)) == {"two_to_one", "stored_two_to_one"}


class TestSeries:
    def test_the_ratios_are_of_the_most_series_to_the_fewest(self) -> None:
        rows = [
            series.row(10, 60.0, [run_of(1.0, 1_000)]),
            series.row(100, 60.0, [run_of(9.0, 1_000)]),
            series.row(500, 60.0, [run_of(2.0, 1_000, cpu=0.03)]),
        ]
        assert [row.events_per_pane for row in rows] == [100.0, 10.0, 2.0]
        assert series.compare(rows) == {
            "cpu_most_to_fewest": 1.5,
            "events_per_s_most_to_fewest": 0.5,
            "stored_per_s_most_to_fewest": 0.5,
        }

    @pytest.mark.parametrize("wanted", [1, 10, 1_000, 10_000])
    def test_events_are_spread_over_exactly_so_many_series(self, wanted: int) -> None:
        made = list(requests(max(wanted, 100), start=0.0, series=wanted))
        keys = {(e.service, e.team, e.provider, e.model, e.prompt, e.prompt_version) for e in made}
        assert len(keys) == wanted

    def test_events_are_of_the_same_size_for_any_number_of_series(self) -> None:
        few, many = (
            [len(encode(e)) for e in requests(20_000, start=0.0, series=wanted)] for wanted in (10, 10_000)
        )
        assert sum(many) == pytest.approx(sum(few), rel=0.002)


class TestTraffic:
    def test_an_event_is_sent_again_with_another_id_and_time_and_nothing_else_changed(self) -> None:
        event = next(requests(1, start=1_000.0))
        again = Codec(RequestEvent).decode_one(traffic.Pieces(event).fill("5f" * 16, 1_700_000_000.25))
        assert (again.id, again.time) == ("5f" * 16, 1_700_000_000.25)
        assert msgspec.structs.replace(again, id=event.id, time=event.time) == event

    def test_a_plan_says_how_many_events_are_due(self) -> None:
        assert traffic.due(10.0, 12.5, 1_000.0) == 2_500
        assert traffic.due(10.0, 10.0009, 1_000.0) == 0
