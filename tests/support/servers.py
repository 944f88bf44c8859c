"""Real servers for tests, as the scripts of ``deploy/local`` run them, each in a folder of its own.

    kafka.kill(); kafka.start()     # the same data, the same port, ready again when start() returns
    with influxdb.paused(): ...     # it keeps its connections and answers nothing

A server dies with the test run, whatever ends the run: in order at the end of the session and on Ctrl-C, and
by the kernel's parent-death signal when the run itself is killed.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tidegauge.settings import InfluxDB as InfluxDBSettings
from tidegauge.settings import Secret

LOCAL = Path(__file__).parents[2] / "deploy" / "local"
_POLL = 0.05


class ServerError(Exception):
    """A server did not start, or did not end as it should; the text holds the end of its log."""


def missing(script: str, *tools: str) -> str:
    """What keeps this machine from running the server of ``deploy/local/{script}`` with ``tools``, or ``""``."""
    for tool in tools:
        if shutil.which(tool) is None:
            return f"{script}: needs {tool}, which is not there"
    check = subprocess.run([LOCAL / script, "check"], capture_output=True, text=True, timeout=60, check=False)
    return "" if check.returncode == 0 else check.stderr.strip()


def free_port() -> int:
    """A free port of 127.0.0.1, below the range that the kernel gives to outgoing connections.

    Inside that range a client that keeps trying to reach a killed server can be given the server's own port,
    connect to itself, and so keep the server from ever starting again.
    """
    for _ in range(100):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerError("no free port found between 20000 and 32000")


class Server(ABC):
    """One server process; ``start`` may follow ``stop`` and ``kill``, and finds the data of before.

    Args:
        script: the script's name in ``deploy/local``.
        environment: variables for the script.
        end: the signal of an orderly end.
    """

    def __init__(
        self, script: str, environment: Mapping[str, str] | None = None, end: int = signal.SIGTERM
    ) -> None:
        self.port = free_port()
        self.data = Path(tempfile.mkdtemp(prefix=f"tidegauge-{Path(script).stem}-"))
        self.log = self.data / "log"
        self._script = script
        self._environment = dict(environment or {})
        self._end = end
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def start(self, timeout: float = 60.0) -> None:
        """Start it, and return once it serves.

        Raises:
            ServerError: it ended, or was not ready within ``timeout`` seconds.
        """
        assert self._process is None, "the server runs already"
        command = [str(LOCAL / self._script), "run", str(self.data), str(self.port)]
        if shutil.which("setpriv"):
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self._environment,
                start_new_session=True,  # Ctrl-C in the terminal is for the tests, which then end it
            )
        self._stopped = False
        deadline = time.monotonic() + timeout
        try:
            while not self._is_ready():
                if self._process.poll() is not None:
                    raise ServerError(f"{self._script} ended at its start:\n{self._tail()}")
                if time.monotonic() > deadline:
                    raise ServerError(f"{self._script} is not ready after {timeout} s:\n{self._tail()}")
                time.sleep(_POLL)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout: float = 30.0) -> None:
        """End it in order; one that does not end within ``timeout`` seconds is killed and raises."""
        if self._process is None:
            return
        self.resume()
        self._process.send_signal(self._end)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(f"{self._script} did not end within {timeout} s:\n{self._tail()}") from None
        self._process = None

    def kill(self) -> None:
        """End it as a crash does (SIGKILL), and return once it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._stopped = False

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        self._stopped = True
        # The signal is taken up thread by thread; the kernel tells the parent when the last has stopped.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a frozen one go on."""
        if self._stopped:
            os.kill(self.pid, signal.SIGCONT)
            self._stopped = False

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Freeze it for the length of a ``with`` block."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def heal(self) -> None:
        """Have it running, whatever a test did to it."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        if self._process is None:
            self.start()
        self.resume()

    def close(self) -> None:
        """End it and remove its data."""
        try:
            self.stop()
        finally:
            self.kill()
            shutil.rmtree(self.data, ignore_errors=True)

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether it serves."""

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


