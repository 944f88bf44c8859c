"""Reliable publishing: for tools that must know that each record has arrived, and may wait for it.

The SDK's ``Emitter`` never waits and counts what it drops; this one waits and drops nothing: a full buffer holds
the caller up, and a record that Kafka does not acknowledge is an error.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from kafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from tidegauge.errors import BrokerUnavailableError, UsageError
from tidegauge.schemas.codec import MAX_EVENTS_PER_MESSAGE, encode
from tidegauge.settings import Settings

from .ids import partition_for
from .kafka_client import make_producer
from .transport import Producer, ProducerFactory

MAX_MESSAGE_BYTES: Final = 512 * 1024
MAX_IN_FLIGHT_BYTES: Final = 16 * 1024 * 1024
MAX_IN_FLIGHT_MESSAGES: Final = 20_000
CONNECT_TIMEOUT: Final = 8.0
DELIVERY_TIMEOUT: Final = 60.0

T = TypeVar("T")


@dataclass
class PublisherStats:
    """Where all events are; ``published`` = grouped or in flight + ``acknowledged`` + all ``failed``."""

    published: int = 0
    acknowledged: int = 0
    messages: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Events that Kafka did not take, by the name of its error."""


class _Group:
    """Events that wait to become one message."""

    __slots__ = ("events", "size")

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.size = 0


