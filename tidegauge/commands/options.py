"""Flags that several commands share, and how they become settings."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime

from tidegauge.errors import UsageError
from tidegauge.schemas.common import MAX_TIME
from tidegauge.settings import Settings, load

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and the flags that name the servers."""
    parser.add_argument("--config", metavar="FILE", help="settings file (TOML); default tidegauge.toml")
    parser.add_argument("--bootstrap-servers", metavar="HOST:PORT", help="Kafka, comma separated")
    parser.add_argument("--topic-prefix", metavar="PREFIX", help="put before each topic's name")


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
    return sum(float(n) * _UNITS[u] for n, u in parts)


def parse_time(text: str, flag: str) -> float:
    """Unix seconds of an RFC 3339 time, a date (both in UTC unless they say) or Unix seconds."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise UsageError(f"{flag} {text}: expected RFC 3339, a date, or Unix seconds") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not 0 <= seconds <= MAX_TIME:
        raise UsageError(f"{flag} {text}: expected Unix seconds, not milliseconds")
    return seconds
