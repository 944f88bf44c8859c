"""What must not come out: at a worker's web endpoints, in its log, in the store, in alerts and in dead letters."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from kafka import KafkaProducer

from tests.faults.oracle import read_records
from tests.support.deployment import Pipeline, Worker
from tests.support.secure import PASSWORD, SecureKafka
from tests.support.servers import InfluxDB, Kafka, free_port
from tidegauge.schemas.deadletter import MAX_COPY_BYTES, DeadLetter
from tidegauge.sinks.open import open_store

LISTENING = "0A"
PATHS = ("/health", "/ready", "/metrics")

APP_KEY = "sk-ant-canary-3f1b7c"
PERSON = "canary.person@example.com"
CARD = "4111 1111 1111 1111"
USER_KEY = "canary-user-key-91ac"
SECRETS = (PASSWORD, InfluxDB.token, USER_KEY)
PRIVATE = (APP_KEY, PERSON, CARD)


def _ask(host: str, port: int, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and all that was said, headers included."""
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, f"{answer.headers}{answer.read().decode()}"
    finally:
        connection.close()


def _refuses(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as outside:
        outside.settimeout(5)
        return outside.connect_ex((host, port)) != 0


def _own_addresses() -> set[str]:
    """Addresses of this machine that are not the one of the endpoints; nothing is sent to find them."""
    found = {"127.0.0.2", "::1"}
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((far, 9))
            except OSError:
                continue
            found.add(probe.getsockname()[0])
    return found


def _listening(pid: int) -> set[tuple[str, int]]:
    """Addresses (hexadecimal, as the kernel writes them) and ports on which a process takes connections."""
    held = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(entry)))  # noqa: PTH115 — no file's path
        except FileNotFoundError:
            continue  # closed meanwhile
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == LISTENING and columns[9] in held:
                address, _, port = columns[1].partition(":")
                found.add((address, int(port, 16)))
    return found


@pytest.fixture
def endpoints(tmp_path: Path, kafka: Kafka, topic_prefix: str) -> Iterator[tuple[Worker, int]]:
    port = free_port()
    pipeline = Pipeline(
        tmp_path, kafka.bootstrap_servers, topic_prefix, settings={"TIDEGAUGE_WORKER_WEB_PORT": str(port)}
    )
    pipeline.create_topics()
    with pipeline.worker() as worker:
        worker.wait("the endpoints", lambda: not _refuses("127.0.0.1", port))
        yield worker, port


@pytest.mark.fault(36, "connections from outside, other methods and other paths at the web endpoints")
def test_the_web_endpoints_take_get_at_three_paths_of_the_loopback_address_and_nothing_else(
    endpoints: tuple[Worker, int],
) -> None:
    worker, port = endpoints
    assert _listening(worker.process.pid) == {("0100007F", port)}
    for address in _own_addresses():
        assert _refuses(address, port), address
    for path in PATHS:
        assert _ask("127.0.0.1", port, path)[0] in (200, 503)
        for method in ("POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"):
            assert _ask("127.0.0.1", port, path, method)[0] == 405, (method, path)
    others = ("/", "/healthz", "/health/", "/metrics/x", "/router", "/table", "/graph", "/stats", "/..%2fetc")
    for path in others:
        assert _ask("127.0.0.1", port, path)[0] == 404, path


@pytest.mark.fault(36, "worker.web_host opens the endpoints to other addresses")
def test_the_web_endpoints_are_reached_from_outside_once_told(
    tmp_path: Path, kafka: Kafka, topic_prefix: str
) -> None:
    port = free_port()
    settings = {"TIDEGAUGE_WORKER_WEB_PORT": str(port), "TIDEGAUGE_WORKER_WEB_HOST": "0.0.0.0"}  # noqa: S104
    pipeline = Pipeline(tmp_path, kafka.bootstrap_servers, topic_prefix, settings=settings)
    pipeline.create_topics()
    with pipeline.worker() as worker:
        worker.wait("the endpoints", lambda: not _refuses("127.0.0.2", port))
        assert _ask("127.0.0.2", port, "/health")[0] == 200
        assert _ask("127.0.0.2", port, "/health", "POST")[0] == 405


APP = f"""
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
from tidegauge.producers.client import Client
for name in ("kafka", "kafka.net", "kafka.producer", "tidegauge"):
    logging.getLogger(name).setLevel(logging.DEBUG)
client = Client(service="shop", redact=lambda text: text.replace({CARD!r}, "(card)"))
for n in range(50):
    try:
        with client.call(
            provider="openai", model="gpt-4o", prompt="answer", user={PERSON!r}, conversation="c-" + {PERSON!r}
        ) as call:
            call.set_text(input="my key is {APP_KEY}, my card {CARD}", output="Dear {PERSON}, {APP_KEY}")
            call.set_usage(input_tokens=3, output_tokens=4)
            if n % 2:
                raise RuntimeError("the request of {PERSON} with {APP_KEY} failed")
    except RuntimeError:
        pass
    client.record_feedback(call.receipt, thumb=True, comment="from {PERSON}, {APP_KEY}")
assert client.close(60.0)
logging.debug("the level is DEBUG")
"""

