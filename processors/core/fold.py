"""Folding events into base panes, and deriving the other views' panes from what changed."""

from __future__ import annotations

from typing import Final

from tidegauge.schemas.pane import PaneSnapshot
from tidegauge.schemas.request import RequestEvent

from .aggregate import Aggregate
from .cardinality import DAY, Admission
from .pricing import PriceTable
from .sketch import Sketch
from .views import COST_DAILY, GUARDRAILS, INTAKE, REQUESTS, REQUESTS_HOURLY, USERS_DAILY, View

Key = tuple[str, ...]
_NANO = 1_000_000_000
_FED: Final = (REQUESTS, GUARDRAILS, INTAKE, REQUESTS_HOURLY, COST_DAILY, USERS_DAILY)
"""The views that request events feed, in the order of their snapshots."""


class _Cell:
    """What one series gathered in one minute since the last flush."""

    __slots__ = ("aggregate", "guardrails", "key")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.aggregate = REQUESTS.empty()
        self.guardrails: dict[Key, tuple[Key, list[int]]] = {}


class Fold:
    """The panes of one epoch of one source partition.

    Args:
        topic: the source topic, a dimension of the intake view.
        prices: unit prices.
        admission: the cardinality caps.
    """

    def __init__(self, topic: str, prices: PriceTable, admission: Admission) -> None:
        self._topic = topic
        self._unit = prices.unit
        self._admission = admission
        self._cells: dict[int, dict[Key, _Cell]] = {}
        self._users: dict[tuple[int, Key], list[int]] = {}
        self._outcomes: dict[tuple[int, str], int] = {}
        self._totals: dict[str, dict[tuple[int, Key], Aggregate]] = {}
        self._dirty: dict[str, dict[tuple[int, Key], None]] = {}
        self._due: dict[str, float] = {}

    @property
    def pending(self) -> bool:
        """Whether anything changed that no snapshot has shown yet."""
        return bool(self._outcomes or self._cells or any(self._dirty.values()))

    def count(self, append_time: int, outcome: str) -> None:
        """Count one event's outcome at its append time (ms)."""
        key = (append_time // 60_000, outcome)
        self._outcomes[key] = self._outcomes.get(key, 0) + 1

    def add(self, event: RequestEvent) -> None:
        """Fold one event that is valid, in time and no duplicate."""
        time = event.time
        minute = int(time) // 60
        key = (
            event.service,
            event.environment,
            event.team,
            event.provider,
            event.model,
            event.prompt,
            event.prompt_version,
        )
        cells = self._cells.get(minute)
        if cells is None:
            cells = self._cells[minute] = {}
        cell = cells.get(key)
        if cell is None:
            admitted = self._admission.admit("requests", minute // 1440, key)
            cell = cells.get(admitted)
            if cell is None:
                cell = cells[admitted] = _Cell(admitted)
            cells[key] = cell
        c = cell.aggregate.counters
        latency, first_chunk, rate = cell.aggregate.sketches
        c[0] += 1
        if event.error:
            c[1] += 1
        c[2] += event.retries
        inputs, outputs = event.input_tokens or 0, event.output_tokens or 0
        read, creation = event.cache_read_input_tokens, event.cache_creation_input_tokens
        c[3] += inputs
        c[4] += outputs
        if read or creation:
            c[5] += read
            c[6] += creation
            c[7] += event.cache_creation_1h_input_tokens
        c[8] += event.reasoning_output_tokens
        cost, unpriced = self._price(event, inputs, outputs, c)
        duration = event.duration
        if duration is not None:
            latency.add(round(duration * _NANO))
            first = event.time_to_first_chunk
            generating = duration - first if first is not None else duration
            if outputs and generating > 0:
                rate.add(round(outputs * 1000 / generating))
        if event.time_to_first_chunk is not None:
            first_chunk.add(round(event.time_to_first_chunk * _NANO))
        if event.guardrails:
            self._add_guardrails(cell, event, minute // 1440)
        if event.user:
            self._add_user(event, inputs, outputs, cost, unpriced)

    def snapshots(self, now: float) -> list[PaneSnapshot]:
        """Absolute snapshots of the changed panes of the views that are due at ``now`` (seconds)."""
        self._gather()
        panes: list[PaneSnapshot] = []
        for view in _FED:
            due = self._due.get(view.name, 0.0)
            if view.flush_every <= 1.0 or now >= due:
                self._due[view.name] = now + view.flush_every
                panes += self._take(view)
        return panes

    def seal(self) -> list[PaneSnapshot]:
        """Final snapshots of the epoch; forgets its panes."""
        self._gather()
        panes = [pane for view in _FED for pane in self._take(view)]
        self._totals.clear()
        return panes

    def _price(self, event: RequestEvent, inputs: int, outputs: int, c: list[int]) -> tuple[int, bool]:
        if event.cost is not None:
            c[9] += event.cost
            c[14] += 1
            return event.cost, False
        if event.input_tokens is None and event.output_tokens is None:
            if event.error:
                c[15] += 1  # a call that failed before it used anything is known to cost nothing
                return 0, False
            c[17] += 1
            return 0, True
        unit = self._unit(event.provider, event.response_model or event.model, event.time)
        if unit is None and event.response_model:
            unit = self._unit(event.provider, event.model, event.time)
        if unit is None:
            c[17] += 1
            return 0, True
        cost = unit.cost(
            inputs,
            outputs,
            event.cache_read_input_tokens,
            event.cache_creation_input_tokens,
            event.cache_creation_1h_input_tokens,
            event.reasoning_output_tokens,
        )
        c[9] += cost[0]
        c[10] += cost[1]
        c[11] += cost[2]
        c[12] += cost[3]
        c[13] += cost[4]
        c[16 if event.usage_estimated or unit.inferred else 15] += 1
        return cost[0], False

    def _add_guardrails(self, cell: _Cell, event: RequestEvent, day: int) -> None:
        for result in event.guardrails:
            key = (result.name, result.stage, result.action, result.version)
            entry = cell.guardrails.get(key)
            if entry is None:
                # Admitted here and not at the flush: who comes first must be the log's decision.
                admitted = self._admission.admit("guardrails", day, (cell.key[0], *key, *cell.key[4:]))
                entry = cell.guardrails[key] = (admitted, [0, 0, 0, 0, 0])
            counts = entry[1]
            counts[0] += 1
            counts[1] += result.triggered
            counts[2] += result.status == "error"
            counts[3] += result.status == "timeout"
            counts[4] += round((result.duration or 0.0) * _NANO)

    def _add_user(self, event: RequestEvent, inputs: int, outputs: int, cost: int, unpriced: bool) -> None:  # noqa: FBT001
        day = int(event.time) // DAY
        key = self._admission.admit("users", day, (event.service, event.user))
        counts = self._users.get((day, key))
        if counts is None:
            counts = self._users[day, key] = [0, 0, 0, 0, 0]
        counts[0] += 1
        counts[1] += inputs
        counts[2] += outputs
        counts[3] += cost
        counts[4] += unpriced

    def _gather(self) -> None:
        """Merge what came since the last flush into the epoch's panes, view by view."""
        for minute, cells in self._cells.items():
            start = minute * 60
            hour, day = start - start % 3600, start - start % DAY
            for cell in {id(cell): cell for cell in cells.values()}.values():
                self._merge(REQUESTS_HOURLY, hour, cell.key, cell.aggregate)
                self._merge(COST_DAILY, day, cell.key[:5], Aggregate(cell.aggregate.counters, []))
                self._merge(REQUESTS, start, cell.key, cell.aggregate)
                for key, counts in cell.guardrails.values():
                    self._merge(GUARDRAILS, start, key, Aggregate(counts, []))
        for (day, key), counts in self._users.items():
            self._merge(USERS_DAILY, day * DAY, key, Aggregate(counts, []))
        for (minute, outcome), n in self._outcomes.items():
            self._merge(INTAKE, minute * 60, (self._topic, outcome), Aggregate([n], []))
        self._cells = {}
        self._users = {}
        self._outcomes = {}

    def _merge(self, view: View, start: int, key: Key, part: Aggregate) -> None:
        totals = self._totals.setdefault(view.name, {})
        total = totals.get((start, key))
        if total is None:
            total = totals[start, key] = view.empty()
        total.merge(part)
        self._dirty.setdefault(view.name, {})[start, key] = None

    def _take(self, view: View) -> list[PaneSnapshot]:
        dirty = self._dirty.pop(view.name, {})
        totals = self._totals.get(view.name, {})
        panes = []
        for start, key in dirty:
            total = totals[start, key]
            sketches: list[Sketch] = total.sketches
            panes.append(
                PaneSnapshot(view.name, key, start, list(total.counters), [s.snapshot() for s in sketches])
            )
        return panes
