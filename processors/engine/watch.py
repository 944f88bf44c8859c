"""What looks after a running worker: the watchdog's rounds, its own time series, and its web endpoints."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from time import monotonic
from typing import Any, Final

from tidegauge.errors import StalledError

from .health import Health
from .name import own_name
from .web import Web

_ROUND: Final = 1.0
_TELL_EVERY: Final = 10.0


def attach(app: Any, health: Health) -> None:
    """Add the tasks to a Faust app."""
    worker = app.settings.worker

    @app.task
    async def watch() -> None:
        while not app.should_stop:
            await app.sleep(_ROUND)
            try:
                health.look()
                reason = health.lost()
            except Exception as error:  # what looks after the work must not end it
                app.log.warning("the watchdog could not look: %r", error)
                continue
            if reason:
                insist(3 * worker.session_timeout, "what stalled kept it from ending in order")
                await app.crash(
                    StalledError(f"{reason}; ending, for a new start to go on from the stored state")
                )
                return

    @app.task
    async def tell() -> None:
        due = monotonic()
        with own_name(worker.name) as name:
            while not app.should_stop:
                await app.sleep(max(0.1, due - monotonic()))
                due = monotonic() + _TELL_EVERY
                if app.placed:
                    try:
                        await app.merging.storage.tell(health.points(name))
                    except Exception as error:  # as above
                        app.log.warning("the pipeline's own figures could not be stored: %r", error)

    if worker.web_port:
        web = Web(health, worker.web_host, worker.web_port)

        @app.task
        async def serve() -> None:
            try:
                await web.start()
                await app.wait_for_stopped(asyncio.Event())
            finally:
                await web.stop()


def insist(seconds: float, why: str) -> None:
    """End the process after so many seconds, even if something keeps it from ending in order."""

    def leave() -> None:
        sys.stderr.write(f"tidegauge worker: {why}\n")
        sys.stderr.flush()
        os._exit(1)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
