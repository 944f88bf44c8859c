"""What an event costs with 10 to 10,000 series, and how long a restart takes with 10,000 of them.

    python benchmarks/series.py --quick
    python benchmarks/series.py --events 1000000 --minutes 60 --output json

*Cost*: the same number of events of the same size, spread evenly over so many base keys (prompts, above all), all of
them within ``--span`` seconds of event time. The worker finds them loaded; both stages, checkpoints and the SQLite
store are on, and its CPU time counts until the last point is stored. Runs take turns, figures are medians. With many
series a pane holds few events (``events_per_pane``), and what a pane costs, which is sent on, merged, rendered and
stored, comes to weigh on each event: that is what is measured.

*Restart*: the worker has stored ``--minutes`` of history over all of the series and works on live traffic. It is told
to stop (SIGTERM) and started again, then killed (SIGKILL) and started again, while the traffic goes on. Timed are the
seconds from the start of the new process to the first new point in the store, and until the store is less than two
seconds of traffic behind Kafka. In the end every event must have been applied exactly once.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
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
from traffic import Traffic
from workers import (
    Reading,
    Worker,
    WorkersRun,
    fresh,
    print_cores,
    resident_mb,
    run_workers,
    wait_for,
    wait_until_stored,
)

from tidegauge.settings import Kafka, Settings, Topics

SERIES: Final = (10, 100, 1_000, 10_000)
GOAL_RESTART_S: Final = 15.0
BEHIND_S: Final = 2.0
"""A store that is this many seconds of traffic behind Kafka has caught up."""


@dataclass(frozen=True)
class Row:
    """Medians over the rounds."""

    series: int
    events_per_pane: float
    events_per_s: float
    stored_per_s: float
    cpu_us_per_event: float
    cores: dict[str, float]
    rounds: int


@dataclass(frozen=True)
class Restart:
    """One end of the worker and its new beginning; seconds."""

    signal: str
    stop_s: float
    first_point_s: float
    caught_up_s: float
    behind_events: int
    """Events that waited in Kafka when the new process was started."""


def row(series: int, span: float, runs: Sequence[WorkersRun]) -> Row:
    """Medians of runs with so many series within ``span`` seconds of event time."""
    minutes = max(1.0, span / 60)

    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    return Row(
        series=series,
        events_per_pane=round(runs[0].events / series / minutes, 1),
        events_per_s=round(median([run.events / run.seconds for run in runs]), 1),
        stored_per_s=round(median([run.events / run.stored_seconds for run in runs]), 1),
        cpu_us_per_event=round(median([run.cpu_seconds / run.events for run in runs]) * 1e6, 2),
        cores={name: round(median([run.cores[name] for run in runs]), 2) for name in runs[0].cores},
        rounds=len(runs),
    )


def compare(rows: Sequence[Row]) -> dict[str, float]:
    """What the most series cost, as a multiple of the fewest."""
    fewest, most = rows[0], rows[-1]
    return {
        "cpu_most_to_fewest": round(most.cpu_us_per_event / fewest.cpu_us_per_event, 3),
        "events_per_s_most_to_fewest": round(most.events_per_s / fewest.events_per_s, 3),
        "stored_per_s_most_to_fewest": round(most.stored_per_s / fewest.stored_per_s, 3),
    }


def _expect(series: int) -> Callable[[Reading], None]:
    def look(reading: Reading) -> None:
        if (found := reading.series()) != series:
            raise SystemExit(f"the store holds {found} series instead of {series}")

    return look


def costs(broker: Broker, prefix: str, events: int, rounds: int, span: float) -> list[Row]:
    """A row for each number of series."""
    all_settings = {
        series: Settings(kafka=Kafka(broker.servers), topics=Topics(f"{prefix}{series}.", PARTITIONS))
        for series in SERIES
    }
    # Within one minute as far as the span is; an event may be up to 5 s out of place.
    start = float(int(time.time()) // 60 * 60 - 600)
    for series, settings in all_settings.items():
        recreate(settings, [])
        sent = requests(events, start=start, span=span - 5, series=series)
        load(broker.servers, settings.topics.requests, sent)
    runs: dict[int, list[WorkersRun]] = {series: [] for series in SERIES}
    for _ in range(rounds):
        for series, settings in all_settings.items():
            done = run_workers(settings, events, kafka_pid=broker.pid, look=_expect(series))
            runs[series].append(done)
            cost = done.cpu_seconds / events * 1e6
            print(
                f"{series} series: {cost:.1f} µs/event, {events / done.seconds:,.0f} events/s",
                file=sys.stderr,
            )
    return [row(series, span, done) for series, done in runs.items()]


class Backlog:
    """How many events Kafka holds of a topic whose messages are single events."""

    def __init__(self, settings: Settings) -> None:
        self._consumer = KafkaConsumer(bootstrap_servers=settings.kafka.bootstrap_servers)
        self._partitions = [TopicPartition(settings.topics.requests, n) for n in range(PARTITIONS)]

    def events(self) -> int:
        """Events sent so far."""
        return sum(self._consumer.end_offsets(self._partitions).values())

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()


def restarts(broker: Broker, prefix: str, events: int, minutes: int, rate: float) -> dict[str, Any]:
    """Stop and start, then kill and start, a worker with the most series there are."""
    series = SERIES[-1]
    settings = Settings(kafka=Kafka(broker.servers), topics=Topics(f"{prefix}restart.", PARTITIONS))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        own = fresh(settings, folder)
        span = minutes * 60.0
        history = requests(events, start=float(int(time.time()) - span), span=span - 5, series=series)
        load(broker.servers, own.topics.requests, history)
        backlog = Backlog(own)
        stack.callback(backlog.close)
        reading = Reading(own)
        stack.callback(reading.close)
        worker = stack.enter_context(Worker(own, folder, "worker0"))
        wait_until_stored([worker], reading, events)
        traffic = stack.enter_context(Traffic("steady", own, folder, rate, series))
        wait_for([worker], "live points", lambda: reading.applied() >= events + 10 * rate)
        memory = resident_mb(worker.pid)
        done: list[Restart] = []
        for number, signal in enumerate(("SIGTERM", "SIGKILL"), 1):
            began = time.monotonic()
            if signal == "SIGTERM":
                worker.stop()
            else:
                worker.kill()
            stopped = time.monotonic()
            before = reading.applied()
            behind = backlog.events() - before
            started = time.monotonic()
            worker = stack.enter_context(Worker(own, folder, f"worker{number}"))
            wait_for([worker], "a new point", _grown(reading, before), 0.05)
            first = time.monotonic() - started
            wait_for(
                [worker],
                "the worker to catch up",
                lambda: backlog.events() - reading.applied() <= BEHIND_S * rate,
                0.05,
            )
            caught_up = time.monotonic() - started
            done.append(
                Restart(signal, round(stopped - began, 2), round(first, 2), round(caught_up, 2), behind)
            )
            print(f"{signal}: first new point after {first:.1f} s", file=sys.stderr)
        whole = events + traffic.stop_steady().events
        wait_until_stored([worker], reading, whole)
    return {
        "series": series,
        "minutes_of_history": minutes,
        "traffic_events_per_s": rate,
        "worker_memory_mb": memory,
        "runs": [asdict(one) for one in done],
        "goal_first_point_s": GOAL_RESTART_S,
        "goal_met": all(one.first_point_s <= GOAL_RESTART_S for one in done),
    }


def _grown(reading: Reading, known: int) -> Callable[[], bool]:
    return lambda: reading.applied() > known


def print_table(report: dict[str, Any]) -> None:
    """The report for a person."""
    print(f"{'series':>7}{'events/pane':>13}{'events/s':>12}{'stored/s':>12}{'CPU µs/event':>15}")
    for row in report["rows"]:
        print(
            f"{row['series']:>7}{row['events_per_pane']:>13,.1f}{row['events_per_s']:>12,.0f}"
            f"{row['stored_per_s']:>12,.0f}{row['cpu_us_per_event']:>15.1f}"
        )
    print()
    for name, value in report["ratios"].items():
        print(f"{name:30} {value:g}")
    restart = report["restart"]
    print(
        f"\nrestart with {restart['series']:,} series, {restart['minutes_of_history']} minutes of history, "
        f"{restart['traffic_events_per_s']:,.0f} events/s, {restart['worker_memory_mb']:,} MB"
    )
    print(f"{'':9}{'stop':>8}{'first point':>14}{'caught up':>12}{'waiting events':>17}")
    for run in restart["runs"]:
        print(
            f"{run['signal']:9}{run['stop_s']:>6.1f} s{run['first_point_s']:>12.1f} s"
            f"{run['caught_up_s']:>10.1f} s{run['behind_events']:>17,}"
        )
    met = "met" if restart["goal_met"] else "missed"
    print(f"goal first point ≤ {restart['goal_first_point_s']:g} s: {met}")
    print_cores(report["rows"][-1]["cores"])


def main() -> int:
    """Run; exit code 1 with a reason where a figure cannot be had."""
    flags = parser(
        "What an event costs with many series, and how long a restart takes with them.",
        "series.py",
        "one round, about two minutes",
    )
    flags.add_argument("--events", type=positive, metavar="N", help="default 1,000,000; 100,000 with --quick")
    flags.add_argument("--rounds", type=positive, metavar="N", help="default 3; 1 with --quick")
    flags.add_argument(
        "--span", type=positive, metavar="SECONDS", default=60, help="event time of all; default 60"
    )
    flags.add_argument("--minutes", type=positive, metavar="N", help="of history; default 10; 2 with --quick")
    flags.add_argument("--traffic", type=positive, metavar="N", default=1_000, help="events/s; default 1,000")
    arguments = flags.parse_args()
    events = arguments.events or (100_000 if arguments.quick else 1_000_000)
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    minutes = arguments.minutes or (2 if arguments.quick else 10)
    if events < SERIES[-1]:
        flags.error(f"--events: expected at least {SERIES[-1]:,}, one of each series")
    if arguments.span < 10:
        flags.error("--span: expected at least 10 seconds")

    def measure(broker: Broker) -> dict[str, Any]:
        prefix = f"series-{time.time_ns()}."
        with ExitStack() as stack:
            stack.callback(delete_run, broker.servers, prefix)
            rows = costs(broker, prefix, events, rounds, arguments.span)
            restart = restarts(broker, prefix, events, minutes, arguments.traffic)
        return {
            "machine": machine(),
            "events": events,
            "rows": [asdict(one) for one in rows],
            "ratios": compare(rows),
            "restart": restart,
        }

    show(run_on_kafka(arguments.bootstrap_servers, measure), arguments.output, print_table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
