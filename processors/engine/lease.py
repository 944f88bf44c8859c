"""How long Kafka is sure to keep this worker's partitions for it.

A worker that was frozen, or cut off from Kafka, goes on for a moment as if nothing had happened, while others have
its partitions already. What it sends through Kafka carries versions, so it can do no harm there; the store knows
none. So before a write to the store the worker asks here, and after it again: see ``Merging``.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

_LOOK_EVERY: Final = 0.1


class Lease:
    """Renewed by every heartbeat that Kafka answers, for the session timeout from when it was sent.

    Kafka counts from when the heartbeat arrives, so it never gives the partitions away before. Renewed by the
    consumer's thread and read by others.

    Args:
        seconds: the session timeout.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = 0.0

    def renew(self, asked: float) -> None:
        """Kafka has answered a heartbeat that was sent at ``asked``, of the monotonic clock."""
        self._until = asked + self._seconds

    @property
    def lost(self) -> bool:
        """Whether the partitions may be somebody else's by now."""
        return monotonic() >= self._until

    async def held(self) -> None:
        """Return once Kafka has said that we are still, or again, of the group."""
        while self.lost:  # noqa: ASYNC110 — nothing happens at the moment at which time runs out
            await asyncio.sleep(_LOOK_EVERY)
