"""The ground that other tests stand on: what the server fixtures promise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

from tests.support.servers import LOCAL, InfluxDB, Kafka, missing


def _publish(kafka: Kafka, topic: str, value: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    try:
        producer.send(topic, value).get(timeout=20)
    finally:
        producer.close()


def _values(kafka: Kafka, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=kafka.bootstrap_servers,
        auto_offset_reset="earliest",
        consumer_timeout_ms=20_000,
    )
    try:
        return [next(consumer).value for _ in range(count)]
    finally:
        consumer.close()


def _create(kafka: Kafka, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    try:
        admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    finally:
        admin.close()


def test_kafka_keeps_its_records_and_its_port_over_a_kill(kafka: Kafka, topic_prefix: str) -> None:
    topic = f"{topic_prefix}kept"
    _create(kafka, topic)
    _publish(kafka, topic, b"before")
    address, pid = kafka.bootstrap_servers, kafka.pid

    kafka.kill()
    kafka.start()

    assert kafka.bootstrap_servers == address
    assert kafka.pid != pid
    _publish(kafka, topic, b"after")
    assert _values(kafka, topic, 2) == [b"before", b"after"]


def test_a_server_that_one_test_left_frozen_runs_again_in_the_next(kafka: Kafka) -> None:
    kafka.pause()
    assert Path(f"/proc/{kafka.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    kafka.heal()

    assert Path(f"/proc/{kafka.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T"


def test_topics_that_nobody_created_do_not_come_into_being(kafka: Kafka, topic_prefix: str) -> None:
    topic = f"{topic_prefix}never-created"
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, max_block_ms=1_000)
    with pytest.raises(KafkaError):
        producer.send(topic, b"x").get(timeout=5)
    producer.close()
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    try:
        assert topic not in admin.list_topics()
    finally:
        admin.close()


def test_each_test_gets_an_empty_bucket_of_its_own(influxdb: InfluxDB, influx_bucket: str) -> None:
    buckets = influxdb.call("GET", f"/api/v2/buckets?org={influxdb.org}&name={influx_bucket}")["buckets"]
    assert [bucket["name"] for bucket in buckets] == [influx_bucket]
    assert influx_bucket != influxdb.bucket


def test_influxdb_starts_again_with_its_buckets(influxdb: InfluxDB, influx_bucket: str) -> None:
    influxdb.stop()
    influxdb.start()
    assert influxdb.call("GET", f"/api/v2/buckets?org={influxdb.org}&name={influx_bucket}")["buckets"]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIDEGAUGE_CACHE", str(tmp_path))
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname", "env"):
        (tools / tool).symlink_to(f"/usr/bin/{tool}")
    monkeypatch.setenv("PATH", str(tools))
    assert missing("kafka.sh") == "kafka.sh: needs Java 17 or newer ('java' is not on the PATH)"
    assert missing("influxdb.sh") == "influxdb.sh: needs Go 1.23 or newer ('go' is not on the PATH)"


def test_a_server_dies_with_the_test_run_that_was_killed(influxdb: InfluxDB) -> None:
    program = (
        "import time; from tests.support.servers import InfluxDB; s = InfluxDB(); s.start();"
        " print(s.pid, s.data, flush=True); time.sleep(60)"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=LOCAL.parents[1]
    )
    assert run.stdout is not None
    with run.stdout:
        pid, data = run.stdout.readline().split()
    assert Path(f"/proc/{pid}").exists()

    os.kill(run.pid, signal.SIGKILL)
    run.wait()

    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/exe").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}/exe").exists()
    subprocess.run([LOCAL / "influxdb.sh", "wipe", data], check=True, capture_output=True)
