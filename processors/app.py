"""Wiring only: settings in, a Faust app out."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Final

import faust
from faust.types import TP
from yarl import URL

from tidegauge.connection import check, ssl_context
from tidegauge.errors import StateError
from tidegauge.settings import Settings
from tidegauge.sinks.base import Store

from .agents import feedback, judgements, merge, requests
from .core.kinds import KINDS
from .core.pricing import PriceTable
from .engine import watch
from .engine.health import Health
from .engine.ingesting import Ingesting
from .engine.lease import Lease
from .engine.merging import Merging
from .engine.state import StateTable
from .engine.storage import Storage
from .engine.transport import Extent

CHECKPOINT_INTERVAL: Final = 5.0
BEHIND: Final = 50_000
"""Records to be read that count as much; a second's worth at most."""
BEHIND_PAUSE: Final = 3.0
"""Seconds between flushes or exports, for each second that one takes, while behind."""
CHECKPOINT_PAUSE: Final = 15.0
"""Seconds between checkpoints, for each second that one takes."""
LOST_AFTER: Final = 2.0
"""Seconds after which a chunk that was handed over, and that no agent has, is taken for lost."""
STOP_WITHIN: Final = 25.0
"""Seconds after which a worker that was told to end does so, come what may."""
_MAX_MESSAGE: Final = 5 * 1024 * 1024


class App(faust.App):
    """A Faust app that knows which topics come in chunks and where their partitions begin."""

    chunk_topics: frozenset[str]
    ingesting: list[Ingesting]
    merging: Merging
    table: StateTable
    settings: Settings
    health: Health
    busy: set[str]
    """Topics of which an agent has a chunk in hand."""
    placed = False
    """Whether this worker has its share of the partitions and has read their state."""
    lease: Lease

    async def positions(self, consumer: Any, assignment: set[TP]) -> dict[TP, int]:
        """Where to read each chunk partition from; takes over new ones and drops those of others."""
        stages: dict[str, Ingesting | Merging] = {stage.topic: stage for stage in self.ingesting}
        stages[self.merging.topic] = self.merging
        mine = {tp for tp in assignment if tp.topic in stages}
        for topic, stage in stages.items():
            stage.keep({tp.partition for tp in mine if tp.topic == topic})
        fresh = {tp for tp in mine if stages[tp.topic].position(tp.partition) is None}
        if torn := {tp.partition for tp in fresh} & {tp.partition for tp in mine - fresh}:
            # The state of these was not read again, since they were partly ours before.
            raise StateError(f"partitions {sorted(torn)} of the topics were not assigned together")
        earliest = await consumer.earliest_offsets(*fresh) if fresh else {}
        panes = {tp for tp in mine if tp.topic == self.merging.topic}
        ends = await consumer.highwaters(*fresh, *panes) if mine else {}
        self.table.keep({tp.partition for tp in mine})
        restored = self.table.take()
        for tp in fresh:
            extent = Extent(earliest.get(tp) or 0, ends.get(tp) or 0)
            stages[tp.topic].restore(tp.partition, restored.get(tp.partition, {}), extent)
        if gone := sorted(
            tp.partition for tp in panes & fresh if ends.get(tp) and tp.partition not in restored
        ):
            self.log.warning(
                "no state is stored of partitions %s, though workers have been there: was the topic %s deleted?"
                " all events that Kafka still has are counted again",
                gone,
                self.settings.topics.state,
            )
        for tp in panes:  # those that stay, too: we may have been out of the group without knowing
            self.merging.catch_up(tp.partition, ends.get(tp) or 0)
        self.placed = True
        return {tp: stages[tp.topic].position(tp.partition) or 0 for tp in mine}

    async def start_over(self) -> None:
        """Forget everything and have the stored state read again, as a restart does."""
        self.forget()
        thread: Any = self.consumer._thread
        thread.thread_loop.call_soon_threadsafe(thread._consumer._coordinator.request_rejoin)

    async def fetch_lost(self, since: dict[TP, tuple[int, float]]) -> None:
        """Read again what was handed over and did not reach its agent, where nothing comes after it that would tell.

        Args:
            since: of partitions that stand, where and since when (monotonic seconds); kept between calls.
        """
        if not self.placed or self.rebalancing:
            since.clear()
            return
        stages: list[Ingesting | Merging] = [*self.ingesting, self.merging]
        for stage in stages:
            for partition, position in stage.positions().items():
                tp = TP(stage.topic, partition)
                if stage.topic in self.busy or self.consumer.continuity.handed(tp) <= position:
                    since.pop(tp, None)
                    continue
                stood, begun = since.setdefault(tp, (position, monotonic()))
                if stood != position:
                    since[tp] = (position, monotonic())
                elif monotonic() - begun > LOST_AFTER and tp in self.consumer.assignment():
                    self.log.info("%s/%d: fetched records did not arrive; fetching them again", *tp)
                    await self.consumer.read_from({tp: position})
                    del since[tp]

    def forget(self) -> None:
        """Hold nothing any more, as after a crash: what comes next is read from the stored state."""
        for stage in self.ingesting:
            stage.keep(set())
        self.merging.keep(set())
        self.table.keep(set())

    async def flush(self, *, whole: bool = False) -> None:
        """Deliver what the first stage has; see ``Ingesting.flush_all``."""
        await asyncio.gather(*(stage.flush_all(whole=whole) for stage in self.ingesting))

    async def store_all(self) -> None:
        """Deliver, store and checkpoint everything, before the partitions are others'.

        Raises:
            TimeoutError: that takes too long.
        """
        async with asyncio.timeout(self.settings.worker.session_timeout / 2):
            await self.flush(whole=True)
            await self.merging.checkpoint()

    async def on_stop(self) -> None:
        """Store everything before the consumer is stopped: what the first stage still had comes back by Kafka."""
        # Without Kafka, Faust would wait for it for ever.
        watch.insist(
            STOP_WITHIN, "a server was away and kept it from ending in order; the next start makes it good"
        )
        for stage in self.ingesting:
            stage.ending = True
        try:
            async with asyncio.timeout(self.settings.worker.session_timeout / 2):
                await self.flush(whole=True)
                for stage in self.ingesting:
                    await self.merging.reach(stage.delivered)
        except TimeoutError:
            self.log.warning("stopping: not all panes could be stored in time; the next start stores them")
        await super().on_stop()

    def _create_directories(self) -> None:
        """Faust's folder for the data of its tables; ours are in memory and need none."""


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
        table_standby_replicas=0,  # a standby would be read again in full when its time comes
        stream_wait_empty=False,
        stream_buffer_maxsize=4,  # in chunks, each up to 20,000 records
        store="memory://",
        web_enabled=False,
    )
    app.settings = settings
    app.lease = Lease(worker.session_timeout)
    app.busy = set()
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
    prices = prices or PriceTable()
    stages = {
        name: Ingesting(kind, settings, prices, app.table, lambda: app.producer, app.start_over)
        for name, kind in KINDS.items()
    }
    requests.attach(app, stages["requests"])
    feedback.attach(app, stages["feedback"])
    judgements.attach(app, stages["judgements"])
    app.ingesting = list(stages.values())
    storage = Storage(store, app.lease, app.log)
    app.merging = Merging(settings, storage, app.lease, app.table, lambda: app.producer)
    merge.attach(app, app.merging)
    app.chunk_topics = frozenset({app.merging.topic, *(stage.topic for stage in app.ingesting)})
    app.health = Health(app, settings, app.ingesting, app.merging)
    _attach_timers(app, worker.flush_interval)
    watch.attach(app, app.health)
    return app


