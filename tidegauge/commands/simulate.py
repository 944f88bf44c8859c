"""``tidegauge simulate``: publish made-up traffic."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

from tidegauge.broker import knock
from tidegauge.errors import UsageError
from tidegauge.producers.incidents import KINDS, Incident
from tidegauge.producers.publisher import ReliablePublisher
from tidegauge.producers.replay import publish_paced
from tidegauge.producers.simulator import Emission, Simulator
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.settings import Topics

from .options import add_batch, add_settings, parse_duration, parse_event_time, positive, settings_from, whole
from .progress import Progress


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "--rate", type=positive, default=10.0, metavar="R", help="mean requests/s; default 10"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--seconds", type=positive, metavar="N", help="length of the traffic; default endless, until Ctrl-C"
    )
    length.add_argument("--events", type=whole(1), metavar="N", help="how many requests")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    parser.add_argument(
        "--start", metavar="T", help="ISO 8601 or Unix seconds; default now, or with max so that it ends now"
    )
    parser.add_argument(
        "--speed", choices=("recorded", "max"), default="recorded", help="as it happens, or all at once"
    )
    parser.add_argument("--incident", choices=sorted(KINDS), help="something that goes wrong")
    parser.add_argument(
        "--incident-at", metavar="D", help="after the start, such as 5m; default a third of --seconds, or 0s"
    )
    parser.add_argument("--incident-for", metavar="D", help="how long; default to the end")
    add_batch(parser)
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Publish the traffic; 0 if Kafka acknowledged all of it."""
    settings = settings_from(args)
    _check(args)
    start = _start(args)
    simulator = Simulator(args.seed, rate=args.rate, incident=_incident(args))
    end = None if args.seconds is None else start + args.seconds
    knock(settings.kafka)
    traffic = simulator.traffic(start, end, args.events)
    with ReliablePublisher(settings, batch=args.batch) as publisher:
        begun = time.monotonic()
        with Progress("events") as progress:
            rate = 1.0 if args.speed == "recorded" else None
            try:
                publish_paced(_addressed(traffic, settings.topics), publisher, rate, progress, start)
            except KeyboardInterrupt:
                if args.seconds is not None or args.events is not None:
                    raise
                publisher.flush()
        stats, seconds = publisher.stats, time.monotonic() - begun
    print(
        f"{stats.acknowledged:,} of {stats.published:,} events acknowledged in {seconds:.1f} s; "
        f"the same traffic again: --rate {args.rate:g} --seed {args.seed} --start {start:.3f}"
        f"{_incident_flags(args)}"
    )
    return 1 if stats.failed else 0


def _check(args: argparse.Namespace) -> None:
    if args.speed == "max" and args.seconds is None and args.events is None:
        raise UsageError("--speed max: needs --seconds or --events")
    if args.incident is None and (args.incident_at or args.incident_for):
        raise UsageError("--incident-at, --incident-for: need --incident")


def _start(args: argparse.Namespace) -> float:
    if args.start is not None:
        return parse_event_time(args.start, "--start")
    now = round(time.time(), 3)
    if args.speed == "recorded":
        return now
    # In the quiet of the night so many requests take longer than at the mean rate; none may be in the future.
    return float(now - (args.seconds if args.seconds is not None else 4 * args.events / args.rate))


def _incident(args: argparse.Namespace) -> Incident | None:
    if args.incident is None:
        return None
    at = parse_duration(args.incident_at) if args.incident_at else (args.seconds or 0.0) / 3
    duration = parse_duration(args.incident_for) if args.incident_for else float("inf")
    return Incident(args.incident, at, duration)


def _incident_flags(args: argparse.Namespace) -> str:
    incident = _incident(args)
    if incident is None:
        return ""
    flags = f" --incident {incident.kind} --incident-at {incident.at:g}s"
    return flags if incident.duration == float("inf") else f"{flags} --incident-for {incident.duration:g}s"


def _addressed(traffic: Iterator[Emission], topics: Topics) -> Iterator[tuple[float, str, object]]:
    for at, event in traffic:
        yield at, topics.feedback if isinstance(event, FeedbackEvent) else topics.requests, event
