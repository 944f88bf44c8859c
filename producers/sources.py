"""Recorded traces as request events: read as a stream, the same events every time.

An event's id is made of its record's content, so that replaying a trace again, in whatever order, gives the same
events. Records that are equal to the byte are told apart by counting them: the second one gets an id of its own.
For that the hashes of all records are kept, in memory up to ``MAX_IN_MEMORY`` of them, beyond that in a temporary
file; nothing else grows with the trace.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

import msgspec

from tidegauge.errors import InvalidEventError, TidegaugeError, UnavailableError, UsageError
from tidegauge.schemas.codec import explain
from tidegauge.schemas.common import MIN_TIME, SCHEMA_VERSION
from tidegauge.schemas.request import RequestEvent

from .columns import WIRE_NAMES, ColumnMap, wire_name
from .trace_formats import FORMATS, BadRecord, Skipped, make_format

MAX_IN_MEMORY: Final = 500_000
MAX_EXAMPLES: Final = 20
_GZIP_MAGIC: Final = b"\x1f\x8b"
_TIME: Final = WIRE_NAMES["time"]
_USER: Final = WIRE_NAMES["user"]


@dataclass
class Report:
    """What became of a trace's records: each is an event, skipped under its kind, or bad under a reason."""

    events: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    examples: list[BadRecord] = field(default_factory=list)
    """The first ``MAX_EXAMPLES`` of the bad ones."""


class Span(NamedTuple):
    """Event times of a trace in Unix seconds, and how many events it has."""

    first: float
    last: float
    events: int


