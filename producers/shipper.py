"""The thread that sends: takes what is waiting, groups it per partition, and hands it to Kafka's client."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from tidegauge.errors import BrokerUnavailableError, InvalidEventError, SettingsError
from tidegauge.schemas.codec import encode
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.judgement import Judgement
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import Settings

from . import diagnostics
from .fit import Fitter
from .ids import partition_for
from .ledger import Ledger
from .stats import ENCODE_ERROR, INTERNAL_ERROR, INVALID, SEND_FAILED, TOO_LARGE, UNKNOWN_TOPIC
from .transport import THREAD_PREFIX, Producer, ProducerFactory

MAX_MESSAGE_BYTES: Final = 512 * 1024
MAX_EVENTS_PER_MESSAGE: Final = 1000
TAKE: Final = 4000
_BACKOFF: Final = (0.1, 10.0)
_TOPIC_RETRY: Final = 2.0

Encoded = tuple[str, bytes]
"""An event's id and its JSON."""


class Shipper:
    """Runs in a thread of its own until it is told to close.

    Args:
        settings: which Kafka, which topics.
        ledger: the books, and through them the mailbox.
        factory: makes the producer; called in the thread, again and again until it succeeds.
        delivery_timeout: seconds until a message that is not acknowledged is dropped.
        max_in_flight_events: no more events than that are with Kafka's client, which has no bound of its own;
        max_in_flight_bytes: and no more bytes. One message may exceed them.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        factory: ProducerFactory,
        delivery_timeout: float,
        max_in_flight_events: int,
        max_in_flight_bytes: int,
    ) -> None:
        topics = settings.topics
        self._settings = settings
        self._ledger = ledger
        self._mailbox = ledger.mailbox
        self._factory = factory
        self._delivery_timeout = delivery_timeout
        self._max_events = max_in_flight_events
        self._max_bytes = max_in_flight_bytes
        self._linger = settings.emitter.linger
        self._topics: dict[type, str] = {
            RequestEvent: topics.requests,
            FeedbackEvent: topics.feedback,
            Judgement: topics.judgements,
        }
        self._fitters = {kind: Fitter(kind, ledger.notes.add) for kind in self._topics}
        self._kinds = {topic: kind for kind, topic in self._topics.items()}
        self._producer: Producer | None = None
        self._parked: dict[str, list[tuple[float, Encoded]]] = {}
        self._retry_topics_at = 0.0
        self._hurried = 0
        self._closing: float | None = None
        self._reported = 0
        self.thread = threading.Thread(target=self._run, name=f"{THREAD_PREFIX}emitter", daemon=True)

    def hurry(self, by: int) -> None:
        """Do not linger while this is above 0: someone waits."""
        with self._ledger.condition:
            self._hurried += by
        self._mailbox.ring()

    def close(self, deadline: float) -> None:
        """Send what is there and end, by a time of ``time.monotonic``; returns at once."""
        self._closing = deadline
        with self._ledger.condition:
            self._ledger.condition.notify_all()
        self._mailbox.ring()

    def _run(self) -> None:
        while not self._over():
            try:
                self._round()
            except Exception as error:
                self._ledger.notes.add(INTERNAL_ERROR)
                diagnostics.internal_error(error)
                with self._ledger.condition:
                    held = self._ledger.held - self._ledger.parked
                    self._ledger.drop(INTERNAL_ERROR, max(held, 0))
        self._ledger.seal()
        if self._producer is not None:
            self._close_producer(self._producer)

    def _over(self) -> bool:
        ledger = self._ledger
        with ledger.condition:
            if ledger.sealed:
                return True
            if self._closing is None:
                return False
            empty = not len(self._mailbox) and not ledger.held and not ledger.in_flight_events
        return empty or time.monotonic() >= self._closing

    def _round(self) -> None:
        if self._closing is None:
            self._mailbox.wait(_TOPIC_RETRY if self._parked else diagnostics.INTERVAL)
            if len(self._mailbox) and not self._hurried and self._closing is None:
                self._mailbox.linger(self._linger)
        elif not len(self._mailbox) and not self._parked:
            # Only acknowledgements are missing.
            self._ledger.wait(
                lambda: self._ledger.sealed or not self._ledger.in_flight_events, self._patience()
            )
        self._report()
        if not len(self._mailbox) and not self._parked:
            return
        producer = self._connected()
        if producer is None:
            return
        self._send_parked(producer)
        while len(self._mailbox) and not self._over():
            if not self._room():
                return
            groups: defaultdict[str, list[Encoded]] = defaultdict(list)
            for item in self._ledger.take(TAKE):
                encoded = self._encode(item)
                if encoded is not None:
                    groups[encoded[0]].append(encoded[1])
            for topic, events in groups.items():
                self._send_topic(producer, topic, events)

    def _patience(self, most: float = 1.0) -> float:
        """Seconds to wait for anything: never past the deadline of closing."""
        return most if self._closing is None else max(0.0, min(most, self._closing - time.monotonic()))

    def _pause(self, seconds: float) -> None:
        closing = self._closing
        self._ledger.wait(lambda: self._ledger.sealed or self._closing != closing, self._patience(seconds))

    def _connected(self) -> Producer | None:
        """The producer; ``None`` when it is time to end."""
        backoff, longest = _BACKOFF
        while self._producer is None and not self._over():
            try:
                self._producer = self._factory(self._settings, self._delivery_timeout)
            except Exception as error:
                # Only our own errors are known to have a text without secrets.
                told = type(error).__name__ + (f": {error}" if isinstance(error, SettingsError) else "")
                reason = f"no Kafka at {self._settings.kafka.bootstrap_servers} ({told})"
                if isinstance(error, BrokerUnavailableError):
                    reason = str(error)
                diagnostics.warn("broker", f"{reason}; {len(self._mailbox)} events are waiting")
                self._report()
                self._pause(backoff * random.uniform(0.8, 1.2))
                backoff = min(2 * backoff, longest)
        return self._producer

    def _encode(self, item: Any) -> tuple[str, Encoded] | None:
        """An event's topic and JSON; ``None``: it was dropped."""
        topic: str | None
        topic, event = item if type(item) is tuple else (self._topics.get(type(item)), item)
        try:
            if topic is None:
                self._ledger.drop(ENCODE_ERROR)
                return None
            if isinstance(event, Mapping):
                encoded = self._encode_mapping(topic, event)
            else:
                encoded = self._fitters[type(event)].encode(event)
            if len(encoded[1]) > MAX_MESSAGE_BYTES and isinstance(event, RequestEvent):
                # The texts are the luxury: the numbers must get through.
                for name in ("tidegauge.input.text", "tidegauge.output.text"):
                    self._ledger.notes.add(name)
                event = msgspec.structs.replace(event, input_text=None, output_text=None)
                encoded = self._fitters[RequestEvent].encode(event)
        except InvalidEventError as error:
            diagnostics.warn(f"invalid {error.field}", f"an event was dropped: {error}")
            self._ledger.drop(INVALID)
            return None
        except Exception:
            self._ledger.drop(ENCODE_ERROR)
            return None
        if len(encoded[1]) > MAX_MESSAGE_BYTES:
            self._ledger.drop(TOO_LARGE)
            return None
        return topic, encoded

    def _encode_mapping(self, topic: str, event: Mapping[str, Any]) -> Encoded:
        kind = self._kinds.get(topic)
        data = encode(event)
        if kind is None:
            return str(event["id"]), data
        try:
            decoded: Any = msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            raise InvalidEventError("invalid", "", f"a {kind.__name__} with its names on the wire") from None
        return decoded.id, data

    def _send_topic(self, producer: Producer, topic: str, events: list[Encoded]) -> None:
        if topic in self._parked:
            self._park(topic, events)
            return
        try:
            partitions = len(producer.partitions_for(topic))
        except Exception:
            self._park(topic, events)
            return
        grouped: defaultdict[int, list[bytes]] = defaultdict(list)
        for event_id, data in events:
            grouped[partition_for(event_id, partitions)].append(data)
        for partition, parts in grouped.items():
            for message in messages(parts):
                self._send(producer, topic, partition, message)

    def _send(self, producer: Producer, topic: str, partition: int, parts: list[bytes]) -> None:
        while not self._room():
            if self._over():
                return  # what is still held is counted when the ledger is sealed
        value = parts[0] if len(parts) == 1 else b"[" + b",".join(parts) + b"]"
        sending = self._ledger.sent(len(parts), len(value))
        try:
            # kafka-python's debug log shows the value; a memoryview shows its address.
            future = producer.send(topic, memoryview(value), partition=partition)
        except Exception:
            self._ledger.settle(sending, SEND_FAILED)
            return
        future.add_callback(self._acknowledged, sending)
        future.add_errback(self._failed, sending)

    def _acknowledged(self, sending: int, metadata: object) -> None:
        self._ledger.settle(sending, None)

    def _failed(self, sending: int, error: object) -> None:
        self._ledger.settle(sending, SEND_FAILED)

    def _room(self) -> bool:
        ledger = self._ledger

        def free() -> bool:
            return ledger.sealed or (
                ledger.in_flight_events < self._max_events and ledger.in_flight_bytes < self._max_bytes
            )

        found = ledger.wait(free, self._patience())
        self._report()
        return found and not ledger.sealed

    def _park(self, topic: str, events: list[Encoded]) -> None:
        """Keep events of a topic that does not exist (yet), in a part of the queue's own room."""
        until = time.monotonic() + self._delivery_timeout
        self._parked.setdefault(topic, []).extend((until, event) for event in events)
        self._retry_topics_at = time.monotonic() + _TOPIC_RETRY
        self._count_parked()
        diagnostics.warn(
            f"topic {topic}",
            f"Kafka has no topic {topic} (make it with: tidegauge topics create); events wait",
        )

    def _count_parked(self) -> None:
        with self._ledger.condition:
            self._ledger.parked = sum(map(len, self._parked.values()))
            if self._closing is None:
                self._mailbox.limit = max(1, self._mailbox.size - self._ledger.parked)

    def _send_parked(self, producer: Producer) -> None:
        now = time.monotonic()
        if not self._parked or now < self._retry_topics_at:
            if self._closing is not None:
                self._pause(0.05)
            return
        parked, self._parked = self._parked, {}
        for topic, waiting in parked.items():
            alive = [entry for entry in waiting if entry[0] > now]
            if len(alive) < len(waiting):
                self._ledger.drop(UNKNOWN_TOPIC, len(waiting) - len(alive))
            if not alive:
                continue
            try:
                producer.partitions_for(topic)
            except Exception:
                self._parked[topic] = alive
            else:
                self._send_topic(producer, topic, [event for _, event in alive])
        self._retry_topics_at = time.monotonic() + _TOPIC_RETRY
        self._count_parked()

    def _close_producer(self, producer: Producer) -> None:
        try:
            producer.close(self._patience())
        except Exception as error:
            diagnostics.internal_error(error)

    def _report(self) -> None:
        """Warn of drops, once a minute at most."""
        ledger = self._ledger
        with ledger.condition:
            dropped = ledger.refused.counts() + ledger.dropped
        new = dropped.total() - self._reported
        if new and diagnostics.warn("drops", f"dropped {new} events; since the start: {listed(dropped)}"):
            self._reported += new


def messages(parts: list[bytes]) -> Iterator[list[bytes]]:
    """Cut one partition's events into messages within ``MAX_EVENTS_PER_MESSAGE``, ``MAX_MESSAGE_BYTES``."""
    batch: list[bytes] = []
    size = 1
    for data in parts:
        if batch and (size + len(data) + 1 > MAX_MESSAGE_BYTES or len(batch) == MAX_EVENTS_PER_MESSAGE):
            yield batch
            batch, size = [], 1
        batch.append(data)
        size += len(data) + 1
    if batch:
        yield batch


def listed(counts: Mapping[str, int]) -> str:
    """Counts as "queue_full 12, send_failed 3"."""
    return ", ".join(f"{reason} {n}" for reason, n in sorted(counts.items()))
