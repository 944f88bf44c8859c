"""``tidegauge worker``: process events until told to stop."""

from __future__ import annotations

import argparse
import gc
import logging
import socket
import sys
from pathlib import Path

import faust

from tidegauge.errors import SettingsError, TidegaugeError, UnavailableError
from tidegauge.processors.app import create_app
from tidegauge.processors.core.pricing import Overrides, PriceTable
from tidegauge.settings import Settings
from tidegauge.sinks.open import open_store
from tidegauge.topics import check_topics

from .options import add_settings, add_store, settings_from


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    add_settings(parser)
    add_store(parser)
    parser.add_argument("--group", metavar="NAME", help="consumer group; workers of one group share the work")
    parser.add_argument("--loglevel", default="WARN", choices=["DEBUG", "INFO", "WARN", "ERROR"])


def run(args: argparse.Namespace) -> int:
    """Run a worker until SIGINT or SIGTERM."""
    settings = settings_from(args, **{"worker.group": args.group})
    table = prices(settings)
    _check(settings)
    _check_port(settings)
    store = open_store(settings)
    store.check()
    # What is loaded by now stays; and decoding a fetched chunk makes more young objects than Python's own thresholds
    # take for a reason to search all of them for cycles, of which events have none.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    worker = faust.Worker(create_app(settings, store, table), loglevel=args.loglevel)
    # At DEBUG aiokafka writes out its requests: a password of PLAIN, and whatever events hold.
    level = logging.getLevelNamesMapping()[args.loglevel]
    logging.getLogger("aiokafka").setLevel(max(logging.INFO, level))
    worker.spinner = None  # its control sequences are no use in a log
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        return int(end.code or 0)
    except TidegaugeError:
        raise
    except Exception as error:  # Faust has logged where it came from
        raise TidegaugeError(f"ended by an error: {error or type(error).__name__}") from None
    return 0


def _check(settings: Settings) -> None:
    # What Faust makes of a missing broker or topic is a page of traceback, or silence.
    problems = check_topics(settings)
    for problem in problems:
        if problem.fatal:
            raise UnavailableError(str(problem))
        print(f"tidegauge worker: {problem}", file=sys.stderr)


def _check_port(settings: Settings) -> None:
    # Here, where it costs one line; once Faust runs, it is a page of traceback.
    host, port = settings.worker.web_host, settings.worker.web_port
    if port:
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UnavailableError(
                f"cannot listen on {host}:{port}: {reason} (settings worker.web_host, worker.web_port)"
            ) from None


def prices(settings: Settings) -> PriceTable:
    """The price table with the override file of the settings over it."""
    file = settings.prices.override_file
    if not file:
        return PriceTable()
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UnavailableError(f"prices.override_file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"prices.override_file {file}: expected TOML, which is UTF-8 text") from None
    return PriceTable(Overrides.parse(text, file))
