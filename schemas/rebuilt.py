"""Rebuilt panes: what ``tidegauge rebuild`` recomputed from the sources' logs, and the second stage's answer.

A source's log is parted at the beginning of the epoch that its worker is in. What lies before belongs to epochs
that are sealed, so it can be replaced; that epoch itself goes on, and is taken over in the form in which its worker
publishes it, as a snapshot up to ``last``:

    offsets   ── sealed epochs ───────────┬── the worker's epoch ──┬── later
    share     before: all events          │ current: as counted    │ comes as snapshots, as ever
                                          │ before: the late ones  │
"""

from __future__ import annotations

import msgspec

from .common import SchemaVersion
from .pane import SketchSnapshot


class RebuiltSource(msgspec.Struct, array_like=True, frozen=True):
    """How far a source partition was read.

    Attributes:
        partition: of the batch's topic.
        epoch: first offset of the epoch that its worker was in.
        last: the last offset read.
        closed: panes that end by then (Unix seconds) it changes no more after ``last``.
    """

    partition: int
    epoch: int
    last: int
    closed: float


class RebuiltShare(msgspec.Struct, array_like=True, frozen=True):
    """One source partition's share of a pane; a half without counters is empty."""

    partition: int
    counters: list[int]
    sketches: list[SketchSnapshot]
    current_counters: list[int] = []
    current_sketches: list[SketchSnapshot] = []


class RebuiltPane(msgspec.Struct, array_like=True, frozen=True):
    """One pane of one view: all that the sources' logs hold of it."""

    view: str
    key: tuple[str, ...]
    start: int
    shares: list[RebuiltShare]


class RebuiltBatch(msgspec.Struct, frozen=True, tag="rebuilt", tag_field="type"):
    """Panes of one panes partition, to replace what is held and stored of them.

    Attributes:
        rebuild: names the run of the command, for the answer.
        number: names the batch within it.
        topic: the topic of events that feeds these panes.
        sources: all of its partitions.
        panes: to be replaced.
    """

    rebuild: str
    number: int
    topic: str
    sources: list[RebuiltSource]
    panes: list[RebuiltPane]
    schema_version: SchemaVersion = 1


class RebuiltAnswer(msgspec.Struct, frozen=True, tag="rebuilt_answer", tag_field="type"):
    """All panes of a batch are in the store, but for those at the places ``refused``: a source was ahead of them."""

    rebuild: str
    number: int
    refused: list[int]
    schema_version: SchemaVersion = 1