class ReliablePublisher:
    """Publishes and awaits every acknowledgement. For one thread.

    Args:
        settings: which Kafka.
        batch: events of one partition that make a message (a JSON array); 1 sends each alone.
        connect_timeout: seconds to wait for a broker, and for a topic to be known.
        delivery_timeout: seconds until a message that Kafka does not acknowledge has failed.
        producer_factory: makes the Kafka producer; ``None`` is kafka-python's.

    Raises:
        BrokerUnavailableError: no broker answers, or it refuses us.
        SettingsError: the settings do not fit together.
        UsageError: ``batch`` is out of range.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        batch: int = 1,
        connect_timeout: float = CONNECT_TIMEOUT,
        delivery_timeout: float = DELIVERY_TIMEOUT,
        producer_factory: ProducerFactory | None = None,
    ) -> None:
        if not 1 <= batch <= MAX_EVENTS_PER_MESSAGE:
            raise UsageError(f"batch: expected 1 … {MAX_EVENTS_PER_MESSAGE}")
        self._servers = settings.kafka.bootstrap_servers
        self._batch = batch
        self._connect_timeout = connect_timeout
        self._partitions: dict[str, int] = {}
        self._groups: dict[tuple[str, int], _Group] = {}
        self._changed = threading.Condition()
        self._in_flight_messages = 0
        self._in_flight_bytes = 0
        self._broken = ""
        self._closed = False
        self._stats = PublisherStats()
        self._producer = self._connect(producer_factory or make_producer, settings, delivery_timeout)

    def publish(self, topic: str, key: str, event: Any) -> None:
        """Publish an event to the partition that its id belongs to; blocks while too much is in flight.

        Args:
            topic: where to.
            key: the event's id.
            event: a wire type, or its JSON bytes.

        Raises:
            BrokerUnavailableError: the topic does not exist, or Kafka has stopped to acknowledge.
        """
        data = event if isinstance(event, bytes) else encode(event)
        target = topic, partition_for(key, self.partitions(topic))
        self._stats.published += 1
        if self._batch == 1:
            self._send(target, data, 1)
            return
        group = self._groups.get(target)
        if group is not None and group.size + len(data) > MAX_MESSAGE_BYTES:
            self._send_group(target)
            group = None
        if group is None:
            group = self._groups[target] = _Group()
        group.events.append(data)
        group.size += len(data) + 1
        if len(group.events) >= self._batch:
            self._send_group(target)

    def publish_raw(self, topic: str, partition: int, message: bytes) -> None:
        """Publish a message as it is to a partition; raises as ``publish`` does."""
        if not 0 <= partition < self.partitions(topic):
            raise UsageError(f"{topic} has no partition {partition}")
        self._stats.published += 1
        self._send((topic, partition), message, 1)

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; raises ``BrokerUnavailableError`` if it does not exist."""
        known = self._partitions.get(topic)
        if known is None:
            known = self._partitions[topic] = self._ask_partitions(topic)
        return known

    def push(self) -> None:
        """Send what is grouped without waiting for the groups to fill."""
        for target in list(self._groups):
            self._send_group(target)

    def flush(self) -> None:
        """Wait until Kafka has acknowledged, or failed, everything; see ``stats`` for which.

        Raises:
            BrokerUnavailableError: Kafka has stopped to acknowledge.
        """
        self.push()
        with self._changed:
            # kafka-python fails each message by itself after its delivery timeout.
            while self._in_flight_messages:
                self._changed.wait(1.0)
            self._check()

    @property
    def stats(self) -> PublisherStats:
        """A copy of the books."""
        with self._changed:
            own = self._stats
            return PublisherStats(own.published, own.acknowledged, own.messages, own.failed.copy())

    def close(self) -> None:
        """End without waiting; ``flush`` comes first. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._producer.close(0.0)

    def __enter__(self) -> ReliablePublisher:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _connect(self, factory: ProducerFactory, settings: Settings, delivery_timeout: float) -> Producer:
        def connect() -> Producer:
            return factory(settings, delivery_timeout)

        return self._persist(connect, f"no Kafka at {self._servers}")

    def _ask_partitions(self, topic: str) -> int:
        def ask() -> int:
            return len(self._producer.partitions_for(topic))

        return self._persist(
            ask, f"no topic {topic} at {self._servers}; make it with: tidegauge topics create"
        )

    def _persist(self, attempt: Callable[[], T], failure: str) -> T:
        deadline = time.monotonic() + self._connect_timeout
        while True:
            try:
                return attempt()
            except (KafkaError, OSError, BrokerUnavailableError) as error:
                if time.monotonic() >= deadline:
                    if isinstance(error, BrokerUnavailableError):
                        raise  # it says why
                    raise BrokerUnavailableError(f"{failure} ({type(error).__name__})") from None
            time.sleep(0.2)

    def _send_group(self, target: tuple[str, int]) -> None:
        group = self._groups.pop(target).events
        self._send(target, group[0] if len(group) == 1 else b"[" + b",".join(group) + b"]", len(group))

    def _send(self, target: tuple[str, int], value: bytes, events: int) -> None:
        size = len(value)
        with self._changed:
            while self._in_flight_messages and (
                self._in_flight_messages >= MAX_IN_FLIGHT_MESSAGES
                or self._in_flight_bytes + size > MAX_IN_FLIGHT_BYTES
            ):
                self._changed.wait(1.0)
            self._check()
            self._in_flight_messages += 1
            self._in_flight_bytes += size
            self._stats.messages += 1
        try:
            # kafka-python's debug log shows the value; a memoryview shows its address.
            future = self._producer.send(target[0], memoryview(value), partition=target[1])
        except KafkaError as error:
            self._failed(events, size, error)
            return
        future.add_callback(self._acknowledged, events, size)
        future.add_errback(self._failed, events, size)

    def _acknowledged(self, events: int, size: int, metadata: object) -> None:
        with self._changed:
            self._stats.acknowledged += events
            self._settle(size)

    def _failed(self, events: int, size: int, error: object) -> None:
        with self._changed:
            self._stats.failed[type(error).__name__] += events
            # A record that is too large is at fault itself; anything else will befall the next one too.
            if not isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
                self._broken = type(error).__name__
            self._settle(size)

    def _settle(self, size: int) -> None:
        self._in_flight_messages -= 1
        self._in_flight_bytes -= size
        self._changed.notify()

    def _check(self) -> None:
        if self._broken:
            own = self._stats
            raise BrokerUnavailableError(
                f"Kafka at {self._servers} acknowledged only {own.acknowledged} of {own.published} events "
                f"({self._broken})"
            )
