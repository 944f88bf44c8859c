"""Workers in processes of their own, what they use, and what is in their store."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from support import TIMEOUT, Measured, own_environment, recreate

from tidegauge.errors import SinkUnavailableError
from tidegauge.settings import Settings, StoreSettings
from tidegauge.sinks.base import Store
from tidegauge.sinks.open import open_store

_TIMED_WORKER: Final = Path(__file__).resolve().parent / "timed_worker.py"
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_POLL: Final = 0.1


@dataclass(frozen=True)
class WorkersRun(Measured):
    """One run of one or more workers over a loaded topic.

    Attributes:
        seconds: from the first chunk that any worker fetched to the last event folded.
        stored_seconds: from the same to the moment when all of them were seen in the store, half a second more or
            less.
        cpu_seconds: the workers' time from the same until then.
        cores: what ``Usage.cores`` says of that stretch.
        shares: events folded by each worker.
    """

    stored_seconds: float
    cores: dict[str, float]
    shares: tuple[int, ...]


class Clock(msgspec.Struct, frozen=True):
    """What ``timed_worker.py`` writes: monotonic seconds of the first chunk and of the end of the last, the CPU
    seconds that its process had used before the first, and the events folded (0 while it runs)."""

    first: float
    cpu_before: float
    last: float
    applied: int


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads, from ``/proc``."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mb(pid: int) -> int:
    """Memory of a process, in MB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def machine_cpu_seconds() -> float:
    """Time that the cores have spent on anything but waiting, since the machine was started."""
    user, nice, system, _, _, irq, softirq, *_ = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq))) / _TICKS


class Usage:
    """CPU time since it was made, by process.

    Args:
        pids: process ids by name; several processes may share a name's sum. With a ``kafka`` among them, what is
            left of the machine's time is ``others``: programs that have nothing to do with the measurement.
    """

    def __init__(self, pids: Mapping[str, Sequence[int]]) -> None:
        self._pids = pids
        self._began = time.monotonic()
        self._before = self._now()

    def cores(self) -> dict[str, float]:
        """Cores used on average, by name; ``benchmark`` is the measuring process itself."""
        seconds, now = time.monotonic() - self._began, self._now()
        cores = {name: (now[name] - before) / seconds for name, before in self._before.items()}
        whole = cores.pop("machine")
        if "kafka" in cores:
            cores["others"] = max(0.0, whole - sum(cores.values()))
        return {name: round(value, 2) for name, value in cores.items()}

    def _now(self) -> dict[str, float]:
        now = {name: sum(map(cpu_seconds, pids)) for name, pids in self._pids.items()}
        return now | {"benchmark": time.process_time(), "machine": machine_cpu_seconds()}


def print_cores(cores: Mapping[str, float]) -> None:
    """A line on who used the cores, and a warning where others did."""
    used = ", ".join(f"{name} {value:g}" for name, value in cores.items())
    print(f"cores used, of {os.cpu_count()}: {used}")
    if cores.get("others", 0.0) > 0.2:
        print("other programs were busy: these figures are not this machine's own")


class Reading:
    """The store as a reader sees it, even before the worker has created it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: Store | None = None

    def sums(
        self, measurement: str, field: str, by: str, where: dict[str, str], start: int | None = None
    ) -> dict[str, int]:
        """An integer field's sum over the points with these tags, by a tag; empty where there is no store yet."""
        found: dict[str, int] = {}
        try:
            if self._store is None:
                self._store = open_store(self._settings, readonly=True)
            for point in self._store.read(measurement, start=start, where=where):
                if field not in point.fields:
                    continue  # InfluxDB shows a point while it is being written; the next look sees all of it
                found[point.tags[by]] = found.get(point.tags[by], 0) + int(point.fields[field])
        except SinkUnavailableError:
            self.close()
            return {}
        return found

    def applied(self) -> int:
        """Events applied, as the intake view has them."""
        return self.sums("intake", "events", "outcome", {"outcome": "applied"}).get("applied", 0)

    def requests(self) -> int:
        """Events in the minute panes of all series; reads them all."""
        return sum(self.sums("latency", "requests", "service", {}).values())

    def series(self) -> int:
        """Distinct base keys in the store."""
        if self._store is None:
            self._store = open_store(self._settings, readonly=True)
        return len({tuple(sorted(point.tags.items())) for point in self._store.read("latency")})

    def close(self) -> None:
        """Let go of the store; the next question opens it again."""
        if self._store is not None:
            self._store.close()
            self._store = None


