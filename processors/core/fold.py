"""Folding request events into base panes, and deriving the other views' panes from what changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from tidegauge.schemas.pane import PaneSnapshot
from tidegauge.schemas.request import RequestEvent

from . import request_columns as columns
from .cardinality import DAY, Admission
from .pane_table import Flags, Integers, PaneTable, group
from .pricing import PriceTable, UnitPrice
from .request_columns import Columns, RequestColumns
from .sketch import MAX_VALUE
from .views import (
    BASE_DIMENSIONS,
    COARSER,
    GUARDRAILS,
    INTAKE,
    REQUEST_COUNTERS,
    REQUESTS,
    USERS_DAILY,
)

_FED: Final = (REQUESTS, GUARDRAILS, INTAKE, *COARSER, USERS_DAILY)
"""The views that request events feed, in the order of their snapshots."""

_KEPT: Final = [[BASE_DIMENSIONS.index(name) for name in view.dimensions] for view in COARSER]
"""Where the dimensions of each coarser view stand among the base view's."""

_BLOCK: Final = 16_384
"""Events that are summed at once: numpy's calls then cost next to nothing by the event."""
_MINUTE_BITS: Final = 27
_NANO: Final = 1_000_000_000
_TOKENS: Final = (
    columns.INPUT,
    columns.OUTPUT,
    columns.CACHE_READ,
    columns.CACHE_CREATION,
    columns.CACHE_CREATION_1H,
    columns.REASONING,
)
_AT: Final = {name: position for position, name in enumerate(REQUEST_COUNTERS)}
_COSTS: Final = np.array(
    [
        _AT[name]
        for name in (
            "cost_nano_usd",
            "input_cost_nano_usd",
            "output_cost_nano_usd",
            "cache_read_cost_nano_usd",
            "cache_creation_cost_nano_usd",
        )
    ]
)
_COST: Final = _AT["cost_nano_usd"]
_UNPRICED: Final = _AT["unpriced_requests"]
_USER_COUNTERS: Final = np.array([_AT[name] for name in USERS_DAILY.counters])


class _Series:
    """Where the events of one route and minute go: rows of the base view and of those derived, and the price."""

    __slots__ = ("row", "unit")

    def __init__(self, row: int, unit: UnitPrice | None) -> None:
        self.row = row
        self.unit = unit


