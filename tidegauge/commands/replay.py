"""``tidegauge replay``: publish a recorded trace."""

from __future__ import annotations

import argparse
import sys
from typing import Literal

from tidegauge.errors import InvalidEventError, UsageError
from tidegauge.producers.columns import ColumnMap, iso_time
from tidegauge.producers.publisher import ReliablePublisher
from tidegauge.producers.replay import ReplayResult, Speed, replay
from tidegauge.producers.sources import Trace
from tidegauge.producers.trace_formats import FORMATS

from .options import add_settings, settings_from
from .progress import Progress


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("file", metavar="FILE", help="the trace; may be compressed with gzip")
    parser.add_argument("--format", required=True, choices=FORMATS, help="of the file")
    parser.add_argument(
        "--map",
        metavar="MAP",
        help="for jsonl and csv: FIELD=COLUMN[*FACTOR][:s|ms|us|ns|iso],… "
        "such as time=start:ms,input_tokens=usage.prompt,duration=latency_ms*0.001",
    )
    parser.add_argument(
        "--set",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        help="give all events this value, such as model=gpt-4o; may be repeated",
    )
    parser.add_argument("--speed", default="max", help="recorded, N times as fast, or max; default max")
    parser.add_argument(
        "--move-to",
        metavar="T",
        help="move the trace to end at T (ISO 8601 or Unix seconds), or now: when the replay ends",
    )
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N events")
    parser.add_argument("--shuffle", metavar="SEED", type=int, help="publish in random order")
    parser.add_argument("--batch", metavar="N", type=int, default=1, help="events per message; default 1")
    parser.add_argument("--strict", action="store_true", help="stop at the first bad line")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Publish the trace; 0 if Kafka acknowledged all of it."""
    settings = settings_from(args)
    if args.limit is not None and args.limit < 1:
        raise UsageError("--limit: expected a number from 1")
    columns = ColumnMap.parse(args.map) if args.map else None
    constants = dict(_constant(text) for text in args.set)
    speed, move_to = parse_speed(args.speed), _parse_move(args.move_to)
    user_key = settings.emitter.user_key.reveal().encode()
    # Told of a wrong argument or a missing file before any server is asked.
    next(iter(Trace(args.file, args.format, columns=columns, constants=constants)), None)
    with (
        ReliablePublisher(settings, batch=args.batch) as publisher,
        Progress("events", args.limit) as progress,
    ):
        result = replay(
            args.file,
            format=args.format,
            publisher=publisher,
            topic=settings.topics.requests,
            columns=columns,
            constants=constants,
            speed=speed,
            move_to=move_to,
            limit=args.limit,
            shuffle=args.shuffle,
            strict=args.strict,
            user_key=user_key,
            progress=progress,
        )
    _tell(result, settings.topics.requests)
    return 1 if result.stats.failed else 0


def parse_speed(text: str) -> Speed:
    """``recorded``, ``max`` or a number; raises ``UsageError``."""
    if text == "recorded":
        return "recorded"
    if text == "max":
        return "max"
    try:
        return float(text.removesuffix("x").removesuffix("×"))
    except ValueError:
        raise UsageError(f"--speed: '{text}': expected recorded, max, or a number") from None


def _constant(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set: '{text}': expected FIELD=VALUE")
    return name, value


def _parse_move(text: str | None) -> Literal["now"] | float | None:
    if text is None:
        return None
    if text == "now":
        return "now"
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return iso_time(text)
    except InvalidEventError:
        raise UsageError(f"--move-to: '{text}': expected now, ISO 8601, or Unix seconds") from None


def _tell(result: ReplayResult, topic: str) -> None:
    report, stats = result.report, result.stats
    rate = stats.acknowledged / max(result.seconds, 1e-9)
    moved = f", moved by {result.shift:+,.3f} s" if result.shift else ""
    print(
        f"{stats.acknowledged:,} events in {stats.messages:,} messages to {topic} "
        f"in {result.seconds:.1f} s ({rate:,.0f}/s), all acknowledged{moved}"
        if not stats.failed
        else f"{stats.acknowledged:,} of {stats.published:,} events acknowledged; refused by Kafka: "
        + ", ".join(f"{reason} {count:,}" for reason, count in sorted(stats.failed.items()))
    )
    if report.skipped:
        print(f"skipped {report.skipped.total():,} records that are no model calls:", end=" ")
        print(", ".join(f"{kind} {count:,}" for kind, count in report.skipped.most_common(8)))
    if report.bad:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in report.bad.most_common())
        print(f"left out {report.bad.total():,} bad records: {counts}", file=sys.stderr)
        for line, error in report.examples:
            print(f"  line {line}: {error}", file=sys.stderr)
