"""What happens to emitters when the process ends or forks.

The end has two steps. While the interpreter waits for its threads, new ones may still be started, as a
connection to Kafka needs (since Python 3.12 that is too late in an ``atexit`` function): so emitters are
flushed there. The application's last threads may emit even after that; emitters are closed by ``atexit``.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from typing import Protocol
from weakref import WeakSet


class Living(Protocol):
    """An emitter, as seen from here."""

    def at_exit(self, spent: float, *, last: bool) -> None:
        """The process ends, and has been waiting for emitters for ``spent`` seconds."""

    def after_fork(self) -> object:
        """This is a forked child; returns what must stay alive in it."""


_living: WeakSet[Living] = WeakSet()
_left_behind: list[object] = []
_spent = 0.0


def register(emitter: Living) -> None:
    """Take care of an emitter from now on."""
    _living.add(emitter)


def unregister(emitter: Living) -> None:
    """It has been closed."""
    _living.discard(emitter)


def _flush_all() -> None:
    global _spent
    began = time.monotonic()
    for emitter in list(_living):
        emitter.at_exit(time.monotonic() - began, last=False)
    _spent = time.monotonic() - began


def _close_all() -> None:
    began = time.monotonic() - _spent
    for emitter in list(_living):
        emitter.at_exit(time.monotonic() - began, last=True)


def _after_fork_in_child() -> None:
    global _spent
    _spent = 0.0
    # A Kafka producer that is destroyed in a child waits for a thread, and may close what its parent uses.
    _left_behind.extend(emitter.after_fork() for emitter in list(_living))


atexit.register(_close_all)
# What concurrent.futures hooks into for the same reason; also runs in the children of multiprocessing, which
# end without atexit. It has no public name; without it, only a process that ends right after its first event
# is worse off.
_register_in_threading = getattr(threading, "_register_atexit", None)
if _register_in_threading is not None:
    _register_in_threading(_flush_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
