"""Who has which event: the queue, the sending thread, Kafka's client, or nobody any more."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from .mailbox import Mailbox
from .stats import CLOSE_TIMEOUT, INTERNAL_ERROR, EmitterStats, Tally


class Ledger:
    """Books of one emitter in one process. ``condition`` guards everything but the tallies.

    Accepted events are ``taken`` + those still in the mailbox. Taken events are delivered, dropped, in
    flight, or *held*: with the sending thread. Once sealed, what was held or in flight is dropped, and late
    news of it are ignored.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        # Reentrant: a signal handler may ask for the statistics while its thread is in here.
        self.condition = threading.Condition(threading.RLock())
        self.refused = Tally()
        self.notes = Tally()
        self.taken = 0
        self.delivered = 0
        self.dropped: Counter[str] = Counter()
        self.lost = 0
        self.parked = 0
        self.in_flight_events = 0
        self.in_flight_bytes = 0
        self.sealed = False
        self._in_flight: dict[int, tuple[int, int]] = {}
        self._sequence = 0

    @property
    def held(self) -> int:
        """Events with the sending thread; call with ``condition`` held."""
        return self.taken - self.delivered - self.lost - self.in_flight_events

    def take(self, most: int) -> list[Any]:
        """Move up to ``most`` events from the mailbox to the sending thread."""
        with self.condition:
            items = self.mailbox.take(most)
            self.taken += len(items)
            return items

    def drop(self, reason: str, events: int = 1) -> None:
        """Give up events that the sending thread holds."""
        with self.condition:
            if not self.sealed:
                self.lost += events
                self.dropped[reason] += events
                self.condition.notify_all()

    def sent(self, events: int, size: int) -> int:
        """Move held events into flight; returns the number of this sending."""
        with self.condition:
            self._sequence += 1
            if not self.sealed:
                self._in_flight[self._sequence] = (events, size)
                self.in_flight_events += events
                self.in_flight_bytes += size
            return self._sequence

    def settle(self, sending: int, failed_with: str | None) -> None:
        """A sending was acknowledged, or failed for a reason; the first news of a sending counts."""
        with self.condition:
            entry = self._in_flight.pop(sending, None)
            if entry is None:
                return
            events, size = entry
            self.in_flight_events -= events
            self.in_flight_bytes -= size
            if failed_with is None:
                self.delivered += events
            else:
                self.lost += events
                self.dropped[failed_with] += events
            self.condition.notify_all()

    def seal(self) -> int:
        """Drop whatever is not delivered, for good; returns how many events that were.

        May be called again, for events that reached the mailbox late.
        """
        with self.condition:
            self.taken += len(self.mailbox.take(len(self.mailbox)))
            self._in_flight.clear()
            self.in_flight_events = self.in_flight_bytes = self.parked = 0
            left = self.held
            if left:
                self.lost += left
                self.dropped[CLOSE_TIMEOUT] += left
            self.sealed = True
            self.condition.notify_all()
            return left

    def wait(self, ready: Callable[[], bool], timeout: float) -> bool:
        """Wait until ``ready``, which is called with ``condition`` held; False after ``timeout`` seconds."""
        with self.condition:
            return self.condition.wait_for(ready, timeout)

    def mark(self) -> int:
        """The number of events accepted so far."""
        with self.condition:
            return self.taken + len(self.mailbox)

    def last_sending(self) -> int:
        """The number of the newest sending."""
        return self._sequence

    def settled_up_to(self, sending: int) -> bool:
        """Whether no sending up to this one is in flight; call with ``condition`` held."""
        oldest = next(iter(self._in_flight), None)
        return oldest is None or oldest > sending

    def handed_on(self, mark: int) -> bool:
        """Whether the first ``mark`` events have left the queue; call with ``condition`` held."""
        return self.sealed or (self.taken - self.held >= mark and self.parked == 0)

    def stats(self) -> EmitterStats:
        """A consistent picture."""
        refused = self.refused.counts()
        notes = self.notes.counts()
        errors = notes.pop(INTERNAL_ERROR, 0)
        with self.condition:
            waiting = len(self.mailbox)
            return EmitterStats(
                accepted=self.taken + waiting,
                delivered=self.delivered,
                in_queue=waiting + self.held,
                in_flight=self.in_flight_events,
                dropped=dict(refused + self.dropped),
                dropped_after_accept=self.lost,
                adjusted=dict(notes),
                internal_errors=errors,
            )
