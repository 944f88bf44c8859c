"""What goes into the first stage besides its log, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from tidegauge.schemas.codec import Refused
from tidegauge.schemas.pane import PaneBatch

from .cardinality import Admitted


@dataclass(frozen=True)
class IngestConfig:
    """What all workers of a group must agree on; times in seconds. See ``tidegauge.settings.Worker``."""

    allowed_lateness: float = 7_200.0
    future_tolerance: float = 300.0
    epoch_events: int = 131_072
    epoch_seconds: float = 600.0
    max_series: int = 10_000
    max_dimension_values: int = 2_000


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
