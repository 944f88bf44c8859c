"""``/health``, ``/ready`` and ``/metrics`` of a worker, and nothing else.

Bound to the loopback address unless ``worker.web_host`` says otherwise. A request must name the host that it came to:
a page in somebody's browser that has its own name resolved to 127.0.0.1 is turned away by that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from tidegauge.errors import UnavailableError

from .health import Health

_LOCAL: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class Web:
    """A small HTTP server.

    Args:
        health: what it tells.
        host: address to bind.
        port: to bind.
    """

    def __init__(self, health: Health, host: str, port: int) -> None:
        self._health, self._host, self._port = health, host, port
        self._names = _LOCAL | {host.lower()}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(health)
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/health", self._answer(health.ill), allow_head=False)
        app.router.add_get("/ready", self._answer(health.unready), allow_head=False)
        app.router.add_get("/metrics", self._metrics, allow_head=False)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self) -> None:
        """Listen.

        Raises:
            UnavailableError: the port is taken, or the address is not one of this machine.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            raise UnavailableError(
                f"cannot listen on {self._host}:{self._port}: {error.strerror or error}"
                " (settings worker.web_host, worker.web_port)"
            ) from None

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        name = urlsplit(f"//{request.headers.get('Host', '')}").hostname
        # On every address, those who come by another name have come by an address that was opened for them.
        if name not in self._names and self._host not in ("0.0.0.0", "::"):  # noqa: S104
            return web.Response(status=403, text="another host\n")
        return await handler(request)

    def _answer(self, reason: Callable[[], str]) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            why = reason()
            return web.Response(status=503 if why else 200, text=f"{why or 'ok'}\n")

        return answer

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )
