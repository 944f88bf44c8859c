"""Progress on standard error: a bar where a person looks on and rich is there, else a line now and then."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import Final

LINE_EVERY: Final = 5.0
_REDRAW_EVERY: Final = 0.1


class Progress:
    """Use as a context manager, and call it with the count so far.

    Args:
        what: is counted, in words.
        total: ``None`` where it is not known.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self._what = what
        self._total = total
        self._stack = ExitStack()
        self._begun = self._told = time.monotonic()
        self._complete = False
        self._bar = _make_bar(what, total, self._stack) if sys.stderr.isatty() else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def __call__(self, count: int) -> None:
        """Tell of the progress."""
        now = time.monotonic()
        last = count == self._total and not self._complete
        if now - self._told < (LINE_EVERY if self._bar is None else _REDRAW_EVERY) and not last:
            return
        self._told, self._complete = now, last
        if self._bar is not None:
            self._bar(count)
            return
        of = f" of {self._total:,}" if self._total is not None else ""
        rate = count / max(now - self._begun, 1e-9)
        print(f"{count:,}{of} {self._what}, {rate:,.0f}/s", file=sys.stderr, flush=True)


class _Bar:
    def __init__(self, what: str, total: int | None, stack: ExitStack) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._progress = stack.enter_context(
            RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
        )
        self._task = self._progress.add_task(what, total=total, rate="")
        self._begun = time.monotonic()

    def __call__(self, count: int) -> None:
        rate = count / max(time.monotonic() - self._begun, 1e-9)
        self._progress.update(self._task, completed=count, rate=f"{rate:,.0f}/s")


def _make_bar(what: str, total: int | None, stack: ExitStack) -> _Bar | None:
    try:
        return _Bar(what, total, stack)
    except ModuleNotFoundError:
        return None  # rich comes with the worker; producers do without
