"""Reading from InfluxDB 2 by InfluxQL, page by page.

Of the ways to read whole points, ``/query`` with MessagePack keeps integers apart from floats, gives the points in
order of time, and is three times as fast as Flux with ``pivot`` (29,000 points of 40 columns a second against 9,000,
on two shared cores). Each page is a request of its own, so that neither side holds more than a page, and a slow
reader keeps no query open. InfluxQL finds a bucket by the database and retention policy of its name:
https://docs.influxdata.com/influxdb/v2/query-data/influxql/dbrp/
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import msgspec
from influxdb_client import InfluxDBClient

from tidegauge.errors import SinkUnavailableError
from tidegauge.processors.core.views import MEASUREMENTS
from tidegauge.settings import InfluxDB

from . import line_protocol
from .base import FieldValue, Point

PAGE: Final = 20_000
"""Points in one request."""

_Row = list[Any]
_Table = tuple[list[str], list[_Row]]
_NOTHING: Final[dict[str, list[Any]]] = {"columns": [], "values": []}


class Reader:
    """Reads one bucket.

    Args:
        client: for the requests.
        settings: the bucket and its organisation.
        call: runs a request and turns what goes wrong into ``SinkUnavailableError``.
        name: how errors call the server.
    """

    def __init__(
        self,
        client: InfluxDBClient,
        settings: InfluxDB,
        call: Callable[[Callable[[], Any]], Any],
        name: str,
    ) -> None:
        self._client = client
        self._settings = settings
        self._call = call
        self._name = name
        self._found = False

    def check(self) -> None:
        """Raise ``SinkUnavailableError`` unless the bucket can be read."""
        self._query(f"SELECT * FROM {self._source('latency')} LIMIT 1")  # noqa: S608 (quoted)

    def read(
        self, measurement: str, start: int | None, end: int | None, where: Mapping[str, str]
    ) -> Iterator[Point]:
        """See ``Store.read``."""
        latest = line_protocol.MAX_TIME
        first = -latest if start is None else max(start, -latest)
        after = latest + 1 if end is None else min(end, latest + 1)
        if first >= after:
            return
        only = [
            f" AND {_identifier(key)}::tag = {_literal(line_protocol.escape(text) if text else '')}"
            for key, text in where.items()
        ]
        source, conditions = self._source(measurement), "".join(only)

        def question(columns: str, since: int, limit: int) -> str:
            # The last second that InfluxDB can hold has fractions that it cannot: name none beyond it.
            span = f"time >= {since}s AND time <= {after - 1}s"
            return f"SELECT {columns} FROM {source} WHERE {span}{conditions} LIMIT {limit}"  # noqa: S608 (quoted)

        # SHOW FIELD KEYS would ask for a database's default retention policy, which "a/b" may lack. Fields come
        # second: one that is new between the two questions is then no tag.
        (every, _), (fields, _) = self._query(f"{question('*', first, 1)}; {question('*::field', first, 1)}")
        tags = [name for name in every if name not in fields]
        fields = fields[1:]
        columns = ", ".join(
            [f"{_identifier(name)}::field" for name in fields]
            + [f"{_identifier(name)}::tag" for name in tags]
        )
        if not fields:
            return
        make = _maker(measurement, fields, tags)
        limit = PAGE
        while True:
            ((_, rows),) = self._query(question(columns, first, limit))
            last = rows[-1][0] if len(rows) == limit else None
            if last is not None and rows[0][0] == last:
                limit *= 2  # more points of one time than a page holds
                continue
            # The points of a full page's last time may go on in the next one.
            whole = rows if last is None else [row for row in rows if row[0] < last]
            for _, together in groupby(map(make, whole), attrgetter("time")):
                yield from sorted(together, key=_order)
            if last is None:
                return
            first, limit = last, PAGE

    def _source(self, measurement: str) -> str:
        # A bucket "a/b" is the retention policy b of the database a; any other is a database's only one.
        database, slash, policy = self._settings.bucket.partition("/")
        parts = [database, policy, measurement] if slash else [measurement]
        return ".".join(map(_identifier, parts))

    def _query(self, statements: str) -> list[_Table]:
        """The columns and the rows of each statement."""
        if not self._found:
            self._find()
        body: bytes = self._call(lambda: self._fetch(statements))
        try:
            results = msgspec.msgpack.decode(body)["results"]
            for result in results:
                if "error" in result:
                    raise SinkUnavailableError(
                        f"{self._name}: the query failed: {' '.join(str(result['error']).split())[:300]}"
                    )
            tables = [(result.get("series") or [_NOTHING])[0] for result in results]
            return [(table["columns"], table["values"]) for table in tables]
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
            raise SinkUnavailableError(
                f"{self._name}: its answer cannot be read ({type(error).__name__})"
            ) from None

    def retention(self) -> int:
        """Seconds for which the bucket keeps points; 0: for ever."""
        rules = self._find().retention_rules or []
        return min((int(rule.every_seconds) for rule in rules if rule.every_seconds), default=0)

    def _find(self) -> Any:
        # InfluxQL takes the organisation from the token; a wrong one in the settings should not go unseen.
        settings = self._settings
        if not settings.org:
            raise SinkUnavailableError(f"{self._name}: no organisation is set (setting influxdb.org)")
        found = self._call(
            lambda: self._client.buckets_api().find_buckets(name=settings.bucket, org=settings.org)
        )
        if not found.buckets:
            raise SinkUnavailableError(f"{self._name}: no such bucket, or the token may not see it")
        self._found = True
        return found.buckets[0]

    def _fetch(self, statements: str) -> bytes:
        database = self._settings.bucket.partition("/")[0]
        answer = self._client.api_client.call_api(
            "/query",
            "GET",
            query_params=[("db", database), ("q", statements), ("epoch", "s")],
            header_params={"Accept": "application/x-msgpack"},
            _preload_content=False,
            _return_http_data_only=True,
        )
        try:
            return bytes(answer.data)
        finally:
            answer.release_conn()


def _maker(measurement: str, fields: list[str], tags: list[str]) -> Callable[[_Row], Point]:
    stored = MEASUREMENTS.get(measurement)
    # Empty tags are not stored.
    empty: dict[str, str] = dict.fromkeys(stored.view.dimensions, "") if stored else {}
    after_fields = 1 + len(fields)

    def make(row: _Row) -> Point:
        values: dict[str, FieldValue] = {}
        for name, value in zip(fields, row[1:after_fields], strict=True):
            if value is not None:
                values[name] = line_protocol.unescape(value) if isinstance(value, str) else value
        named = dict(empty)
        for name, text in zip(tags, row[after_fields:], strict=True):
            if text:
                named[name] = line_protocol.unescape(text)
        return Point(measurement, named, row[0], values)

    return make


def _order(point: Point) -> str:
    return json.dumps(point.tags, sort_keys=True, separators=(",", ":"))


def _identifier(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
