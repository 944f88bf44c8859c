"""Request events as columns: what the fold needs of each, in arrays of numbers.

The events of a batch are let go once their columns are taken: thousands of structs kept alive at once cost twice as
much to make as a few hundred that use the same memory again and again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from tidegauge.schemas.common import NanoUSD, Seconds, Tokens
from tidegauge.schemas.request import RequestEvent

from .pane_table import Integers

NAN: Final = float("nan")
_NANO: Final = 1_000_000_000
_SEPARATOR: Final = "\x1f"
_join: Final = _SEPARATOR.join
MAX_NAMES: Final = 32_768
"""Names of one kind that are remembered between blocks."""

TIME, DURATION, FIRST_CHUNK, INPUT, OUTPUT = range(5)
CACHE_READ, CACHE_CREATION, CACHE_CREATION_1H, REASONING, RETRIES, ESTIMATED, COST = range(5, 12)
_numbers: Final = attrgetter(
    "time",
    "duration",
    "time_to_first_chunk",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_1h_input_tokens",
    "reasoning_output_tokens",
    "retries",
    "usage_estimated",
    "cost",
)
_COLUMNS: Final = 12
_route: Final = attrgetter(
    "service",
    "environment",
    "team",
    "provider",
    "model",
    "prompt",
    "prompt_version",
    "response_model",
)
_user: Final = attrgetter("user")
_check: Final = attrgetter("name", "stage", "action", "version")
_guardrails: Final = attrgetter("guardrails")
_duration: Final = attrgetter("duration")
_triggered: Final = attrgetter("triggered")
_status: Final = attrgetter("status")
_STATUS: Final = {"ok": 0, "error": 1, "timeout": 2}

K = TypeVar("K", bound=Hashable)


class IncomingRequest(RequestEvent, gc=False):
    """A request event with NaN for a number that is absent, as arrays have it; JSON itself cannot say NaN."""

    duration: Seconds | None = NAN
    time_to_first_chunk: Seconds | None = NAN
    input_tokens: Tokens | None = NAN  # type: ignore[assignment]
    output_tokens: Tokens | None = NAN  # type: ignore[assignment]
    cost: NanoUSD | None = NAN  # type: ignore[assignment]


class Names(Generic[K]):
    """Numbers for names, from 0 on, in order of their first appearance."""

    def __init__(self) -> None:
        self._numbers: dict[K, int] = {}
        self._names: list[K] = []

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, number: int) -> K:
        return self._names[number]

    def numbers(self, names: Iterable[K]) -> list[int]:
        """The number of each name."""
        names = list(names)
        return self._complete(names, list(map(self._numbers.get, names)))

    def number(self, name: K) -> int:
        """The number of one name."""
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self._names)
            self._names.append(name)
        return number

    def _complete(self, names: Sequence[K], found: list[Any]) -> list[int]:
        if None in found:
            for i, number in enumerate(found):
                if number is None:
                    found[i] = self.number(names[i])
        return found


class Paths(Names[tuple[str, ...]]):
    """Numbers for tuples of text, which are looked up as one text: a tuple's hash costs twice as much."""

    def __init__(self) -> None:
        super().__init__()
        self._joined: dict[str, int] = {}

    def numbers(self, names: Iterable[tuple[str, ...]]) -> list[int]:
        """The number of each name."""
        names = list(names)
        return self._complete(names, list(map(self._joined.get, map(_join, names))))

    def number(self, name: tuple[str, ...]) -> int:
        """The number of one name."""
        number = super().number(name)
        joined = _join(name)
        if joined.count(_SEPARATOR) == len(name) - 1:  # else another tuple may look the same
            self._joined[joined] = number
        return number


@dataclass(frozen=True)
class Columns:
    """A block of n events, with m guardrail results among them.

    Attributes:
        routes: (n,) numbers of ``RequestColumns.routes``: the base dimensions and the response's model.
        numbers: (n, 12) floats, NaN where absent; the columns are named by this module's constants.
        users: (n,) numbers of ``RequestColumns.users``; 0 is none.
        failed: (f,) positions of the events that failed.
        reported: positions of the events whose cost the provider reported, and these nano-dollars.
        checks: (5, m) position of the event, number of ``RequestColumns.checks`` (name, stage, action and version),
            whether it triggered, whether it failed (1) or came too late (2), nanoseconds.
    """

    routes: Integers
    numbers: npt.NDArray[np.float64]
    users: Integers
    failed: Integers
    reported: Sequence[tuple[int, int]]
    checks: Integers


class RequestColumns:
    """Gathers events, batch by batch, until ``take``."""

    def __init__(self) -> None:
        self._forget()
        self._begin()

    def _forget(self) -> None:
        self.routes = Paths()
        self.checks = Paths()
        self.users: Names[str] = Names()
        self.users.number("")

    def _begin(self) -> None:
        self._routes: list[int] = []
        self._users: list[int] = []
        self._numbers: list[npt.NDArray[np.float64]] = []
        self._failed: list[int] = []
        self._reported: list[tuple[int, int]] = []
        self._checked: list[int] = []
        self._checks: list[int] = []
        self._triggered: list[bool] = []
        self._statuses: list[int] = []
        self._durations: list[float | None] = []

    def __len__(self) -> int:
        return len(self._routes)

    def add(self, events: Sequence[RequestEvent]) -> None:
        """Take the columns of a batch."""
        first = len(self._routes)
        self._routes += self.routes.numbers(map(_route, events))
        self._users += self.users.numbers(map(_user, events))
        numbers = _matrix(events)
        self._numbers.append(numbers)
        self._failed += [i for i, event in enumerate(events, first) if event.error]
        reported = np.flatnonzero(~np.isnan(numbers[:, COST]))
        for i in reported.tolist():
            cost = events[i].cost
            assert cost is not None
            self._reported.append((first + i, cost))
        self._add_checks(events, first)

    def _add_checks(self, events: Sequence[RequestEvent], first: int) -> None:
        results = list(chain.from_iterable(map(_guardrails, events)))
        if not results:
            return
        self._checked += [i for i, event in enumerate(events, first) for _ in event.guardrails]
        self._checks += self.checks.numbers(map(_check, results))
        self._triggered += map(_triggered, results)
        self._statuses += map(_STATUS.__getitem__, map(_status, results))
        self._durations += map(_duration, results)

    def take(self) -> Columns:
        """All that was gathered, at least one event; begins anew."""
        seconds = np.array(self._durations, dtype=np.float64)  # NaN where absent
        nanoseconds = np.rint(np.nan_to_num(seconds) * _NANO).astype(np.int64)
        columns = Columns(
            np.array(self._routes, dtype=np.int64),
            np.concatenate(self._numbers),
            np.array(self._users, dtype=np.int64),
            np.array(self._failed, dtype=np.int64),
            self._reported,
            np.array((self._checked, self._checks, self._triggered, self._statuses, nanoseconds)),
        )
        self._begin()
        return columns

    def forget_many(self) -> bool:
        """Forget all names if there are very many; numbers given out before mean nothing then."""
        if max(len(self.routes), len(self.checks), len(self.users)) < MAX_NAMES:
            return False
        self._forget()
        return True


def _matrix(events: Sequence[RequestEvent]) -> npt.NDArray[np.float64]:
    rows = map(_numbers, events)
    try:
        flat = np.fromiter(chain.from_iterable(rows), np.float64, len(events) * _COLUMNS)
    except TypeError:  # a null, which a producer may write where others leave the field out
        return np.array(list(map(_numbers, events)), dtype=np.float64)
    return flat.reshape(-1, _COLUMNS)
