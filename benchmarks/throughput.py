"""Events per second of the worker, and of what it may be compared with, on a real Kafka in one interleaved run.

    python benchmarks/throughput.py --quick
    python benchmarks/throughput.py --bootstrap-servers 127.0.0.1:9092 --output json

- ``ceiling``: aiokafka's ``getmany`` and msgspec's decoder alone.
- ``hand_written``: the first stage's work in a plain aiokafka loop; nothing is sent on, stored or checkpointed.
- ``idiomatic_faust``: a ``faust.Record`` and a windowed ``Table`` that counts per model.
- ``worker_single``, ``worker_arrays``: ``tidegauge worker`` with its SQLite store, both stages and checkpoints, on
  messages of one event and of 100.

All read the same events, loaded beforehand; each runs in a process of its own, one after the other, and the whole
sequence is repeated. Figures are medians over these rounds, ratios are of events per second.

The worker's seconds run from the first chunk it fetched to the last event folded (``throughput_roles.worker``), its
CPU time goes on until every event is in the store; that each was applied exactly once is checked there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiokafka
import msgspec
from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from request_generator import requests
from throughput_roles import ROLES, worker

from tidegauge.errors import SinkUnavailableError
from tidegauge.local_stack import free_port
from tidegauge.schemas.codec import encode
from tidegauge.settings import Kafka, Settings, Topics
from tidegauge.sinks.local import LocalStore
from tidegauge.topics import ensure_topics

ARRAY = 100
PARTITIONS = 4
TIMEOUT = 600.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """One run of one program."""

    events: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Row:
    """Medians over the rounds."""

    name: str
    events_per_s: float
    cpu_us_per_event: float
    events: int
    rounds: int


@contextmanager
def local_kafka() -> Iterator[str]:
    """An Apache Kafka of our own on a free port, gone afterwards."""
    script = Path(__file__).resolve().parents[1] / "deploy" / "local" / "kafka.sh"
    with tempfile.TemporaryDirectory() as data:
        port = free_port()
        environment = os.environ | {"KAFKA_CONTROLLER_PORT": str(free_port())}
        subprocess.run(
            ["bash", script, "start", data, str(port)], check=True, env=environment, stdout=sys.stderr
        )
        try:
            yield f"127.0.0.1:{port}"
        finally:
            subprocess.run(["bash", script, "stop", data], check=True, stdout=sys.stderr)


async def _load(servers: str, topic: str, events: int, array: int, start: float) -> float:
    """Write the events, in arrays if ``array`` > 1, to the partitions of their ids; returns bytes per event."""
    producer = aiokafka.AIOKafkaProducer(
        bootstrap_servers=servers, acks="all", max_batch_size=512 * 1024, max_request_size=4 * 1024 * 1024
    )
    await producer.start()
    size = 0
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
        for event in requests(events, start=start):
            raw = encode(event)
            size += len(raw)
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
    return size / events


def run_role(name: str, servers: str, topic: str, events: int) -> Measured:
    """Run one of ``ROLES`` in a process and a folder of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--role", name, "--topic", topic]
    command += ["--bootstrap-servers", servers, "--events", str(events)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=TIMEOUT, cwd=folder
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"events"')]
    if not lines:
        raise SystemExit(f"{name} ended with code {done.returncode} and no figures:\n{done.stderr[-2_000:]}")
    return msgspec.json.decode(lines[0], type=Measured)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads, from ``/proc``."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def applied(file: Path) -> int:
    """Events applied, as the store's intake view has them."""
    try:
        store = LocalStore(file, readonly=True)
    except SinkUnavailableError:
        return 0
    try:
        return sum(int(p.fields["events"]) for p in store.read("intake", where={"outcome": "applied"}))
    except SinkUnavailableError:
        return 0  # the worker has not created its table yet
    finally:
        store.close()


def run_worker(settings: Settings, events: int) -> Measured:
    """Let a fresh worker process the requests topic to its end; its other topics are emptied first."""
    topics = settings.topics
    recreate(settings, [topics.panes, topics.state, topics.deadletter])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, log = folder / "store.db", folder / "log"
        command = [sys.executable, str(Path(__file__).resolve()), "--role", "worker", "--events", str(events)]
        command += ["--bootstrap-servers", settings.kafka.bootstrap_servers, "--topic", topics.prefix]
        with log.open("wb") as output:
            worker = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + TIMEOUT
            while (count := applied(store)) < events:
                if worker.poll() is not None or time.monotonic() > deadline:
                    text = log.read_text(errors="replace")[-2_000:]
                    raise SystemExit(f"the worker stored {count} of {events} events and no more:\n{text}")
                time.sleep(0.25)
            cpu = cpu_seconds(worker.pid)
        finally:
            worker.send_signal(signal.SIGTERM)
            try:
                worker.wait(30)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        if count != events:
            raise SystemExit(f"the worker applied {count} of {events} events")
        clock = json.loads((folder / "clock.json").read_text())
    return Measured(events, clock["seconds"], cpu - clock["cpu_before"])


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


def run(servers: str, events: int, faust_events: int, rounds: int) -> dict[str, Any]:
    """All of it: load, then every program once a round."""
    prefix = f"throughput-{time.time_ns()}."
    single = Settings(kafka=Kafka(servers), topics=Topics(f"{prefix}single.", PARTITIONS))
    arrays = Settings(kafka=Kafka(servers), topics=Topics(f"{prefix}arrays.", PARTITIONS))
    results: dict[str, list[Measured]] = {}

    def note(name: str, measured: Measured) -> None:
        results.setdefault(name, []).append(measured)
        print(f"{name}: {measured.events / measured.seconds:,.0f} events/s", file=sys.stderr)

    with ExitStack() as stack:
        stack.callback(delete_run, servers, prefix)
        # The last event's time is now; a start on the second keeps the sizes alike.
        start = float(int(time.time()) - 605)
        for settings, array in ((single, 1), (arrays, ARRAY)):
            recreate(settings, [])
            size = asyncio.run(_load(servers, settings.topics.requests, events, array, start))
        for _ in range(rounds):
            topic = single.topics.requests
            note("ceiling", run_role("ceiling", servers, topic, events))
            note("hand_written", run_role("hand_written", servers, topic, events))
            note("worker_single", run_worker(single, events))
            note("worker_arrays", run_worker(arrays, events))
            note("idiomatic_faust", run_role("idiomatic_faust", servers, topic, faust_events))
    rows = [_row(name, runs) for name, runs in results.items()]
    rate = {row.name: row.events_per_s for row in rows}
    own = rate["worker_single"]
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "events": events,
        "bytes_per_event": round(size),
        "rows": [asdict(row) for row in rows],
        "ratios": {
            "of_ceiling": round(own / rate["ceiling"], 3),
            "of_hand_written": round(own / rate["hand_written"], 3),
            "of_idiomatic_faust": round(own / rate["idiomatic_faust"], 2),
            "arrays_to_single": round(rate["worker_arrays"] / own, 3),
        },
    }


