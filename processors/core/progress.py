"""Whether a worker gets on: partitions with something to read that stand still. The clock is passed in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Partition = tuple[str, int]


@dataclass(frozen=True)
class Standing:
    """How far a partition is.

    Attributes:
        position: the next offset to read.
        end: the offset after the last one that Kafka has, or ``None`` before it has been told.
    """

    position: int
    end: int | None

    @property
    def lag(self) -> int:
        """Records that are still to be read, as far as is known."""
        return max(0, (self.end or 0) - self.position)


@dataclass(frozen=True)
class Stalled:
    """A partition that has something to read, and since when it has not been read on."""

    topic: str
    partition: int
    position: int
    lag: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.topic}/{self.partition} stands at offset {self.position} for {self.seconds:.0f} s"
            f" with {self.lag} records to read"
        )


class Watchdog:
    """Remembers when each partition was last seen to move, or to have nothing to read.

    Time in which a server is known to be away does not count: a restart would not bring it back.
    """

    def __init__(self) -> None:
        self._seen: dict[Partition, tuple[int, float]] = {}
        self._standings: dict[Partition, Standing] = {}
        self._now = 0.0

    def look(self, now: float, standings: Mapping[Partition, Standing], *, waiting: bool = False) -> None:
        """Take in how far all partitions of this worker are; those not named are no longer its own.

        Args:
            now: seconds of a clock that only goes forward.
            standings: by topic and partition.
            waiting: whether what holds us up is known and waited for, such as a server that is away.
        """
        seen = {}
        for name, standing in standings.items():
            before = self._seen.get(name)
            had = self._standings.get(name)
            still = before and before[0] == standing.position and had and had.lag > 0
            seen[name] = before if before and still and not waiting else (standing.position, now)
        self._seen, self._standings, self._now = seen, dict(standings), now

    def still(self, name: Partition) -> float:
        """Seconds that a partition has had something to read and did not move."""
        return self._now - self._seen[name][1] if name in self._seen else 0.0

    def stalled(self, seconds: float) -> list[Stalled]:
        """The partitions that did not move for so long, the one that stands longest first."""
        found = [
            Stalled(*name, standing.position, standing.lag, self.still(name))
            for name, standing in self._standings.items()
            if standing.lag > 0 and self.still(name) >= seconds
        ]
        return sorted(found, key=lambda one: -one.seconds)


def total_lag(standings: Iterable[Standing]) -> int:
    """Records that are still to be read in all of them."""
    return sum(standing.lag for standing in standings)
