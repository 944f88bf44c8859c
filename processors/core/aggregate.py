"""What a pane holds: integer counters and sketches, both mergeable in any order."""

from __future__ import annotations

from operator import add

from tidegauge.schemas.pane import LARGEST, SketchSnapshot

from .sketch import Sketch


class Aggregate:
    """Counters and sketches in the order that the pane's view declares."""

    __slots__ = ("counters", "sketches")

    def __init__(self, counters: list[int], sketches: list[Sketch]) -> None:
        self.counters = counters
        self.sketches = sketches

    @classmethod
    def empty(cls, counters: int, sketches: int) -> Aggregate:
        """An aggregate of nothing, with so many counters and sketches."""
        return cls([0] * counters, [Sketch() for _ in range(sketches)])

    @classmethod
    def restore(cls, counters: list[int], sketches: list[SketchSnapshot]) -> Aggregate:
        """The aggregate that a snapshot was taken of."""
        return cls(list(counters), [Sketch.restore(s) for s in sketches])

    def merge(self, other: Aggregate) -> None:
        """Add all that ``other`` holds; both must be of the same view."""
        self.counters = list(map(add, self.counters, other.counters))
        if max(self.counters, default=0) > LARGEST:
            self.counters = [min(counter, LARGEST) for counter in self.counters]
        for mine, theirs in zip(self.sketches, other.sketches, strict=True):
            mine.merge(theirs)