REFUSED = (
    f'{{"time": 1, "id": "{APP_KEY}", "user.id": "{PERSON}"}}',
    f'{{"id": "x", "time": "{PERSON}"}}',
    f'{{"id": "x", "time": 1767225600, "tidegauge.guardrails": [{{"name": "pii", "stage": "{PERSON}"}}]}}',
    f'{{"id": "x", "time": 1767225600, "{PERSON}": "{APP_KEY}", "gen_ai.usage.input_tokens": "{CARD}"}}',
    f'{{"id": "x", "time": 1767225600, "gen_ai.request.model": {{"{PERSON}": "{APP_KEY}"}}}}',
    f'{{"id": "x", "time": NaN, "tidegauge.input.text": "{APP_KEY}"}}',
    f'{{"id": "x", "tidegauge.input.text": "{APP_KEY} {PERSON} {CARD}',
    f"{APP_KEY} {PERSON} {CARD}",
    json.dumps({"id": "x", "time": 1767225600, "tidegauge.output.text": APP_KEY + 200_000 * "x"}),
)


@pytest.mark.slow
@pytest.mark.fault(
    38, "secrets, app keys and personal data in settings, texts, users, errors and broken events"
)
def test_no_secret_and_nothing_private_comes_out_but_in_a_dead_letters_copy(
    tmp_path: Path, secure_kafka: SecureKafka, influxdb: InfluxDB, influx_bucket: str
) -> None:
    port = free_port()
    pipeline = Pipeline(
        tmp_path,
        secure_kafka.bootstrap_servers,
        f"canaries-{uuid.uuid4().hex[:8]}.",
        influxdb=influxdb.settings(influx_bucket),
        settings=secure_kafka.settings("PLAIN")
        | {
            "TIDEGAUGE_WORKER_WEB_PORT": str(port),
            "TIDEGAUGE_EMITTER_CAPTURE_TEXT": "true",
            "TIDEGAUGE_EMITTER_USER_KEY": USER_KEY,
        },
    )
    pipeline.create_topics()
    app = subprocess.run(
        [sys.executable, "-c", APP],
        env=pipeline.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert app.returncode == 0, app.stderr[-3_000:]
    said = {"the SDK": app.stdout + app.stderr}
    topics = pipeline.settings.topics
    stranger = KafkaProducer(bootstrap_servers=secure_kafka.bootstrap_servers)
    for broken in REFUSED:
        stranger.send(topics.requests, broken.encode()).get(timeout=30)
    stranger.close()

    with pipeline.worker("worker", "--loglevel", "DEBUG") as worker:

        def stored() -> bool:
            counted = pipeline.intake()
            refused = sum(n for outcome, n in counted.items() if outcome.startswith("refused_"))
            return counted.get("applied") == 100 and refused == len(REFUSED)

        worker.wait("that all is stored", stored)
        worker.wait("its own figures", lambda: bool(pipeline.rows("pipeline")))
        for path in PATHS:
            said[path] = _ask("127.0.0.1", port, path)[1]
        said["doctor"] = pipeline.run("doctor", "--store", pipeline.store).stdout
        worker.end()
    said["the worker"] = worker.log.read_text(errors="replace")
    assert "[DEBUG]" in said["the worker"]
    assert "DEBUG:root:the level is DEBUG" in said["the SDK"]
    assert "INFO:kafka" in said["the SDK"]
    said["the list of dead letters"] = pipeline.do("deadletter", "list", "--output", "json")
    said["the store"] = "\n".join(influxdb.export(influx_bucket)) + _own_series(pipeline)
    for topic in (topics.panes, topics.state, topics.alerts):
        said[topic] = "\n".join(value.decode(errors="replace") for value in _log(secure_kafka, topic))
    assert "shop" in said["the store"]
    assert "shop" in said[topics.panes]
    for where, text in said.items():
        for canary in (*SECRETS, *PRIVATE):
            assert canary not in text, f"{where}: {canary}"

    letters = [msgspec.json.decode(value, type=DeadLetter) for value in _log(secure_kafka, topics.deadletter)]
    assert len(letters) == len(REFUSED)
    for letter in letters:
        # The copy is what was refused, in full or its first part, and nothing else is.
        assert letter.payload.decode() in {broken[:MAX_COPY_BYTES] for broken in REFUSED}
        rest = msgspec.json.encode(msgspec.structs.replace(letter, payload=b"")).decode()
        for canary in (*SECRETS, *PRIVATE):
            assert canary not in rest
        for secret in SECRETS:
            assert secret.encode() not in letter.payload


def _own_series(pipeline: Pipeline) -> str:
    """What the export leaves out: the pipeline's own series, and the intake."""
    store = open_store(pipeline.settings_with_store(), readonly=True)
    try:
        return "\n".join(str(point) for name in ("pipeline", "intake") for point in store.read(name))
    finally:
        store.close()


def _log(kafka: Kafka, topic: str) -> list[bytes]:
    """All values, and keys, of a topic."""
    records = read_records(kafka.bootstrap_servers, topic)
    return [part for record in records for part in (record.key, record.value) if part]
