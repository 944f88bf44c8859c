"""A Kafka producer that tests can look into, and hold up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from tidegauge.settings import Settings


class FakeFuture:
    """Resolved by the producer; tells its callbacks at once, or when it is resolved."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcome: tuple[bool, object] | None = None
        self._callbacks: list[tuple[bool, Callable[..., Any], tuple[Any, ...]]] = []

    def add_callback(self, f: Callable[..., Any], *args: Any) -> None:
        self._add(True, f, args)

    def add_errback(self, f: Callable[..., Any], *args: Any) -> None:
        self._add(False, f, args)

    def _add(self, good: bool, f: Callable[..., Any], args: tuple[Any, ...]) -> None:  # noqa: FBT001
        with self._lock:
            if self._outcome is None:
                self._callbacks.append((good, f, args))
                return
        if self._outcome[0] is good:
            f(*args, self._outcome[1])

    def resolve(self, error: Exception | None = None) -> None:
        with self._lock:
            if self._outcome is not None:
                return
            self._outcome = (error is None, error)
        for good, f, args in self._callbacks:
            if good is (error is None):
                f(*args, error)


class FakeKafka:
    """Brokers and producer in one: ``FakeKafka().factory`` goes into ``Emitter(producer_factory=…)``.

    Attributes:
        partitions: of each topic that exists; any topic has 4 unless it is listed.
        records: what was sent: topic, partition, bytes.
        holding: keep acknowledgements back until ``release``.
        error: fail each send with it.
        made: how many producers were made.
        sent: set at each send.
    """

    def __init__(self, *, missing: Iterable[str] = ()) -> None:
        self.partitions: dict[str, int] = {}
        self.missing = set(missing)
        self.records: list[tuple[str, int, bytes]] = []
        self.holding = False
        self.error: Exception | None = None
        self.raising: Exception | None = None
        self.refusing: Exception | None = None
        self.made = 0
        self.attempts = 0
        self.attempted = threading.Event()
        self.closed_with: list[float | None] = []
        self.sent = threading.Event()
        self._held: list[FakeFuture] = []

    def factory(self, settings: Settings, delivery_timeout: float) -> FakeKafka:
        self.attempts += 1
        self.attempted.set()
        if self.refusing is not None:
            raise self.refusing
        self.made += 1
        return self

    def partitions_for(self, topic: str) -> set[int]:
        if topic in self.missing:
            raise TimeoutError(topic)
        return set(range(self.partitions.get(topic, 4)))

    def send(self, topic: str, value: bytes | memoryview, *, partition: int) -> FakeFuture:
        if self.raising is not None:
            raise self.raising
        self.records.append((topic, partition, bytes(value)))
        future = FakeFuture()
        if self.holding:
            self._held.append(future)
        else:
            future.resolve(self.error)
        self.sent.set()
        return future

    def close(self, timeout: float | None = None) -> None:
        self.closed_with.append(timeout)
        for future in self._held:
            future.resolve(RuntimeError("closed"))

    def release(self, error: Exception | None = None) -> None:
        """Acknowledge, or fail, all that is held back, and hold no more."""
        self.holding = False
        held, self._held = self._held, []
        for future in held:
            future.resolve(error)

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events sent, decoded, in the order of sending."""
        found: list[dict[str, Any]] = []
        for _, _, value in self.records:
            decoded = msgspec.json.decode(value)
            found += decoded if isinstance(decoded, list) else [decoded]
        return found
