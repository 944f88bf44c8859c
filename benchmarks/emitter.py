"""What measuring costs the application: time per call in its own thread, with Kafka alive and with Kafka dead.

    python benchmarks/emitter.py --quick

Each row is one way of using the SDK, each figure one call of it, timed by itself; what the clock costs is taken off.
*paced* calls come at a rate an application might have, and *flat out* ones as fast as Python can make them: there the
background thread competes for the interpreter all the time, and the queue may be full. The last columns are the
emitter's own books: nothing is lost that is not counted.
"""

from __future__ import annotations

import socket
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from support import Broker, machine, parser, run_on_kafka, show

from tidegauge.producers import Client, Emitter, new_event_id
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import Settings, load

GOAL_US = 50.0
PACE = 2_000
"""Paced calls per second."""


@dataclass(frozen=True)
class Row:
    """Microseconds per call, and where the events went."""

    broker: str
    what: str
    pace: str
    calls: int
    median_us: float
    p99_us: float
    max_us: float
    cpu_us: float
    accepted: int
    delivered: int
    dropped: dict[str, int]
    balanced: bool


def full_call(client: Client) -> Callable[[], None]:
    """A call with usage and one guardrail, as an application makes it."""

    def once() -> None:
        with client.call(
            provider="openai", model="gpt-5", prompt="answer", prompt_version="7", user="u-1234"
        ) as call:
            call.set_usage(input_tokens=812, output_tokens=143, cache_read_input_tokens=512)
            call.set_response(model="gpt-5-2025-08-07", id="resp_0123456789", finish_reasons=["stop"])
            call.guardrail("pii", stage="output", triggered=False, duration=0.002)

    return once


def bare_emit(emitter: Emitter) -> Callable[[], None]:
    """``emit`` alone, of an event that exists already."""
    event = RequestEvent(
        new_event_id(), time.time(), "svc", "openai", "gpt-5", input_tokens=812, output_tokens=143
    )

    def once() -> None:
        emitter.emit(event)

    return once


def clock_cost() -> float:
    """Seconds that timing nothing takes, in the median."""
    costs = []
    for _ in range(20_000):
        began = time.perf_counter()
        costs.append(time.perf_counter() - began)
    return statistics.median(costs)


def timed(once: Callable[[], None], calls: int, interval: float) -> tuple[list[float], float]:
    """Seconds of each call, and the thread's own CPU seconds of all; one each ``interval`` seconds."""
    costs = [0.0] * calls
    clock = time.perf_counter
    cpu = 0.0
    due = clock()
    for n in range(calls):
        if interval:
            due += interval
            while (left := due - clock()) > 0:
                time.sleep(left)
        cpu_began = time.thread_time() if interval else 0.0
        began = clock()
        once()
        costs[n] = clock() - began
        cpu += time.thread_time() - cpu_began if interval else 0.0
    if not interval:
        cpu_began = time.thread_time()
        for _ in range(calls):
            once()
        cpu = time.thread_time() - cpu_began
    return costs, cpu


