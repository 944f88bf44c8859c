"""Wiring only: settings in, a Faust app out."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Final

import faust
from faust.types import TP
from yarl import URL

from tidegauge.connection import check, ssl_context
from tidegauge.settings import Settings
from tidegauge.sinks.base import Store

from .agents import ingest, merge
from .core.pricing import PriceTable
from .engine.ingesting import Ingesting
from .engine.merging import Merging
from .engine.state import StateTable

CHECKPOINT_INTERVAL: Final = 5.0
_MAX_MESSAGE: Final = 5 * 1024 * 1024


class App(faust.App):
    """A Faust app that knows which topics come in chunks and where their partitions begin."""

    chunk_topics: frozenset[str]
    ingesting: Ingesting
    merging: Merging
    table: StateTable
    settings: Settings

    async def positions(self, consumer: Any, assignment: set[TP]) -> dict[TP, int]:
        """Where to read each chunk partition from; takes over new ones and drops those of others."""
        topics = self.settings.topics
        stages: dict[str, Ingesting | Merging] = {topics.requests: self.ingesting, topics.panes: self.merging}
        mine = {tp for tp in assignment if tp.topic in stages}
        for topic, stage in stages.items():
            stage.keep({tp.partition for tp in mine if tp.topic == topic})
        fresh = {tp for tp in mine if stages[tp.topic].position(tp.partition) is None}
        earliest = await consumer.earliest_offsets(*fresh) if fresh else {}
        values: dict[int, dict[bytes, bytes]] = {}
        for tp in fresh:
            if tp.partition not in values:
                values[tp.partition] = self.table.take(tp.partition)
            stages[tp.topic].restore(tp.partition, values[tp.partition], earliest.get(tp) or 0)
        return {tp: stages[tp.topic].position(tp.partition) or 0 for tp in mine}


def create_app(settings: Settings, store: Store, prices: PriceTable | None = None) -> App:
    """A worker's app, not started.

    Args:
        settings: servers, topics, rules.
        store: opened and checked by the caller; closed when the app stops.
        prices: the price table; genai-prices' own unless given.

    Raises:
        SettingsError: the security settings contradict each other.
    """
    topics, worker = settings.topics, settings.worker
    servers = settings.kafka.bootstrap_servers.split(",")
    app = App(
        worker.group,
        broker=[URL(f"tidegauge://{server.strip()}") for server in servers],
        broker_credentials=_credentials(settings),
        broker_session_timeout=worker.session_timeout,
        broker_heartbeat_interval=worker.session_timeout / 5,
        broker_max_poll_records=20_000,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=_MAX_MESSAGE,
        producer_max_request_size=_MAX_MESSAGE,
        producer_acks=-1,
        topic_partitions=topics.partitions,
        topic_replication_factor=topics.replication_factor,
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
        stream_buffer_maxsize=4,  # in chunks, each up to 20,000 records
        store="memory://",
        web_enabled=False,
    )
    app.settings = settings
    app.chunk_topics = frozenset({topics.requests, topics.panes})
    app.table = StateTable(
        app,
        name="state",
        partitions=topics.partitions,
        changelog_topic=app.topic(
            topics.state,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            partitions=topics.partitions,
            acks=False,
            internal=True,
        ),
        key_type=bytes,
        value_type=bytes,
    )
    app.tables.add(app.table)
    app.ingesting = Ingesting(settings, prices or PriceTable(), app.table, lambda: app.producer)
    app.merging = Merging(settings, store, app.table, lambda: app.producer)
    ingest.attach(app, app.ingesting, topics.requests)
    merge.attach(app, app.merging, topics.panes)
    _attach_timers(app, worker.flush_interval)
    return app


def _attach_timers(app: App, interval: float) -> None:
    @app.task
    async def flush() -> None:
        while not app.should_stop:
            started = monotonic()
            await app.ingesting.flush_all()
            await app.sleep(_pause(interval, started))

    @app.task
    async def export() -> None:
        due = 0.0
        while not app.should_stop:
            started = monotonic()
            if started >= due:
                await app.merging.checkpoint()
                due = monotonic() + _pause(CHECKPOINT_INTERVAL, started)
            else:
                await app.merging.export()
            await app.sleep(_pause(interval / 2, started))

    @app.on_partitions_revoked.connect(weak=False)
    async def deliver(sender: Any, revoked: set[TP], **kwargs: Any) -> None:
        if revoked:
            async with asyncio.timeout(app.settings.worker.session_timeout / 2):
                await app.ingesting.flush_all()
                await app.merging.checkpoint()

    @app.on_before_shutdown.connect(weak=False)
    async def finish(sender: Any, **kwargs: Any) -> None:
        await app.ingesting.flush_all()
        await app.merging.checkpoint()
        app.merging.close()


def _pause(interval: float, started: float) -> float:
    """Seconds until the next round of something that began at ``started`` and is wanted every ``interval``.

    Flushing and storing cost by series, not by event: with many of them they come less often, and leave the events
    their share of the processor.
    """
    return max(interval, 6 * (monotonic() - started))


def _credentials(settings: Settings) -> Any:
    check(settings.kafka)
    context = ssl_context(settings.kafka)
    if settings.kafka.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=settings.kafka.sasl_username,
            password=settings.kafka.sasl_password.reveal(),
            ssl_context=context,
            mechanism=settings.kafka.sasl_mechanism,
        )
    return faust.SSLCredentials(context) if context else None
