"""How ``tidegauge query`` prints its rows: exact for programs, in human units for people."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from tidegauge.processors.core.views import MEASUREMENTS, FieldValue
from tidegauge.sinks.query import Row, columns, frame

from .terminal import printable

_SHOWN: Final = {
    "latency": (
        "requests",
        "errors",
        "latency_p50",
        "latency_p95",
        "latency_p99",
        "latency_max",
        "time_to_first_chunk_p95",
    ),
    "cost": ("requests", "input_tokens", "output_tokens", "cost_nano_usd", "unpriced_requests"),
    "guardrails": ("checks", "triggers", "rate", "failures", "timeouts"),
    "pipeline": (
        "events_received",
        "lag_records",
        "still_seconds",
        "checkpoint_age_seconds",
        "watermark_seconds",
        "store_backlog_panes",
        "ready",
    ),
    "feedback": ("feedback", "thumbs_up", "thumbs_down", "satisfaction", "unattributed"),
}
_USUAL: Final = ("requests", "errors", "input_tokens", "output_tokens", "cost_nano_usd", "unpriced_requests")
"""Of a view that is not listed; a terminal has room for so many. Programs get all fields."""
_SHARES: Final = ("rate", "error_rate", "satisfaction")
_NONE: Final = "–"


def write_json(view: str, found: Sequence[Row], by: Sequence[str]) -> None:
    """An array of flat objects, one a line; what is not known is ``null``."""
    lines = ",\n".join(msgspec.json.encode(_dated(row)).decode() for row in found)
    sys.stdout.write(f"[\n{lines}\n]\n" if lines else "[]\n")


def write_csv(view: str, found: Sequence[Row], by: Sequence[str]) -> None:
    """A header and a line for every row; what is not known is empty."""
    writer = csv.DictWriter(sys.stdout, list(found[0]) if found else columns(view, by), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_dated(row) for row in found)


def write_parquet(view: str, found: Sequence[Row], by: Sequence[str]) -> None:
    """A Parquet file; ``time`` is a UTC timestamp and what is not known is null."""
    frame(view, found, by).to_parquet(sys.stdout.buffer, index=False)


def write_table(view: str, found: Sequence[Row], by: Sequence[str]) -> None:
    """A table in human units, of the fields that are looked at most."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = _shown(view, by)
    table = Table()
    for name in ("time", *by):
        table.add_column(name, no_wrap=name == "time")
    for name in shown:
        table.add_column(_title(name), justify="right")
    for row in found:
        # As Text: the square brackets in a prompt's name are no markup.
        cells = [str(_dated(row)["time"]), *(_printable(row[name]) for name in by)]
        table.add_row(*map(Text, [*cells, *(_human(view, name, row) for name in shown)]))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)
    with console.capture() as printed:
        console.print(table)
    sys.stdout.write(printed.get())  # rich itself would end the program when the reader has left


FORMATS: Final[Mapping[str, Callable[[str, Sequence[Row], Sequence[str]], None]]] = {
    "table": write_table,
    "csv": write_csv,
    "json": write_json,
    "parquet": write_parquet,
}


def _dated(row: Row) -> Row:
    moment = datetime.fromtimestamp(int(row["time"] or 0), UTC)
    return {**row, "time": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}


def _shown(view: str, by: Sequence[str]) -> list[str]:
    names = _SHOWN.get(view.removesuffix("_1h").removesuffix("_1d"))
    if names is None:
        measurement = MEASUREMENTS[view].measurement
        usual = [name for name in _USUAL if name in measurement.counters] or measurement.counters[:6]
        names = (*usual, *(f"{d.name}_p95" for d in measurement.distributions))
    return [name for name in names if name not in by]


def _title(name: str) -> str:
    return name.removeprefix("latency_").removesuffix("_nano_usd").replace("_", " ")


def _printable(value: FieldValue | None) -> str:
    return printable(str(value)) or _NONE


def _human(view: str, name: str, row: Row) -> str:
    value = row.get(name)
    if value is None:
        return _NONE
    if name == "cost_nano_usd" and not value and row.get("unpriced_requests"):  # which is not free
        return "unpriced"
    if isinstance(value, str):
        return _printable(value)
    if name.endswith("_nano_usd"):
        return f"${value / 1e9:,.6f}"
    if name in _SHARES:
        return f"{value:.2%}"
    if name == "watermark_seconds":
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, int):
        return f"{value:,}"
    distributions = MEASUREMENTS[view].measurement.distributions if view in MEASUREMENTS else ()
    if any(d.unit == "s" and name.startswith(d.name) for d in distributions):
        return f"{value * 1000:,.0f} ms" if value < 10 else f"{value:,.1f} s"
    return f"{value:,.4g}"
