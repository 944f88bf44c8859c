"""``tidegauge demo``: broker, worker, traffic and store on this machine, and a live view of what is measured."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tidegauge.errors import SinkUnavailableError, TidegaugeError, UnavailableError, UsageError
from tidegauge.local_stack import LocalStack
from tidegauge.producers.trace_formats import FORMATS
from tidegauge.settings import Settings, load
from tidegauge.sinks.base import Store
from tidegauge.sinks.local import LocalStore
from tidegauge.sinks.query import Row, rows
from tidegauge.topics import ensure_topics

from .options import positive
from .replay import add_columns, check_trace

DATABASE = "tidegauge.db"
REPLAY_PATIENCE = 120.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--seconds",
        type=positive,
        metavar="N",
        help="end after so long; default at Ctrl-C, or when a replay is stored",
    )
    parser.add_argument(
        "--plain", action="store_true", help="print lines instead of the live view, as into a pipe"
    )
    parser.add_argument(
        "--data",
        default="tidegauge-data",
        metavar="DIR",
        help="for the store and logs; default tidegauge-data",
    )
    parser.add_argument("--replay", metavar="FILE", help="publish this trace instead of made-up traffic")
    parser.add_argument("--format", choices=FORMATS, help="of the trace")
    add_columns(parser)
    parser.add_argument(
        "--rate", type=positive, default=30.0, metavar="R", help="made-up requests per second; default 30"
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    _check(args)
    data = Path(args.data)
    database = data / DATABASE
    with LocalStack(data) as stack:
        if not args.replay:
            _set_aside(database)
        servers = stack.broker()
        # Topics of its own for each run: the broker forgets, the store does not, and progress is read from there.
        prefix = f"demo-{time.time_ns() // 1_000_000}."
        settings = load(environ={}, overrides={"kafka.bootstrap_servers": servers, "topics.prefix": prefix})
        for report in ensure_topics(settings):
            if report.problems and report.state != "ok":
                print(f"{report.name}: {report.problems[0]}")
        worker = stack.tidegauge("worker", "worker", *_kafka(settings), "--store", f"sqlite:///{database}")
        store = _open(stack, database)
        traffic = None
        interrupted = False
        try:
            print("starting: broker, worker and traffic are up in about ten seconds", flush=True)
            traffic = _traffic(stack, args, settings)
            with _view(store, plain=args.plain or not sys.stdout.isatty()) as view:
                if args.replay:
                    _until_stored(stack, store, view, traffic, settings)
                else:
                    _until_told(stack, store, view, settings, args.seconds)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            store.close()
        if traffic is not None:
            stack.stop(traffic)
        stack.stop(worker)  # what is still on its way is stored before we say where
    final = LocalStore(database, readonly=True)
    try:
        _summary(final, data, settings)
    finally:
        final.close()
    if interrupted and args.replay:
        raise TidegaugeError("interrupted: only a part of the trace is stored; run it again for the rest")
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.replay:
        if not args.format:
            raise UsageError(f"--replay: needs --format, one of {', '.join(FORMATS)}")
        check_trace(args.replay, args.format, args.map, args.set)
    elif args.format or args.map or args.set:
        raise UsageError("--format, --map, --set: need --replay")


def _set_aside(database: Path) -> None:
    """Begin a store anew where the old one holds some of today.

    The embedded broker keeps nothing: today's panes, stored as this run alone knows them, would take the place of
    those of a run before. A replay of the same trace makes the same panes, and may.
    """
    if not database.exists():
        return
    store = LocalStore(database, readonly=True)
    try:
        today = int(time.time()) // 86_400 * 86_400
        if not rows(store, "cost_1d", start=today):
            return
    finally:
        store.close()
    aside = database.with_name(f"{database.stem}-{time.strftime('%Y%m%dT%H%M%S')}.db")
    for suffix in ("-wal", "-shm", ""):
        old = database.with_name(database.name + suffix)
        if old.exists():
            old.rename(aside.with_name(aside.name + suffix))
    print(f"what a run before stored today is in {aside} now; this run begins anew")


class View(Protocol):
    """Shows the newest figures."""

    def show(self) -> None:
        """Read the store and show it."""
        ...


class PlainView:
    """One line at a time, of all that is stored."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def show(self) -> None:
        """Print a line."""
        total = _total(rows(self._store, "latency"))
        cost = _total(rows(self._store, "cost"))
        p95 = total.get("latency_p95")
        unpriced = int(cost.get("unpriced_requests") or 0)
        print(
            f"{time.strftime('%H:%M:%S')}  requests {total.get('requests', 0)}"
            f"  errors {total.get('errors', 0)}"
            f"  p95 {f'{float(p95):.2f} s' if p95 is not None else '–'}"
            f"  cost {_dollars(int(cost.get('cost_nano_usd') or 0), unpriced)}",
            flush=True,
        )