def _attach_timers(app: App, interval: float) -> None:
    @app.task
    async def flush() -> None:
        standing: dict[TP, tuple[int, float]] = {}
        while not app.should_stop:
            started = monotonic()
            await app.fetch_lost(standing)
            await app.flush()
            for stage in app.ingesting:
                await stage.say_idle(lambda topic, partition: _at_end(app, TP(topic, partition)))
            await app.sleep(_pause(app, interval, started))

    @app.task
    async def export() -> None:
        due = monotonic() + CHECKPOINT_INTERVAL
        while not app.should_stop:
            started = monotonic()
            if started >= due:
                # With much to store, store it less often; a restart reads what came since again.
                spent = await app.merging.checkpoint()
                started += spent
                due = monotonic() + max(CHECKPOINT_INTERVAL, CHECKPOINT_PAUSE * spent)
            else:
                await app.merging.export()
            await app.sleep(_pause(app, interval / 4, started))
            await app.merging.moved(interval)

    @app.on_partitions_assigned.connect(weak=False)
    async def place(sender: Any, assigned: set[TP], **kwargs: Any) -> None:
        # One worker more than there are partitions has nothing to do, and is ready to do it.
        app.placed = app.placed or not any(tp.topic in app.chunk_topics for tp in assigned)

    @app.on_partitions_revoked.connect(weak=False)
    async def deliver(sender: Any, revoked: set[TP], **kwargs: Any) -> None:
        app.placed = False
        if not revoked:
            return
        try:
            await app.store_all()
        except TimeoutError:
            app.log.warning(
                "rebalancing: the state could not be stored in time; what came since is counted again"
            )
            app.forget()

    @app.on_before_shutdown.connect(weak=False)
    async def finish(sender: Any, **kwargs: Any) -> None:
        try:
            await app.store_all()
        except TimeoutError:
            app.log.warning("stopping: the state could not be stored in time; the next start makes it good")
        app.merging.storage.close()


def _pause(app: App, interval: float, started: float) -> float:
    """Seconds until the next round of something that began at ``started`` and is wanted every ``interval``.

    Flushing and storing cost by series, not by event. While there is much to catch up with they come less often and
    leave the events their share of the processor; once there is not, what is new is shown at once.
    """
    return max(interval, BEHIND_PAUSE * (monotonic() - started)) if _lag(app) > BEHIND else interval


def _lag(app: App) -> int:
    """Records of the event topics that are still to be read, as far as the last fetches told."""
    lag = 0
    for stage in app.ingesting:
        for partition, position in stage.positions().items():
            lag += max(0, (app.consumer.end(TP(stage.topic, partition)) or 0) - position)
    return lag


def _at_end(app: App, tp: TP) -> bool:
    """Whether all of a partition has been read, as far as its last fetch told."""
    end = app.consumer.end(tp)
    stage = next(stage for stage in app.ingesting if stage.topic == tp.topic)
    position = stage.position(tp.partition)
    return end is not None and position is not None and position >= end


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
