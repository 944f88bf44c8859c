"""The programs that ``throughput.py`` compares with the worker; each runs alone in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiokafka
import faust
from aiokafka import TopicPartition
from faust.models.fields import FloatField, IntegerField, StringField

from tidegauge.processors.core.ingest import Ingest, IngestConfig
from tidegauge.processors.core.pricing import PriceTable
from tidegauge.schemas.codec import Codec, encode
from tidegauge.schemas.request import RequestEvent

MAX_POLL_RECORDS = 20_000
FLUSH_INTERVAL = 1.0


class Clock:
    """Wall and CPU time since it was made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def report(self, events: int) -> None:
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        print(json.dumps({"events": events, "seconds": wall, "cpu_seconds": cpu}), flush=True)


async def _read(
    servers: str, topic: str, partitions: int, events: int, take: Callable[[int, list[Any]], int]
) -> None:
    """Hand every fetched run of records to ``take`` until it has counted ``events`` of them, then report."""
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)
    await consumer.start()
    try:
        assignment = [TopicPartition(topic, partition) for partition in range(partitions)]
        consumer.assign(assignment)
        await consumer.seek_to_beginning(*assignment)
        clock, done = Clock(), 0
        while done < events:
            chunks = await consumer.getmany(timeout_ms=1_000, max_records=MAX_POLL_RECORDS)
            for partition, records in chunks.items():
                done += take(partition.partition, records)
        clock.report(done)
    finally:
        await consumer.stop()


def ceiling(servers: str, topic: str, partitions: int, events: int) -> None:
    """Fetch and decode, nothing else: no program on this client can be faster."""
    decode = Codec(RequestEvent).decode_one

    def take(_: int, records: list[Any]) -> int:
        for record in records:
            decode(record.value)
        return len(records)

    asyncio.run(_read(servers, topic, partitions, events, take))


def hand_written(servers: str, topic: str, partitions: int, events: int) -> None:
    """The first stage's work in a plain loop; snapshots are encoded and thrown away, up to the last event."""
    prices, config = PriceTable(), IngestConfig()
    stages = [Ingest(topic, partition, config, prices) for partition in range(partitions)]
    flushed = time.monotonic()

    def flush() -> None:
        nonlocal flushed
        for stage in stages:
            if stage.pending:
                for batch in stage.flush(time.monotonic()).batches:
                    encode(batch)
        flushed = time.monotonic()

    def take(partition: int, records: list[Any]) -> int:
        count = stages[partition].apply(records)
        if time.monotonic() - flushed >= FLUSH_INTERVAL:
            flush()
        return count

    asyncio.run(_read(servers, topic, partitions, events, take))


class Request(faust.Record, serializer="json"):  # type: ignore[call-arg]
    """The few fields that the idiomatic app needs; Faust skips the others."""

    id: str
    time: float = FloatField()
    model: str = StringField(field="gen_ai.request.model")
    duration: float = FloatField(field="gen_ai.client.operation.duration")
    input_tokens: int = IntegerField(field="gen_ai.usage.input_tokens")


def idiomatic_faust(servers: str, topic: str, partitions: int, events: int) -> None:
    """A Record, an agent and a windowed Table that counts per model, as Faust's own examples do.

    It does less than tidegauge: no percentiles, no cost, no duplicates, no rows for a store.
    """
    name = f"{topic}-faust-{time.time_ns()}"  # begins as the run's topics do, so its changelog is cleared with them
    app = faust.App(
        name,
        broker=[f"kafka://{server}" for server in servers.split(",")],
        store="memory://",
        topic_partitions=partitions,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        web_enabled=False,
        datadir=Path("faust-data"),
    )
    counts = app.Table("counts", default=int, partitions=partitions).tumbling(60.0, expires=3_600.0)

    @app.agent(app.topic(topic, value_type=Request))
    async def count(requests: Any) -> None:
        clock, done = None, 0
        async for request in requests:
            if clock is None:
                clock = Clock()
                continue  # the first event's own cost lies before the clock
            counts[request.model] += 1
            done += 1
            if done == events:
                clock.report(done)
                os._exit(0)  # stopping in order waits for this very agent to end

    faust.Worker(app, loglevel="ERROR", redirect_stdouts=False).execute_from_commandline()


ROLES: dict[str, Callable[[str, str, int, int], None]] = {
    "ceiling": ceiling,
    "hand_written": hand_written,
    "idiomatic_faust": idiomatic_faust,
}
