"""``tidegauge query``: time series out of the store, as a table or for a program."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from tidegauge.errors import UnavailableError, UsageError
from tidegauge.sinks.open import open_store
from tidegauge.sinks.query import Row, rows

from .options import add_store, parse_duration, settings_from

_SHOWN = {
    "latency": ("requests", "errors", "latency_p50", "latency_p95", "latency_p99", "latency_max"),
    "cost": ("requests", "input_tokens", "output_tokens", "cost_nano_usd", "unpriced_requests"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("view", help="latency, cost, guardrails, users, intake, …")
    parser.add_argument("--from", dest="start", metavar="T", help="RFC 3339, a date, or Unix seconds")
    parser.add_argument("--to", dest="end", metavar="T", help="the moment after the range")
    parser.add_argument("--last", metavar="D", help="a range that ends now, such as 1h")
    parser.add_argument("--every", metavar="D", help="length of one row, such as 5m")
    parser.add_argument("--window", metavar="D", help="rolling spans this long, one ending at each --every")
    parser.add_argument("--by", default="", metavar="A,B", help="dimensions to tell apart")
    parser.add_argument("--where", action="append", default=[], metavar="K=V", help="repeatable")
    parser.add_argument("--output", choices=["table", "csv", "json", "parquet"], default="table")
    add_store(parser)
    parser.add_argument("--data", metavar="DIR", help="the data folder of a demo")
    parser.add_argument("--config", metavar="FILE", help="settings file (TOML)")


def run(args: argparse.Namespace) -> int:
    """Print the answer."""
    if args.data and args.store:
        raise UsageError("--data and --store: one of them")
    if args.data:
        args.store = f"sqlite:///{Path(args.data) / 'tidegauge.db'}"
    if args.last and (args.start or args.end):
        raise UsageError("--last stands alone, without --from and --to")
    start, end = _time(args.start, "--from"), _time(args.end, "--to")
    if args.last:
        end = int(time.time())
        start = end - int(parse_duration(args.last))
    by = [name for name in args.by.split(",") if name]
    where = {}
    for text in args.where:
        name, found, value = text.partition("=")
        if not found:
            raise UsageError(f"--where {text}: write it as dimension=value")
        where[name] = value
    store = open_store(settings_from(args), readonly=True)
    try:
        every = int(parse_duration(args.every)) if args.every else None
        window = int(parse_duration(args.window)) if args.window else None
        answer = rows(store, args.view, start=start, end=end, every=every, window=window, by=by, where=where)
    finally:
        store.close()
    for row in answer:
        moment = datetime.fromtimestamp(int(row["time"] or 0), UTC)
        row["time"] = moment.isoformat().replace("+00:00", "Z")
    _PRINT[args.output](answer, ["time", *by], args.view)
    return 0


def _time(text: str | None, flag: str) -> int | None:
    if text is None:
        return None
    try:
        return int(float(text))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{flag} {text}: expected RFC 3339, a date, or Unix seconds") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _json(answer: list[Row], by: list[str], view: str) -> None:
    json.dump(answer, sys.stdout, indent=1)
    print()


def _csv(answer: list[Row], by: list[str], view: str) -> None:
    names = list(dict.fromkeys(name for row in answer for name in row))
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(answer)


def _table(answer: list[Row], by: list[str], view: str) -> None:
    from rich.console import Console
    from rich.table import Table

    if not answer:
        print("no data in this range", file=sys.stderr)
        return
    fields = [name for name in _SHOWN.get(view, tuple(answer[0])) if name not in by]
    table = Table(*by)
    for name in fields:
        table.add_column(name.replace("_nano_usd", "").replace("_", " "), justify="right")
    for row in answer:
        table.add_row(*(str(row[b]) for b in by), *(_human(name, row) for name in fields))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _human(name: str, row: Row) -> str:
    value = row.get(name)
    if value is None:
        return "–"
    if name == "cost_nano_usd" and row.get("unpriced_requests") == row.get("requests"):
        return "unpriced"
    if name.endswith("_nano_usd"):
        return f"${float(str(value)) / 1e9:,.6f}"
    if isinstance(value, float):
        return f"{value * 1000:,.0f} ms" if name.startswith(("latency", "time_to")) else f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _parquet(answer: list[Row], by: list[str], view: str) -> None:
    import pandas as pd

    if sys.stdout.isatty():
        raise UnavailableError("parquet is binary: redirect it into a file")
    pd.DataFrame(answer).to_parquet(sys.stdout.buffer)


_PRINT = {"json": _json, "csv": _csv, "table": _table, "parquet": _parquet}
