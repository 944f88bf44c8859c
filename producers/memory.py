"""Emitters without Kafka."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .stats import Tally


class MemoryEmitter:
    """Keeps events in memory, for an application's own tests: give it to ``Client(emitter=…)``.

    Attributes:
        events: what was emitted, in order.
        notes: what was changed or left out, counted.
        refused: events dropped before they could be emitted, counted by reason.
    """

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.notes: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def emit(self, event: Any) -> bool:
        """Keep the event."""
        self.events.append(event)
        return True

    def note(self, what: str) -> None:
        """Count it."""
        self.notes[what] += 1

    def refuse(self, reason: str) -> None:
        """Count it."""
        self.refused[reason] += 1

    def flush(self, timeout: float | None = None) -> bool:
        """Nothing ever waits."""
        return True

    def close(self, timeout: float | None = None) -> bool:
        """Nothing to end."""
        return True


class DiscardingEmitter:
    """Drops every event, and counts it under one reason."""

    def __init__(self, reason: str) -> None:
        self._reason = reason
        self.refused = Tally()

    def emit(self, event: Any) -> bool:
        """Drop the event."""
        self.refused.add(self._reason)
        return False

    def note(self, what: str) -> None:
        """There is no event that it could be about."""

    def refuse(self, reason: str) -> None:
        """Count it."""
        self.refused.add(reason)

    def flush(self, timeout: float | None = None) -> bool:
        """Nothing ever waits."""
        return True

    def close(self, timeout: float | None = None) -> bool:
        """Nothing to end."""
        return True
