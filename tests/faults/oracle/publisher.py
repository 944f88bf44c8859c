"""Sends events as the SDK does, and again until Kafka has them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self
from zlib import crc32

from kafka import KafkaProducer
from kafka.errors import KafkaError

from .events import Event
from .ledger import Ledger


class Publisher:
    """Publishes events to the partition that their id gives, and what Kafka refused again, for as long as it takes.

    Args:
        servers: Kafka's ``host:port``.
        topic: where to.
        partitions: of the topic.
        ledger: where all is noted.
    """

    def __init__(self, servers: str, topic: str, partitions: int, ledger: Ledger) -> None:
        self._topic = topic
        self._partitions = partitions
        self._ledger = ledger
        self._changed = threading.Condition()
        self._open: dict[int, Event] = {}
        self._number = 0
        self._failed: list[tuple[int, Event]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._producer = KafkaProducer(
            bootstrap_servers=servers,
            acks="all",
            # An idempotent producer of kafka-python 3.0 sends nothing more once a batch has expired in an outage.
            enable_idempotence=False,
            linger_ms=5,
            request_timeout_ms=5_000,
            delivery_timeout_ms=20_000,
            max_block_ms=600_000,
            reconnect_backoff_max_ms=500,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._stop.set()
            if self._thread is not None:
                self._thread.join()
            self._producer.close(timeout=10)

    def send(self, events: Iterable[Event], copies: int = 1) -> None:
        """Note and send events, each so many times; does not wait for Kafka."""
        for event in events:
            self._ledger.send([event])
            for _ in range(copies):
                with self._changed:
                    self._number += 1
                    number = self._number
                    self._open[number] = event
                self._hand_over(number, event)

    def keep_sending(self, events: Iterator[Event], rate: float) -> None:
        """Send so many events a second in a thread until ``finish``."""

        def run() -> None:
            begin, sent = time.monotonic(), 0
            while not self._stop.wait(0.02):
                due = int((time.monotonic() - begin) * rate)
                # After an outage what was not sent comes at once, as an application's queue does.
                for _ in range(min(due - sent, 2_000)):
                    self.send([next(events)])
                    sent += 1
                self._again()

        self._thread = threading.Thread(target=run, name="publisher", daemon=True)
        self._thread.start()

    def finish(self, timeout: float = 300.0) -> None:
        """End the thread, and return once Kafka has everything.

        Raises:
            TimeoutError: it has not within ``timeout`` seconds.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        deadline = time.monotonic() + timeout
        while True:
            self._again()
            with self._changed:
                if not self._open:
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(self._open)} events are not acknowledged after {timeout} s")
                self._changed.wait(0.5)

    def _hand_over(self, number: int, event: Event) -> None:
        partition = crc32(event.id.encode()) % self._partitions
        try:
            future: Any = self._producer.send(self._topic, event.payload, partition=partition)
        except KafkaError:
            self._fail(number, event)
            return
        future.add_callback(lambda _: self._acknowledge(number, event))
        future.add_errback(lambda _: self._fail(number, event))

    def _acknowledge(self, number: int, event: Event) -> None:
        self._ledger.acknowledge(event.id)
        with self._changed:
            self._open.pop(number, None)
            self._changed.notify_all()

    def _fail(self, number: int, event: Event) -> None:
        with self._changed:
            self._failed.append((number, event))
            self._changed.notify_all()

    def _again(self) -> None:
        with self._changed:
            failed, self._failed = self._failed, []
        for number, event in failed:
            self._hand_over(number, event)
