"""``tidegauge topics create|check``."""

from __future__ import annotations

import argparse
import sys

from tidegauge.topics import check_topics, ensure_topics, topic_specs

from .options import add_settings, settings_from


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="create|check", required=True)
    create = actions.add_parser(
        "create",
        help="create what is missing",
        description="Create the topics that are missing and say how the others are. Safe to run again.",
        epilog="example: tidegauge topics create --bootstrap-servers kafka:9092",
    )
    add_settings(create)
    create.add_argument(
        "--alter",
        action="store_true",
        help="also set topic settings that differ (never partitions or copies)",
    )
    check = actions.add_parser(
        "check",
        help="exit with 1 unless all is as it must be",
        description="Compare the topics with the settings, and exit with 1 where something that matters differs.",
        epilog="example: tidegauge topics check --config tidegauge.toml",
    )
    add_settings(check)


def run(args: argparse.Namespace) -> int:
    """Do it; 1 where a topic is not as it must be."""
    settings = settings_from(args)
    if args.action == "check":
        problems = check_topics(settings)
        for problem in problems:
            print(problem, file=sys.stderr)
        if not problems:
            print(f"{len(topic_specs(settings))} topics are as they must be")
        return 1 if problems else 0
    reports = ensure_topics(settings, alter=args.alter)
    for report in reports:
        print(f"{report.state:<8} {report.name}")
        for problem in report.problems:
            print(problem, file=sys.stderr)
    return 1 if any(report.problems for report in reports) else 0