@contextmanager
def _view(store: Store, *, plain: bool) -> Iterator[View]:
    if plain:
        yield PlainView(store)
        return
    from rich.live import Live

    from .demo_view import Dashboard

    with Live(auto_refresh=False, transient=True, vertical_overflow="crop") as live:
        dashboard = Dashboard(store)

        class LiveView:
            def show(self) -> None:
                live.update(dashboard.render(*live.console.size), refresh=True)

        yield LiveView()


def _traffic(stack: LocalStack, args: argparse.Namespace, settings: Settings) -> subprocess.Popen[bytes]:
    common = _kafka(settings)
    if args.replay:
        flags = ["--format", args.format, "--speed", "max", "--sort"]
        flags += ["--map", args.map] if args.map else []
        flags += [text for constant in args.set for text in ("--set", constant)]
        return stack.tidegauge("replay", "replay", args.replay, *flags, *common)
    return stack.tidegauge("simulate", "simulate", "--rate", str(args.rate), *common)


def _until_told(
    stack: LocalStack, store: Store, view: View, settings: Settings, seconds: float | None
) -> None:
    while not _handled(store, settings):  # the time asked for begins with the first event that is stored
        stack.check()
        time.sleep(0.2)
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        stack.check()
        view.show()
        time.sleep(1.0)


def _until_stored(
    stack: LocalStack,
    store: Store,
    view: View,
    traffic: subprocess.Popen[bytes],
    settings: Settings,
) -> None:
    while traffic.poll() is None:
        view.show()
        time.sleep(0.5)
    if traffic.returncode:
        log = (stack.folder / "replay.log").read_text(errors="replace").strip().splitlines()
        raise TidegaugeError(log[-1].removeprefix("tidegauge replay: ") if log else "the replay failed")
    published = _records(settings)
    progress, patience = -1, time.monotonic() + REPLAY_PATIENCE
    while (handled := _handled(store, settings)) < published:
        stack.check()
        view.show()
        if handled > progress:
            progress, patience = handled, time.monotonic() + REPLAY_PATIENCE
        elif time.monotonic() > patience:
            raise UnavailableError(f"{handled} of {published} events stored, and no progress")
        time.sleep(0.5)
    view.show()


def _records(settings: Settings) -> int:
    from kafka import TopicPartition

    from tidegauge.broker import consumer

    with consumer(settings.kafka) as client:
        parts = [TopicPartition(settings.topics.requests, p) for p in range(settings.topics.partitions)]
        return sum(client.end_offsets(parts).values())


def _open(stack: LocalStack, database: Path) -> LocalStore:
    deadline = time.monotonic() + 30
    while True:
        stack.check()
        try:
            store = LocalStore(database, readonly=True)
            store.check()
        except SinkUnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return store


def _handled(store: Store, settings: Settings) -> int:
    answer = rows(store, "intake", where={"topic": settings.topics.requests})
    return sum(int(row["events"] or 0) for row in answer)


def _kafka(settings: Settings) -> tuple[str, ...]:
    return (
        "--bootstrap-servers",
        settings.kafka.bootstrap_servers,
        "--topic-prefix",
        settings.topics.prefix,
    )


def _dollars(nano: int, unpriced: int) -> str:
    known = f"${nano / 1e9:.6f}"
    return f"{known} and {unpriced} unpriced" if unpriced and nano else "unpriced" if unpriced else known


def _total(answer: list[Row]) -> Row:
    return answer[0] if answer else {}


def _summary(store: Store, data: Path, settings: Settings) -> None:
    mine = {"topic": settings.topics.requests}
    handled = {
        str(row["outcome"]): row["events"] for row in rows(store, "intake", by=["outcome"], where=mine)
    }
    told = ", ".join(f"{outcome} {events}" for outcome, events in sorted(handled.items()))
    print(f"events: {told or 'none'}")
    print(f"the data are in {data / DATABASE}; ask them with")
    print(f"  tidegauge query latency --data {data} --by model")
    print(f"  tidegauge query cost --data {data} --by model --every 1d")
