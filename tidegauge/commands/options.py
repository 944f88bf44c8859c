"""Flags that several commands share, and how they become settings."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from datetime import UTC, datetime

from tidegauge.errors import UsageError
from tidegauge.schemas.codec import MAX_EVENTS_PER_MESSAGE
from tidegauge.schemas.common import MAX_TIME, MIN_TIME
from tidegauge.settings import Settings, load

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and the flags that name the servers."""
    parser.add_argument("--config", metavar="FILE", help="settings file (TOML); default tidegauge.toml")
    parser.add_argument("--bootstrap-servers", metavar="HOST:PORT", help="Kafka, comma separated")
    parser.add_argument("--topic-prefix", metavar="PREFIX", help="put before each topic's name")


def add_batch(parser: argparse.ArgumentParser) -> None:
    """Add ``--batch``."""
    parser.add_argument(
        "--batch",
        metavar="N",
        type=whole(1, MAX_EVENTS_PER_MESSAGE),
        default=1,
        help="events per message; default 1",
    )


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add ``--store``."""
    parser.add_argument(
        "--store", metavar="URL", help="sqlite:///PATH, or influxdb for the one in the settings"
    )


def settings_from(args: argparse.Namespace, **overrides: object) -> Settings:
    """The settings with the command's flags over them; raises ``SettingsError``."""
    flags = {
        "kafka.bootstrap_servers": getattr(args, "bootstrap_servers", None),
        "topics.prefix": getattr(args, "topic_prefix", None),
        "store.url": getattr(args, "store", None),
    }
    return load(getattr(args, "config", None), overrides=flags | overrides)


def parse_duration(text: str) -> float:
    """Seconds of "90s", "5m", "1h30m", "7d" or "2w"; raises ``UsageError``."""
    parts = _DURATION.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise UsageError(f"'{text}' is no duration; write it as 30s, 5m, 1h30m or 7d")
    seconds = sum(float(n) * _UNITS[u] for n, u in parts)
    if seconds > MAX_TIME:
        raise UsageError(f"'{text}' is too long; at most {MAX_TIME} s")
    return seconds


def parse_time(text: str, flag: str) -> float:
    """Unix seconds of an RFC 3339 time, a date (both in UTC unless they say) or Unix seconds."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise UsageError(f"{flag} {text}: expected RFC 3339, a date, or Unix seconds") from None
    if seconds > MAX_TIME:
        raise UsageError(f"{flag} {text}: expected Unix seconds, not milliseconds")
    if not seconds >= 0:
        raise UsageError(f"{flag} {text}: expected Unix seconds from 0 on")
    return seconds


def parse_event_time(text: str, flag: str) -> float:
    """As ``parse_time``, of a time that an event may have."""
    seconds = parse_time(text, flag)
    if not MIN_TIME <= seconds <= MAX_TIME:
        raise UsageError(f"{flag} {text}: expected a time from {MIN_TIME} to {MAX_TIME} (2001 to 2096)")
    return seconds


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """Whole numbers from ``low`` to ``high``, as argparse's ``type``."""
    expected = f"a whole number from {low} " + ("on" if high is None else f"to {high}")

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if number < low or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f"expected {expected}, got '{text}'")
        return number

    return parse


def positive(text: str) -> float:
    """A number above 0, as argparse's ``type``."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got '{text}'")
    return number
