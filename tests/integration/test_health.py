"""A real worker's endpoints, its own time series, and what they say when a server goes away."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.deployment import Pipeline
from tests.support.servers import InfluxDB, Kafka
from tidegauge.processors.core.figures import FIGURES

ROOT = Path(__file__).parents[2]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _get(
    port: int, path: str, host: str | None = None, method: str = "GET", timeout: float = 10.0
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


def _pipeline(directory: Path, kafka: Kafka, prefix: str, port: int) -> Pipeline:
    settings = {"TIDEGAUGE_WORKER_WEB_PORT": str(port)}
    pipeline = Pipeline(directory, kafka.bootstrap_servers, prefix, settings=settings)
    pipeline.create_topics()
    return pipeline


def _says(port: int, path: str, status: int) -> Callable[[], bool]:
    return lambda: _get(port, path)[0] == status


def test_a_worker_tells_how_it_is_and_tells_it_to_nobody_else(
    tmp_path: Path, kafka: Kafka, topic_prefix: str
) -> None:
    port = _free_port()
    pipeline = _pipeline(tmp_path, kafka, topic_prefix, port)
    with pipeline.worker() as worker:
        worker.wait("readiness", _says(port, "/ready", 200))
        assert _get(port, "/health") == (200, "ok\n")
        pipeline.do("simulate", "--rate", "200", "--seconds", "2", "--seed", "1")
        worker.wait("the events", lambda: 'outcome="applied"' in _get(port, "/metrics")[1])
        metrics = _get(port, "/metrics")[1]
        assert f'tidegauge_lag_records{{partition="0",topic="{topic_prefix}requests"}}' in metrics
        assert "tidegauge_ready 1.0" in metrics

        assert _get(port, "/metrics", host="evil.example")[0] == 403
        assert _get(port, "/metrics", method="POST")[0] == 405
        assert _get(port, "/router")[0] == 404
        with socket.socket() as outside:
            # All of 127.0.0.0/8 is this machine, so an address of it that is not bound stands for any other.
            assert outside.connect_ex(("127.0.0.2", port)) != 0

        taken = pipeline.run("worker", "--store", pipeline.store)
        assert taken.returncode == 1
        assert taken.stderr.count("\n") == 1
        assert "worker.web_port" in taken.stderr

        assert f'tidegauge_checkpoint_age_seconds{{topic="{topic_prefix}requests"}}' in metrics
        assert f'tidegauge_checkpoint_age_seconds{{topic="{topic_prefix}panes"}}' in metrics

        def told() -> bool:
            (row,) = pipeline.rows("pipeline") or [{}]
            return bool(row.get("events_applied"))

        worker.wait("the figures in the store", told)
        (row,) = pipeline.query("pipeline")
        assert set(row) >= set(FIGURES)
        assert row["lag_records"] == 0
        assert row["events_received"] >= row["events_applied"] > 0
        (shown,) = pipeline.query("pipeline", "--by", "worker", "--where", "topic=")
        assert shown["ready"] == 1
        worker.end()


def test_two_workers_of_a_machine_keep_their_names_over_restarts_and_do_not_share_one(
    tmp_path: Path, kafka: Kafka, topic_prefix: str
) -> None:
    settings = {"TIDEGAUGE_WORKER_NAME": f"name-{topic_prefix[-9:-1]}"}
    pipeline = Pipeline(tmp_path, kafka.bootstrap_servers, topic_prefix, settings=settings)
    pipeline.create_topics()
    name = settings["TIDEGAUGE_WORKER_NAME"]

    def tells(since: int, *names: str) -> Callable[[], bool]:
        return lambda: (
            {row["worker"] for row in pipeline.rows("pipeline", start=since, by=["worker"])} == {*names}
        )

    with pipeline.worker("first") as first:
        first.wait("its figures", tells(0, name))
        with pipeline.worker("second") as second:
            second.wait("the figures of both", tells(0, name, f"{name}/2"))
            first.kill()
            since = int(time.time()) + 1
            with pipeline.worker("third") as third:
                third.wait("the figures of both again", tells(since, name, f"{name}/2"))
                assert tells(0, name, f"{name}/2")()
                third.end()
            second.end()


def test_a_worker_without_kafka_is_unready_but_healthy_and_is_ready_again_with_it(
    tmp_path: Path, kafka: Kafka, topic_prefix: str
) -> None:
    port = _free_port()
    pipeline = _pipeline(tmp_path, kafka, topic_prefix, port)
    with pipeline.worker() as worker:
        worker.wait("readiness", _says(port, "/ready", 200))
        kafka.kill()
        worker.wait("unreadiness", _says(port, "/ready", 503))
        assert _get(port, "/health")[0] == 200
        kafka.start()
        worker.wait("readiness again", _says(port, "/ready", 200))


def _with_influxdb(
    directory: Path, kafka: Kafka, prefix: str, influxdb: InfluxDB, bucket: str, port: int
) -> Pipeline:
    settings = {"TIDEGAUGE_WORKER_WEB_PORT": str(port), "TIDEGAUGE_INFLUXDB_TIMEOUT": "2"}
    pipeline = Pipeline(
        directory, kafka.bootstrap_servers, prefix, influxdb=influxdb.settings(bucket), settings=settings
    )
    pipeline.create_topics()
    return pipeline


@pytest.mark.parametrize("how", ["never answers", "is down"])
def test_a_store_that_is_away_makes_a_worker_unready_but_not_ill_until_it_is_back(
    tmp_path: Path, kafka: Kafka, topic_prefix: str, influxdb: InfluxDB, influx_bucket: str, how: str
) -> None:
    port = _free_port()
    pipeline = _with_influxdb(tmp_path, kafka, topic_prefix, influxdb, influx_bucket, port)
    with pipeline.worker() as worker:
        worker.wait("readiness", _says(port, "/ready", 200))
        if how == "is down":
            influxdb.kill()
        else:
            influxdb.pause()
        pipeline.do("simulate", "--rate", "100", "--seconds", "1", "--seed", "1")
        worker.wait("unreadiness", _says(port, "/ready", 503))
        assert "InfluxDB at http://127.0.0.1" in _get(port, "/ready")[1]
        assert _get(port, "/health") == (200, "ok\n")
        metrics = _get(port, "/metrics")[1]
        assert "tidegauge_ready 0.0" in metrics
        assert "tidegauge_live 1.0" in metrics
        worker.wait("panes that wait", lambda: _metric(port, "tidegauge_store_backlog_panes") > 0)
        influxdb.heal()
        worker.wait("readiness again", _says(port, "/ready", 200))
        worker.wait("that all is stored", lambda: _metric(port, "tidegauge_store_backlog_panes") == 0)
        worker.end()


def _metric(port: int, name: str) -> float:
    found = [line for line in _get(port, "/metrics")[1].splitlines() if line.startswith(f"{name} ")]
    return float(found[0].split()[-1]) if found else -1.0


def test_a_worker_whose_stage_never_returns_is_ill_then_ends_for_a_supervisor_to_start_it_and_loses_nothing(
    tmp_path: Path, kafka: Kafka, topic_prefix: str
) -> None:
    port = _free_port()
    pipeline = _pipeline(tmp_path, kafka, topic_prefix, port)
    quick = {"TIDEGAUGE_WORKER_WEB_PORT": str(port), "TIDEGAUGE_WORKER_STALLED_AFTER": "5"}
    stalling = Pipeline(
        tmp_path, kafka.bootstrap_servers, topic_prefix, settings=quick | {"PYTHONPATH": str(ROOT)}
    )
    program = [sys.executable, "-m", "tests.support.stalling"]
    pipeline.do("simulate", "--rate", "100", "--seconds", "1", "--seed", "1")
    with stalling.worker("stalling", program=program) as worker:
        worker.wait("illness", _says(port, "/health", 503))
        assert re.search(
            rf"^{re.escape(topic_prefix)}requests/\d stands at offset 0 for \d+ s with \d+ records to read$",
            _get(port, "/health")[1],
        )
        assert worker.process.wait(120) == 1, worker.tail()
    assert "for a new start to go on from the stored state" in worker.log.read_text(errors="replace")
    with pipeline.worker("next", "--loglevel", "INFO") as worker:
        worker.wait("readiness", _says(port, "/ready", 200))
        worker.wait("that all is read", lambda: sum(pipeline.intake().values()) > 0 and _lag(port) == 0)
        assert _get(port, "/health")[0] == 200
        worker.end()


def _lag(port: int) -> float:
    found = [
        line for line in _get(port, "/metrics")[1].splitlines() if line.startswith("tidegauge_lag_records{")
    ]
    return sum(float(line.split()[-1]) for line in found) if found else -1.0


def test_a_frozen_worker_is_found_by_the_time_out_of_whoever_asks(
    tmp_path: Path, kafka: Kafka, topic_prefix: str
) -> None:
    port = _free_port()
    pipeline = _pipeline(tmp_path, kafka, topic_prefix, port)
    with pipeline.worker() as worker:
        worker.wait("readiness", _says(port, "/ready", 200))
        worker.process.send_signal(signal.SIGSTOP)
        try:
            assert _get(port, "/health", timeout=2.0) == (0, "")
        finally:
            worker.process.send_signal(signal.SIGCONT)
        worker.wait("readiness again", _says(port, "/ready", 200))
