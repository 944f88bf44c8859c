"""The ``tidegauge`` command: finds the subcommand, and turns errors into one clear line and an exit code.

Exit codes: 0 done; 1 a server, file or package is missing, or the data are bad; 2 wrong use; 130 and 143 interrupted
by SIGINT (Ctrl-C) and SIGTERM. What runs until it is told to end takes both for its ordinary end, and exits with 0.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final, NoReturn

from . import __version__
from .commands.terminal import printable
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
    "doctor": Command(
        "doctor", "look for what is wrong, and say what to do about it", "tidegauge doctor --store influxdb"
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
    "rebuild": Command(
        "rebuild",
        "recount a stretch of time from Kafka, and overwrite what is stored of it",
        "tidegauge rebuild --from 2026-01-31 --to 2026-02-01 --dry-run",
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
    name = f"tidegauge {command}" if command in COMMANDS else "tidegauge"
    if sys.stdout is None:  # closed by the caller, as in tidegauge … >&-
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (for the rest of the process)
    try:
        with _signals():
            try:
                args = build_parser(command).parse_args(arguments)
                return int(args.run(args))
            finally:
                sys.stdout.flush()  # while an error can still be told
    except (UsageError, SettingsError) as error:
        _say(name, error)
        return 2
    except TidegaugeError as error:
        _say(name, error)
        return 1
    except SystemExit as end:  # argparse has said it
        return int(end.code or 0)
    except BrokenPipeError:
        # The reader of our output (head, less) has left: not an error, but nothing may be flushed to it.
        _drop_output()
        return 0
    except OSError as error:
        _drop_output()
        place = f"{error.filename}: " if error.filename else ""
        _say(name, f"{place}{error.strerror or error}")
        return 1
    except Interrupted as end:
        return 128 + end.signal
    except KeyboardInterrupt:
        return 130


_AGAIN: Final = 0.05  # seconds until a signal is raised again that was lost


class Interrupted(KeyboardInterrupt):
    """We are to end; ``signal`` is the signal's number."""

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal


@contextmanager
def _signals() -> Iterator[None]:
    """Let SIGTERM end us as Ctrl-C does: in order.

    SIGINT too is set anew, for a shell starts what it runs in the background with that signal ignored, and
    ``kill -INT`` should end it there as well.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> NoReturn:
        raise Interrupted(number)

    def insist(lost: sys.UnraisableHookArgs) -> None:
        # Where Python can raise nothing (in a finalizer, or after a fork) our signal would be gone.
        if isinstance(lost.exc_value, Interrupted):
            again = threading.Timer(_AGAIN, os.kill, (os.getpid(), lost.exc_value.signal))
            again.daemon = True
            again.start()
        else:
            told(lost)

    told, sys.unraisablehook = sys.unraisablehook, insist
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = told


def _say(name: str, error: object) -> None:
    # One line, whatever a file's header or a server's answer has brought into the text.
    print(f"{name}: {printable(str(error))}", file=sys.stderr)


def _drop_output() -> None:
    # What is in the buffer would fail again when the interpreter flushes it at its end.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