class Trace:
    """A recorded trace; iterate it for its ``RequestEvent``, as often as you like.

    Args:
        path: the file; may be compressed with gzip.
        format: one of ``FORMATS``.
        columns: the column map, for ``jsonl`` and ``csv``.
        constants: values of fields for all events, over what the file says; they do not change the ids.
        strict: raise at the first bad record.
        user_key: users appear as a keyed hash; without a key, as a plain one, which can be guessed from the id.
            Events as on the wire keep the user that their producer wrote.

    Attributes:
        report: what became of the records in the latest iteration, so far.

    Raises:
        UsageError: the format, the map or a constant is wrong.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        format: str,  # noqa: A002
        *,
        columns: ColumnMap | None = None,
        constants: Mapping[str, str] | None = None,
        strict: bool = False,
        user_key: bytes = b"",
    ) -> None:
        if format not in FORMATS:
            raise UsageError(f"no format '{format}'; formats are {', '.join(FORMATS)}")
        self.path: Final = Path(path)
        self.format: Final = format
        self.report = Report()
        self._columns = columns
        self._constants = {wire_name(name): value for name, value in (constants or {}).items()}
        if not self._constants.keys().isdisjoint(("id", "time")):
            raise UsageError("id and time cannot be the same for all events")
        self._strict = strict
        self._user_key = hashlib.sha256(user_key).digest() if user_key else b""
        # Events as on the wire bear ids and users as their producers made them.
        self._native = format == "jsonl" and columns is None
        make_format(format, columns)
        if self._constants:
            try:
                probe = {"id": "probe", _TIME: float(MIN_TIME), **self._constants}
                msgspec.convert(probe, RequestEvent, strict=False)
            except msgspec.ValidationError as error:
                raise UsageError(f"{explain(error)} (the value for all events)") from None

    def __iter__(self) -> Iterator[RequestEvent]:
        """The events, in the file's order.

        Raises:
            UnavailableError: the file cannot be read.
            UsageError: the file lacks a column.
            TidegaugeError: a record is bad, and ``strict`` is set.
        """
        self.report = report = Report()
        with closing(_Occurrences()) as occurrences, self._open() as stream:
            source = make_format(self.format, self._columns)
            try:
                for record in source.records(stream):
                    if isinstance(record, BadRecord):
                        self._refuse(report, record)
                        continue
                    try:
                        event = self._event(source.fields(record.value), record.content, occurrences)
                    except InvalidEventError as error:
                        self._refuse(report, BadRecord(record.line, error))
                        continue
                    if isinstance(event, Skipped):
                        report.skipped[event.kind] += 1
                    else:
                        report.events += 1
                        yield event
            except (OSError, EOFError, zlib.error) as error:
                raise UnavailableError(f"{self.path}: {error}") from None

    def check(self) -> None:
        """Read as far as the first event; raises as iteration does, and ``UnavailableError`` where there is none."""
        if next(iter(self), None) is None:
            raise UnavailableError(self._no_event())

    def span(self, limit: int | None = None) -> Span:
        """Read the trace, or its first ``limit`` events, for its times; raises as iteration does."""
        first, last, count = float("inf"), float("-inf"), 0
        for event in islice(self, limit):
            first, last, count = min(first, event.time), max(last, event.time), count + 1
        if not count:
            raise UnavailableError(self._no_event())
        return Span(first, last, count)

    def _no_event(self) -> str:
        text = f"{self.path}: holds no event of the format {self.format}"
        return text + "".join(f"; line {bad.line}: {bad.error}" for bad in self.report.examples[:1])

    def _open(self) -> IO[bytes]:
        try:
            with self.path.open("rb") as stream:
                compressed = stream.read(2) == _GZIP_MAGIC
            return cast("IO[bytes]", gzip.open(self.path)) if compressed else self.path.open("rb")
        except OSError as error:
            raise UnavailableError(f"{self.path}: {error.strerror}") from None

    def _event(
        self, fields: dict[str, Any] | Skipped, content: bytes, occurrences: _Occurrences
    ) -> RequestEvent | Skipped:
        if isinstance(fields, Skipped):
            return fields
        user = fields.get(_USER)
        if user and not self._native:
            fields[_USER] = hashlib.blake2b(
                str(user).encode(), digest_size=16, key=self._user_key
            ).hexdigest()
        fields |= self._constants
        if "id" not in fields:
            fields["id"] = self._id(content, occurrences)
        try:
            # Columns and constants may be text that reads as a number; on the wire it may not.
            lax = not self._native or bool(self._constants)
            event = msgspec.convert(fields, RequestEvent, strict=not lax)
        except (msgspec.ValidationError, RecursionError) as error:
            raise explain(error) from None
        if event.schema_version > SCHEMA_VERSION:
            raise InvalidEventError("schema_version", "schema_version", f"at most {SCHEMA_VERSION}")
        return event

    def _id(self, content: bytes, occurrences: _Occurrences) -> str:
        digest = hashlib.blake2b(content, digest_size=16, key=self.format.encode())
        earlier = occurrences.count(digest.digest())
        if earlier:
            digest.update(b"\n%d" % earlier)
        return digest.hexdigest()

    def _refuse(self, report: Report, bad: BadRecord) -> None:
        if self._strict:
            raise TidegaugeError(f"{self.path}: line {bad.line}: {bad.error}")
        report.bad[bad.error.reason] += 1
        if len(report.examples) < MAX_EXAMPLES:
            report.examples.append(bad)


class _Occurrences:
    """How often each digest was seen before; bounded memory."""

    def __init__(self) -> None:
        self._recent: dict[bytes, int] = {}
        self._file: sqlite3.Connection | None = None

    def count(self, digest: bytes) -> int:
        """How often ``count`` was called with this digest before."""
        earlier = self._recent.get(digest)
        if earlier is None:
            earlier = self._spilled(digest)
            if len(self._recent) >= MAX_IN_MEMORY:
                self._spill()
        self._recent[digest] = earlier + 1
        return earlier

    def _spilled(self, digest: bytes) -> int:
        if self._file is None:
            return 0
        row = self._file.execute("SELECT n FROM seen WHERE digest = ?", (digest,)).fetchone()
        return row[0] if row else 0

    def _spill(self) -> None:
        if self._file is None:
            # No name: SQLite makes a temporary file and deletes it at the end, however that comes.
            self._file = sqlite3.connect("")
            self._file.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY, n INTEGER) WITHOUT ROWID")
        self._file.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?)", self._recent.items())
        self._recent.clear()

    def close(self) -> None:
        """Delete the file."""
        if self._file is not None:
            self._file.close()
