"""A whole deployment for a test: topics, workers, store, and the commands that a user would run on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tidegauge.errors import SinkUnavailableError
from tidegauge.settings import InfluxDB as InfluxDBSettings
from tidegauge.settings import Settings, load
from tidegauge.sinks.open import open_store
from tidegauge.sinks.query import Row, rows
from tidegauge.topics import ensure_topics

COMMAND = Path(sys.executable).with_name("tidegauge")
DEADLINE = 240.0  # of a busy machine; a wait ends as soon as what it is for has come
QUICK = {
    # Quick flushes and short epochs, so that a kill meets many of both.
    "TIDEGAUGE_WORKER_FLUSH_INTERVAL": "0.2",
    "TIDEGAUGE_WORKER_EPOCH_EVENTS": "1500",
    "TIDEGAUGE_WORKER_SESSION_TIMEOUT": "6",
}


class Worker:
    """A running ``tidegauge worker``."""

    def __init__(
        self, process: subprocess.Popen[bytes], log: Path, seen: Callable[[], object] = lambda: None
    ) -> None:
        self.process = process
        self.log = log
        self._seen = seen

    def wait(self, what: str, reached: Callable[[], bool]) -> None:
        """Wait until something is so; fails with the end of the log when the worker ends or time is up."""
        deadline = time.monotonic() + DEADLINE
        while not reached():
            assert self.process.poll() is None, f"the worker ended while {what} was awaited:\n{self.tail()}"
            assert time.monotonic() < deadline, f"{what}: not after {DEADLINE} s:\n{self.tail()}"
            time.sleep(0.1)

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait(10) == -signal.SIGKILL, self.tail()

    def end(self) -> None:
        """End it in order; it must do so with exit code 0."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.tail()

    def says(self, text: str) -> None:
        """Wait until its log holds a text."""
        self.wait(f"{text!r} in the log", lambda: text in self.log.read_text(errors="replace"))

    def tail(self) -> str:
        """The end of its log, and what the store was last seen to hold."""
        return f"{self.log.read_text(errors='replace')[-3_000:]}\nstored: {self._seen()}"


class Pipeline:
    """Topics of a prefix, and a store: the bucket of ``influxdb``, else a SQLite file in ``directory``.

    Args:
        directory: the working folder of the commands; they find their files there.
        servers: Kafka's ``host:port``.
        prefix: of the topics and the consumer group.
        partitions: of the topics.
        influxdb: the store, where it is not SQLite.
        settings: environment variables over those of ``QUICK``.
    """

    def __init__(
        self,
        directory: Path,
        servers: str,
        prefix: str,
        *,
        partitions: int = 3,
        influxdb: InfluxDBSettings | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.prefix = prefix
        self.group = f"{prefix}workers"
        directory.mkdir(parents=True, exist_ok=True)
        self._settings = {
            **QUICK,
            "TIDEGAUGE_KAFKA_BOOTSTRAP_SERVERS": servers,
            "TIDEGAUGE_TOPICS_PREFIX": prefix,
            "TIDEGAUGE_TOPICS_PARTITIONS": str(partitions),
            "TIDEGAUGE_WORKER_GROUP": self.group,
        }
        if influxdb is None:
            self.store = "sqlite:///store.db"
            self._store = f"sqlite:///{directory / 'store.db'}"
        else:
            self.store = self._store = "influxdb"
            self._settings |= {
                "TIDEGAUGE_INFLUXDB_URL": influxdb.url,
                "TIDEGAUGE_INFLUXDB_ORG": influxdb.org,
                "TIDEGAUGE_INFLUXDB_BUCKET": influxdb.bucket,
                "TIDEGAUGE_INFLUXDB_TOKEN": influxdb.token.reveal(),
            }
        self._settings |= settings or {}
        self._seen: dict[str, object] = {}

    @property
    def settings(self) -> Settings:
        """What the commands find in their environment, for code that runs in the test itself."""
        return load(environ=self._settings)

    def settings_with_store(self) -> Settings:
        """The same with the store, as seen from the test's working folder."""
        return load(environ=self._settings, overrides=self._url())

    def create_topics(self) -> None:
        """Create the topics."""
        ensure_topics(self.settings)

    def run(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a ``tidegauge`` command to its end, whatever that is."""
        return subprocess.run(
            [str(COMMAND), *arguments],
            cwd=self.directory,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def do(self, *arguments: str) -> str:
        """Run a command that must succeed, and return what it printed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def query(self, view: str, *arguments: str) -> list[dict[str, Any]]:
        """What ``tidegauge query VIEW … --output json`` answers."""
        answer = self.do("query", view, "--store", self.store, "--output", "json", *arguments)
        return list(json.loads(answer))

    @contextmanager
    def worker(
        self, name: str = "worker", *flags: str, program: Sequence[str] = (str(COMMAND),)
    ) -> Iterator[Worker]:
        """``tidegauge worker``, killed at the end of the block unless it has ended before.

        Args:
            name: of its log file.
            flags: of the command.
            program: what to run as ``tidegauge``.
        """
        log = self.directory / f"{name}.log"
        command = [*program, "worker", "--store", self.store, *flags]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, cwd=self.directory, env=self._environment(), stdout=output, stderr=output
            )
            try:
                yield Worker(process, log, lambda: self._seen)
            finally:
                process.kill()
                process.wait()

    def rows(self, view: str, **options: Any) -> list[Row]:
        """Rows of the store as it is now, without the second that a command takes to start."""
        try:
            with closing(
                open_store(load(environ=self._settings, overrides=self._url()), readonly=True)
            ) as store:
                return rows(store, view, **options)
        except SinkUnavailableError:
            return []  # a worker makes the file first and its table later

    def intake(self) -> dict[str, int]:
        """Events by outcome, as stored so far."""
        found = {str(row["outcome"]): int(row["events"] or 0) for row in self.rows("intake", by=["outcome"])}
        self._seen["intake"] = found
        return found

    def holds(self, totals: Mapping[str, tuple[str, int]]) -> bool:
        """Whether the store has it all: for each view the sum of a counter.

        The intake alone does not say so: wide panes are sent every ten seconds, and panes of different series go
        different ways.
        """
        for view, (counter, total) in totals.items():
            found = sum(int(row[counter] or 0) for row in self.rows(view))
            self._seen[view] = f"{found} of {total} {counter}"
            if found != total:
                return False
        return True

    def _url(self) -> dict[str, str]:
        return {"store.url": self._store}

    @property
    def environment(self) -> dict[str, str]:
        """What the commands run in."""
        return self._environment()

    def _environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGAUGE_")}
        return clean | self._settings
