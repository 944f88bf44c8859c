"""``tidegauge worker``: process events until told to stop."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path

import faust

from tidegauge.errors import UnavailableError
from tidegauge.processors.app import create_app
from tidegauge.processors.core.pricing import Overrides, PriceTable
from tidegauge.settings import Settings
from tidegauge.sinks.open import open_store

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
    store = open_store(settings)
    store.check()
    # What is loaded by now stays; and decoding a fetched chunk makes more young objects than Python's own thresholds
    # take for a reason to search all of them for cycles, of which events have none.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    worker = faust.Worker(create_app(settings, store, prices(settings)), loglevel=args.loglevel)
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def prices(settings: Settings) -> PriceTable:
    """The price table with the override file of the settings over it."""
    file = settings.prices.override_file
    if not file:
        return PriceTable()
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UnavailableError(f"prices.override_file {file}: {error.strerror}") from None
    return PriceTable(Overrides.parse(text, file))
