"""What the emitter needs of a Kafka client; apart from it, so that the SDK's import stays light."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from tidegauge.settings import Settings

THREAD_PREFIX: Final = "tidegauge-"
"""Of our threads' names: the log filter knows them by it."""


class SendFuture(Protocol):
    """What a send gives back; exactly one of the callbacks is called, once, from any thread."""

    def add_callback(self, f: Callable[..., Any], *args: Any) -> Any:
        """Call ``f(*args, metadata)`` when the record is acknowledged."""

    def add_errback(self, f: Callable[..., Any], *args: Any) -> Any:
        """Call ``f(*args, error)`` when it is not."""


class Producer(Protocol):
    """What the emitter needs of a Kafka producer."""

    def partitions_for(self, topic: str) -> set[int]:
        """The topic's partitions; raises ``KafkaError`` where it has none that are known."""

    def send(self, topic: str, value: bytes | memoryview, *, partition: int) -> SendFuture:
        """Queue a record."""

    def close(self, timeout: float | None = None) -> None:
        """Fail what is pending after ``timeout`` seconds, and end."""


ProducerFactory = Callable[[Settings, float], Producer]
"""Makes a producer from the settings and the delivery timeout (seconds); may block a little, and raise."""
