"""The panes of one epoch of one source partition, for events that come by the thousand and not by the million.

Request events have a fold of their own (``fold.py``), which is all about speed. Whatever is rare next to them shares
this one: panes as dictionaries, one aggregate each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from tidegauge.schemas.pane import LARGEST, PaneSnapshot

from .aggregate import Aggregate
from .views import INTAKE, View

Key = tuple[str, ...]
T = TypeVar("T", contravariant=True)


class EventFold(Protocol[T]):
    """What the first stage asks of a fold: one is made for each source partition, and lives over its epochs."""

    @property
    def pending(self) -> bool:
        """Whether anything changed that no snapshot has shown yet."""
        ...

    def count(self, append_time: int, outcome: str, events: int = 1) -> None:
        """Count the outcome of some events with one append time (ms)."""
        ...

    def add(self, events: Sequence[T]) -> None:
        """Fold events that are valid, in time and no duplicates, in the order of the log."""
        ...

    def snapshots(self, now: float) -> list[PaneSnapshot]:
        """Absolute snapshots of the changed panes of the views that are due at ``now`` (seconds)."""
        ...

    def seal(self) -> list[PaneSnapshot]:
        """Final snapshots of the epoch; forgets its panes."""
        ...


class Panes:
    """Aggregates by view, start and key, and which of them changed. A base for folds: they add to ``pane``.

    Args:
        topic: the source topic, a dimension of the intake view.
        views: those that are fed besides intake, in the order of their snapshots.
    """

    def __init__(self, topic: str, views: Iterable[View]) -> None:
        self._topic = topic
        self._panes: dict[str, dict[tuple[int, Key], Aggregate]] = {}
        self._changed: dict[View, dict[tuple[int, Key], None]] = {view: {} for view in (*views, INTAKE)}
        self._due: dict[str, float] = {}

    @property
    def pending(self) -> bool:
        """Whether anything changed that no snapshot has shown yet."""
        return any(self._changed.values())

    def count(self, append_time: int, outcome: str, events: int = 1) -> None:
        """Count the outcome of some events with one append time (ms)."""
        self.pane(INTAKE, append_time // 1000, (self._topic, outcome)).counters[0] += events

    def pane(self, view: View, time: float, key: Key) -> Aggregate:
        """The pane that a moment (Unix seconds) belongs to, for the caller to add to."""
        name = (int(time) // view.width * view.width, key)
        panes = self._panes.setdefault(view.name, {})
        aggregate = panes.get(name)
        if aggregate is None:
            aggregate = panes[name] = view.empty()
        self._changed[view][name] = None
        return aggregate

    def snapshots(self, now: float) -> list[PaneSnapshot]:
        """Absolute snapshots of the changed panes of the views that are due at ``now`` (seconds)."""
        snapshots: list[PaneSnapshot] = []
        for view in self._changed:
            if view.flush_every <= 1.0 or now >= self._due.get(view.name, 0.0):
                self._due[view.name] = now + view.flush_every
                snapshots += self._take(view)
        return snapshots

    def seal(self) -> list[PaneSnapshot]:
        """Final snapshots of the epoch; forgets its panes."""
        snapshots = [snapshot for view in self._changed for snapshot in self._take(view)]
        self._panes.clear()
        return snapshots

    def _take(self, view: View) -> list[PaneSnapshot]:
        changed, self._changed[view] = self._changed[view], {}
        snapshots = []
        for start, key in changed:
            aggregate = self._panes[view.name][start, key]
            sketches = [sketch.snapshot() for sketch in aggregate.sketches]
            snapshots.append(
                PaneSnapshot(view.name, key, start, [min(c, LARGEST) for c in aggregate.counters], sketches)
            )
        return snapshots
