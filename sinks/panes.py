"""Panes as points, and read back from them."""

from __future__ import annotations

import msgspec

from tidegauge.errors import StateError
from tidegauge.processors.core.aggregate import Aggregate
from tidegauge.processors.core.sketch import Sketch
from tidegauge.processors.core.views import Stored, View
from tidegauge.schemas.pane import SketchSnapshot

from .base import Point, Store

_decode_sketch = msgspec.json.Decoder(SketchSnapshot).decode


def points(view: View, start: int, key: tuple[str, ...], aggregate: Aggregate) -> list[Point]:
    """The points of one pane, one for each measurement of its view."""
    tags = dict(zip(view.dimensions, key, strict=True))
    return [
        Point(m.name, tags, start, view.fields(m, aggregate) | view.sketch_fields(m, aggregate))
        for m in view.measurements
    ]


def read_panes(store: Store, view: View, start: int) -> dict[tuple[str, ...], Aggregate]:
    """All panes of a view that begin at ``start``, by key, as far as the view's measurements show them.

    Raises:
        StateError: a point's counters or sketches are missing or damaged.
        SinkUnavailableError: the store does not answer.
    """
    panes: dict[tuple[str, ...], Aggregate] = {}
    for measurement in view.measurements:
        reader = PaneReader(Stored(view, measurement))
        for point in store.read(measurement.name, start, start + 1):
            key = tuple(point.tags.get(name, "") for name in view.dimensions)
            aggregate = panes.get(key)
            if aggregate is None:
                aggregate = panes[key] = view.empty()
            reader.fill(aggregate, point)
    return panes


class PaneReader:
    """Makes aggregates of the points of one measurement."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        view, measurement = stored.view, stored.measurement
        self._counters = [(view.counters.index(name), name) for name in measurement.counters]
        self._sketches = [(view.distributions.index(d), d.name) for d in measurement.distributions]

    def __call__(self, point: Point) -> Aggregate:
        """The aggregate that a point shows."""
        aggregate = self._stored.view.empty()
        self.fill(aggregate, point)
        return aggregate

    def fill(self, aggregate: Aggregate, point: Point) -> None:
        """Set what a point shows in an aggregate of its view.

        Raises:
            StateError: the point's counters or sketches are missing or damaged.
        """
        fields = point.fields
        try:
            for position, name in self._counters:
                # A counter that a pane lacks was added to the view after the pane was stored.
                aggregate.counters[position] = int(fields.get(name, 0))
            for position, name in self._sketches:
                text = fields.get(f"{name}_sketch")
                count = fields.get(f"{name}_count")
                if text is not None:
                    aggregate.sketches[position] = Sketch.restore(_decode_sketch(str(text)))
                if count is not None and count != aggregate.sketches[position].count:
                    raise ValueError(name)
        except (ValueError, msgspec.MsgspecError):
            raise StateError(
                f"the pane of {point.measurement} at {point.time} (Unix seconds) cannot be read:"
                " its counters or sketches are missing or damaged"
            ) from None
