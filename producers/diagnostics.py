"""What the SDK says in the application's log: little, and never a payload."""

from __future__ import annotations

import logging
import time
from typing import Final

logger: Final = logging.getLogger("tidegauge")
INTERVAL: Final = 60.0
"""Seconds between two warnings of one kind."""


class Throttle:
    """Lets one through per kind and interval (seconds)."""

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._last: dict[str, float] = {}

    def allows(self, kind: str) -> bool:
        """Whether it is time for another of this kind."""
        now = time.monotonic()
        last = self._last.get(kind)
        if last is not None and now - last < self._interval:
            return False
        self._last[kind] = now
        return True


_throttle = Throttle()


def warn(kind: str, text: str) -> bool:
    """Log a warning unless one of this kind was logged within the interval; whether it was."""
    if not _throttle.allows(kind):
        return False
    logger.warning("tidegauge: %s", text)
    return True


def internal_error(error: BaseException) -> None:
    """Log a bug of ours: the class and the place, but not the message, which may quote private values."""
    place = "?"
    trace = error.__traceback__
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
        trace = trace.tb_next
    if _throttle.allows(place):
        logger.error(
            "tidegauge: internal error %s in %s; the application is not affected", type(error).__name__, place
        )
