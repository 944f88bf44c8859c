"""A real worker's endpoints, its own time series, and what they say when a server goes away."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.deployment import Pipeline
from tests.support.servers import Kafka
from tidegauge.processors.core.figures import FIGURES


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _get(port: int, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
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
