"""``tidegauge rebuild``: recount a stretch of event time from Kafka, and overwrite what is stored of it."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from datetime import UTC, datetime
from typing import Final

from tidegauge.errors import UsageError
from tidegauge.processors.core.recount import Stretch
from tidegauge.processors.core.views import VIEWS
from tidegauge.rebuild import Change, Rebuild, Report
from tidegauge.settings import Settings
from tidegauge.sinks.open import open_store

from .options import add_settings, add_store, parse_duration, parse_event_time, settings_from
from .progress import Progress
from .terminal import printable
from .worker import prices

_SHOWN: Final = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Recount a stretch of event time from the source topics, and have the workers overwrite what is stored of it:"
        " after a store has lost something, after a change of prices, and to fold in events that came too late. Needs"
        " the workers' settings, and workers that run. See docs/guides/operations.md."
    )
    parser.add_argument(
        "--from", dest="start", metavar="T", required=True, help="event time (RFC 3339 or Unix seconds)"
    )
    parser.add_argument("--to", dest="end", metavar="T", required=True, help="event time, itself excluded")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    parser.add_argument(
        "--force", action="store_true", help="go on where Kafka may have deleted a part of what is needed"
    )
    parser.add_argument(
        "--prices",
        metavar="FILE",
        help="TOML file of prices that go before the built-in ones; see guides/prices.md",
    )
    parser.add_argument(
        "--patience",
        metavar="DURATION",
        default="2m",
        help="how long to wait for a worker's answer; default 2m",
    )
    add_settings(parser)
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Recount; 0 once the store has all of it, 1 where panes are left."""
    settings = settings_from(args, **{"prices.override_file": args.prices})
    stretch = Stretch(parse_event_time(args.start, "--from"), parse_event_time(args.end, "--to"))
    if stretch.start >= stretch.end:
        raise UsageError("--from, --to: expected a time before --to, and one after --from")
    table, patience = prices(settings), parse_duration(args.patience)
    shown: list[Change] = []

    def changed(change: Change) -> None:
        if len(shown) < _SHOWN:
            shown.append(change)

    with closing(open_store(settings, readonly=True)) as store, Progress("records read") as progress:
        store.check()
        report = Rebuild(
            settings,
            table,
            stretch,
            store,
            changed=changed,
            progress=progress,
            dry_run=args.dry_run,
            force=args.force,
            patience=patience,
        ).run()
    if args.dry_run:
        for change in shown:
            print(_line(change))
        if report.changed > len(shown):
            print(f"… and {report.changed - len(shown):,} more panes")
    _tell(report, settings, dry_run=args.dry_run)
    return 1 if report.left else 0


def _tell(report: Report, settings: Settings, *, dry_run: bool) -> None:
    late = f"{report.late:,} of them late ones, folded in" if report.late else "none of them late"
    print(f"{report.events:,} events recounted, {late}")
    rewritten = report.changed - len(report.left)
    verb = "would be rewritten" if dry_run else "rewritten"
    print(f"{rewritten:,} of {report.panes:,} panes {verb}")
    if report.unread:
        print(
            f"tidegauge rebuild: the workers have yet to read {report.unread:,} records; late events among those are"
            " not folded in: run it again then",
            file=sys.stderr,
        )
    if report.left:
        print(
            f"tidegauge rebuild: {len(report.left):,} panes are left as they were, for their workers were quicker;"
            " run it again:",
            file=sys.stderr,
        )
        for view, start, key in report.left[:_SHOWN]:
            print(f"  {_pane(view, start, key)}", file=sys.stderr)


def _line(change: Change) -> str:
    counters = ", ".join(
        f"{name} {'absent' if before is None else f'{before:,}'} → {after:,}"
        for name, (before, after) in change.counters.items()
        if before is not None or after
    )
    return f"{_pane(change.view, change.start, change.key)}: {counters or 'what is derived of the counters'}"


def _pane(view: str, start: int, key: tuple[str, ...]) -> str:
    time = datetime.fromtimestamp(start, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    labels = " ".join(
        f"{name}={printable(value)}" for name, value in zip(VIEWS[view].dimensions, key, strict=True) if value
    )
    return f"{view} {time} {labels}".rstrip()
