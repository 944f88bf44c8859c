"""The embedded store: one SQLite file, readable by others while a worker writes."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from tidegauge.errors import SinkUnavailableError

from .base import FieldValue, Point, Rejection, Store

_APPLICATION: Final = 0x74696465  # "tide", in the header of our files
_FORMAT: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS points (
    measurement TEXT NOT NULL,
    time INTEGER NOT NULL,
    tags TEXT NOT NULL,
    fields TEXT NOT NULL,
    PRIMARY KEY (measurement, time, tags)
) WITHOUT ROWID
"""
_UPSERT: Final = """
INSERT INTO points VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET fields = json_patch(fields, excluded.fields)
"""
_SELECT: Final = """
SELECT time, tags, fields FROM points WHERE measurement = ? AND time >= ? AND time < ? ORDER BY time, tags
"""
_INT64: Final = 2**63


class LocalStore(Store):
    """Points in a SQLite file in WAL mode.

    Tags and fields are canonical JSON, so that equal tags are equal text and integers stay exact. A write is
    acknowledged once its transaction is synced to disk (``synchronous = FULL``: in WAL mode the usual ``NORMAL``
    survives a killed process, but loses the last transactions when the power fails).

    Args:
        path: the file; it and its folder are created for a writer.
        readonly: refuse to write, and to create a file that is not there.
        timeout: seconds to wait for another process that is writing.

    Raises:
        SinkUnavailableError: the file is missing, locked, damaged, or not ours.
    """

    def __init__(self, path: str | Path, *, readonly: bool = False, timeout: float = 10.0) -> None:
        self.path = Path(path)
        self._readonly = readonly
        if readonly and not self.path.is_file():
            raise SinkUnavailableError(f"no store at {self.path.absolute()}: there is no such file")
        with self._explained():
            if not readonly:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}",
                uri=True,
                timeout=timeout,
                isolation_level=None,  # transactions are begun here, and as writers from the start
                check_same_thread=False,
            )
        try:
            with self._explained():
                self._open()
        except SinkUnavailableError:
            self._db.close()
            raise

    def check(self) -> None:
        """See ``Store.check``."""
        with self._explained():
            self._db.execute("SELECT 1 FROM points LIMIT 1").fetchone()
            if not self._readonly:
                with self._transaction():
                    pass

    def write(self, points: Sequence[Point]) -> list[Rejection]:
        """See ``Store.write``. All of the points are stored in one transaction."""
        rows, refused = [], []
        for point in points:
            reason = _unfit(point)
            if reason:
                refused.append(Rejection(point, reason))
            else:
                rows.append((point.measurement, point.time, _canonical(point.tags), _fields(point.fields)))
        if rows:
            with self._explained(), self._transaction():
                self._db.executemany(_UPSERT, rows)
        return refused

    def read(
        self,
        measurement: str,
        start: int | None = None,
        end: int | None = None,
        where: Mapping[str, str] | None = None,
    ) -> Iterator[Point]:
        """See ``Store.read``. Holds one point at a time, of the state that the file had at the first."""
        first = -_INT64 if start is None else max(start, -_INT64)
        after = _INT64 - 1 if end is None else min(end, _INT64 - 1)
        if first >= after:
            return
        wanted = (where or {}).items()
        with self._explained():
            for time, tags_text, fields in self._db.execute(_SELECT, (measurement, first, after)):
                tags = json.loads(tags_text)
                if all(tags.get(name) == value for name, value in wanted):
                    yield Point(measurement, tags, time, json.loads(fields))

    def close(self) -> None:
        """See ``Store.close``."""
        self._db.close()

    def _open(self) -> None:
        if not self._readonly and not self._db.execute("PRAGMA schema_version").fetchone()[0]:
            # A point with its sketches takes a kilobyte or two; on SQLite's usual pages of 4 kB the file is three
            # times as large. The size can only be chosen before the first table.
            self._db.execute("PRAGMA page_size = 16384")
            self._db.execute("PRAGMA journal_mode = WAL")
            with self._transaction():
                self._db.execute(_SCHEMA)
                self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {_FORMAT}")
        if self._db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise SinkUnavailableError(f"store {self.path}: it is not a file of tidegauge's")
        if self._db.execute("PRAGMA user_version").fetchone()[0] != _FORMAT:
            raise SinkUnavailableError(f"store {self.path}: another version of tidegauge wrote it")
        self._db.execute("PRAGMA synchronous = FULL")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # IMMEDIATE waits its turn at once; a transaction that starts as a reader fails when it comes to write
        # and another process has written in between.
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, json.JSONDecodeError) as error:
            raise SinkUnavailableError(f"store {self.path}: {error}") from None


def _unfit(point: Point) -> str | None:
    if not point.fields:
        return "no fields"
    if not -_INT64 <= point.time < _INT64 - 1:
        return "time: not a 64-bit integer"
    for name, value in point.fields.items():
        if reason := _unfit_value(value):
            return f"{name}: {reason}"
    return None


def _unfit_value(value: object) -> str | None:
    if isinstance(value, int):
        return None if -_INT64 <= value < _INT64 else "not a 64-bit integer"
    if isinstance(value, float):
        return None if math.isfinite(value) else "not a finite number"
    return None if isinstance(value, str) else "neither a number nor text"


def _canonical(tags: Mapping[str, str]) -> str:
    """One text for equal tags, for ever: they are a part of the key."""
    return json.dumps(tags, sort_keys=True, separators=(",", ":"))


def _fields(fields: Mapping[str, FieldValue]) -> str:
    try:
        return msgspec.json.encode(fields).decode()
    except UnicodeEncodeError:  # half of a surrogate pair, which json knows how to spell
        return json.dumps(fields)
