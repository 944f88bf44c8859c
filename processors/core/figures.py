"""The pipeline's own figures: what a worker tells of itself, in the store and at ``/metrics``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

MEASUREMENT: Final = "pipeline"
DIMENSIONS: Final = ("worker", "topic", "partition")
OUTCOME: Final = "events_"
"""Begins the fields that count events by what became of them: ``events_applied``, ``events_refused_invalid_json``."""


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: its field in the store.
        metric: its name at ``/metrics``; empty where it is not told there.
        of: whose it is: a tag that does not take part in it is empty.
        within: how the moments of a step become one value. A counter's is what it rose by; it begins at 0 with a
            process.
        across: how the values of several workers, topics or partitions become one.
        unit: of the value.
        meaning: in words, for the reference.
    """

    name: str
    metric: str
    of: Literal["worker", "topic", "partition"]
    within: Literal["counter", "last", "max", "min"]
    across: Literal["sum", "max", "min"]
    unit: str
    meaning: str


FIGURES: Final = {
    figure.name: figure
    for figure in (
        Figure(
            "events_received", "", "topic", "counter", "sum", "", "events read, those read again included"
        ),
        Figure(
            "lag_records", "tidegauge_lag_records", "partition", "last", "sum", "", "records still to read"
        ),
        Figure(
            "position",
            "tidegauge_position_offset",
            "partition",
            "last",
            "max",
            "",
            "the next offset to read; of several partitions the greatest",
        ),
        Figure(
            "still_seconds",
            "tidegauge_still_seconds",
            "partition",
            "max",
            "max",
            "s",
            "how long a partition with something to read has stood",
        ),
        Figure(
            "watermark_seconds",
            "tidegauge_watermark_seconds",
            "partition",
            "last",
            "min",
            "Unix s",
            "greatest event time; of several partitions that of the one farthest behind",
        ),
        Figure(
            "checkpoint_age_seconds",
            "tidegauge_checkpoint_age_seconds",
            "topic",
            "max",
            "max",
            "s",
            "since all that was taken in from the topic was stored; a restart reads about so much again",
        ),
        Figure(
            "ready", "tidegauge_ready", "worker", "min", "min", "0, 1", "1 while figures come as they should"
        ),
        Figure("live", "tidegauge_live", "worker", "min", "min", "0, 1", "1 unless a restart is called for"),
        Figure(
            "store_backlog_panes",
            "tidegauge_store_backlog_panes",
            "worker",
            "last",
            "sum",
            "",
            "changed panes that the store has not got",
        ),
        Figure(
            "store_points",
            "tidegauge_store_points_total",
            "worker",
            "counter",
            "sum",
            "",
            "points that the store took",
        ),
        Figure(
            "store_acknowledged_seconds",
            "tidegauge_store_acknowledged_seconds",
            "worker",
            "last",
            "min",
            "Unix s",
            "when the store last took a write",
        ),
        Figure(
            "own_points_refused",
            "tidegauge_own_points_refused_total",
            "worker",
            "counter",
            "sum",
            "",
            "points of this series that the store refused; the log says why",
        ),
        Figure(
            "own_points_missed",
            "tidegauge_own_points_missed_total",
            "worker",
            "counter",
            "sum",
            "",
            "points of this series that were not stored since the store was away",
        ),
    )
}
"""By name. Besides them there is a field for each outcome of events; see ``OUTCOME``."""

EVENTS_METRIC: Final = "tidegauge_events_total"
"""Counts events by topic and outcome at ``/metrics``."""


def figure(name: str) -> Figure | None:
    """What is known of a field, those of outcomes included."""
    if name in FIGURES or not name.startswith(OUTCOME):
        return FIGURES.get(name)
    what = name.removeprefix(OUTCOME).replace("_", " ")
    return Figure(name, EVENTS_METRIC, "topic", "counter", "sum", "", f"of the events read, those {what}")
