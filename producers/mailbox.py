"""The bounded queue between the application's threads and the one that sends."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

_NEVER: Final = sys.maxsize


class Mailbox:
    """Many writers that never wait, one reader that sleeps while there is nothing to do.

    ``put`` takes no lock, so that it may be called from a signal handler or a finalizer that interrupts
    another
    ``put``: it is a comparison, an atomic ``deque.append``, and another comparison that tells whether the
    reader wants to be woken. Threads that pass the first comparison together may exceed the limit by their
    number.

    Args:
        limit: how many may wait.
        start: called when something is put and no reader has ever waited.
    """

    __slots__ = ("_bell", "_items", "_start", "_wake_at", "limit", "size")

    def __init__(self, limit: int, start: Callable[[], None]) -> None:
        self.size = limit
        self.limit = limit
        self._items: deque[Any] = deque()
        self._wake_at = 0
        self._start: Callable[[], None] | None = start
        # A bare lock used as a bell: the reader acquires it to sleep, and any writer may release it.
        self._bell = threading.Lock()
        self._bell.acquire()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Any) -> bool:
        """Append, unless the limit is reached."""
        waiting = len(self._items)
        if waiting >= self.limit:
            return False
        self._items.append(item)
        if waiting >= self._wake_at:
            self.ring()
        return True

    def ring(self) -> None:
        """Wake the reader, or start one."""
        if self._start is not None:
            self._start()
            return
        self._wake_at = _NEVER
        with suppress(RuntimeError):  # it has been rung already
            self._bell.release()

    def reader_started(self) -> None:
        """Say that a reader exists."""
        self._start = None

    def call_on_put(self, callback: Callable[[], None]) -> None:
        """Have each ``put`` that still passes the limit call this: there is no reader any more."""
        self._start = callback
        self._wake_at = 0

    def wait(self, timeout: float | None) -> None:
        """Sleep until something is there, the bell rings, or ``timeout`` seconds are over."""
        self._wake_at = 0
        # Writers append first and look at _wake_at then, we the other way round: one of us sees the other.
        if not self._items:
            self._bell.acquire(timeout=-1 if timeout is None else timeout)
        self._wake_at = _NEVER

    def linger(self, timeout: float) -> None:
        """Let more come together: sleep until half full, rung, or ``timeout`` seconds are over."""
        enough = self.limit // 2
        self._wake_at = enough
        if len(self._items) <= enough:
            self._bell.acquire(timeout=timeout)
        self._wake_at = _NEVER

    def take(self, most: int) -> list[Any]:
        """Up to ``most`` items, the oldest first."""
        items = self._items
        return [items.popleft() for _ in range(min(most, len(items)))]

    def clear(self) -> None:
        """Forget everything."""
        self._items.clear()
