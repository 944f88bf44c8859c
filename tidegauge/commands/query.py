"""``tidegauge query``: time series out of the store, as a table or for a program."""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tidegauge.errors import UsageError
from tidegauge.schemas.common import MAX_TIME
from tidegauge.sinks.open import open_store
from tidegauge.sinks.query import VIEWS, check, dimensions, rows

from .options import add_store, parse_duration, parse_time, settings_from
from .query_output import FORMATS


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("view", metavar="VIEW", help=", ".join(VIEWS))
    parser.add_argument(
        "--from", dest="start", metavar="T", help="start: RFC 3339, a date (UTC), or Unix seconds"
    )
    parser.add_argument("--to", dest="end", metavar="T", help="the moment after the range")
    parser.add_argument("--last", metavar="D", help="a range that ends now, such as 1h")
    parser.add_argument("--every", metavar="D", help="length of one row, such as 5m; default the whole range")
    parser.add_argument("--window", metavar="D", help="rolling spans this long, one ending with each --every")
    parser.add_argument("--by", default="", metavar="A,B", help="dimensions to tell apart")
    parser.add_argument(
        "--where", action="append", default=[], metavar="K=V", help="repeatable, or K=V,K=V; all must match"
    )
    parser.add_argument("--output", choices=list(FORMATS), default="table", help="parquet goes into a pipe")
    add_store(parser)
    parser.add_argument("--data", metavar="DIR", help="the data folder of a demo")
    parser.add_argument("--config", metavar="FILE", help="settings file (TOML)")


def run(args: argparse.Namespace) -> int:
    """Print the answer."""
    if args.data and args.store:
        raise UsageError("--data and --store: one of them")
    if args.data:
        args.store = f"sqlite:///{Path(args.data) / 'tidegauge.db'}"
    if args.output == "parquet" and sys.stdout.isatty():
        raise UsageError(f"parquet is binary: send it to a file, as in … > {args.view}.parquet")
    by = [name for name in args.by.split(",") if name]
    start, end = _range(args)
    every, window = _length(args.every, "--every"), _length(args.window, "--window")
    check(args.view, start=start, end=end, every=every, window=window, by=by)
    where = _conditions(args.where, dimensions(args.view))
    store = open_store(settings_from(args), readonly=True)
    try:
        found = rows(store, args.view, start=start, end=end, every=every, window=window, by=by, where=where)
    finally:
        store.close()
    FORMATS[args.output](args.view, found, by)
    if not found:
        print(f"no {args.view} in this range", file=sys.stderr)
    return 0


def _range(args: argparse.Namespace) -> tuple[int | None, int | None]:
    if args.last is not None:
        if args.start is not None or args.end is not None:
            raise UsageError("--last stands alone, without --from and --to")
        seconds = _length(args.last, "--last")
        assert seconds is not None
        end = int(time.time()) + 1
        return max(end - seconds, 0), end
    start = None if args.start is None else parse_time(args.start, "--from")
    end_of = None if args.end is None else parse_time(args.end, "--to")
    if start is not None and end_of is not None and start >= end_of:
        raise UsageError("the range must start before it ends")
    # No event lies outside; and people write the year 1 or 9999 for an open end.
    return (
        None if start is None else max(int(start), 0),
        None if end_of is None else min(math.ceil(end_of), int(MAX_TIME)),
    )


def _length(text: str | None, flag: str) -> int | None:
    if text is None:
        return None
    seconds = parse_duration(text)
    if seconds < 1 or seconds != int(seconds):
        raise UsageError(f"{flag} {text}: expected whole seconds, at least one")
    return int(seconds)


def _conditions(texts: Sequence[str], dimensions: Sequence[str]) -> dict[str, str]:
    # A comma ends a value only where another dimension follows: values may hold commas themselves.
    another = re.compile(rf",(?=(?:{'|'.join(dimensions)})=)")
    where: dict[str, str] = {}
    for text in (part for given in texts for part in another.split(given)):
        name, found, value = text.partition("=")
        if not found:
            raise UsageError(f"--where {text}: write it as dimension=value")
        if name not in dimensions:
            raise UsageError(f"--where {text}: no dimension '{name}' here; there are {', '.join(dimensions)}")
        if name in where:
            raise UsageError(f"--where {text}: {name} has a value already, and all must match")
        where[name] = value
    return where
