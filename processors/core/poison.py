"""Events that our own code cannot process: found one by one, and left out of the log from then on.

Stage one is a function of its log. Where that function raises, the events that make it do so are *poison*: their
places are stored, and whoever reads the log then takes them for refused. So the answer stays a function of the log
and of those places, and a restart gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from tidegauge.errors import InvalidEventError
from tidegauge.schemas.codec import Codec, Refused

from .intake import Record, part

Place = tuple[int, int | None]
"""An offset, and which event of its array; ``None``: all of the message."""

REFUSAL: Final = InvalidEventError(
    "processing_failed", "", "an event that our code can process; the worker's log says what it raised"
)


class _Alone(NamedTuple):
    """One event of an array as a record of its own."""

    offset: int
    timestamp: int
    value: bytes | None


class Trial(Protocol):
    """A first stage that nothing depends on."""

    def apply(self, records: Sequence[Any]) -> int:
        """Fold records."""
        ...

    def flush(self, now: float, *, whole: bool = False) -> object:
        """Take what they gave."""
        ...


class Poison:
    """The places known.

    Args:
        places: in any order.
    """

    def __init__(self, places: Iterable[Place] = ()) -> None:
        self._places: dict[int, set[int | None]] = {}
        for place in places:
            self.add(place)

    @classmethod
    def stored(cls, kind: str, values: Mapping[bytes, bytes]) -> Poison:
        """What the stored state of a partition says of the events of a kind; other keys are left alone.

        Raises:
            msgspec.DecodeError: a value is not what ``entries`` gives.
        """
        prefix = _prefix(kind)
        return cls(
            (int(key.removeprefix(prefix)), index)
            for key, value in values.items()
            if key.startswith(prefix)
            for index in msgspec.json.decode(value, type=list[int | None])
        )

    def add(self, place: Place) -> None:
        """Leave out one more."""
        self._places.setdefault(place[0], set()).add(place[1])

    def meets(self, records: Sequence[Record]) -> bool:
        """Whether any of these records is known."""
        return bool(self._places) and any(record.offset in self._places for record in records)

    def decode(self, codec: Codec[Any], record: Record) -> tuple[Sequence[Any], list[Refused]]:
        """What ``Codec.decode`` gives, and poison among the refused."""
        found = codec.decode(record.value)
        places = self._places.get(record.offset)
        if not places:
            return found
        return part(
            codec,
            record.value or b"",
            found,
            lambda place, _: place in places or None in places,
            REFUSAL,
        )


def entries(kind: str, places: Iterable[Place]) -> list[tuple[bytes, int, bytes]]:
    """What to store of these places: key, version and value."""
    by_offset: dict[int, list[int | None]] = {}
    for offset, index in places:
        by_offset.setdefault(offset, []).append(index)
    return [
        (_prefix(kind) + str(offset).encode(), offset, msgspec.json.encode(indexes))
        for offset, indexes in by_offset.items()
    ]


def _prefix(kind: str) -> bytes:
    return f"poison/{kind}/".encode()


def find(begin: Callable[[int], Trial], codec: Codec[Any], records: Sequence[Any]) -> list[Place]:
    """The events on which a first stage raises, whatever came before them; empty where none does by itself.

    Args:
        begin: makes a first stage that begins at an offset.
        codec: of the records.
        records: a run of them.
    """
    if not records or not _raises(begin, records):
        return []
    if len(records) > 1:
        half = len(records) // 2
        return find(begin, codec, records[:half]) + find(begin, codec, records[half:])
    (record,) = records
    places: list[Place] = [
        (record.offset, index)
        for index, raw in enumerate(codec.split(record.value or b"") or ())
        if _raises(begin, [_Alone(record.offset, record.timestamp, raw)])
    ]
    return places or [(record.offset, None)]


def _raises(begin: Callable[[int], Trial], records: Sequence[Any]) -> bool:
    trial = begin(records[0].offset)
    try:
        trial.apply(records)
        trial.flush(0.0, whole=True)
    except Exception:
        return True
    return False
