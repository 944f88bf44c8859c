"""Checkpointed state: a Faust table whose changelog is written and checked by us.

A value is stored with a version, the source offset it includes. Restoring keeps the value with the greater version,
so that what a frozen worker writes late cannot turn state back. Faust's own table writes cost 300 µs each and their
errors are only logged; ``write`` sends straight to the changelog and returns futures that the caller awaits.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from struct import Struct
from typing import Any, Final, TypeVar

import msgspec
from faust.tables.table import Table

from tidegauge.errors import StateError

FORMAT: Final = 1
"""Of all that is kept here. Fields may be added under the same number: who does not know them leaves them out."""

_VERSION = Struct(">q")
_FORMAT = b"format"

T = TypeVar("T")


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


class StateTable(Table):
    """Raw keys and values by partition; memory holds them only between recovery and ``take``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._restored: dict[int, dict[bytes, tuple[int, bytes]]] = defaultdict(dict)
        self._owned: frozenset[int] = frozenset()
        self._written: dict[int, int] = {}
        self._marked: set[int] = set()

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any = None, to_value: Any = None) -> None:
        """Take in changelog records during recovery."""
        for event in batch:
            message = event.message
            restored = self._restored[message.partition]
            if message.value is None:
                restored.pop(message.key, None)
                continue
            (version,) = _VERSION.unpack_from(message.value)
            known = restored.get(message.key)
            if known is None or version >= known[0]:
                restored[message.key] = (version, message.value[_VERSION.size :])

    def persisted_offset(self, tp: Any) -> int | None:
        """Tells recovery what it need not read again after a rebalance: what we wrote ourselves."""
        return self._written.get(tp.partition)

    def keep(self, partitions: set[int]) -> None:
        """Forget how far the partitions are that others own now: once they come back, they are read anew."""
        self._owned = frozenset(partitions)
        self._written = {p: offset for p, offset in self._written.items() if p in partitions}

    def take(self) -> dict[int, dict[bytes, bytes]]:
        """All that was restored, by partition; a second call returns nothing of it.

        Raises:
            StateError: a newer version of tidegauge has written it, in a format that this one does not know.
        """
        taken, self._restored = self._restored, defaultdict(dict)
        for partition, values in taken.items():
            found, _ = values.pop(_FORMAT, (FORMAT, b""))
            if found > FORMAT:
                raise StateError(
                    f"the stored state of partition {partition} is of format {found}, and this version of tidegauge"
                    f" knows {FORMAT}: a newer worker has written it; upgrade this one"
                )
        return {
            partition: {key: value for key, (_, value) in values.items()}
            for partition, values in taken.items()
        }

    async def write(
        self, partition: int, entries: Iterable[tuple[bytes, int, bytes | None]]
    ) -> list[asyncio.Future[Any]]:
        """Send (key, version, value) to the changelog; ``None`` deletes. Await every future returned."""
        topic = self.changelog_topic.get_topic_name()
        futures = []
        if partition not in self._marked:
            self._marked.add(partition)
            entries = [(_FORMAT, FORMAT, b""), *entries]
        for key, version, value in entries:
            stored = None if value is None else _VERSION.pack(version) + value
            future = await self.app.producer.send(topic, key, stored, partition, None, None)
            future.add_done_callback(self._note)
            futures.append(future)
        return futures

    def _note(self, future: asyncio.Future[Any]) -> None:
        if not future.cancelled() and future.exception() is None:
            metadata = future.result()
            partition = metadata.partition
            if partition in self._owned:  # else a late acknowledgement would hide what the new owner writes
                self._written[partition] = max(self._written.get(partition, -1), metadata.offset)
