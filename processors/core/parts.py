"""What the second stage does with the parts of a pane."""

from __future__ import annotations

from collections.abc import Mapping

from tidegauge.schemas.pane import PaneBatch
from tidegauge.schemas.rebuilt import RebuiltPane, RebuiltSource

from .aggregate import Aggregate
from .shards import PaneState, Part, Source
from .views import View


def part_of(state: PaneState, batch: PaneBatch) -> Part | None:
    """The part of the source that sends a batch."""
    for part in state.parts:
        if part.partition == batch.partition and part.topic == batch.topic:
            return part
    return None


def replace(
    topic: str,
    sources: Mapping[int, RebuiltSource],
    pane: RebuiltPane,
    parts: Mapping[Source, Part],
    view: View,
) -> list[Part]:
    """The parts of a rebuilt pane: what was recomputed, and of each source's epoch the newest snapshot."""
    shares = {share.partition: share for share in pane.shares}
    nothing = view.empty()
    made = []
    for number, source in sources.items():
        part, share = parts.get((topic, number)), shares.get(number)
        if part is None and share is None:
            continue
        # Made even of nothing: what an older epoch sent may still be on its way, and is in what was recomputed.
        new = Part(
            topic,
            number,
            source.epoch,
            source.last,
            list(nothing.counters),
            [sketch.snapshot() for sketch in nothing.sketches],
        )
        if part is not None and (part.epoch, part.last) > (source.epoch, source.last):
            new.last, new.counters, new.sketches = part.last, part.counters, part.sketches
        elif share is not None and share.current_counters:
            new.counters, new.sketches = share.current_counters, share.current_sketches
        if share is not None and share.counters:
            new.sealed_counters, new.sealed_sketches = share.counters, share.sketches
        made.append(new)
    return made


def seal(part: Part) -> None:
    """Add the current epoch to those that ended."""
    if part.sealed_counters:
        total = Aggregate.restore(part.sealed_counters, part.sealed_sketches)
        total.merge(Aggregate.restore(part.counters, part.sketches))
        part.sealed_counters = total.counters
        part.sealed_sketches = [sketch.snapshot() for sketch in total.sketches]
    else:
        part.sealed_counters, part.sealed_sketches = part.counters, part.sketches
