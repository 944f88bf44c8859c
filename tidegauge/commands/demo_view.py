"""The live view of the demo: what is on call's first screen, in whatever room the terminal has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tidegauge.sinks.base import Store
from tidegauge.sinks.query import Row, rows

from .terminal import printable

MINUTES: Final = 60
"""The view is of so many minutes, ending with the newest one stored."""
DAYS: Final = 5
WIDE: Final = 110
"""Columns from which a table shows everything."""

_BARS: Final = "▁▂▃▄▅▆▇█"
_PANEL: Final = 4  # lines of a panel besides its rows: borders, and the table's head with its rule
_DAY: Final = 86_400


class Dashboard:
    """Reads a store, and shows its newest hour.

    Args:
        store: opened for reading.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._since: int | None = None

    def render(self, width: int, height: int) -> RenderableType:
        """What fits into ``width`` columns and ``height`` lines."""
        minutes = {
            int(row["time"] or 0): row for row in rows(self._store, "latency", every=60, start=self._since)
        }
        if not minutes:
            return Panel(Text("waiting for the first events …"), title="tidegauge")
        newest = max(minutes)
        # Before this nothing is looked at again, however long the demo has been running.
        self._since = start = newest - (MINUTES - 1) * 60
        end = newest + 60
        trend = [minutes.get(minute, {}) for minute in range(start, end, 60)]
        latency = rows(self._store, "latency", start=start, end=end, by=["model"])
        cost = rows(self._store, "cost", start=start, end=end, by=["model"])
        below = min(8, max(3, (height - 3) // 2 - _PANEL))
        above = max(2, height - 3 - _PANEL - (below + _PANEL))
        wide = width >= WIDE
        trends = self._trends(start, end)
        return Group(
            _headline(latency, cost, newest, width),
            _throughput(trend, width),
            _models(latency, cost, trends, above, wide=wide),
            Columns(
                [
                    _guardrails(self._guardrails(start, end), below, width // 2, wide=wide),
                    _spending(self._days(), self._users(newest), below, width - width // 2, wide=wide),
                ],
                padding=0,
                expand=False,
            ),
        )

    def _trends(self, start: int, end: int) -> dict[str, list[float | None]]:
        trends: dict[str, list[float | None]] = {}
        for row in rows(self._store, "latency", start=start, end=end, every=60, by=["model"]):
            values = trends.setdefault(str(row["model"]), [None] * MINUTES)
            values[(int(row["time"] or 0) - start) // 60] = _number(row.get("latency_p95"))
        return trends

    def _guardrails(self, start: int, end: int) -> list[Row]:
        found = rows(self._store, "guardrails", start=start, end=end, by=["guardrail", "stage", "action"])
        return sorted(found, key=lambda row: -_count(row, "triggers"))

    def _days(self) -> list[Row]:
        return rows(self._store, "cost_1d", every=_DAY)[-DAYS:][::-1]

    def _users(self, newest: int) -> list[Row]:
        found = rows(self._store, "users", start=newest - newest % _DAY, by=["user"])
        return sorted(found, key=lambda row: -_count(row, "cost_nano_usd"))


def _headline(latency: Sequence[Row], cost: Sequence[Row], newest: int, width: int) -> RenderableType:
    requests = sum(_count(row, "requests") for row in latency)
    errors = sum(_count(row, "errors") for row in latency)
    unpriced = sum(_count(row, "unpriced_requests") for row in cost)
    spent = sum(_count(row, "cost_nano_usd") for row in cost)
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(" tidegauge ", style="bold reverse")
    line.append(f"  {datetime.fromtimestamp(newest, UTC):%Y-%m-%d %H:%M} UTC", style="bold")
    line.append(f"   {requests:,} requests", style="bold cyan")
    line.append(
        f"   {errors / requests if requests else 0:.1%} errors", style="bold red" if errors else "green"
    )
    line.append(f"   {_dollars(spent, unpriced)}", style="bold yellow")
    if unpriced and spent:
        line.append(f" + {unpriced:,} unpriced", style="yellow")
    if width >= WIDE:
        line.append("   last hour", style="dim")
    return line


def _throughput(minutes: Sequence[Row], width: int) -> RenderableType:
    counts: list[float | None] = [_count(row, "requests") or None for row in minutes]
    line = Text(" requests/min ", style="dim", no_wrap=True, overflow="crop")
    line.append(_sparkline(counts[-max(10, width - 36) :]), style="cyan")
    whole = counts[-2]
    line.append(f" {int(whole):,}" if whole else "", style="bold cyan")
    return line


def _models(
    latency: Iterable[Row],
    cost: Iterable[Row],
    trends: dict[str, list[float | None]],
    limit: int,
    *,
    wide: bool,
) -> RenderableType:
    spent = {row["model"]: row for row in cost}
    table = _table("model")
    heads = ["requests", "errors", "p50", "p95", "p99"] + (
        ["ttft p95", "tokens in", "tokens out"] if wide else []
    )
    for name in (*heads, "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("p95 by minute", no_wrap=True, style="cyan")
    for row in sorted(latency, key=lambda row: -_count(row, "requests"))[:limit]:
        bill = spent.get(row["model"], {})
        errors = _count(row, "errors")
        more = (
            [
                _seconds(row.get("time_to_first_chunk_p95")),
                f"{_count(bill, 'input_tokens'):,}",
                f"{_count(bill, 'output_tokens'):,}",
            ]
            if wide
            else []
        )
        table.add_row(
            _name(row["model"]),
            f"{_count(row, 'requests'):,}",
            Text(f"{errors / max(1, _count(row, 'requests')):.1%}", style="red" if errors else "dim"),
            *(_seconds(row.get(f"latency_p{percent}")) for percent in (50, 95, 99)),
            *more,
            _bill(bill),
            _sparkline(trends.get(str(row["model"]), [])[-14:]),
        )
    return Panel(table, title="latency and cost by model, last hour", padding=0)


def _guardrails(found: Sequence[Row], limit: int, width: int, *, wide: bool) -> RenderableType:
    table = _table("guardrail", *(["stage", "action"] if wide else ["stage"]))
    for name in ("checks", "hits", "rate"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found[:limit]:
        triggers = _count(row, "triggers")
        table.add_row(
            *(_name(row[name]) for name in ("guardrail", "stage", *(["action"] if wide else []))),
            f"{_count(row, 'checks'):,}",
            f"{triggers:,}",
            Text(f"{_number(row.get('rate')) or 0:.2%}", style="yellow" if triggers else "dim"),
        )
    return Panel(table, title="guardrails, last hour", padding=0, width=width, height=limit + _PANEL)


def _spending(
    days: Sequence[Row], users: Sequence[Row], limit: int, width: int, *, wide: bool
) -> RenderableType:
    by_day = _table("day")
    by_user = _table("user")
    for table, found, name in ((by_day, days, "time"), (by_user, users, "user")):
        if wide:
            table.add_column("requests", justify="right", no_wrap=True)
        table.add_column("cost", justify="right", no_wrap=True)
        for row in found[:limit]:
            shown = (
                Text(f"{datetime.fromtimestamp(int(row['time'] or 0), UTC):%m-%d}")
                if name == "time"
                else _user(str(row[name]), 8)
            )
            table.add_row(shown, *([f"{_count(row, 'requests'):,}"] if wide else []), _bill(row))
    both = Table.grid(expand=True)
    both.add_column(ratio=1)
    both.add_column(ratio=1)
    both.add_row(by_day, Padding(by_user, (0, 0, 0, 1)))
    return Panel(both, title="cost by day, top users", padding=0, width=width, height=limit + _PANEL)


def _table(*names: str) -> Table:
    table = Table(expand=True, box=None, padding=(0, 1, 0, 0), header_style="bold dim")
    for name in names:
        table.add_column(name, no_wrap=True, overflow="ellipsis", min_width=5, ratio=1)
    return table


def _name(value: object) -> Text:
    # Text, since rich would take a name with brackets for markup, and fail on some.
    return Text(printable(str(value)) or "–")


def _user(name: str, room: int) -> Text:
    # Users of one kind differ at the end of their names.
    return _name(name if len(name) <= room else f"…{name[1 - room :]}")


def _count(row: Row, name: str) -> int:
    return int(row.get(name) or 0)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _seconds(value: Any) -> str:
    return "–" if value is None else f"{float(value):.2f} s"


def _bill(row: Row) -> str:
    return _dollars(_count(row, "cost_nano_usd"), _count(row, "unpriced_requests"))


def _dollars(nano: int, unpriced: int) -> str:
    """Unpriced is not free."""
    if unpriced and not nano:  # failed calls among them are known to cost nothing
        return "unpriced"
    return f"${nano / 1e9:,.2f}" if nano >= 100_000_000_000 else f"${nano / 1e9:,.4f}"


def _sparkline(values: Sequence[float | None]) -> str:
    top = max((value for value in values if value is not None), default=0.0)
    return "".join(
        " " if value is None else _BARS[round(value / top * (len(_BARS) - 1)) if top else 0]
        for value in values
    )
