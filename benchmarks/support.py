"""What the benchmarks share: their flags, servers of their own, and events in topics."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiokafka
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from tidegauge.broker import admin_client
from tidegauge.errors import TidegaugeError
from tidegauge.local_stack import free_port
from tidegauge.schemas.codec import encode
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import ENV_PREFIX, InfluxDB, Kafka, Secret, Settings
from tidegauge.topics import ensure_topics

PARTITIONS: Final = 4
TIMEOUT: Final = 600.0
"""Seconds that any one thing may take before the run is given up."""

_LOCAL: Final = Path(__file__).resolve().parents[1] / "deploy" / "local"


@dataclass(frozen=True)
class Measured:
    """One run of one program."""

    events: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Broker:
    """A Kafka; ``pid`` is known of our own."""

    servers: str
    pid: int | None = None


def parser(description: str, program: str, quick: str) -> argparse.ArgumentParser:
    """The flags that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, epilog=f"example: python benchmarks/{program} --quick --output json"
    )
    made.add_argument("--quick", action="store_true", help=quick)
    made.add_argument("--output", choices=("table", "json"), default="table")
    made.add_argument("--bootstrap-servers", metavar="HOST:PORT", help="default: a Kafka of its own")
    return made


def positive(text: str) -> int:
    """An argument that counts something."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got '{text}'")
    return number


def run_on_kafka(
    servers: str | None, measure: Callable[[Broker], dict[str, Any]], properties: str = ""
) -> dict[str, Any]:
    """Call ``measure`` with the Kafka named, or with one of our own; what fails becomes one line and exit code 1."""
    signal.signal(signal.SIGTERM, _unwind)
    with ExitStack() as stack:
        broker = Broker(servers) if servers else stack.enter_context(local_kafka(properties))
        try:
            with admin_client(Kafka(broker.servers)):
                pass  # one that is not there is noticed in seconds, and not after minutes of loading
            return measure(broker)
        except KafkaError as error:
            raise SystemExit(f"Kafka at {broker.servers}: {error}") from None
        except TidegaugeError as error:
            raise SystemExit(str(error)) from None


def _unwind(*_: object) -> None:
    """End in order, so that nothing we started is left behind; who sends the signal twice must not break that off."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}


def show(report: dict[str, Any], output: str, print_table: Callable[[dict[str, Any]], None]) -> None:
    """Print the report as asked for."""
    if output == "json":
        print(json.dumps(report, indent=2))
    else:
        print_table(report)


@contextmanager
def local_kafka(properties: str = "") -> Iterator[Broker]:
    """An Apache Kafka of our own on a free port, gone afterwards; ``properties`` are lines for its settings."""
    environment = {"KAFKA_CONTROLLER_PORT": str(free_port()), "KAFKA_PROPERTIES": properties}
    with _server("kafka.sh", environment) as (port, pid):
        yield Broker(f"127.0.0.1:{port}", pid)


@contextmanager
def local_influxdb() -> Iterator[InfluxDB]:
    """An InfluxDB of our own on a free port, gone afterwards."""
    token = secrets.token_hex(16)
    with _server("influxdb.sh", {"TIDEGAUGE_INFLUXDB_TOKEN": token}) as (port, _):
        yield InfluxDB(url=f"http://127.0.0.1:{port}", token=Secret(token))


@contextmanager
def _server(script: str, environment: dict[str, str]) -> Iterator[tuple[int, int]]:
    clean = own_environment()
    with tempfile.TemporaryDirectory() as data:
        port = free_port()
        command = ["bash", str(_LOCAL / script)]
        started = subprocess.run(
            [*command, "start", data, str(port)], check=False, env=clean | environment, stdout=sys.stderr
        )
        if started.returncode:
            raise SystemExit(f"{script} could not start a server; its reason is above")
        try:
            yield port, int((Path(data) / "pid").read_text())
        finally:
            subprocess.run([*command, "stop", data], check=True, env=clean, stdout=sys.stderr)


def own_environment() -> dict[str, str]:
    """This process's environment without tidegauge's settings: those of the user's shell decide nothing here."""
    return {
        name: value
        for name, value in os.environ.items()
        if name == "TIDEGAUGE_CACHE" or not name.startswith(ENV_PREFIX)
    }


def recreate(settings: Settings, names: Sequence[str]) -> None:
    """Empty topics by deleting and creating them."""
    delete(settings.kafka.bootstrap_servers, names)
    bad = [str(p) for report in ensure_topics(settings) for p in report.problems]
    if bad:
        raise SystemExit("\n".join(bad))


def delete(servers: str, names: Sequence[str]) -> None:
    """Delete the topics that exist, and wait until they are gone."""
    admin = KafkaAdminClient(bootstrap_servers=servers)
    try:
        if there := sorted(set(names) & set(admin.list_topics())):
            admin.delete_topics(there)
        for _ in range(100):
            if not set(names) & set(admin.list_topics()):
                return
            time.sleep(0.1)
        raise SystemExit(f"Kafka does not delete {', '.join(names)}")
    finally:
        admin.close()


def delete_run(servers: str, prefix: str) -> None:
    """Delete every topic of this run."""
    admin = KafkaAdminClient(bootstrap_servers=servers)
    try:
        names = [name for name in admin.list_topics() if name.startswith(prefix)]
    finally:
        admin.close()
    delete(servers, names)


def load(servers: str, topic: str, events: Iterable[RequestEvent], array: int = 1) -> float:
    """Write the events, in arrays if ``array`` > 1, to the partitions of their ids; returns bytes per event."""
    return asyncio.run(_load(servers, topic, events, array))


async def _load(servers: str, topic: str, events: Iterable[RequestEvent], array: int) -> float:
    producer = aiokafka.AIOKafkaProducer(
        bootstrap_servers=servers, acks="all", max_batch_size=512 * 1024, max_request_size=4 * 1024 * 1024
    )
    await producer.start()
    size = count = 0
    batches = [producer.create_batch() for _ in range(PARTITIONS)]
    waiting: list[list[bytes]] = [[] for _ in range(PARTITIONS)]

    async def send(partition: int) -> None:
        batch, batches[partition] = batches[partition], producer.create_batch()
        if batch.record_count():
            batch.close()
            await (await producer.send_batch(batch, topic, partition=partition))

    async def put(partition: int) -> None:
        group = waiting[partition]
        value = b"[" + b",".join(group) + b"]" if array > 1 else group[0]
        group.clear()
        if batches[partition].append(key=None, value=value, timestamp=None) is None:
            await send(partition)
            assert batches[partition].append(key=None, value=value, timestamp=None) is not None

    try:
        for event in events:
            raw = encode(event)
            size, count = size + len(raw), count + 1
            partition = zlib.crc32(event.id.encode()) % PARTITIONS
            waiting[partition].append(raw)
            if len(waiting[partition]) == array:
                await put(partition)
        for partition in range(PARTITIONS):
            if waiting[partition]:
                await put(partition)
            await send(partition)
    finally:
        await producer.stop()
    return size / count
