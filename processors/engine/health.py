"""How a worker is: what its watchdog sees, whether it is live and ready, and its own figures.

*Live* means that starting again would not help; *ready* that figures come as they should. A server that is away makes
a worker unready and never unhealthy: an orchestrator that restarted it would bring nothing back, and lose the state
that it holds in memory. Texts here name topics, offsets and settings, and hold nothing of events.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import monotonic, time
from typing import Any, Final

from faust.types import TP
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from tidegauge.processors.core.figures import EVENTS_METRIC, FIGURES, MEASUREMENT, OUTCOME
from tidegauge.processors.core.progress import Partition, Standing, Watchdog, total_lag
from tidegauge.settings import Settings
from tidegauge.sinks.base import Point

from .ingesting import Ingesting
from .merging import Merging


class Health:
    """Reads a worker's stages; changes nothing in them.

    Args:
        app: its Faust app.
        settings: bounds.
        ingesting: the first stage, by topic.
        merging: the second stage.
    """

    def __init__(
        self, app: Any, settings: Settings, ingesting: Sequence[Ingesting], merging: Merging
    ) -> None:
        self._app = app
        self._bounds = settings.worker
        self._stages = list(ingesting)
        self._merging = merging
        self._watchdog = Watchdog()

    def look(self) -> None:
        """Let the watchdog see how far the partitions are."""
        self._watchdog.look(monotonic(), self.standings(), waiting=bool(self.waiting()))

    def standings(self) -> dict[Partition, Standing]:
        """How far each partition of this worker is."""
        assigned = self._app.consumer.assignment()
        found = {}
        stages: list[Ingesting | Merging] = [*self._stages, self._merging]
        for stage in stages:
            for partition, position in stage.positions().items():
                tp = TP(stage.topic, partition)
                end = self._app.consumer.end(tp) if tp in assigned else None
                found[stage.topic, partition] = Standing(position, end)
        return found

    def waiting(self) -> str:
        """What is known to hold this worker up, or nothing."""
        if not self._app.placed or self._app.rebalancing:
            return "the partitions are being shared out, or their state is being read"
        if not self._connected():
            return "Kafka: not connected"
        return self._merging.storage.away

    def ill(self) -> str:
        """Why this worker had better start again, or nothing."""
        stalled = self._watchdog.stalled(self._bounds.stalled_after)
        return str(stalled[0]) if stalled else ""

    def lost(self) -> str:
        """Why it must not go on at all, or nothing."""
        stalled = self._watchdog.stalled(2 * self._bounds.stalled_after)
        return str(stalled[0]) if stalled else ""

    def unready(self) -> str:
        """Why figures do not come as they should, or nothing."""
        if reason := self.waiting() or self.ill():
            return reason
        lag = total_lag(self.standings().values())
        if lag > self._bounds.ready_lag:
            return f"{lag} records to be read, more than worker.ready_lag of {self._bounds.ready_lag}"
        return ""

    def points(self, worker: str) -> list[Point]:
        """The figures of this moment as points: of each partition, of each topic, and of the worker.

        Args:
            worker: its name.
        """
        now = int(time())

        def point(fields: dict[str, int | float], topic: str = "", partition: str = "") -> Point:
            return Point(MEASUREMENT, {"worker": worker, "topic": topic, "partition": partition}, now, fields)

        points = []
        for (topic, partition), values in self._of_partitions().items():
            points.append(point(values, topic, str(partition)))
        for stage in self._stages:
            outcomes = stage.outcomes()
            fields: dict[str, int | float] = {f"{OUTCOME}{n}": v for n, v in outcomes.items()}
            fields |= {"events_received": outcomes.total(), "checkpoint_age_seconds": stage.checkpoint_age()}
            points.append(point(fields, stage.topic))
        merging = self._merging
        points.append(point({"checkpoint_age_seconds": merging.checkpoint_age()}, merging.topic))
        return [*points, point(self._of_worker())]

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment for Prometheus."""
        events = CounterMetricFamily(
            EVENTS_METRIC, "Events read by this process, by outcome.", labels=("topic", "outcome")
        )
        age = _family("checkpoint_age_seconds", "topic")
        for stage in self._stages:
            for outcome, number in sorted(stage.outcomes().items()):
                events.add_metric((stage.topic, outcome), number)
            age.add_metric((stage.topic,), stage.checkpoint_age())
        age.add_metric((self._merging.topic,), self._merging.checkpoint_age())
        yield from (events, age)
        families = {name: _family(name, "topic", "partition") for name in _OF_PARTITIONS}
        for (topic, partition), values in sorted(self._of_partitions().items()):
            for name, value in values.items():
                families[name].add_metric((topic, str(partition)), value)
        yield from families.values()
        for name, value in self._of_worker().items():
            family = _family(name)
            family.add_metric((), value)
            yield family

    def _of_partitions(self) -> dict[Partition, dict[str, int | float]]:
        marks = {(s.topic, p): mark for s in self._stages for p, mark in s.watermarks().items()}
        found: dict[Partition, dict[str, int | float]] = {}
        for name, standing in self.standings().items():
            found[name] = {
                "position": standing.position,
                "lag_records": standing.lag,
                "still_seconds": self._watchdog.still(name),
            }
            if name in marks:
                found[name]["watermark_seconds"] = float(marks[name])
        return found

    def _of_worker(self) -> dict[str, int | float]:
        storage = self._merging.storage
        return {
            "ready": int(not self.unready()),
            "live": int(not self.ill()),
            "store_backlog_panes": self._merging.backlog,
            "store_points": storage.stored,
            "store_acknowledged_seconds": float(storage.acknowledged or 0),
            "own_points_refused": storage.own_refused,
            "own_points_missed": storage.own_missed,
        }

    def _connected(self) -> bool:
        consumer = self._app.consumer._thread._consumer
        connections = list(consumer._client._conns.values()) if consumer is not None else []
        return any(connection.connected() for connection in connections)


_OF_PARTITIONS: Final = [figure.name for figure in FIGURES.values() if figure.of == "partition"]


def _family(name: str, *labels: str) -> Any:
    """An empty family of metrics for a figure."""
    figure = FIGURES[name]
    kind = CounterMetricFamily if figure.within == "counter" else GaugeMetricFamily
    return kind(figure.metric, f"{figure.meaning[0].upper()}{figure.meaning[1:]}.", labels=labels)
