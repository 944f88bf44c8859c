"""The ``tidegauge`` command: finds the subcommand, and turns errors into one clear line and an exit code.

Exit codes: 0 done; 1 a server, file or package is missing, or the data are bad; 2 wrong use; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Final, NoReturn

from . import __version__
from .errors import SettingsError, TidegaugeError, UsageError


@dataclass(frozen=True)
class Command:
    """A subcommand: a module of ``tidegauge.commands`` with ``configure(parser)`` and ``run(args) -> int``."""

    module: str
    summary: str
    example: str


COMMANDS: Final = {
    "demo": Command(
        "demo", "run everything on this machine and watch it work", "tidegauge demo --seconds 60"
    ),
    "worker": Command(
        "worker",
        "process events from Kafka into the store",
        "tidegauge worker --bootstrap-servers kafka:9092 --store influxdb",
    ),
    "topics": Command("topics", "create and check the topics", "tidegauge topics create"),
    "query": Command(
        "query",
        "ask the store for time series",
        "tidegauge query latency --last 1h --every 5m --by model",
    ),
    "replay": Command(
        "replay",
        "publish a recorded trace",
        "tidegauge replay trace.csv --format azure --speed max",
    ),
    "simulate": Command(
        "simulate", "publish made-up traffic", "tidegauge simulate --rate 50 --seconds 60 --seed 1"
    ),
    "deadletter": Command(
        "deadletter", "look at what could not be processed, and send it again", "tidegauge deadletter list"
    ),
}


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser(command: str | None = None) -> Parser:
    """The parser, with the flags of ``command`` alone: the other commands' modules stay unloaded."""
    parser = Parser(
        prog="tidegauge",
        description="Event-driven monitoring for LLM applications.",
        epilog="example: tidegauge demo --seconds 60",
    )
    parser.add_argument("--version", action="version", version=f"tidegauge {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, entry in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=entry.summary,
            description=f"{entry.summary[0].upper()}{entry.summary[1:]}.",
            epilog=f"example: {entry.example}",
            allow_abbrev=False,
        )
        if name == command:
            module = load(entry)
            module.configure(sub)
            sub.set_defaults(run=module.run)
    return parser


def load(entry: Command):  # type: ignore[no-untyped-def]
    """Import a command's module; a missing optional package becomes a clear line."""
    try:
        return import_module(f"tidegauge.commands.{entry.module}")
    except ModuleNotFoundError as error:
        if error.name and not error.name.startswith("tidegauge"):
            raise TidegaugeError(
                f"'{entry.module}' needs the package {error.name}: pip install 'tidegauge[local]'"
            ) from None
        raise


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((a for a in arguments if not a.startswith("-")), None)
    try:
        args = build_parser(command).parse_args(arguments)
        return int(args.run(args))
    except (UsageError, SettingsError) as error:
        print(f"tidegauge {command}: {error}", file=sys.stderr)
        return 2
    except TidegaugeError as error:
        print(f"tidegauge {command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output (head, less) has left: not an error, but nothing may be flushed to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
