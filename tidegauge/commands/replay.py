"""``tidegauge replay``: publish a recorded trace."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Literal

from tidegauge.broker import knock
from tidegauge.errors import UsageError
from tidegauge.producers.columns import ColumnMap
from tidegauge.producers.publisher import ReliablePublisher
from tidegauge.producers.replay import ReplayResult, Speed, replay
from tidegauge.producers.sources import Trace
from tidegauge.producers.trace_formats import FORMATS
from tidegauge.settings import Settings

from .options import add_batch, add_settings, parse_event_time, positive, settings_from, whole
from .progress import Progress


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("file", metavar="FILE", help="the trace; may be compressed with gzip")
    parser.add_argument("--format", required=True, choices=FORMATS, help="of the file")
    add_columns(parser)
    parser.add_argument("--speed", default="max", help="recorded, N times as fast, or max; default max")
    parser.add_argument(
        "--move-to",
        metavar="T",
        help="move the trace to end at T (ISO 8601 or Unix seconds), or now: when the replay ends",
    )
    parser.add_argument("--limit", metavar="N", type=whole(1), help="only the first N events")
    order = parser.add_mutually_exclusive_group()
    order.add_argument("--sort", action="store_true", help="publish in order of time; holds all in memory")
    order.add_argument("--shuffle", metavar="SEED", type=int, help="publish in random order; likewise")
    add_batch(parser)
    parser.add_argument("--strict", action="store_true", help="stop at the first bad line")
    add_settings(parser)


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add ``--map`` and ``--set``."""
    parser.add_argument(
        "--map",
        metavar="MAP",
        help="for jsonl and csv: FIELD=COLUMN[*FACTOR][:UNIT][@ORIGIN],… "
        "such as time=start:ms,input_tokens=usage.prompt,duration=latency_ms*0.001; "
        "see docs/guides/replay.md",
    )
    parser.add_argument(
        "--set",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        help="give all events this value, such as model=gpt-4o; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Publish the trace; 0 if Kafka acknowledged all of it."""
    settings = settings_from(args)
    speed, move_to = parse_speed(args.speed), _parse_move(args.move_to)
    if args.shuffle is not None and speed != "max":
        raise UsageError("--shuffle: needs --speed max; a shuffled trace has no pace")
    user_key = settings.emitter.user_key.reveal().encode()
    columns, constants = check_trace(args.file, args.format, args.map, args.set)
    knock(settings.kafka)
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
            sort=args.sort,
            strict=args.strict,
            user_key=user_key,
            progress=progress,
        )
    _tell(result, settings)
    return 1 if result.stats.failed else 0


def check_trace(
    file: str,
    trace_format: str,
    map_text: str | None,
    settings: Sequence[str],
) -> tuple[ColumnMap | None, dict[str, str]]:
    """The column map and the constants of the flags, tried on the file before any server is asked.

    Raises:
        UsageError: a flag is wrong, or does not fit the file.
        UnavailableError: the file cannot be read, or holds no event at all.
    """
    columns = ColumnMap.parse(map_text) if map_text else None
    constants = dict(_constant(text) for text in settings)
    Trace(file, trace_format, columns=columns, constants=constants).check()
    return columns, constants


def parse_speed(text: str) -> Speed:
    """``recorded``, ``max`` or a number; raises ``UsageError``."""
    if text == "recorded":
        return "recorded"
    if text == "max":
        return "max"
    try:
        return positive(text.removesuffix("x").removesuffix("×"))
    except argparse.ArgumentTypeError:
        raise UsageError(f"--speed: '{text}': expected recorded, max, or a number above 0") from None


def _constant(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set: '{text}': expected FIELD=VALUE")
    return name, value


def _parse_move(text: str | None) -> Literal["now"] | float | None:
    if text is None:
        return None
    return "now" if text == "now" else parse_event_time(text, "--move-to")


def _tell(result: ReplayResult, settings: Settings) -> None:
    report, stats, topic = result.report, result.stats, settings.topics.requests
    rate = stats.acknowledged / max(result.seconds, 1e-9)
    moved = f", moved by {result.shift:+,.3f} s" if result.shift else ""
    print(
        f"{stats.acknowledged:,} events in {stats.messages:,} messages to {topic} "
        f"in {result.seconds:.1f} s ({rate:,.0f}/s), all acknowledged{moved}"
        if not stats.failed
        else f"{stats.acknowledged:,} of {stats.published:,} events acknowledged; refused by Kafka: "
        + ", ".join(f"{reason} {count:,}" for reason, count in sorted(stats.failed.items()))
    )
    lateness = settings.worker.allowed_lateness
    if result.lag > lateness:
        print(
            f"not in order of time: an event came {result.lag:,.0f} s after a later one; workers leave out what is"
            f" more than {lateness:,.0f} s late (worker.allowed_lateness), so use --sort",
            file=sys.stderr,
        )
    if report.skipped:
        print(f"skipped {report.skipped.total():,} records that are no model calls:", end=" ")
        print(", ".join(f"{kind} {count:,}" for kind, count in report.skipped.most_common(8)))
    if report.bad:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in report.bad.most_common())
        print(f"left out {report.bad.total():,} bad records: {counts}", file=sys.stderr)
        for line, error in report.examples:
            print(f"  line {line}: {error}", file=sys.stderr)