def measure(settings: Settings, broker: str, what: str, calls: int, pace: int, clock: float) -> Row:
    """One row, with an emitter of its own; ``pace`` is calls per second, 0 for flat out."""
    emitter = Emitter(settings)
    client = Client(settings, service="bench", emitter=emitter)
    once = full_call(client) if what == "call" else bare_emit(emitter)
    once()
    if broker == "alive":
        emitter.flush(30)
    costs, cpu = timed(once, calls, 1 / pace if pace else 0.0)
    if broker == "alive":
        emitter.flush(60)
    before_close = emitter.stats()
    emitter.close(30 if broker == "alive" else 0.2)
    stats = emitter.stats()
    made = 1 + (calls if pace else 2 * calls)
    costs = sorted(max(0.0, cost - clock) * 1e6 for cost in costs)
    return Row(
        broker=broker,
        what=what,
        pace=f"{pace}/s" if pace else "flat out",
        calls=calls,
        median_us=round(costs[len(costs) // 2], 2),
        p99_us=round(costs[int(len(costs) * 0.99)], 2),
        max_us=round(costs[-1], 2),
        cpu_us=round(cpu / calls * 1e6, 2),
        accepted=stats.accepted,
        delivered=stats.delivered,
        dropped=stats.dropped,
        balanced=all(
            s.accepted == s.delivered + s.dropped_after_accept + s.in_queue + s.in_flight
            for s in (before_close, stats)
        )
        and stats.delivered + sum(stats.dropped.values()) == made,
    )


def dead_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings_for(bootstrap_servers: str, prefix: str) -> Settings:
    """The default settings, but for where Kafka is."""
    return load(environ={}, overrides={"kafka.bootstrap_servers": bootstrap_servers, "topics.prefix": prefix})


def create_topic(settings: Settings) -> KafkaAdminClient:
    """Make the topic; raises ``KafkaError`` where no broker answers."""
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap_servers, bootstrap_timeout_ms=5_000)
    admin.create_topics([NewTopic(settings.topics.requests, settings.topics.partitions, 1)])
    return admin


def run(bootstrap_servers: str, *, quick: bool) -> dict[str, Any]:
    """All rows."""
    flat_out, paced = (20_000, 4_000) if quick else (100_000, 20_000)
    clock = clock_cost()
    plan = [("call", paced, PACE), ("call", flat_out, 0), ("emit", paced, PACE), ("emit", flat_out, 0)]
    alive = settings_for(bootstrap_servers, f"bench-emitter-{new_event_id()}.")
    admin = create_topic(alive)
    try:
        rows = [measure(alive, "alive", what, calls, pace, clock) for what, calls, pace in plan]
    finally:
        admin.delete_topics([alive.topics.requests])
        admin.close()
    dead = settings_for(f"127.0.0.1:{dead_port()}", "bench.")
    rows += [measure(dead, "dead", what, calls, pace, clock) for what, calls, pace in plan]
    return {
        "machine": machine(),
        "clock_us": round(clock * 1e6, 3),
        "queue_size": dead.emitter.queue_size,
        "goal_us": GOAL_US,
        "goal_met": all(max(row.median_us, row.p99_us, row.cpu_us) < GOAL_US for row in rows),
        "rows": [asdict(row) for row in rows],
    }


def print_table(report: dict[str, Any]) -> None:
    """The report for a person."""
    print(
        f"Python {report['machine']['python']}; µs per call in the calling thread (goal < {report['goal_us']:g})"
    )
    print(
        f"{'broker':7}{'what':6}{'pace':>10}{'calls':>9}{'median':>8}{'p99':>8}{'max':>10}{'CPU':>7}"
        f"{'accepted':>10}{'delivered':>10}  dropped"
    )
    for row in report["rows"]:
        dropped = ", ".join(f"{reason} {n}" for reason, n in row["dropped"].items()) or "-"
        print(
            f"{row['broker']:7}{row['what']:6}{row['pace']:>10}{row['calls']:>9}{row['median_us']:>8.2f}"
            f"{row['p99_us']:>8.2f}{row['max_us']:>10.1f}{row['cpu_us']:>7.2f}{row['accepted']:>10}"
            f"{row['delivered']:>10}  {dropped}{'' if row['balanced'] else '  BOOKS DO NOT BALANCE'}"
        )


def main() -> int:
    """Run; exit code 1 if an event is unaccounted for, or with a reason where a figure cannot be had."""
    flags = parser("Cost of the SDK on the calling path.", "emitter.py", "about a quarter of a minute")
    arguments = flags.parse_args()

    def measure(broker: Broker) -> dict[str, Any]:
        return run(broker.servers, quick=arguments.quick)

    report = run_on_kafka(arguments.bootstrap_servers, measure)
    show(report, arguments.output, print_table)
    return 0 if all(row["balanced"] for row in report["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
