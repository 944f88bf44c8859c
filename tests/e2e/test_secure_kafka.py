"""The commands and the SDK on a Kafka that asks for TLS and for who is there: let in, or turned away in one line."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from kafka import KafkaProducer

from tests.support.deployment import Pipeline
from tests.support.secure import PASSWORD, Authority, SecureKafka
from tidegauge.producers import diagnostics
from tidegauge.producers.client import Client
from tidegauge.producers.ids import partition_for

CERTIFICATE = ""  # instead of a mechanism for passwords
EVENTS = 200
QUICKLY = 15.0  # seconds; each command takes two of them on an idle machine


@pytest.fixture
def deploy(secure_kafka: SecureKafka, tmp_path: Path) -> Callable[..., Pipeline]:
    """Makes a deployment of a client's security settings: those that fit a mechanism, and others over them."""
    prefix = f"secure-{uuid.uuid4().hex[:8]}."

    def make(mechanism: str, **settings: str) -> Pipeline:
        others = {f"TIDEGAUGE_KAFKA_{name.upper()}": value for name, value in settings.items()}
        return Pipeline(
            tmp_path,
            secure_kafka.bootstrap_servers,
            prefix,
            partitions=2,
            settings=secure_kafka.settings(mechanism) | others,
        )

    return make


def trace(directory: Path) -> Path:
    path = directory / "trace.csv"
    lines = [f"{1_700_000_000 + n},{n}\n" for n in range(EVENTS)]
    path.write_text("time,input_tokens\n" + "".join(lines))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512", CERTIFICATE])
def test_events_go_all_the_way_through_a_kafka_that_asks_who_is_there(
    deploy: Callable[..., Pipeline], secure_kafka: SecureKafka, mechanism: str
) -> None:
    pipeline = deploy(mechanism)
    pipeline.do("topics", "create")
    client = Client(pipeline.settings, service="from the SDK")
    for _ in range(EVENTS):
        with client.call(provider="openai", model="gpt-4o"):
            pass
    assert client.close(10.0), "the SDK could not deliver all"
    pipeline.do("replay", str(trace(pipeline.directory)), "--format", "csv", "--move-to", "now")
    requests = f"{pipeline.prefix}requests"
    stranger = KafkaProducer(bootstrap_servers=secure_kafka.bootstrap_servers)
    stranger.send(requests, b"no event", partition=partition_for("any", 2)).get(timeout=20)
    stranger.close()

    expected = {"applied": 2 * EVENTS, "refused_invalid_json": 1}
    with pipeline.worker("worker", "--loglevel", "DEBUG") as worker:
        worker.wait("all stored", lambda: pipeline.intake() == expected)
        worker.end()
    said = worker.log.read_text(errors="replace")
    assert "[DEBUG]" in said
    assert "made-up password" not in said
    assert "no event" not in said
    assert "invalid_json" in pipeline.do("deadletter", "list")


def test_the_topics_are_made_with_either_length_of_scram(deploy: Callable[..., Pipeline]) -> None:
    assert "created" in deploy("SCRAM-SHA-256").do("topics", "create")
    assert "as they must be" in deploy("SCRAM-SHA-512").do("topics", "check")


def wrong_authority(kafka: SecureKafka, directory: Path) -> dict[str, str]:
    return {"ssl_cafile": str(Authority(directory, "another").certificate)}


def wrong_password(kafka: SecureKafka, directory: Path) -> dict[str, str]:
    return {"sasl_password": "wrong-" + PASSWORD}


def wrong_host_name(kafka: SecureKafka, directory: Path) -> dict[str, str]:
    return {"bootstrap_servers": f"localhost:{kafka.sasl_port}"}


def no_certificate(kafka: SecureKafka, directory: Path) -> dict[str, str]:
    return {"bootstrap_servers": f"127.0.0.1:{kafka.tls_port}", "security_protocol": "SSL"}


def no_tls(kafka: SecureKafka, directory: Path) -> dict[str, str]:
    return {"security_protocol": "SASL_PLAINTEXT"}


Mistake = Callable[[SecureKafka, Path], dict[str, str]]
MISTAKES: list[tuple[Mistake, str, str]] = [
    (wrong_authority, "certificate is not trusted", "kafka.ssl_cafile"),
    (wrong_password, "uthentication failed", "kafka.sasl_password"),
    (wrong_host_name, "not valid for 'localhost'", "kafka.bootstrap_servers"),
    (no_certificate, "certificate", "kafka.ssl_certfile"),
    (no_tls, "does not answer as Kafka", "kafka.security_protocol"),
]


@pytest.mark.fault(37, "wrong CA, password, host name, certificate: each command refused in one line")
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
@pytest.mark.parametrize(("mistake", "told", "setting"), MISTAKES)
def test_every_command_is_turned_away_soon_in_one_line_that_names_the_setting(
    deploy: Callable[..., Pipeline],
    secure_kafka: SecureKafka,
    tmp_path: Path,
    mechanism: str,
    mistake: Mistake,
    told: str,
    setting: str,
) -> None:
    pipeline = deploy(mechanism, **mistake(secure_kafka, tmp_path))
    commands = [["topics", "check"]]
    if mechanism == "PLAIN":
        replay = ["replay", str(trace(tmp_path)), "--format", "csv"]
        commands += [["worker"], replay, ["deadletter", "list"]]
    for command in commands:
        begun = time.monotonic()
        done = pipeline.run(*command)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"tidegauge {command[0]}: Kafka at ")
        assert told in done.stderr
        assert setting in done.stderr
        assert PASSWORD not in done.stderr
        assert time.monotonic() - begun < QUICKLY


@pytest.mark.fault(37, "the same for an application: it goes on, and is told once")
@pytest.mark.parametrize(("mistake", "told", "setting"), MISTAKES[:3])
def test_an_application_whose_events_are_turned_away_goes_on_and_is_told_why_once(
    deploy: Callable[..., Pipeline],
    secure_kafka: SecureKafka,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    mistake: Mistake,
    told: str,
    setting: str,
) -> None:
    monkeypatch.setattr(diagnostics, "_throttle", diagnostics.Throttle())  # no earlier test has warned
    caplog.set_level(logging.DEBUG)
    client = Client(deploy("PLAIN", **mistake(secure_kafka, tmp_path)).settings)
    with client.call(provider="openai", model="gpt-4o"):
        pass
    deadline = time.monotonic() + QUICKLY
    while not any("Kafka at" in text for text in caplog.messages):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not client.flush(1.0)  # time for more warnings
    assert not client.close(0.0)
    assert client.emitter.stats().dropped == {"close_timeout": 1}
    (warning,) = [text for text in caplog.messages if "Kafka at" in text]
    assert told in warning
    assert setting in warning
    assert PASSWORD not in caplog.text
