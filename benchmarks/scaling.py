"""Two workers of one group against one, on the same loaded topic, in turns.

    python benchmarks/scaling.py --quick
    python benchmarks/scaling.py --events 2000000 --rounds 5 --output json

Workers run as users run them: both stages, checkpoints, and a SQLite store that they share. Each run begins with a
new group and empty topics of the workers' own; the group waits for its members before it shares out the partitions,
so that two begin together. Figures are medians over the rounds.

Workers, Kafka and the store live on one machine here. So beside the ratio stands what the cores allow: with ``c``
cores, and ``u`` CPU seconds an event that two workers and Kafka took together, no more than ``c / u`` events a second
can be had, however many workers there are.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Final

from request_generator import requests
from support import (
    PARTITIONS,
    Broker,
    delete_run,
    load,
    machine,
    parser,
    positive,
    recreate,
    run_on_kafka,
    show,
)
from workers import WorkersRun, print_cores, run_workers

from tidegauge.settings import Kafka, Settings, Topics

GOAL: Final = 1.6
JOINING_TIME: Final = "group.initial.rebalance.delay.ms=4000"
"""Kafka's own default is 3 s; a worker's start takes about that long on a busy machine."""


@dataclass(frozen=True)
class Row:
    """Medians over the rounds, for so many workers."""

    workers: int
    events_per_s: float
    stored_per_s: float
    cpu_us_per_event: float
    kafka_cpu_us_per_event: float | None
    cores: dict[str, float]
    shares: list[float]
    rounds: int


def row(runs: Sequence[WorkersRun]) -> Row:
    """Medians of runs with the same number of workers.

    Raises:
        SystemExit: in one of them a worker had nothing to do, so that it was no run of that many.
    """
    if any(not share for run in runs for share in run.shares):
        raise SystemExit(
            "one worker got no partition, so two were not measured: give the group longer to join"
        )

    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    names = [name for name in runs[0].cores if all(name in run.cores for run in runs)]
    kafka = [run.cores["kafka"] * run.stored_seconds / run.events for run in runs if "kafka" in run.cores]
    return Row(
        workers=len(runs[0].shares),
        events_per_s=round(median([run.events / run.seconds for run in runs]), 1),
        stored_per_s=round(median([run.events / run.stored_seconds for run in runs]), 1),
        cpu_us_per_event=round(median([run.cpu_seconds / run.events for run in runs]) * 1e6, 2),
        kafka_cpu_us_per_event=round(median(kafka) * 1e6, 2) if len(kafka) == len(runs) else None,
        cores={name: round(median([run.cores[name] for run in runs]), 2) for name in names},
        shares=[
            round(median([sorted(run.shares)[n] / run.events for run in runs]), 3)
            for n in range(len(runs[0].shares))
        ],
        rounds=len(runs),
    )


def compare(one: Row, two: Row, cpus: int) -> dict[str, Any]:
    """The ratios, and what limited them."""
    ratio = two.events_per_s / one.events_per_s
    compared: dict[str, Any] = {"two_to_one": round(ratio, 3)}
    compared["stored_two_to_one"] = round(two.stored_per_s / one.stored_per_s, 3)
    if two.kafka_cpu_us_per_event is not None:
        allowed = cpus * 1e6 / (two.cpu_us_per_event + two.kafka_cpu_us_per_event) / one.events_per_s
        compared["cores_allow"] = round(allowed, 3)
        compared["of_what_cores_allow"] = round(ratio / min(allowed, 2.0), 3)
    return compared


def run(broker: Broker, events: int, rounds: int) -> dict[str, Any]:
    """Load once; then one worker and two, in turns."""
    prefix = f"scaling-{time.time_ns()}."
    settings = Settings(kafka=Kafka(broker.servers), topics=Topics(prefix, PARTITIONS))
    runs: dict[int, list[WorkersRun]] = {1: [], 2: []}
    with ExitStack() as stack:
        stack.callback(delete_run, broker.servers, prefix)
        recreate(settings, [])
        start = float(int(time.time()) - 605)
        load(broker.servers, settings.topics.requests, requests(events, start=start))
        for _ in range(rounds):
            for count, done in runs.items():
                done.append(run_workers(settings, events, count, broker.pid))
                rate = events / done[-1].seconds
                print(f"{count} of them: {rate:,.0f} events/s, shares {done[-1].shares}", file=sys.stderr)
    one, two = row(runs[1]), row(runs[2])
    ratios = compare(one, two, os.cpu_count() or 1)
    return {
        "machine": machine(),
        "events": events,
        "rows": [asdict(one), asdict(two)],
        "ratios": ratios,
        "goal": GOAL,
        "goal_met": ratios["two_to_one"] >= min(GOAL, ratios.get("cores_allow", GOAL)),
    }


def print_table(report: dict[str, Any]) -> None:
    """The report for a person."""
    print(f"{'workers':>7}{'events/s':>12}{'stored/s':>12}{'CPU µs/event':>15}{'Kafka µs/event':>17}  shares")
    for row in report["rows"]:
        kafka = row["kafka_cpu_us_per_event"]
        print(
            f"{row['workers']:>7}{row['events_per_s']:>12,.0f}{row['stored_per_s']:>12,.0f}"
            f"{row['cpu_us_per_event']:>15.1f}{'?' if kafka is None else f'{kafka:.1f}':>17}"
            f"  {', '.join(f'{share:.0%}' for share in row['shares'])}"
        )
    print()
    for name, value in report["ratios"].items():
        print(f"{name:20} {value:g}")
    met = "met" if report["goal_met"] else "missed"
    print(f"goal two_to_one ≥ {report['goal']:g}, as far as the cores allow: {met}")
    for row in report["rows"]:
        print(f"{row['workers']}: ", end="")
        print_cores(row["cores"])


def main() -> int:
    """Run; exit code 1 with a reason where a figure cannot be had."""
    flags = parser("Two workers of one group against one.", "scaling.py", "one round, about a minute")
    flags.add_argument("--events", type=positive, metavar="N", help="default 1,000,000; 250,000 with --quick")
    flags.add_argument("--rounds", type=positive, metavar="N", help="default 3; 1 with --quick")
    arguments = flags.parse_args()
    events = arguments.events or (250_000 if arguments.quick else 1_000_000)
    rounds = arguments.rounds or (1 if arguments.quick else 3)

    def measure(broker: Broker) -> dict[str, Any]:
        return run(broker, events, rounds)

    show(run_on_kafka(arguments.bootstrap_servers, measure, JOINING_TIME), arguments.output, print_table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
