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
from typing import Any

from faust.tables.table import Table

_VERSION = Struct(">q")


class StateTable(Table):
    """Raw keys and values by partition; memory holds them only between recovery and ``take``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._restored: dict[int, dict[bytes, tuple[int, bytes]]] = defaultdict(dict)

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

    def take(self, partition: int) -> dict[bytes, bytes]:
        """All that was restored of a partition; a second call returns nothing."""
        return {key: value for key, (_, value) in self._restored.pop(partition, {}).items()}

    def forget(self, partition: int) -> None:
        """Drop what was restored of a partition that is not ours any more."""
        self._restored.pop(partition, None)

    async def write(
        self, partition: int, entries: Iterable[tuple[bytes, int, bytes | None]]
    ) -> list[asyncio.Future[Any]]:
        """Send (key, version, value) to the changelog; ``None`` deletes. Await every future returned."""
        topic = self.changelog_topic.get_topic_name()
        producer = self.app.producer
        return [
            await producer.send(
                topic,
                key,
                None if value is None else _VERSION.pack(version) + value,
                partition,
                None,
                None,
            )
            for key, version, value in entries
        ]
