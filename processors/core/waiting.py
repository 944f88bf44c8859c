"""Panes that wait to be stored, and in which order they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .shards import Key
from .views import VIEWS

Name = tuple[str, int, Key]
"""A pane: its view, start and key."""

_NARROW: Final = frozenset(view.name for view in VIEWS.values() if view.flush_every <= 1.0)


class Waiting:
    """Names in a queue, each once.

    One half of what is taken is the newest panes, the other half those that have waited longest. After a restart
    there may be a hundred thousand panes to store again, and what happens now must not wait until they are; nor must
    they wait for ever where something always happens.
    """

    def __init__(self) -> None:
        self._stamps: dict[Name, int] = {}
        self._by_start: dict[int, dict[Name, None]] = {}
        self.stamp = 0
        """How many names were ever added."""

    def __len__(self) -> int:
        return len(self._stamps)

    def __iter__(self) -> Iterator[Name]:
        return iter(self._stamps)

    def add(self, name: Name) -> None:
        """Let a pane wait, if it does not yet."""
        if name in self._stamps:
            return
        self.stamp += 1
        self._stamps[name] = self.stamp
        if name[0] in _NARROW:
            self._by_start.setdefault(name[1], {})[name] = None

    def take(self, limit: int) -> list[Name]:
        """Remove and return up to ``limit`` names."""
        taken: list[Name] = []
        while self._by_start and len(taken) < limit // 2:
            newest = self._by_start[max(self._by_start)]
            for name in list(newest)[: limit // 2 - len(taken)]:
                self._remove(name)
                taken.append(name)
        while self._stamps and len(taken) < limit:
            name = next(iter(self._stamps))
            self._remove(name)
            taken.append(name)
        return taken

    def taken_up_to(self, stamp: int) -> bool:
        """Whether all of the first ``stamp`` names that were added have been taken."""
        return not self._stamps or next(iter(self._stamps.values())) > stamp

    def _remove(self, name: Name) -> None:
        del self._stamps[name]
        if name[0] in _NARROW:
            group = self._by_start[name[1]]
            del group[name]
            if not group:
                del self._by_start[name[1]]
