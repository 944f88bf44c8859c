"""The emitter's books: every event is accounted for at any moment."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import Final

import msgspec

INTERNAL_ERROR: Final = "internal_error"

QUEUE_FULL: Final = "queue_full"
CLOSED: Final = "closed"
TOO_LARGE: Final = "too_large"
ENCODE_ERROR: Final = "encode_error"
INVALID: Final = "invalid"
UNKNOWN_TOPIC: Final = "unknown_topic"
SEND_FAILED: Final = "send_failed"
CLOSE_TIMEOUT: Final = "close_timeout"


class EmitterStats(msgspec.Struct, frozen=True):
    """A consistent picture of an emitter since it was made (in a forked child: since the fork).

    ``accepted == delivered + dropped_after_accept + in_queue + in_flight`` holds in each of them.

    Attributes:
        accepted: events that ``emit`` returned True for.
        delivered: events that Kafka acknowledged from all in-sync replicas.
        in_queue: events waiting in this process.
        in_flight: events sent and not yet acknowledged.
        dropped: events that are lost, by reason. Before they were accepted: ``queue_full``, ``closed``
            (emitted after
            ``close``), ``internal_error``, ``invalid_receipt``, ``invalid_feedback``, ``misconfigured``.
            After: ``encode_error`` (no type of ours), ``invalid`` (the wire would refuse it), ``too_large``,
            ``unknown_topic`` (not created within the delivery timeout), ``send_failed`` (refused, or not
            acknowledged within the delivery timeout: it may have arrived), ``close_timeout`` (not
            acknowledged when the emitter was closed: it may have arrived).
        dropped_after_accept: how many of those had been accepted.
        adjusted: values that were changed or left out, by wire name, and incidents such as ``after_finish``.
        internal_errors: bugs of ours that the application did not feel.
    """

    accepted: int
    delivered: int
    in_queue: int
    in_flight: int
    dropped: dict[str, int]
    dropped_after_accept: int
    adjusted: dict[str, int]
    internal_errors: int


class Tally:
    """Counts by key, from any thread, signal handler or finalizer.

    A finalizer can run in the middle of anything, also of a locked section of its own thread. So counting is
    one atomic append, and the sums are made later by whoever gets the lock without waiting.
    """

    __slots__ = ("_lock", "_sums", "_waiting")

    _FOLD_AT = 1024

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._sums: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, key: str) -> None:
        """Count one."""
        self._waiting.append(key)
        if len(self._waiting) >= self._FOLD_AT:
            self._fold(0.0)

    def counts(self) -> Counter[str]:
        """The sums so far."""
        self._fold(1.0)
        return Counter(self._sums)

    def _fold(self, patience: float) -> None:
        if not self._lock.acquire(timeout=patience):
            return
        try:
            while self._waiting:
                self._sums[self._waiting.popleft()] += 1
        finally:
            self._lock.release()
