"""Pane snapshots: what the first stage says of its part of a time series.

A snapshot is absolute: it holds everything that one source partition's current epoch contributes to one pane, up
to and including the source offset ``last``. Two snapshots of the same (view, key, start, source, epoch) are
versions of one value, and the one with the greater ``last`` replaces the other. Epochs of a source partition
are disjoint stretches of its log, so their contributions add.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .common import SchemaVersion

LARGEST: Final = 2**63 - 1
"""What is greater stands here: all that Kafka's JSON readers and InfluxDB's integers can hold."""


class SketchSnapshot(msgspec.Struct, array_like=True, frozen=True):
    """A log-bucket histogram: ``counts[i]`` values fell into bucket ``buckets[i]``; integers in the field's unit.

    ``zeros`` counts values of 0, which no logarithm reaches. ``minimum`` and ``maximum`` are exact.
    """

    count: int
    total: int
    minimum: int
    maximum: int
    zeros: int
    buckets: list[int]
    counts: list[int]


class PaneSnapshot(msgspec.Struct, array_like=True, frozen=True):
    """One pane of one view: ``counters`` and ``sketches`` stand in the order that the view declares."""

    view: str
    key: tuple[str, ...]
    start: int
    counters: list[int]
    sketches: list[SketchSnapshot]


class PaneBatch(msgspec.Struct, frozen=True, tag="panes", tag_field="type"):
    """Snapshots of one source partition, published together.

    ``epoch`` is the first source offset of the epoch, ``last`` the last one folded in, ``watermark`` the greatest
    event time (Unix seconds) up to which all views' panes have been published with this message; 0: not known.
    """

    topic: str
    partition: int
    epoch: int
    last: int
    watermark: float
    panes: list[PaneSnapshot]
    idle: bool = False
    schema_version: SchemaVersion = 1
