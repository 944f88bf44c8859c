"""Watches the body of an HTTP response while the application reads it, in whatever way it does.

Every way to read a response (the package's streams and their helpers, ``iter_lines``, ``read``, …) goes
through the response's ``iter_bytes`` and ``close``, so these two are covered on that one response object,
until its call is handed on. The response must not become part of a reference cycle: the anthropic package
relies on a dropped stream being closed at once.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Protocol


class BodyListener(Protocol):
    """What learns of a body; called by one thread or task at a time."""

    def data(self, chunk: bytes) -> None:
        """Take in the next decoded bytes."""

    def complete(self) -> None:
        """The body was read to its end."""

    def raised(self, error: BaseException) -> None:
        """Reading failed, or was cancelled."""

    def finish(self) -> None:
        """The application closed or dropped the response."""

    def safely(self, step: Callable[..., None], *args: Any) -> None:
        """Run one of the above such that nothing escapes."""


def watch_body(response: Any, listener: BodyListener) -> None:
    """Tell a listener of the body of an unread ``httpx2.Response``.

    The end is told once or more: ``complete``, ``raised`` or ``finish``.
    """
    _Watch(response, listener)


class _Watch:
    def __init__(self, response: Any, listener: BodyListener) -> None:
        self._listener = listener
        self._response = weakref.ref(response)
        # True while the response is asked for its next bytes: it closes itself at the end of the body and on
        # an error, and only the outcome of asking says which of them it was.
        self._pulling = False
        response.iter_bytes = self._iter_bytes
        response.aiter_bytes = self._aiter_bytes
        response.close = self._close
        response.aclose = self._aclose

    def _iter_bytes(self, chunk_size: int | None = None) -> Generator[bytes, None, None]:
        response: Any = self._response()
        return self._tee(response, type(response).iter_bytes(response, chunk_size))

    def _tee(self, response: Any, chunks: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
        listener = self._listener
        try:
            self._pulling = True
            for chunk in chunks:
                self._pulling = False
                listener.safely(listener.data, chunk)
                yield chunk
                self._pulling = True
        except GeneratorExit:
            chunks.close()
            listener.safely(listener.finish)
            raise
        except BaseException as error:
            listener.safely(listener.raised, error)
            raise
        finally:
            self._pulling = False
        listener.safely(listener.complete)
        self._leave(response)

    def _aiter_bytes(self, chunk_size: int | None = None) -> AsyncGenerator[bytes, None]:
        response: Any = self._response()
        return self._atee(response, type(response).aiter_bytes(response, chunk_size))

    async def _atee(self, response: Any, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        listener = self._listener
        try:
            self._pulling = True
            async for chunk in chunks:
                self._pulling = False
                listener.safely(listener.data, chunk)
                yield chunk
                self._pulling = True
        except GeneratorExit:
            listener.safely(listener.finish)
            raise
        except BaseException as error:
            listener.safely(listener.raised, error)
            raise
        finally:
            self._pulling = False
            await chunks.aclose()
        listener.safely(listener.complete)
        self._leave(response)

    def _close(self) -> None:
        response = self._response()
        if response is None:
            return
        if not self._pulling:
            self._listener.safely(self._listener.finish)
            self._leave(response)
        type(response).close(response)

    async def _aclose(self) -> None:
        response = self._response()
        if response is None:
            return
        if not self._pulling:
            self._listener.safely(self._listener.finish)
            self._leave(response)
        await type(response).aclose(response)

    @staticmethod
    def _leave(response: Any) -> None:
        for name in ("iter_bytes", "aiter_bytes", "close", "aclose"):
            vars(response).pop(name, None)

    def __del__(self) -> None:
        # The response was dropped unread.
        self._listener.safely(self._listener.finish)
