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

The worker's progress is taken from the panes topic, where each batch tells the source offset it includes and Kafka's
clock when it came: from the first batch to the last one that still left something to do, so that neither start-up nor
the wait for a last flush is counted. With ``--bootstrap-servers``, that Kafka's clock must agree with this machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
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
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiokafka
import msgspec
from aiokafka import TopicPartition
from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from request_generator import requests
from throughput_roles import ROLES

from tidegauge.errors import SinkUnavailableError
from tidegauge.local_stack import free_port
from tidegauge.schemas.codec import encode
from tidegauge.schemas.pane import PaneBatch
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


def run_worker(settings: Settings, events: int, array: int) -> Measured:
    """Let a fresh worker process the requests topic to its end; other topics are emptied first."""
    topics = settings.topics
    recreate(settings, [topics.panes, topics.state, topics.deadletter])
    servers = settings.kafka.bootstrap_servers
    samples: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "store.db"
        command = [sys.executable, "-m", "tidegauge.cli", "worker", "--bootstrap-servers", servers]
        command += ["--topic-prefix", topics.prefix, "--store", f"sqlite:///{file}"]
        command += ["--group", f"{topics.prefix}{time.time_ns()}"]
        log = Path(folder) / "log"
        with log.open("wb") as output:
            worker = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        try:
            deadline, look = time.monotonic() + TIMEOUT, 0.0
            while True:
                if worker.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the worker did not get through:\n{log.read_text()[-2_000:]}")
                samples.append((time.time(), cpu_seconds(worker.pid)))
                if time.monotonic() >= look:
                    if applied(file) >= events:
                        break
                    look = time.monotonic() + 0.5
                time.sleep(0.05)
        finally:
            worker.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                worker.wait(30)
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        if (count := applied(file)) != events:
            raise SystemExit(f"the worker applied {count} of {events} events")
    marks = asyncio.run(_progress(servers, topics.panes))
    return _steady(marks, samples, events, array)


async def _progress(servers: str, topic: str) -> list[tuple[float, int]]:
    """Unix seconds and source messages folded by then, for every moment a batch reached the panes topic."""
    decoder = msgspec.json.Decoder(PaneBatch)
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)
    await consumer.start()
    try:
        assignment = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        consumer.assign(assignment)
        ends = await consumer.end_offsets(assignment)
        await consumer.seek_to_beginning(*assignment)
        found: list[tuple[float, int, int]] = []
        while any([await consumer.position(tp) < ends[tp] for tp in assignment]):
            for records in (await consumer.getmany(timeout_ms=1_000)).values():
                for record in records:
                    batch = decoder.decode(record.value)
                    found.append((record.timestamp / 1_000, batch.partition, batch.last))
    finally:
        await consumer.stop()
    folded: dict[int, int] = {}
    marks = []
    for moment, partition, last in sorted(found):
        if last + 1 > folded.get(partition, 0):
            folded[partition] = last + 1
            marks.append((moment, sum(folded.values())))
    return marks


def _steady(
    marks: Sequence[tuple[float, int]], samples: Sequence[tuple[float, float]], events: int, array: int
) -> Measured:
    total = marks[-1][1]
    # A flush writes one batch for each source partition, all within a moment; its last mark stands for it.
    flushes = [a for a, b in itertools.pairwise(marks) if b[0] - a[0] > 0.2] + [marks[-1]]
    inner = [mark for mark in flushes if mark[1] < total]
    if len(inner) < 2:
        raise SystemExit(
            f"{events} events are too few to time the worker: it needs some seconds; raise --events"
        )
    (begin, first), (end, last) = inner[0], inner[-1]
    done = round((last - first) / total * events) if array > 1 else last - first
    return Measured(done, end - begin, _cpu_at(samples, end) - _cpu_at(samples, begin))


def _cpu_at(samples: Sequence[tuple[float, float]], moment: float) -> float:
    index = min(max(bisect_left(samples, (moment, 0.0)), 1), len(samples) - 1)
    (t0, c0), (t1, c1) = samples[index - 1], samples[index]
    return c0 + (c1 - c0) * (moment - t0) / (t1 - t0)


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
            note("worker_single", run_worker(single, events, 1))
            note("worker_arrays", run_worker(arrays, events, ARRAY))
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
    parser.add_argument("--role", choices=tuple(ROLES), help=argparse.SUPPRESS)
    parser.add_argument("--topic", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        # Faust reads the command line, too.
        sys.argv = sys.argv[:1]
        ROLES[arguments.role](arguments.bootstrap_servers, arguments.topic, PARTITIONS, arguments.events)
        return 0
    events = arguments.events or (250_000 if arguments.quick else 1_000_000)
    faust_events, rounds = (5_000, 1) if arguments.quick else (20_000, 3)
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
