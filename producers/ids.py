"""Event ids, and the partition that an id belongs to."""

from __future__ import annotations

import os
import random
import time
import zlib

_random = random.Random()


def _reseed() -> None:
    # A forked child starts with its parent's generator and would repeat its ids. The application may seed the
    # module-level generator as it likes: this one is ours.
    _random.seed(os.urandom(32))


_reseed()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reseed)


def new_event_id() -> str:
    """A new id: a UUID of version 7 (RFC 9562, section 5.7) in 32 hexadecimal digits.

    Ids sort by the millisecond they were made in; the other 74 bits are random. Safe in threads and after a
    fork.
    """
    bits = _random.getrandbits(74)
    high = (time.time_ns() // 1_000_000 << 16) | 0x7000 | (bits >> 62)
    low = 0x8000_0000_0000_0000 | (bits & 0x3FFF_FFFF_FFFF_FFFF)
    return f"{high:016x}{low:016x}"


def partition_for(event_id: str, partitions: int) -> int:
    """The partition of an event, 0 … ``partitions`` − 1: the CRC-32 of the id's UTF-8 bytes, modulo.

    Every producer of events must use it, so that a second sending of an event meets the first.
    """
    return zlib.crc32(event_id.encode("utf-8", "surrogatepass")) % partitions
