"""What a worker is called in its own figures: the same after every restart, and no two of a machine the same."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_MOST: Final = 1_000


@contextmanager
def own_name(wanted: str = "") -> Iterator[str]:
    """Hold a name for the length of a ``with`` block: ``name``, or ``name/2`` where a worker of this machine has it.

    Held by a socket in Linux's abstract namespace, which has no file that could stay behind or be forged into a link,
    and is free again the moment its process is gone, however it went. Where there is none, the process's number tells
    workers apart.

    Args:
        wanted: the machine's name where empty.
    """
    name = wanted or socket.gethostname()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
        for number in range(1, _MOST):
            candidate = name if number == 1 else f"{name}/{number}"
            try:
                # An abstract name has room for 107 bytes.
                holder.bind(f"\0tidegauge/{candidate}"[:107])
            except OSError:
                continue
            yield candidate
            return
        yield f"{name}/{os.getpid()}"