def _row(name: str, runs: Sequence[Measured]) -> Row:
    return Row(
        name,
        round(statistics.median(r.events / r.seconds for r in runs), 1),
        round(statistics.median(r.cpu_seconds / r.events * 1e6 for r in runs), 2),
        round(statistics.median(r.events for r in runs)),
        len(runs),
    )


def print_table(report: dict[str, Any]) -> None:
    """The rows, then the worker's ratios on single-event messages."""
    print(f"{'':18}{'events/s':>12}{'CPU µs/event':>15}{'events timed':>15}")
    for row in report["rows"]:
        print(
            f"{row['name']:18}{row['events_per_s']:>12,.0f}{row['cpu_us_per_event']:>15.1f}{row['events']:>15,}"
        )
    print()
    for name, value in report["ratios"].items():
        print(f"{name:20} {value:g}")


def main() -> int:
    """Run; exit code 1 with a reason where a figure cannot be had."""
    parser = argparse.ArgumentParser(
        description="Events per second of the worker and of what it may be compared with.",
        epilog="example: python benchmarks/throughput.py --quick --output json",
    )
    parser.add_argument("--quick", action="store_true", help="one round, about a minute")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument("--bootstrap-servers", metavar="HOST:PORT", help="default: a Kafka of its own")
    parser.add_argument("--events", type=int, metavar="N", help="default 1,000,000; 250,000 with --quick")
    parser.add_argument("--role", choices=(*ROLES, "worker"), help=argparse.SUPPRESS)
    parser.add_argument("--topic", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role == "worker":
        flags = ["--bootstrap-servers", arguments.bootstrap_servers, "--topic-prefix", arguments.topic]
        flags += [
            "--group",
            f"{arguments.topic}{time.time_ns()}",
            "--store",
            f"sqlite:///{Path.cwd()}/store.db",
        ]
        sys.argv = sys.argv[:1]  # Faust reads the command line, too
        return worker(flags, arguments.events)
    if arguments.role:
        sys.argv = sys.argv[:1]
        ROLES[arguments.role](arguments.bootstrap_servers, arguments.topic, PARTITIONS, arguments.events)
        return 0
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # unwind, so that nothing we started is left behind
    events = arguments.events or (250_000 if arguments.quick else 1_000_000)
    faust_events, rounds = (15_000, 1) if arguments.quick else (50_000, 3)
    with ExitStack() as stack:
        servers = arguments.bootstrap_servers or stack.enter_context(local_kafka())
        try:
            report = run(servers, events, min(faust_events, events - 1), rounds)
        except KafkaError as error:
            raise SystemExit(f"Kafka at {servers}: {error}") from None
    if arguments.output == "json":
        print(json.dumps(report, indent=2))
    else:
        print_table(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
