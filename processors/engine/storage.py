"""The store as the second stage uses it: in a thread of its own, one call at a time, and patiently."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import time
from typing import Any, Final, TypeVar

from tidegauge.errors import SinkUnavailableError
from tidegauge.sinks.base import Point, Rejection, Store

from .lease import Lease

_FIRST_WAIT: Final = 0.5
_MAX_WAIT: Final = 30.0

T = TypeVar("T")


class Patience:
    """How long to wait before the next attempt: twice as long each time, unless the store says when."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._wait = _FIRST_WAIT

    async def wait(self, error: SinkUnavailableError) -> None:
        """Say why, and wait."""
        seconds = min(error.retry_after or self._wait, _MAX_WAIT)
        self._log.warning("store: %s; trying again in %.1f s", error, seconds)
        await asyncio.sleep(seconds)
        self._wait = min(self._wait * 2, _MAX_WAIT)


class Storage:
    """A store, asked in a thread.

    Args:
        store: opened by the caller; closed by ``close``.
        lease: held while points are written.
        log: where waits are told.
    """

    def __init__(self, store: Store, lease: Lease, log: Any) -> None:
        self.store = store
        self._lease = lease
        self._log = log
        self._thread = ThreadPoolExecutor(1, "tidegauge-store")
        self.stored = 0
        """Points acknowledged since this worker started."""
        self.acknowledged: float | None = None
        """When (Unix seconds) the store last took a write."""
        self.away = ""
        """Why the store did not do what it was last asked; empty while it does."""
        self.own_refused = 0
        """Points about the pipeline itself that the store refused since this worker started."""
        self.own_missed = 0
        """Points about the pipeline itself that were not stored since the store was away."""

    def patience(self) -> Patience:
        """For the attempts at one thing."""
        return Patience(self._log)

    async def attempt(self, call: Callable[[], T]) -> T:
        """Call the store once.

        Raises:
            SinkUnavailableError: it did not answer.
        """
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except SinkUnavailableError as error:
            self.away = str(error)
            raise
        self.away = ""
        return answer

    async def ask(self, call: Callable[[], T]) -> T:
        """Call the store again and again while it is unavailable."""
        patience = self.patience()
        while True:
            try:
                return await self.attempt(call)
            except SinkUnavailableError as error:
                await patience.wait(error)

    async def write(self, points: Sequence[Point]) -> list[Rejection] | None:
        """Write points once and return those that were refused; ``None``: not tried, for the lease was lost before.

        Raises:
            SinkUnavailableError: nothing can be said of any of the points.
        """

        def call() -> list[Rejection] | None:
            return None if self._lease.lost else self.store.write(points)

        refused = await self.attempt(call)
        if refused is not None:
            self.stored += len(points) - len(refused)
            self.acknowledged = time()
        return refused

    async def tell(self, points: Sequence[Point]) -> None:
        """Write points about the pipeline itself, once: a moment later they would say nothing new."""
        try:
            refused = await self.attempt(lambda: self.store.write(points))
        except SinkUnavailableError:
            self.own_missed += len(points)
            return
        if refused and not self.own_refused:  # every ten seconds the same; the count tells how many more
            self._log.warning(
                "the store refuses the pipeline's own figures: %s; said once, and counted on",
                refused[0].reason,
            )
        self.own_refused += len(refused)

    def close(self) -> None:
        """Wait for the call in flight and close the store."""
        self._thread.shutdown(wait=True)
        self.store.close()
