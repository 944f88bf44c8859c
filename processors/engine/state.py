"""Checkpointed state: a Faust table whose changelog is written and checked by us.

What is stored is described in ``core/stored.py``. Faust's own table writes cost 300 µs each and their errors are only
logged; ``write`` sends straight to the changelog and returns futures that the caller awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from faust.tables.table import Table

from tidegauge.processors.core.stored import FORMAT, FORMAT_KEY, Newest, pack


class StateTable(Table):
    """Raw keys and values by partition; memory holds them only between recovery and ``take``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._restored: dict[int, Newest] = {}
        self._owned: frozenset[int] = frozenset()
        self._written: dict[int, int] = {}
        self._marked: set[int] = set()

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any = None, to_value: Any = None) -> None:
        """Take in changelog records during recovery."""
        for event in batch:
            message = event.message
            newest = self._restored.setdefault(message.partition, Newest(message.partition))
            newest.take(message.key, message.value)

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
        taken, self._restored = self._restored, {}
        return {partition: newest.values() for partition, newest in taken.items()}

    async def write(
        self, partition: int, entries: Iterable[tuple[bytes, int, bytes | None]]
    ) -> list[asyncio.Future[Any]]:
        """Send (key, version, value) to the changelog; ``None`` deletes. Await every future returned."""
        topic = self.changelog_topic.get_topic_name()
        futures = []
        if partition not in self._marked:
            self._marked.add(partition)
            entries = [(FORMAT_KEY, FORMAT, b""), *entries]
        for key, version, value in entries:
            stored = None if value is None else pack(version, value)
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