class Fold:
    """The panes of one epoch of one source partition.

    Args:
        topic: the source topic, a dimension of the intake view.
        prices: unit prices.
        admission: the cardinality caps.
    """

    def __init__(self, topic: str, prices: PriceTable, admission: Admission) -> None:
        self._topic = topic
        self._prices = prices
        self._admission = admission
        self._events = RequestColumns()
        self._outcomes: Counter[tuple[int, str]] = Counter()
        self._due: dict[str, float] = {}
        self._open()

    def _open(self) -> None:
        self._tables = {view.name: PaneTable(view) for view in _FED}
        self._series: dict[int, _Series] = {}
        self._derived: dict[int, list[int]] = {}
        self._users: dict[int, int] = {}
        self._checks: dict[int, int] = {}
        self._services: columns.Names[str] = columns.Names()

    @property
    def pending(self) -> bool:
        """Whether anything changed that no snapshot has shown yet."""
        return bool(self._outcomes) or len(self._events) > 0 or any(t.pending for t in self._tables.values())

    def count(self, append_time: int, outcome: str, events: int = 1) -> None:
        """Count the outcome of some events with one append time (ms)."""
        self._outcomes[append_time // 60_000, outcome] += events

    def add(self, events: Sequence[RequestEvent]) -> None:
        """Fold events that are valid, in time and no duplicates, in the order of the log."""
        self._events.add(events)
        if len(self._events) >= _BLOCK:
            self._gather()

    def snapshots(self, now: float) -> list[PaneSnapshot]:
        """Absolute snapshots of the changed panes of the views that are due at ``now`` (seconds)."""
        self._gather()
        panes: list[PaneSnapshot] = []
        for view in _FED:
            if view.flush_every <= 1.0 or now >= self._due.get(view.name, 0.0):
                self._due[view.name] = now + view.flush_every
                panes += self._tables[view.name].take()
        return panes

    def seal(self) -> list[PaneSnapshot]:
        """Final snapshots of the epoch; forgets its panes."""
        self._gather()
        panes = [pane for view in _FED for pane in self._tables[view.name].take()]
        self._open()
        return panes

    def _gather(self) -> None:
        """Sum what came since the last time into the epoch's panes, view by view."""
        if self._outcomes:
            self._add_outcomes()
        if not len(self._events):
            return
        block = self._events.take()
        minutes = block.numbers[:, columns.TIME].astype(np.int64) // 60
        found, each = self._find_series(block.routes << _MINUTE_BITS | minutes)
        counters, large = self._count(block, found, each)
        own = np.array([series.row for series in found], dtype=np.int64)
        rows = own[each]
        self._add_requests(block, own, each, counters)
        if block.checks.size:
            self._add_checks(block, rows)
        users, theirs = self._add_users(block, minutes // (DAY // 60), counters)
        for event, costs in large:
            self._add_large(int(rows[event]), theirs[users == event].tolist(), costs)
        if self._events.forget_many():
            self._series, self._users, self._checks = {}, {}, {}
            self._services = columns.Names()

    def _find_series(self, names: Integers) -> tuple[list[_Series], Integers]:
        """The series among ``names`` (route and minute), and which of them each event belongs to."""
        distinct, first, each = np.unique(names, return_index=True, return_inverse=True)
        keys = distinct.tolist()
        # In order of first appearance: whom the caps admit is the log's decision.
        for i in np.argsort(first).tolist():
            if keys[i] not in self._series:
                self._series[keys[i]] = self._new_series(keys[i])
        return [self._series[key] for key in keys], each

    def _new_series(self, name: int) -> _Series:
        *key, response_model = self._events.routes[name >> _MINUTE_BITS]
        start = (name & ((1 << _MINUTE_BITS) - 1)) * 60
        admitted = self._admission.admit("requests", start // DAY, tuple(key))
        row = self._tables[REQUESTS.name].row(start, admitted)
        if row not in self._derived:
            self._derived[row] = [
                self._tables[view.name].row(start - start % view.width, tuple(admitted[i] for i in kept))
                for view, kept in zip(COARSER, _KEPT, strict=True)
            ]
        provider, model = key[3], key[4]
        unit = self._prices.unit(provider, response_model or model, start)
        if unit is None and response_model:
            unit = self._prices.unit(provider, model, start)
        return _Series(row, unit)

    def _count(
        self, block: Columns, found: Sequence[_Series], each: Integers
    ) -> tuple[Integers, list[tuple[int, list[int]]]]:
        """The counters of each event, and the costs that 64 bits may not hold, with the event's position."""
        events = len(block.numbers)
        counters = np.zeros((len(REQUEST_COUNTERS), events), dtype=np.int64)
        known = ~np.isnan(block.numbers[:, [columns.INPUT, columns.OUTPUT]]).all(axis=1)
        tokens = np.nan_to_num(block.numbers[:, _TOKENS]).astype(np.int64)
        failed = np.zeros(events, dtype=np.bool_)
        failed[block.failed] = True
        counters[_AT["requests"]] = 1
        counters[_AT["errors"]] = failed
        counters[_AT["retries"]] = block.numbers[:, columns.RETRIES]
        first = _AT["input_tokens"]
        counters[first : first + len(_TOKENS)] = tokens.T

        reported = np.zeros(events, dtype=np.bool_)
        for event, cost in block.reported:
            reported[event] = True
            counters[_COST, event] = cost
        units = [series.unit for series in found]
        priced = np.array([unit is not None for unit in units])[each] & known & ~reported
        inferred = np.array([unit is not None and unit.inferred for unit in units])[each]
        estimated = priced & (inferred | (block.numbers[:, columns.ESTIMATED] > 0))
        # A call that failed before it used anything is known to cost nothing.
        free = ~known & failed & ~reported
        counters[_AT["provider_reported_requests"]] = reported
        counters[_AT["priced_requests"]] = (priced & ~estimated) | free
        counters[_AT["estimated_requests"]] = estimated
        counters[_UNPRICED] = ~(reported | priced | free)

        large: list[tuple[int, list[int]]] = []
        prices = {id(unit): unit for unit in units if unit is not None}
        number = {identity: i for i, identity in enumerate(prices)}
        which = np.array([number.get(id(unit), -1) for unit in units])[each]
        for i, unit in enumerate(prices.values()):
            mine = np.flatnonzero((which == i) & priced)
            costs = unit.costs(tokens[mine])
            if costs is None:
                large += [(e, list(unit.cost(*tokens[e].tolist()))) for e in mine.tolist()]
            else:
                counters[_COSTS[:, None], mine] = costs.T
        return counters, large

    def _add_requests(self, block: Columns, own: Integers, each: Integers, counters: Integers) -> None:
        base, to = np.unique(own, return_inverse=True)
        groups = group(to[each], len(base), counters, _distributions(block))
        self._tables[REQUESTS.name].add(base, groups)
        derived = np.array([self._derived[row] for row in base.tolist()], dtype=np.int64)
        for view, theirs in zip(COARSER, derived.T, strict=True):
            distinct, to = np.unique(theirs, return_inverse=True)
            self._tables[view.name].add(distinct, groups.regroup(to, len(distinct)))

    def _add_checks(self, block: Columns, rows: Integers) -> None:
        events, checks, triggered, status, nanoseconds = block.checks
        table = self._tables[GUARDRAILS.name]
        requests = self._tables[REQUESTS.name]

        def new(name: int) -> int:
            start, key = requests.name(name >> 31)
            check = self._events.checks[name & 0x7FFF_FFFF]
            wanted = (key[0], *check, *key[4:])
            return table.row(start, self._admission.admit("guardrails", start // DAY, wanted))

        assigned, each = _assign(self._checks, rows[events] << 31 | checks, new)
        counters = np.stack((np.ones_like(checks), triggered, status == 1, status == 2, nanoseconds))
        distinct, to = np.unique(assigned, return_inverse=True)
        table.add(distinct, group(to[each], len(distinct), counters))

    def _add_users(self, block: Columns, days: Integers, counters: Integers) -> tuple[Integers, Integers]:
        """Add to the users' panes; returns the events that have a user, and their rows."""
        there = np.flatnonzero(block.users)
        if not len(there):
            return there, there
        table = self._tables[USERS_DAILY.name]
        routes = block.routes[there]
        distinct, each = np.unique(routes, return_inverse=True)
        services = self._services.numbers(self._events.routes[route][0] for route in distinct.tolist())
        names = np.array(services, dtype=np.int64)[each] << 47 | block.users[there] << 16 | days[there]

        def new(name: int) -> int:
            day = name & 0xFFFF
            wanted = (self._services[name >> 47], self._events.users[name >> 16 & 0x7FFF_FFFF])
            return table.row(day * DAY, self._admission.admit("users", day, wanted))

        assigned, each = _assign(self._users, names, new)
        rows, to = np.unique(assigned, return_inverse=True)
        table.add(rows, group(to[each], len(rows), counters[_USER_COUNTERS[:, None], there]))
        return there, assigned[each]

    def _add_large(self, row: int, users: Sequence[int], costs: Sequence[int]) -> None:
        coarser = list(zip(COARSER, self._derived[row], strict=True))
        for column, cost in zip(_COSTS.tolist(), costs, strict=True):
            for view, theirs in ((REQUESTS, row), *coarser):
                self._tables[view.name].add_exactly(theirs, column, cost)
        for user in users:
            position = USERS_DAILY.counters.index("cost_nano_usd")
            self._tables[USERS_DAILY.name].add_exactly(user, position, costs[0])

    def _add_outcomes(self) -> None:
        table = self._tables[INTAKE.name]
        for (minute, outcome), events in self._outcomes.items():
            table.add_exactly(table.row(minute * 60, (self._topic, outcome)), 0, events)
        self._outcomes.clear()


def _assign(known: dict[int, int], names: Integers, new: Callable[[int], int]) -> tuple[Integers, Integers]:
    """The row of each distinct name, and which of them each of ``names`` is.

    ``new`` is asked for the rows of those not known yet, in order of first appearance.
    """
    distinct, first, each = np.unique(names, return_index=True, return_inverse=True)
    keys = distinct.tolist()
    for i in np.argsort(first).tolist():
        if keys[i] not in known:
            known[keys[i]] = new(keys[i])
    return np.array([known[key] for key in keys], dtype=np.int64), each


def _distributions(block: Columns) -> list[tuple[Integers, Flags]]:
    """Latency (ns), time to first chunk (ns) and output rate (thousandths of a token per second)."""
    duration = block.numbers[:, columns.DURATION]
    first_chunk = block.numbers[:, columns.FIRST_CHUNK]
    outputs = np.nan_to_num(block.numbers[:, columns.OUTPUT])
    generating = duration - np.nan_to_num(first_chunk)
    measurable = (outputs > 0) & (generating > 0)  # neither holds of NaN
    with np.errstate(over="ignore"):
        rate = outputs * 1000 / np.where(measurable, generating, 1.0)
    return [
        (_whole(duration * _NANO), ~np.isnan(duration)),
        (_whole(first_chunk * _NANO), ~np.isnan(first_chunk)),
        (_whole(rate), measurable),
    ]


def _whole(values: npt.NDArray[np.float64]) -> Integers:
    return np.rint(np.minimum(np.nan_to_num(values), float(MAX_VALUE))).astype(np.int64)
