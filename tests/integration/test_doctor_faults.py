"""Each fault that the doctor looks for, made on purpose on real servers, one by one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaAdminClient, OffsetAndMetadata, TopicPartition
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ConfigResource,
    ConfigResourceType,
    ResourcePattern,
    ResourceType,
)

from tests.support.deployment import Pipeline
from tests.support.secure import USER, SecureKafka
from tests.support.servers import InfluxDB, Kafka
from tidegauge import doctor_kafka, doctor_store
from tidegauge.cli import main
from tidegauge.doctor import examine
from tidegauge.finding import Finding
from tidegauge.processors.core import pricing
from tidegauge.settings import Secret, Settings
from tidegauge.topics import topic_specs


@pytest.fixture
def pipeline(tmp_path: Path, kafka: Kafka, topic_prefix: str) -> Pipeline:
    pipeline = Pipeline(tmp_path, kafka.bootstrap_servers, topic_prefix)
    pipeline.create_topics()
    return pipeline


def _told(settings: Settings, check: str) -> list[Finding]:
    return [finding for finding in examine(settings) if finding.check == check]


def _wrong(settings: Settings, check: str) -> list[tuple[str, str]]:
    """State and text of what is not well, which must come with something to do."""
    found = [finding for finding in _told(settings, check) if finding.state != "OK"]
    assert all(finding.mend for finding in found)
    return [(finding.state, finding.found) for finding in found]


@pytest.mark.parametrize(
    ("topic", "name", "value", "state"),
    [
        ("requests", "message.timestamp.type", "CreateTime", "FAIL"),
        ("requests", "retention.ms", "60000", "WARN"),
        ("feedback", "cleanup.policy", "compact", "FAIL"),
        ("state", "cleanup.policy", "delete", "FAIL"),
        ("state", "min.compaction.lag.ms", "0", "WARN"),
        ("panes", "max.message.bytes", "1000", "WARN"),
        ("requests", "retention.bytes", "1000000", "WARN"),
        ("judgements", "min.insync.replicas", "2", "FAIL"),
    ],
)
def test_a_setting_of_a_topic_that_costs_events_is_found(
    pipeline: Pipeline, kafka: Kafka, topic: str, name: str, value: str, state: str
) -> None:
    assert _wrong(pipeline.settings_with_store(), "topics") == []
    topic = getattr(pipeline.settings.topics, topic)
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {name: value})])
    admin.close()
    found = _wrong(pipeline.settings_with_store(), "topics")
    assert [(how, f"{topic}: {name} is {value}" in what) for how, what in found] == [(state, True)]


def test_retention_shorter_than_what_a_restart_or_a_rebuild_reads_again_is_found(pipeline: Pipeline) -> None:
    settings = pipeline.settings_with_store()
    topics = msgspec.structs.replace(settings.topics, retention_hours=1.0)
    worker = msgspec.structs.replace(settings.worker, epoch_seconds=3_000.0, allowed_lateness=7_200.0)
    found = _wrong(msgspec.structs.replace(settings, topics=topics, worker=worker), "topics")
    assert [state for state, _ in found] == ["FAIL", "FAIL"]
    assert "repeats are known over 6000 s" in found[0][1]
    assert "less than worker.allowed_lateness of 7200 s" in found[1][1]


def test_that_nobody_reads_is_found_and_how_much_waits_and_that_somebody_does(
    pipeline: Pipeline,
) -> None:
    settings = pipeline.settings_with_store()
    (nobody,) = _wrong(settings, "reading")
    assert nobody == ("WARN", f"no worker of the group {pipeline.group} runs, 0 records wait")
    pipeline.do("simulate", "--rate", "100", "--seconds", "1", "--seed", "1")
    ((state, text),) = _wrong(settings, "reading")
    assert state == "FAIL"
    assert "no worker" in text
    assert " 0 records" not in text
    assert main(_doctor(pipeline)) == 1
    with pipeline.worker() as worker:
        # The offsets are committed after the work, from time to time.
        worker.wait(
            "that all is read", lambda: _told(settings, "reading")[0].found.endswith(" 0 records wait")
        )
        (somebody,) = _told(settings, "reading")
        assert (somebody.state, somebody.found.split(",")[0]) == (
            "OK",
            f"1 workers of the group {pipeline.group}",
        )
        assert main(_doctor(pipeline)) == 0
        worker.end()
    small = msgspec.structs.replace(settings, worker=msgspec.structs.replace(settings.worker, ready_lag=0))
    assert _wrong(small, "reading")[0][1].startswith("no worker")


def _doctor(pipeline: Pipeline) -> list[str]:
    settings = pipeline.settings_with_store()
    file = pipeline.directory / "doctor.toml"
    file.write_text(
        f'[kafka]\nbootstrap_servers = "{settings.kafka.bootstrap_servers}"\n[store]\nurl = "{settings.store.url}"\n'
        f'[topics]\nprefix = "{settings.topics.prefix}"\npartitions = 3\n[worker]\ngroup = "{pipeline.group}"\n'
    )
    return ["doctor", "--config", str(file)]


def test_a_clock_that_is_behind_kafkas_newest_record_is_found(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _told(pipeline.settings, "clock")[0].found == "Kafka has no event yet whose time would tell"
    pipeline.do("simulate", "--rate", "50", "--seconds", "1", "--seed", "1")
    assert _wrong(pipeline.settings, "clock") == []
    _turn_back(monkeypatch, doctor_kafka, 3_600)
    ((state, text),) = _wrong(pipeline.settings, "clock")
    assert state == "FAIL"
    assert text.startswith("Kafka's is 3")
    assert text.endswith("s ahead of ours")


def _turn_back(monkeypatch: pytest.MonkeyPatch, module: Any, seconds: float) -> None:
    class Clock:
        monotonic, sleep = time.monotonic, time.sleep

        @staticmethod
        def time() -> float:
            return time.time() - seconds

    monkeypatch.setattr(module, "time", Clock)


@pytest.mark.parametrize(("seconds", "side"), [(3_600, "ahead of"), (-3_600, "behind")])
def test_a_clock_apart_from_influxdbs_is_found(
    influxdb: InfluxDB, influx_bucket: str, monkeypatch: pytest.MonkeyPatch, seconds: float, side: str
) -> None:
    settings = _influx(influxdb, influx_bucket)
    assert [f.state for f in doctor_store.clock(settings)] == ["OK"]
    _turn_back(monkeypatch, doctor_store, seconds)
    (found,) = doctor_store.clock(settings)
    assert found.state == "FAIL"
    assert side in found.found


def _influx(influxdb: InfluxDB, name: str, **changes: Any) -> Settings:
    settings = msgspec.structs.replace(influxdb.settings(name), **changes)
    store = msgspec.structs.replace(Settings().store, url="influxdb")
    return Settings(store=store, influxdb=settings)


@pytest.mark.parametrize(
    ("keeps", "state", "words"),
    [
        (3_600, "FAIL", "a day's pane is written until 93,600 s after it begins"),
        (2 * 86_400, "WARN", "less than Kafka keeps events"),
        (0, "OK", "can be read and written"),
    ],
)
def test_a_bucket_that_forgets_too_soon_is_found(
    influxdb: InfluxDB, request: pytest.FixtureRequest, keeps: int, state: str, words: str
) -> None:
    name = f"forgets-{keeps}-{time.time_ns()}"
    identity = influxdb.create_bucket(name, keeps)
    request.addfinalizer(lambda: influxdb.delete_bucket(identity))
    first = next(iter(doctor_store.store(_influx(influxdb, name))))
    assert first.state == state
    assert words in first.found


def test_a_token_that_is_wrong_or_may_only_read_and_a_bucket_that_is_not_there_are_found(
    influxdb: InfluxDB, influx_bucket: str
) -> None:
    (bucket,) = influxdb.call("GET", f"/api/v2/buckets?name={influx_bucket}")["buckets"]
    reader = influxdb.call(
        "POST",
        "/api/v2/authorizations",
        {
            "orgID": bucket["orgID"],
            "permissions": [{"action": "read", "resource": {"type": "buckets", "id": bucket["id"]}}],
        },
    )
    for changes, words in (
        ({"token": Secret("canary-of-a-token")}, "the token is missing or wrong"),
        ({"token": Secret(reader["token"])}, "influxdb.token"),
        ({"bucket": "no-such-bucket"}, "no such bucket"),
    ):
        ((state, text),) = _wrong(_influx(influxdb, influx_bucket, **changes), "store")
        assert state == "FAIL"
        assert words in text
        assert "canary" not in text
        assert reader["token"] not in text


def test_an_old_price_table_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = msgspec.structs.replace(Settings().store, url=f"sqlite:///{tmp_path / 'x.db'}")
    monkeypatch.setattr(pricing, "newest_price", lambda until: date(2025, 1, 1))
    ((state, text),) = _wrong(Settings(store=store), "prices")
    assert state == "WARN"
    assert "whose newest price began on 2025-01-01" in text


class GuardedKafka(SecureKafka):
    """A Kafka that lets known users do what ACLs allow, and those of its plain listener everything."""

    def __init__(self) -> None:
        super().__init__()
        self._environment["KAFKA_PROPERTIES"] += (
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n"
            "super.users=User:ANONYMOUS\n"
        )


@pytest.fixture(scope="module")
def guarded(secure_kafka: SecureKafka) -> Iterator[GuardedKafka]:
    # The other one shows that the tools are there; it is a module's own and small beside what it saves to say.
    server = GuardedKafka()
    try:
        server.start()
        yield server
    finally:
        server.close()


def test_what_acls_do_not_allow_is_found(
    guarded: GuardedKafka, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    plain = Pipeline(tmp_path, guarded.bootstrap_servers, "guarded.")
    plain.create_topics()
    assert _wrong(plain.settings, "permissions") == []
    pipeline = Pipeline(tmp_path, "", "guarded.", settings=guarded.settings("SCRAM-SHA-512"))
    settings = pipeline.settings_with_store()
    admin = KafkaAdminClient(bootstrap_servers=guarded.bootstrap_servers)
    request.addfinalizer(admin.close)

    def allow(kind: ResourceType, name: str, *operations: ACLOperation) -> None:
        admin.create_acls(
            [
                ACL(f"User:{USER}", "*", operation, ACLPermissionType.ALLOW, ResourcePattern(kind, name))
                for operation in operations
            ]
        )

    names = [spec.name for spec in topic_specs(settings)]
    nothing = [*names, f"the group {pipeline.group}"]
    found = _wrong(settings, "permissions")
    assert sorted(found) == sorted(("FAIL", f"{name}: may not DESCRIBE") for name in nothing)
    # Of a group that has never been, the broker says nothing.
    admin.alter_group_offsets(pipeline.group, {TopicPartition(names[0], 0): OffsetAndMetadata(0, "", -1)})
    for name in names:
        allow(
            ResourceType.TOPIC, name, ACLOperation.DESCRIBE, ACLOperation.DESCRIBE_CONFIGS, ACLOperation.READ
        )
    allow(ResourceType.GROUP, pipeline.group, ACLOperation.DESCRIBE)
    found = _wrong(settings, "permissions")
    assert {state for state, _ in found} == {"FAIL"}
    assert sorted(text for _, text in found) == sorted(
        [*(f"{name}: may not WRITE" for name in names), f"the group {pipeline.group}: may not READ"]
    )
    for name in names:
        allow(ResourceType.TOPIC, name, ACLOperation.WRITE)
    allow(ResourceType.GROUP, pipeline.group, ACLOperation.READ)
    assert _wrong(settings, "permissions") == []
    (well,) = _told(settings, "permissions")
    assert well.found == f"7 topics may be read and written, and the group {pipeline.group} joined"
