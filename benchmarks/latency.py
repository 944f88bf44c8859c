"""Seconds from an event's emission in the application to its point in the store, with the worker at half load.

    python benchmarks/latency.py --quick
    python benchmarks/latency.py --store influxdb --rate 20000 --output json

First the worker's own maximal rate is measured on a loaded topic (or told by ``--max-rate``). Then steady traffic of
half of it runs through Kafka and ``tidegauge worker`` with both stages, checkpoints and the store, and beside it
*probes*: calls that the SDK's emitter sends, each when it is made. A reader of the store looks again and again at
how many probes of each source partition are there; within a partition they arrive in order, so each one's way is
known.

What is timed is all of it: the emitter's queue and linger, Kafka, the first stage and its flush, the panes topic,
the second stage and its export, the store's commit, and the reader's own look. Points of minutes are meant; those of
hours and days may wait ten seconds longer by design.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
from request_generator import requests
from support import (
    PARTITIONS,
    Broker,
    delete_run,
    load,
    local_influxdb,
    machine,
    parser,
    positive,
    recreate,
    run_on_kafka,
    show,
)
from traffic import PROBE_SERVICE, Traffic
from workers import Reading, Usage, Worker, fresh, print_cores, run_workers, wait_for, wait_until_stored

from tidegauge.settings import Kafka, Settings, Topics

GOAL_P99_S: Final = 2.0
PROBES_PER_SECOND: Final = 20.0
WARM_UP: Final = 5.0
"""Seconds of steady traffic that go before the first probe."""


def percentile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least the share ``q`` of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-q * len(ordered) // 1) - 1)]


def ways(emitted: Sequence[Sequence[float]], seen: Sequence[Sequence[float]]) -> list[float]:
    """Seconds of each probe's way, the n-th seen of a partition being the n-th emitted.

    Raises:
        SystemExit: more or fewer of them were seen than emitted.
    """
    for partition, (out, back) in enumerate(zip(emitted, seen, strict=True)):
        if len(out) != len(back):
            raise SystemExit(f"partition {partition}: {len(out)} probes were emitted and {len(back)} stored")
    return [
        there - start
        for out, back in zip(emitted, seen, strict=True)
        for start, there in zip(out, back, strict=True)
    ]


class Watch:
    """Notes when each probe was first seen in the store."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._start = int(time.time()) // 60 * 60  # the minute of the first probe
        self.seen: list[list[float]] = [[] for _ in range(PARTITIONS)]
        self.looks: list[float] = []
        """Seconds that each look took."""

    def look(self) -> int:
        """Look once; returns how many probes have been seen."""
        began = time.monotonic()
        counts = self._reading.sums(
            "latency", "requests", "prompt", {"service": PROBE_SERVICE}, start=self._start
        )
        now = time.monotonic()
        self.looks.append(now - began)
        for partition, seen in enumerate(self.seen):
            seen += [now] * (counts.get(str(partition), 0) - len(seen))
        return sum(map(len, self.seen))


def max_rate(broker: Broker, prefix: str, events: int) -> float:
    """Events per second of a worker that finds a loaded topic."""
    settings = Settings(kafka=Kafka(broker.servers), topics=Topics(f"{prefix}max.", PARTITIONS))
    recreate(settings, [])
    start = float(int(time.time()) - 605)
    load(broker.servers, settings.topics.requests, requests(events, start=start))
    run = run_workers(settings, events)
    return run.events / run.seconds


def run(
    broker: Broker, store: str, seconds: float, events: int, rate: float | None, load_share: float
) -> dict[str, Any]:
    """Measure the maximal rate where it is not told, then the ways at a share of it."""
    prefix = f"latency-{time.time_ns()}."
    with ExitStack() as stack:
        stack.callback(delete_run, broker.servers, prefix)
        highest = rate or max_rate(broker, prefix, events)
        print(f"maximal rate: {highest:,.0f} events/s", file=sys.stderr)
        settings = Settings(kafka=Kafka(broker.servers), topics=Topics(f"{prefix}live.", PARTITIONS))
        if store == "influxdb":
            settings = msgspec.structs.replace(settings, influxdb=stack.enter_context(local_influxdb()))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        own = fresh(settings, folder, "influxdb" if store == "influxdb" else None)
        return _at_load(own, folder, highest, highest * load_share, seconds, broker.pid) | {"store": store}


