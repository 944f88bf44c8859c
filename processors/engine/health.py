"""How a worker is: what its watchdog sees, whether it is live and ready, and its own figures.

*Live* means that starting again would not help; *ready* that figures come as they should. A server that is away makes
a worker unready and never unhealthy: an orchestrator that restarted it would bring nothing back, and lose the state
that it holds in memory. Texts here name topics, offsets and settings, and hold nothing of events.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from os import getpid
from time import monotonic, time
from typing import Any, Final

from faust.types import TP
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from tidegauge.processors.core.progress import Partition, Standing, Watchdog, total_lag
from tidegauge.settings import Settings
from tidegauge.sinks.base import Point

from .ingesting import Ingesting
from .merging import Merging

MEASUREMENT: Final = "pipeline"


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
        # Workers of one machine must not write each other's points, nor a restart a series of its own.
        port = self._bounds.web_port
        self._worker = f"{socket.gethostname()}:{port or getpid()}"

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
                try:
                    end = self._app.consumer.highwater(tp) if tp in assigned else None
                except AssertionError:  # aiokafka's answer where it has just become somebody else's
                    end = None
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

    def points(self) -> list[Point]:
        """The figures of this moment as points of a series for each partition, and one for the worker."""
        now = int(time())
        marks = {(s.topic, p): mark for s in self._stages for p, mark in s.watermarks().items()}
        points = [
            Point(
                MEASUREMENT,
                {"worker": self._worker, "topic": topic, "partition": str(partition)},
                now,
                {
                    "position": standing.position,
                    "lag_records": standing.lag,
                    "still_seconds": self._watchdog.still((topic, partition)),
                    **({"watermark_seconds": marks[topic, partition]} if (topic, partition) in marks else {}),
                },
            )
            for (topic, partition), standing in self.standings().items()
        ]
        for stage in self._stages:
            if outcomes := stage.outcomes():
                tags = {"worker": self._worker, "topic": stage.topic, "partition": ""}
                points.append(Point(MEASUREMENT, tags, now, {f"events_{n}": v for n, v in outcomes.items()}))
        fields = {
            "ready": int(not self.unready()),
            "checkpoint_age_seconds": self._merging.checkpoint_age(),
            "store_backlog_panes": self._merging.backlog,
            "store_points": self._merging.storage.stored,
        }
        tags = {"worker": self._worker, "topic": "", "partition": ""}
        return [*points, Point(MEASUREMENT, tags, now, fields)]

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment for Prometheus."""
        labels = ("topic", "partition")
        events = CounterMetricFamily(
            "tidegauge_events", "Events read by this process, by outcome.", labels=("topic", "outcome")
        )
        marks = GaugeMetricFamily(
            "tidegauge_watermark_seconds", "Greatest event time, in Unix seconds.", labels=labels
        )
        for stage in self._stages:
            for outcome, number in sorted(stage.outcomes().items()):
                events.add_metric((stage.topic, outcome), number)
            for partition, mark in sorted(stage.watermarks().items()):
                marks.add_metric((stage.topic, str(partition)), mark)
        yield from (events, marks)
        lag = GaugeMetricFamily("tidegauge_lag_records", "Records still to be read.", labels=labels)
        position = GaugeMetricFamily("tidegauge_position_offset", "The next offset to read.", labels=labels)
        still = GaugeMetricFamily(
            "tidegauge_still_seconds", "How long a partition with something to read has stood.", labels=labels
        )
        for (topic, partition), standing in sorted(self.standings().items()):
            lag.add_metric((topic, str(partition)), standing.lag)
            position.add_metric((topic, str(partition)), standing.position)
            still.add_metric((topic, str(partition)), self._watchdog.still((topic, partition)))
        yield from (lag, position, still)
        merging = self._merging
        for name, text, value in (
            ("live", "1 unless a restart is called for.", int(not self.ill())),
            ("ready", "1 while figures come as they should.", int(not self.unready())),
            ("checkpoint_age_seconds", "Since all that was taken in was stored.", merging.checkpoint_age()),
            ("store_backlog_panes", "Changed panes that the store has not got.", merging.backlog),
            (
                "store_acknowledged_seconds",
                "When the store last took a write.",
                merging.storage.acknowledged or 0,
            ),
        ):
            yield GaugeMetricFamily(f"tidegauge_{name}", text, value=value)
        yield CounterMetricFamily(
            "tidegauge_store_points", "Points that the store took.", value=merging.storage.stored
        )

    def _connected(self) -> bool:
        consumer = self._app.consumer._thread._consumer
        connections = list(consumer._client._conns.values()) if consumer is not None else []
        return any(connection.connected() for connection in connections)