class Kafka(Server):
    """A single Apache Kafka node."""

    def __init__(self) -> None:
        super().__init__(
            "kafka.sh",
            {"KAFKA_CONTROLLER_PORT": str(free_port()), "KAFKA_PROPERTIES": "log.cleaner.backoff.ms=1000"},
        )

    @property
    def bootstrap_servers(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.port}"

    def _is_ready(self) -> bool:
        return b"Kafka Server started" in self.log.read_bytes()


class InfluxDB(Server):
    """A single InfluxDB 2 with an organisation, a bucket and a token that may do everything."""

    org = "test-org"
    bucket = "test-bucket"
    token = "made-up-token-of-the-tests"

    def __init__(self) -> None:
        super().__init__("influxdb.sh", end=signal.SIGINT)
        self._org_id = ""

    @property
    def url(self) -> str:
        """Base URL for clients."""
        return f"http://127.0.0.1:{self.port}"

    def settings(self, bucket: str | None = None) -> InfluxDBSettings:
        """tidegauge's settings that name this server, with its own bucket unless told another."""
        return InfluxDBSettings(self.url, self.org, bucket or self.bucket, Secret(self.token))

    def create_bucket(self, name: str, retention: int = 0) -> str:
        """Create a bucket that keeps points for ``retention`` seconds (0: for ever) and return its id."""
        rules = [{"type": "expire", "everySeconds": retention}] if retention else []
        body = {"orgID": self._org_id, "name": name, "retentionRules": rules}
        return str(self.call("POST", "/api/v2/buckets", body)["id"])

    def delete_bucket(self, identity: str) -> None:
        """Delete the bucket with this id."""
        self.call("DELETE", f"/api/v2/buckets/{identity}")

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One call of the HTTP API; raises ``urllib.error.HTTPError`` for an answer of 400 and above."""
        request = urllib.request.Request(  # noqa: S310 (the URL is ours)
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Token {self.token}", "Content-Type": "application/json"},
        )
        content = self._open(request)
        return dict(json.loads(content)) if content else {}

    def export(self, bucket: str) -> list[str]:
        """Every field of every point of a bucket as a line of JSON, sorted.

        But for ``intake``, by Kafka's time another one for every replay, and ``pipeline``, of workers themselves.
        By Flux and its CSV, as InfluxDB spells each value: no code of tidegauge's takes part.
        """
        flux = (
            f'from(bucket: "{bucket}") |> range(start: 0, stop: 2100-01-01)'
            ' |> filter(fn: (r) => r._measurement != "intake" and r._measurement != "pipeline")'
            ' |> drop(columns: ["_start", "_stop"])'
        )
        request = urllib.request.Request(  # noqa: S310 (the URL is ours)
            f"{self.url}/api/v2/query?org={self.org}",
            data=json.dumps({"query": flux, "dialect": {"annotations": ["datatype"]}}).encode(),
            headers={"Authorization": f"Token {self.token}", "Content-Type": "application/json"},
        )
        lines: list[str] = []
        types: list[str] = []
        header: list[str] = []
        for row in csv.reader(io.StringIO(self._open(request).decode())):
            if row and row[0] == "#datatype":
                types, header = row, []
            elif row and not header:
                header = row
            elif row:
                cells = zip(header[3:], types[3:], row[3:], strict=True)  # without table numbers
                lines.append(json.dumps(sorted(cells)))
        return sorted(lines)

    def _open(self, request: urllib.request.Request) -> bytes:
        # Without the proxies of the environment, which know nothing of 127.0.0.1.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return bytes(answer.read())

    def start(self, timeout: float = 60.0) -> None:
        """Start it, and set it up when its data are new."""
        super().start(timeout)
        if self.call("GET", "/api/v2/setup")["allowed"]:
            self.call(
                "POST",
                "/api/v2/setup",
                {
                    "username": "admin",
                    "password": self.token,
                    "org": self.org,
                    "bucket": self.bucket,
                    "token": self.token,
                },
            )
        self._org_id = self.call("GET", f"/api/v2/orgs?org={self.org}")["orgs"][0]["id"]

    def _is_ready(self) -> bool:
        try:
            return bool(self.call("GET", "/health")["status"] == "pass")
        except (OSError, urllib.error.URLError):
            return False