class Worker:
    """One ``tidegauge worker`` in a process of its own, ended with the ``with`` block.

    Args:
        settings: Kafka, topics, group and store.
        folder: its working folder, for its log and clock; several workers may share it.
        name: of these files.
    """

    def __init__(self, settings: Settings, folder: Path, name: str = "worker") -> None:
        self._clock = folder / f"{name}.json"
        self._log = folder / f"{name}.log"
        influxdb = settings.influxdb
        environment = own_environment() | {
            "TIDEGAUGE_INFLUXDB_URL": influxdb.url,
            "TIDEGAUGE_INFLUXDB_ORG": influxdb.org,
            "TIDEGAUGE_INFLUXDB_BUCKET": influxdb.bucket,
            "TIDEGAUGE_INFLUXDB_TOKEN": influxdb.token.reveal(),
        }
        flags = ["--bootstrap-servers", settings.kafka.bootstrap_servers]
        flags += ["--topic-prefix", settings.topics.prefix]
        flags += ["--group", settings.worker.group, "--store", settings.store.url]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(_TIMED_WORKER), str(self._clock), *flags],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pid = self._process.pid

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def clock(self) -> Clock | None:
        """What it has written so far."""
        with suppress(FileNotFoundError):
            return msgspec.json.decode(self._clock.read_bytes(), type=Clock)
        return None

    def check(self) -> None:
        """End the run with the worker's last words if it has ended."""
        if self._process.poll() is not None:
            raise SystemExit(
                f"the worker ended by itself with code {self._process.returncode}:\n{self.last_words()}"
            )

    def last_words(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-2_000:]

    def stop(self) -> None:
        """End it in order; kill it if it does not."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._process.wait()


def fresh(settings: Settings, folder: Path, store: str | None = None) -> Settings:
    """The same topics for a worker that has read nothing yet: its own topics emptied, a new group, a new store."""
    topics = settings.topics
    recreate(settings, [topics.panes, topics.state, topics.deadletter])
    group = msgspec.structs.replace(settings.worker, group=f"{topics.prefix}{time.time_ns()}")
    url = store or f"sqlite:///{folder / 'store.db'}"
    return msgspec.structs.replace(settings, worker=group, store=StoreSettings(url))


def wait_for(workers: Sequence[Worker], what: str, ready: Callable[[], bool], poll: float = _POLL) -> None:
    """Look until it is so; ends the run when a worker ends, or when it takes too long."""
    deadline = time.monotonic() + TIMEOUT
    while not ready():
        for worker in workers:
            worker.check()
        if time.monotonic() > deadline:
            raise SystemExit(
                f"waited {TIMEOUT:g} s in vain for {what}:\n{workers[0].last_words() if workers else ''}"
            )
        time.sleep(poll)


def wait_until_stored(workers: Sequence[Worker], reading: Reading, events: int) -> None:
    """Wait until so many events are in the store, in the intake view and then in the series' own panes too.

    Points of other panes may follow those of the intake view by seconds. To look at all of them costs by series, so
    it is done seldom, and only in the end.

    Raises:
        SystemExit: there are more than were sent.
    """
    wait_for(workers, f"{events} events in the store", lambda: reading.applied() >= events)
    wait_for(workers, "the points of all series", lambda: reading.requests() >= events, 5 * _POLL)
    if (found := {"intake": reading.applied(), "latency": reading.requests()}) != dict.fromkeys(
        found, events
    ):
        raise SystemExit(f"each of {events} events was to be applied once; the store has {found}")


def run_workers(
    settings: Settings,
    events: int,
    count: int = 1,
    kafka_pid: int | None = None,
    look: Callable[[Reading], None] = lambda _: None,
) -> WorkersRun:
    """Let ``count`` fresh workers of one group process the requests topic to its end, into a SQLite store.

    That each event was applied exactly once is checked; ``look`` may check more of what is in the store then.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        own = fresh(settings, Path(name))
        workers = [stack.enter_context(Worker(own, Path(name), f"worker{n}")) for n in range(count)]
        reading = Reading(own)
        stack.callback(reading.close)
        # Each look at this costs nothing, and the processes' times at the beginning must be of that moment.
        wait_for(workers, "the first chunk", lambda: any(w.clock() for w in workers), 0.01)
        pids = {"workers": [worker.pid for worker in workers]}
        usage = Usage(pids | ({"kafka": [kafka_pid]} if kafka_pid else {}))
        wait_until_stored(workers, reading, events)
        stored = time.monotonic()
        cores = usage.cores()
        cpu = [cpu_seconds(worker.pid) for worker in workers]
        for worker in workers:
            worker.stop()
        look(reading)
        clocks = [worker.clock() for worker in workers]
    worked = [(used, clock) for used, clock in zip(cpu, clocks, strict=True) if clock is not None]
    first = min(clock.first for _, clock in worked)
    return WorkersRun(
        events=events,
        seconds=max(clock.last for _, clock in worked) - first,
        cpu_seconds=sum(used - clock.cpu_before for used, clock in worked),
        stored_seconds=stored - first,
        cores=cores,
        shares=tuple(clock.applied if clock else 0 for clock in clocks),
    )