def _at_load(
    settings: Settings, folder: Path, highest: float, rate: float, seconds: float, kafka_pid: int | None
) -> dict[str, Any]:
    with Worker(settings, folder) as worker, Traffic("steady", settings, folder, rate) as traffic:
        reading = Reading(settings)
        wait_for([worker], "the first point", lambda: reading.applied() > 0)
        settled = time.monotonic() + WARM_UP
        wait_for([worker], "the end of the warm-up", lambda: time.monotonic() >= settled)
        watch = Watch(reading)
        with Traffic("probes", settings, folder, PROBES_PER_SECOND) as probing:
            pids = {"worker": [worker.pid], "traffic": [traffic.pid, probing.pid]}
            usage = Usage(pids | ({"kafka": [kafka_pid]} if kafka_pid else {}))
            until = time.monotonic() + seconds

            def over() -> bool:
                watch.look()
                return time.monotonic() >= until

            wait_for([worker], "the end", over, 0.02)
            cores = usage.cores()
            probes = probing.stop_probes()
        emitted = sum(map(len, probes.emitted))
        if probes.dropped:
            raise SystemExit(f"the emitter dropped {probes.dropped} of {emitted} probes")
        wait_for([worker], f"{emitted} probes in the store", lambda: watch.look() >= emitted, 0.02)
        steady = traffic.stop_steady()
        whole = steady.events + emitted
        wait_until_stored([worker], reading, whole)
        reading.close()
    if (achieved := steady.events / steady.seconds) < 0.95 * rate:
        raise SystemExit(
            f"only {achieved:,.0f} of {rate:,.0f} events/s could be sent: the machine is too busy, or --load too high"
        )
    found = ways(probes.emitted, watch.seen)
    return {
        "machine": machine(),
        "max_events_per_s": round(highest, 1),
        "load_events_per_s": round(achieved, 1),
        "load_ran_late_s": round(steady.late, 3),
        "probes": len(found),
        "latency_s": summary(found),
        "look_s": round(statistics.mean(watch.looks), 4),
        "cores_used": cores,
        "goal_p99_s": GOAL_P99_S,
        "goal_met": percentile(found, 0.99) <= GOAL_P99_S,
    }


def summary(values: Sequence[float]) -> dict[str, float]:
    """What is reported of the ways."""
    quantiles = {f"p{q}": round(percentile(values, q / 100), 3) for q in (50, 95, 99)}
    return quantiles | {"max": round(max(values), 3)}


def print_table(report: dict[str, Any]) -> None:
    """The report for a person."""
    print(
        f"{report['load_events_per_s']:,.0f} events/s of at most {report['max_events_per_s']:,.0f}, "
        f"store {report['store']}, {report['probes']} probes"
    )
    print("".join(f"{name:>10}" for name in report["latency_s"]))
    print("".join(f"{value:>8.2f} s" for value in report["latency_s"].values()))
    met = "met" if report["goal_met"] else "missed"
    print(f"goal p99 ≤ {report['goal_p99_s']:g} s: {met}; a look at the store takes {report['look_s']:.3f} s")
    print_cores(report["cores_used"])


def main() -> int:
    """Run; exit code 1 with a reason where a figure cannot be had."""
    flags = parser(
        "Seconds from an event's emission to its point in the store.",
        "latency.py",
        "20 s of probes, about a minute in all",
    )
    flags.add_argument(
        "--store", choices=("sqlite", "influxdb"), default="sqlite", help="influxdb: one of its own"
    )
    flags.add_argument(
        "--seconds", type=positive, metavar="N", help="of probes; default 120, 20 with --quick"
    )
    flags.add_argument("--max-rate", type=positive, metavar="N", help="events/s; default: measured first")
    flags.add_argument(
        "--load", type=positive, metavar="PERCENT", default=50, help="of the maximal rate; default 50"
    )
    arguments = flags.parse_args()
    seconds = arguments.seconds or (20 if arguments.quick else 120)
    events = 150_000 if arguments.quick else 500_000

    def measure(broker: Broker) -> dict[str, Any]:
        return run(broker, arguments.store, seconds, events, arguments.max_rate, arguments.load / 100)

    show(run_on_kafka(arguments.bootstrap_servers, measure), arguments.output, print_table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
