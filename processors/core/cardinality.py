"""Caps on how many series there are, decided by the log alone.

Each event-time day admits values first come, first served: at most ``max_values`` of each dimension, at most
``max_series`` keys. What comes too late is ``__other__``, so totals stay exact. Decisions must not change when a
stretch of the log is read again, hence admissions are handed out at each epoch's end to be stored, and an epoch
begins with exactly those made before it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .views import OTHER

DAY = 86_400


class Admitted(msgspec.Struct, frozen=True):
    """Keys admitted on one event-time day (days since the Unix epoch), by family, during one epoch.

    ``epoch`` is the first source offset of that epoch: with ``day`` it names the value for ever, whatever other
    epochs' admissions are stored along with it.
    """

    epoch: int
    day: int
    keys: dict[str, list[tuple[str, ...]]]


class _Day:
    __slots__ = ("keys", "values")

    def __init__(self) -> None:
        self.keys: dict[str, set[tuple[str, ...]]] = {}
        self.values: dict[str, list[set[str]]] = {}


class Admission:
    """Decides which keys become series.

    Args:
        max_series: keys of one family and day.
        max_values: values of one dimension of one family and day.
        admitted: what earlier epochs admitted.
    """

    def __init__(self, max_series: int, max_values: int, admitted: Iterable[Admitted] = ()) -> None:
        self._max_series = max_series
        self._max_values = max_values
        self._days: dict[int, _Day] = {}
        self._new: dict[int, dict[str, list[tuple[str, ...]]]] = {}
        for entry in admitted:
            for family, keys in entry.keys.items():
                for key in keys:
                    self._enter(entry.day, family, tuple(key))

    def admit(self, family: str, day: int, key: tuple[str, ...]) -> tuple[str, ...]:
        """The key under which this event counts: ``key``, or a version of it with ``__other__`` in it."""
        state = self._days.get(day)
        if state is None:
            state = self._days[day] = _Day()
        keys = state.keys.setdefault(family, set())
        if key in keys:
            return key
        values = state.values.setdefault(family, [set() for _ in key])
        key = tuple(
            value if value in seen or len(seen) < self._max_values else OTHER
            for value, seen in zip(key, values, strict=True)
        )
        if key in keys:
            return key
        if len(keys) >= self._max_series:
            return (OTHER,) * len(key)
        self._enter(day, family, key)
        self._new.setdefault(day, {}).setdefault(family, []).append(key)
        return key

    def seal(self, epoch: int, horizon: float) -> list[Admitted]:
        """End an epoch: return its admissions, and forget the days that end before ``horizon`` (Unix seconds)."""
        new = [Admitted(epoch, day, keys) for day, keys in self._new.items()]
        self._new = {}
        for day in [day for day in self._days if (day + 1) * DAY <= horizon]:
            del self._days[day]
        return new

    def _enter(self, day: int, family: str, key: tuple[str, ...]) -> None:
        state = self._days.setdefault(day, _Day())
        state.keys.setdefault(family, set()).add(key)
        for seen, value in zip(state.values.setdefault(family, [set() for _ in key]), key, strict=True):
            if value != OTHER:
                seen.add(value)
