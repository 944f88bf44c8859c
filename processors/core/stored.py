"""State as it is stored, and what of it is the first stage's; for workers and for rebuilds, which only read it.

A value is stored with a version, the source offset it includes. Of two values of one key the one with the greater
version holds, so that what a frozen worker writes late cannot turn state back.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple, TypeVar

import msgspec

from tidegauge.errors import StateError

from .cardinality import Admitted
from .intake import Checkpoint
from .poison import Poison

FORMAT: Final = 1
"""Of all that is kept here. Fields may be added under the same number: who does not know them leaves them out."""
FORMAT_KEY: Final = b"format"
"""Its value is empty, and its version is the format."""

_VERSION = Struct(">q")

T = TypeVar("T")


def pack(version: int, value: bytes) -> bytes:
    """A value as it is stored."""
    return _VERSION.pack(version) + value


class Newest:
    """One partition's stored state.

    Args:
        partition: its number, for messages.
    """

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._values: dict[bytes, tuple[int, bytes]] = {}

    def take(self, key: bytes, stored: bytes | None) -> None:
        """Take in a record of the log of states; no value deletes."""
        if stored is None:
            self._values.pop(key, None)
            return
        (version,) = _VERSION.unpack_from(stored)
        known = self._values.get(key)
        if known is None or version >= known[0]:
            self._values[key] = (version, stored[_VERSION.size :])

    def values(self) -> dict[bytes, bytes]:
        """The values by key.

        Raises:
            StateError: a newer version of tidegauge has written them, in a format that this one does not know.
        """
        found, _ = self._values.get(FORMAT_KEY, (FORMAT, b""))
        if found > FORMAT:
            raise StateError(
                f"the stored state of partition {self._partition} is of format {found}, and this version of tidegauge"
                f" knows {FORMAT}: a newer worker has written it; upgrade this one"
            )
        return {key: value for key, (_, value) in self._values.items() if key != FORMAT_KEY}


def restored(raw: bytes, kind: type[T], partition: int, key: bytes) -> T:
    """Decode a stored value.

    Raises:
        StateError: it is not what we write.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise StateError(
            f"the stored state of partition {partition} cannot be read: {key.decode(errors='replace')}: {error};"
            " docs/runbook.md says what to do"
        ) from None


def checkpoint_key(kind: str) -> bytes:
    """Where the checkpoint of a kind of events is kept."""
    return f"ingest/{kind}".encode()


def admission_key(kind: str, epoch: int, day: int, part: int = 0) -> bytes:
    """Where an epoch's admissions of a day are kept; ``part`` counts what does not fit into one message."""
    return f"admitted/{kind}/{epoch}/{day}{f'/{part}' if part else ''}".encode()


class IngestState(NamedTuple):
    """What the first stage had stored of one source partition.

    Attributes:
        checkpoint: where to begin again.
        admitted: by the epochs before the checkpoint's.
        keys: of all admissions, by the key of the first part.
        poison: events that are left out.
    """

    checkpoint: Checkpoint
    admitted: list[Admitted]
    keys: dict[bytes, list[bytes]]
    poison: Poison


def ingest_state(kind: str, partition: int, values: dict[bytes, bytes]) -> IngestState:
    """Find it among all values of a partition.

    Raises:
        StateError: a value is not what we write.
    """
    key = checkpoint_key(kind)
    checkpoint = restored(values[key], Checkpoint, partition, key) if key in values else Checkpoint()
    admitted: list[Admitted] = []
    keys: dict[bytes, list[bytes]] = {}
    prefix = f"admitted/{kind}/".encode()
    for key, value in values.items():
        if not key.startswith(prefix):
            continue
        found = restored(value, Admitted, partition, key)
        keys.setdefault(admission_key(kind, found.epoch, found.day), []).append(key)
        # A worker that ended before its checkpoint leaves some of the parts that the epoch now begun will leave
        # again. Taken for admitted already they would be left out then, and the others take their place.
        if found.epoch < checkpoint.epoch:
            admitted.append(found)
    return IngestState(checkpoint, admitted, keys, Poison.stored(kind, values))
