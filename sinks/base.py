"""The contract between the pipeline and a time-series store.

A store keeps *points*: a measurement, tags, a time, and fields. Points are absolute: writing the same point again
changes nothing, and writing a point with the same measurement, tags and time replaces the fields it names. So the
pipeline may send anything again after a crash, and does. Every store passes ``tests/contract/test_store.py``.

Rules of a ``Store``:
    - Calls block; the pipeline makes them in a thread, one at a time per store object.
    - ``write`` returns only when the store has acknowledged the points. What the store will never take (a type
      conflict, a point beyond retention) comes back as a ``Rejection``; everything else of the batch is stored.
    - What may pass (down, overloaded, credentials refused) raises ``SinkUnavailableError``; the caller retries.
    - A reader may see a point's fields change one after the other while it is being written.
    - Tag values are any text; distinct values stay distinct, and "" is a value like any other.
    - Integer fields are exact up to 64 bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

FieldValue = int | float | str


@dataclass(frozen=True)
class Point:
    """One point: ``time`` in whole Unix seconds, the start of the pane it describes."""

    measurement: str
    tags: Mapping[str, str]
    time: int
    fields: Mapping[str, FieldValue]


@dataclass(frozen=True)
class Rejection:
    """A point that the store will never take, and the store's reason."""

    point: Point
    reason: str


class Store(ABC):
    """A time-series store with upsert meaning. See the module's text for the rules."""

    @abstractmethod
    def check(self) -> None:
        """Raise ``SinkUnavailableError`` with one clear line unless reads and writes would work now."""

    @abstractmethod
    def write(self, points: Sequence[Point]) -> list[Rejection]:
        """Store the points durably and return those that were refused for good.

        Raises:
            SinkUnavailableError: nothing can be said of any of the points; send them all again.
        """

    @abstractmethod
    def read(
        self,
        measurement: str,
        start: int | None = None,
        end: int | None = None,
        where: Mapping[str, str] | None = None,
    ) -> Iterator[Point]:
        """Yield the points with start ≤ time < end whose tags equal ``where``, in order of time, then tags.

        Raises:
            SinkUnavailableError: the store does not answer.
        """

    def retention(self) -> int:
        """Seconds for which points are kept, counted from their own time; 0: for ever."""
        return 0

    @abstractmethod
    def close(self) -> None:
        """Release connections and files; safe to call twice."""
