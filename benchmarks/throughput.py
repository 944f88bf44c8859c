"""Events per second of the worker, and of what it may be compared with, on a real Kafka in one interleaved run.

    python benchmarks/throughput.py --quick
    python benchmarks/throughput.py --bootstrap-servers 127.0.0.1:9092 --output json

- ``ceiling``: aiokafka's ``getmany`` and msgspec's decoder alone.
- ``hand_written``: the first stage's work in a plain aiokafka loop; nothing is sent on, stored or checkpointed.
- ``idiomatic_faust``: a ``faust.Record`` and a windowed ``Table`` that counts per model.
- ``worker_single``, ``worker_arrays``: ``tidegauge worker`` with its SQLite store, both stages and checkpoints, on
  messages of one event and of 100.

All read the same events, loaded beforehand; each runs in a process of its own, one after the other, and the whole
sequence is repeated. Figures are medians over these rounds, ratios are of events per second.

The worker's seconds run from the first chunk it fetched to the last event folded (``timed_worker.py``), its
CPU time goes on until every event is in the store; that each was applied exactly once is checked there.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
from request_generator import requests
from support import (
    PARTITIONS,
    TIMEOUT,
    Broker,
    Measured,
    delete_run,
    load,
    machine,
    parser,
    positive,
    recreate,
    run_on_kafka,
    show,
)
from throughput_roles import ROLES
from workers import run_workers

from tidegauge.settings import Kafka, Settings, Topics

ARRAY = 100


@dataclass(frozen=True)
class Row:
    """Medians over the rounds."""

    name: str
    events_per_s: float
    cpu_us_per_event: float
    events: int
    rounds: int


def run_role(name: str, servers: str, topic: str, events: int) -> Measured:
    """Run one of ``ROLES`` in a process and a folder of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--role", name, "--topic", topic]
    command += ["--bootstrap-servers", servers, "--events", str(events)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=TIMEOUT, cwd=folder
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"events"')]
    if not lines:
        raise SystemExit(f"{name} ended with code {done.returncode} and no figures:\n{done.stderr[-2_000:]}")
    return msgspec.json.decode(lines[0], type=Measured)


def run(servers: str, events: int, faust_events: int, rounds: int) -> dict[str, Any]:
    """All of it: load, then every program once a round."""
    prefix = f"throughput-{time.time_ns()}."
    single = Settings(kafka=Kafka(servers), topics=Topics(f"{prefix}single.", PARTITIONS))
    arrays = Settings(kafka=Kafka(servers), topics=Topics(f"{prefix}arrays.", PARTITIONS))
    results: dict[str, list[Measured]] = {}

    def note(name: str, measured: Measured) -> None:
        results.setdefault(name, []).append(measured)
        print(f"{name}: {measured.events / measured.seconds:,.0f} events/s", file=sys.stderr)

    with ExitStack() as stack:
        stack.callback(delete_run, servers, prefix)
        # The last event's time is now; a start on the second keeps the sizes alike.
        start = float(int(time.time()) - 605)
        for settings, array in ((single, 1), (arrays, ARRAY)):
            recreate(settings, [])
            size = load(servers, settings.topics.requests, requests(events, start=start), array)
        for _ in range(rounds):
            topic = single.topics.requests
            note("ceiling", run_role("ceiling", servers, topic, events))
            note("hand_written", run_role("hand_written", servers, topic, events))
            note("worker_single", run_workers(single, events))
            note("worker_arrays", run_workers(arrays, events))
            note("idiomatic_faust", run_role("idiomatic_faust", servers, topic, faust_events))
    rows = [_row(name, runs) for name, runs in results.items()]
    rate = {row.name: row.events_per_s for row in rows}
    own = rate["worker_single"]
    return {
        "machine": machine(),
        "events": events,
        "bytes_per_event": round(size),
        "rows": [asdict(row) for row in rows],
        "ratios": {
            "of_ceiling": round(own / rate["ceiling"], 3),
            "of_hand_written": round(own / rate["hand_written"], 3),
            "of_idiomatic_faust": round(own / rate["idiomatic_faust"], 2),
            "arrays_to_single": round(rate["worker_arrays"] / own, 3),
        },
    }


def _row(name: str, runs: Sequence[Measured]) -> Row:
    return Row(
        name,
        round(statistics.median(r.events / r.seconds for r in runs), 1),
        round(statistics.median(r.cpu_seconds / r.events * 1e6 for r in runs), 2),
        round(statistics.median(r.events for r in runs)),
        len(runs),
    )


def print_table(report: dict[str, Any]) -> None:
    """The rows, then the worker's ratios on single-event messages."""
    print(f"{'':18}{'events/s':>12}{'CPU µs/event':>15}{'events timed':>15}")
    for row in report["rows"]:
        print(
            f"{row['name']:18}{row['events_per_s']:>12,.0f}{row['cpu_us_per_event']:>15.1f}{row['events']:>15,}"
        )
    print()
    for name, value in report["ratios"].items():
        print(f"{name:20} {value:g}")


def main() -> int:
    """Run; exit code 1 with a reason where a figure cannot be had."""
    flags = parser(
        "Events per second of the worker and of what it may be compared with.",
        "throughput.py",
        "one round, about a minute",
    )
    flags.add_argument("--events", type=positive, metavar="N", help="default 1,000,000; 250,000 with --quick")
    flags.add_argument("--role", choices=ROLES, help=SUPPRESS)
    flags.add_argument("--topic", help=SUPPRESS)
    arguments = flags.parse_args()
    if arguments.role:
        sys.argv = sys.argv[:1]  # Faust reads the command line, too
        ROLES[arguments.role](arguments.bootstrap_servers, arguments.topic, PARTITIONS, arguments.events)
        return 0
    events = arguments.events or (250_000 if arguments.quick else 1_000_000)
    faust_events, rounds = (15_000, 1) if arguments.quick else (50_000, 3)

    def measure(broker: Broker) -> dict[str, Any]:
        return run(broker.servers, events, min(faust_events, events - 1), rounds)

    show(run_on_kafka(arguments.bootstrap_servers, measure), arguments.output, print_table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
