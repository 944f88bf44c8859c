"""InfluxDB 2 by its official client: synchronous writes, and every answer turned into the contract of ``base``.

The client's batching writer drops what it cannot send and says so only in its log, so it is not used. On a refusal
(400: nothing of the request is stored; 422: the good points are) the batch is halved until the guilty points stand
alone; writing a point again changes nothing, which makes the halves safe to send.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import urllib3.exceptions
from influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException

from tidegauge.errors import SinkUnavailableError
from tidegauge.settings import InfluxDB

from . import line_protocol
from .base import Point, Rejection, Store
from .influx_read import Reader

MAX_POINTS: Final = 5_000
"""Points in one request; InfluxDB's own advice for the best speed."""
MAX_RETRY_AFTER: Final = 60.0
"""Seconds; a longer wait that the server asks for is cut to this."""

_REFUSED: Final = (400, 413, 422)
_HINTS: Final = {
    401: "the token is missing or wrong (setting influxdb.token)",
    403: "the token may not do this (setting influxdb.token)",
    404: "no such bucket or organisation, or the token may not see it (settings influxdb.bucket, influxdb.org)",
}
_LINE: Final = re.compile(r"unable to parse '.*?': ", re.DOTALL)
_DROPPED: Final = re.compile(r"dropped[ =](\d+)")
_Line = tuple[Point, bytes]
T = TypeVar("T")


class InfluxStore(Store):
    """Points in one bucket of an InfluxDB 2.

    Tag values and string fields are stored as ``line_protocol.escape`` spells them, empty tags not at all; reading
    undoes both for the measurements of ``MEASUREMENTS``, whose dimensions are known.

    Args:
        settings: where it is, and the token. Nothing is sent before the first call.
    """

    def __init__(self, settings: InfluxDB) -> None:
        self._settings = settings
        # A URL may carry a user's name and password; errors show neither.
        address = urlsplit(settings.url)
        self._name = f"InfluxDB at {address.scheme}://{address.netloc.rpartition('@')[2]}"
        self._client = InfluxDBClient(
            url=settings.url,
            token=settings.token.reveal(),
            org=settings.org,
            timeout=int(settings.timeout * 1000),
            enable_gzip=True,
            verify_ssl=settings.verify_ssl,
            ssl_ca_cert=settings.ssl_ca_cert or None,
        )
        self._writer = self._client.write_api(write_options=SYNCHRONOUS)
        self._reader = Reader(self._client, settings, self._call, self._name)

    def check(self) -> None:
        """See ``Store.check``."""
        try:
            self._send(b"\n")
            self._reader.check()
        except _RefusedError as refused:
            raise SinkUnavailableError(f"{self._name}: {refused}") from None

    def write(self, points: Sequence[Point]) -> list[Rejection]:
        """See ``Store.write``."""
        lines: list[_Line] = []
        rejections: list[Rejection] = []
        for point in points:
            try:
                lines.append((point, line_protocol.encode(point).encode()))
            except ValueError as error:
                rejections.append(Rejection(point, str(error)))
        for first in range(0, len(lines), MAX_POINTS):
            rejections += self._write(lines[first : first + MAX_POINTS])
        return rejections

    def read(
        self,
        measurement: str,
        start: int | None = None,
        end: int | None = None,
        where: Mapping[str, str] | None = None,
    ) -> Iterator[Point]:
        """See ``Store.read``."""
        try:
            yield from self._reader.read(measurement, start, end, where or {})
        except _RefusedError as refused:
            raise SinkUnavailableError(f"{self._name}: the query failed: {refused}") from None

    def retention(self) -> int:
        """See ``Store.retention``."""
        return self._reader.retention()

    def close(self) -> None:
        """See ``Store.close``."""
        self._client.close()

    def _write(self, lines: Sequence[_Line]) -> list[Rejection]:
        try:
            self._send(b"\n".join(line for _, line in lines))
        except _RefusedError as refused:
            if refused.status == 400:
                self._check_request()
            if len(lines) == 1 or refused.dropped == len(lines):
                return [Rejection(point, str(refused)) for point, _ in lines]
            middle = len(lines) // 2
            return self._write(lines[:middle]) + self._write(lines[middle:])
        return []

    def _check_request(self) -> None:
        # Settings that the server refuses (no organisation, say) are a 400 as well, and no point's fault.
        try:
            self._send(b"\n")
        except _RefusedError as refused:
            raise SinkUnavailableError(f"{self._name}: {refused}") from None

    def _send(self, body: bytes) -> None:
        self._call(
            lambda: self._writer.write(self._settings.bucket, self._settings.org, body, write_precision="s")
        )

    def _call(self, request: Callable[[], T]) -> T:
        try:
            return request()
        except ApiException as error:
            status = int(error.status or 0)
            message = self._public(_message(error.body))
            if status in _REFUSED:
                raise _RefusedError(status, message) from None
            said = _HINTS.get(status) or message or "no reason given"
            raise SinkUnavailableError(
                f"{self._name}: {said} [HTTP {status}]" if status else f"{self._name}: TLS failed",
                _retry_after(error.headers),
            ) from None
        except urllib3.exceptions.NewConnectionError:  # to urllib3 a kind of timeout
            raise SinkUnavailableError(f"{self._name}: cannot be reached") from None
        except urllib3.exceptions.TimeoutError:
            raise SinkUnavailableError(
                f"{self._name}: no answer within {self._settings.timeout:g} s (setting influxdb.timeout)"
            ) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise SinkUnavailableError(f"{self._name}: cannot be reached ({type(error).__name__})") from None
        except ValueError:
            # http.client's own text would show the header that it refuses, token and all.
            raise SinkUnavailableError(
                f"{self._name}: the request or its answer is not valid HTTP (settings influxdb.url, .token)"
            ) from None

    def _public(self, text: str) -> str:
        token = self._settings.token.reveal()
        return text.replace(token, "***") if token else text


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message or f"refused [HTTP {status}]")
        self.status = status
        found = _DROPPED.findall(message)
        self.dropped = int(found[-1]) if found and status == 422 else None


def _message(body: Any) -> str:
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["message"])
    # The server repeats the refused line, which may hold what should not reach a log.
    return " ".join(_LINE.sub("", text).split())[:300]


def _retry_after(headers: Mapping[str, str] | None) -> float | None:
    text = (headers or {}).get("Retry-After", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, min(seconds, MAX_RETRY_AFTER)) if seconds == seconds else None
