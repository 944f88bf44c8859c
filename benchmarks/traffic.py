"""Live traffic for the benchmarks, from processes of its own; it goes on until it is told to stop, and ends in order.

- ``steady``: so many events a second, each in a message of its own, with its own id and the time it is sent at. Whole
  record batches are laid out here and handed to Kafka's client: one event at a time, a client in Python would need a
  core or two for what the worker takes in at half load, and the machine would measure that.
- ``probes``: single calls by the SDK's emitter, as an application makes them. Each remembers when it was emitted.

Both end at the end of their standard input, so that they cannot outlive who started them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import aiokafka
import msgspec
from request_generator import requests
from support import PARTITIONS, own_environment

from tidegauge.producers import Emitter, new_event_id
from tidegauge.producers.ids import partition_for
from tidegauge.schemas.codec import encode
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import Kafka, Settings, Topics

PROBE_SERVICE: Final = "probe"
TICK: Final = 0.01
"""Seconds between the batches of steady traffic."""


class Steady(msgspec.Struct, frozen=True):
    """What the steady traffic was."""

    events: int
    seconds: float
    late: float
    """Seconds by which it ran behind its plan at worst."""


class Probes(msgspec.Struct, frozen=True):
    """When each probe was emitted (monotonic seconds), by the partition of its id, in order."""

    emitted: list[list[float]]
    dropped: int


class Pieces:
    """An event's bytes around its id and its time, which are new each time it is sent."""

    def __init__(self, event: RequestEvent) -> None:
        raw = encode(event)
        before, event_id, after = raw.partition(encode(event.id))
        between, event_time, rest = after.partition(encode(event.time))
        assert event_id, "the id is written as it is encoded alone"
        assert event_time, "the time is written as it is encoded alone, after the id"
        self._parts = (before, between, rest)

    def fill(self, event_id: str, event_time: float) -> bytes:
        """The event's bytes with another id and time."""
        before, between, rest = self._parts
        return b'%b"%b"%b%.6f%b' % (before, event_id.encode(), between, event_time, rest)


def due(started: float, now: float, rate: float) -> int:
    """Events that should have been sent by now."""
    return int((now - started) * rate)


async def _steady(servers: str, topic: str, rate: float, series: int) -> Steady:
    pieces = [Pieces(event) for event in requests(10_000, start=0.0, series=series or None)]
    random = Random()
    producer = aiokafka.AIOKafkaProducer(
        bootstrap_servers=servers, max_batch_size=256 * 1024, max_request_size=4 * 1024 * 1024
    )
    await producer.start()
    sent, late, delivered = 0, 0.0, []
    started = time.monotonic()
    try:
        while not _told_to_stop(0.0):
            batches = [producer.create_batch() for _ in range(PARTITIONS)]
            began, now = time.monotonic(), time.time()
            wanted = due(started, began, rate)
            late = max(late, (wanted - sent) / rate - TICK)
            # A plan far behind is made up for in steps, lest a batch outgrow what Kafka takes.
            for _ in range(min(wanted - sent, 800)):
                event_id = f"{random.getrandbits(128):032x}"
                value = pieces[sent % len(pieces)].fill(event_id, now)
                batch = batches[partition_for(event_id, PARTITIONS)]
                assert batch.append(key=None, value=value, timestamp=None) is not None
                sent += 1
            for partition, batch in enumerate(batches):
                if batch.record_count():
                    batch.close()
                    delivered.append(await producer.send_batch(batch, topic, partition=partition))
            if len(delivered) > 1_000:
                await asyncio.gather(*delivered)
                delivered.clear()
            began += TICK
            await asyncio.sleep(max(began, started + (sent + 1) / rate) - time.monotonic())
        seconds = time.monotonic() - started
        await asyncio.gather(*delivered)
    finally:
        await producer.stop()
    return Steady(sent, seconds, late)


def _probes(servers: str, prefix: str, rate: float) -> Probes:
    emitter = Emitter(Settings(kafka=Kafka(servers), topics=Topics(prefix, PARTITIONS)))
    emitted: list[list[float]] = [[] for _ in range(PARTITIONS)]
    started, count = time.monotonic(), 0
    while not _told_to_stop(max(0.0, started + count / rate - time.monotonic())):
        event_id = new_event_id()
        partition = partition_for(event_id, PARTITIONS)
        event = RequestEvent(
            event_id, time.time(), PROBE_SERVICE, "openai", "gpt-4o", prompt=str(partition), duration=1.5
        )
        emitted[partition].append(time.monotonic())
        emitter.emit(event)
        count += 1
    emitter.close(30)
    return Probes(emitted, sum(emitter.stats().dropped.values()))


def _told_to_stop(wait: float) -> bool:
    """Whether the standard input has ended; waits for that up to ``wait`` seconds."""
    return bool(select.select([sys.stdin], [], [], wait)[0])


class Traffic:
    """One of the two in a process of its own, ended with the ``with`` block."""

    def __init__(
        self, kind: str, settings: Settings, folder: Path, rate: float, series: int | None = None
    ) -> None:
        self._log = folder / f"{kind}.log"
        command = [sys.executable, str(Path(__file__).resolve()), kind]
        command += ["--bootstrap-servers", settings.kafka.bootstrap_servers, "--rate", str(rate)]
        command += ["--topic-prefix", settings.topics.prefix, "--series", str(series or 0)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=own_environment(),
            )
        self.pid = self._process.pid

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def stop(self) -> bytes:
        """End it; returns what it says it sent, as JSON."""
        try:
            said, _ = self._process.communicate(timeout=60)  # which ends its standard input first
        except subprocess.TimeoutExpired:
            raise SystemExit("the traffic does not end") from None
        if self._process.returncode:
            log = self._log.read_text(errors="replace")[-2_000:]
            raise SystemExit(f"the traffic ended with code {self._process.returncode}:\n{log}")
        return said

    def stop_steady(self) -> Steady:
        """End steady traffic."""
        return msgspec.json.decode(self.stop(), type=Steady)

    def stop_probes(self) -> Probes:
        """End probes."""
        return msgspec.json.decode(self.stop(), type=Probes)


def main(argv: Sequence[str] | None = None) -> int:
    """Send until told to stop, then say what was sent."""
    flags = argparse.ArgumentParser(description="Live traffic; started by the benchmarks.")
    flags.add_argument("kind", choices=("steady", "probes"))
    flags.add_argument("--bootstrap-servers", required=True)
    flags.add_argument("--topic-prefix", required=True)
    flags.add_argument("--rate", type=float, required=True)
    flags.add_argument("--series", type=int, default=0)
    arguments = flags.parse_args(argv)
    servers, prefix = arguments.bootstrap_servers, arguments.topic_prefix
    report: Any
    if arguments.kind == "steady":
        topic = Topics(prefix).requests
        report = asyncio.run(_steady(servers, topic, arguments.rate, arguments.series))
    else:
        report = _probes(servers, prefix, arguments.rate)
    print(json.dumps(msgspec.to_builtins(report)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
