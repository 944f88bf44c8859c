"""What goes into the first stage besides its log, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import msgspec

from tidegauge.errors import InvalidEventError
from tidegauge.schemas.codec import Codec, Refused
from tidegauge.schemas.pane import PaneBatch

from .cardinality import Admitted


class Record(Protocol):
    """A Kafka record as the first stage needs it: ``timestamp`` is the append time in milliseconds."""

    offset: int
    timestamp: int
    value: bytes | None


@dataclass(frozen=True)
class IngestConfig:
    """What all workers of a group must agree on; times in seconds. See ``tidegauge.settings.Worker``."""

    allowed_lateness: float = 7_200.0
    future_tolerance: float = 300.0
    epoch_events: int = 131_072
    epoch_seconds: float = 600.0
    max_series: int = 10_000
    max_dimension_values: int = 2_000

    @classmethod
    def of(cls, worker: object) -> IngestConfig:
        """Those of the settings of workers, where they have the same names."""
        return cls(**{field.name: getattr(worker, field.name) for field in fields(cls)})


class Checkpoint(msgspec.Struct, frozen=True):
    """Where to begin again, and what the log before that decided.

    ``previous`` and ``epoch`` are the first offsets of the previous and the current epoch, ``watermark`` the
    greatest event time before ``epoch``, ``last`` the last offset whose snapshots and dead letters are known to
    have been delivered (-1: none).
    """

    previous: int = 0
    epoch: int = 0
    watermark: float = 0.0
    last: int = -1


@dataclass(frozen=True)
class Letter:
    """A refused event for the dead letter topic, with the offset of its record."""

    offset: int
    refused: Refused


class Outbox(msgspec.Struct):
    """What must be delivered, in this order, before ``checkpoint`` may be stored.

    ``forgotten`` names the (epoch, day) of stored admissions that may be deleted after that.
    """

    batches: list[PaneBatch]
    letters: list[Letter]
    admitted: list[Admitted]
    checkpoint: Checkpoint
    forgotten: list[tuple[int, int]] = []


def part(
    codec: Codec[Any],
    message: bytes,
    found: tuple[Sequence[Any], list[Refused]],
    wrong: Callable[[int, Any], bool],
    error: InvalidEventError,
) -> tuple[list[Any], list[Refused]]:
    """Refuse some more events of a message.

    Args:
        codec: that decoded it.
        message: its bytes.
        found: what the codec gave of it.
        wrong: tells of a good event, by its place in the message, whether it is to be refused.
        error: why.
    """
    events, refused = found
    gone = {refusal.index for refusal in refused}
    raws = codec.split(message)
    good: list[Any] = []
    places = (place for place in range(len(events) + len(gone)) if place not in gone)
    for place, event in zip(places, events, strict=False):
        if not wrong(place, event):
            good.append(event)
        elif raws is None:
            refused.append(Refused(None, error, message))
        else:
            refused.append(Refused(place, error, raws[place]))
    return good, refused
