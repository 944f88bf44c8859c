"""The embedded store: one SQLite file, readable by others while a worker writes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tidegauge.errors import SinkUnavailableError

from .base import FieldValue, Point, Rejection, Store

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
_INT64: Final = 2**63


class LocalStore(Store):
    """Points in a SQLite file in WAL mode.

    Tags and fields are canonical JSON, so that equal tags are equal text and integers stay exact. Writes are
    synced to disk before they count as acknowledged.

    Args:
        path: the file; it and its folder are created for a writer.
        readonly: refuse to write, and to create a file that is not there.
    """

    def __init__(self, path: str | Path, *, readonly: bool = False) -> None:
        self.path = Path(path)
        try:
            if readonly:
                if not self.path.is_file():
                    raise SinkUnavailableError(f"no store at {self.path}")
                uri = f"{self.path.resolve().as_uri()}?mode=ro"
                self._db = sqlite3.connect(uri, uri=True, timeout=10, check_same_thread=False)
            else:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._db = sqlite3.connect(self.path, timeout=10, check_same_thread=False)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute(_SCHEMA)
                self._db.commit()
        except (sqlite3.Error, OSError) as error:
            raise SinkUnavailableError(f"store {self.path}: {error}") from None

    def check(self) -> None:
        """See ``Store.check``."""
        try:
            self._db.execute("SELECT 1 FROM points LIMIT 1").fetchone()
        except sqlite3.Error as error:
            raise SinkUnavailableError(f"store {self.path}: {error}") from None

    def write(self, points: Sequence[Point]) -> list[Rejection]:
        """See ``Store.write``."""
        rows, refused = [], []
        for point in points:
            reason = _unfit(point)
            if reason:
                refused.append(Rejection(point, reason))
            else:
                rows.append((point.measurement, point.time, _canonical(point.tags), _canonical(point.fields)))
        try:
            with self._db:
                self._db.executemany(_UPSERT, rows)
        except sqlite3.Error as error:
            raise SinkUnavailableError(f"store {self.path}: {error}") from None
        return refused

    def read(
        self,
        measurement: str,
        start: int | None = None,
        end: int | None = None,
        where: Mapping[str, str] | None = None,
    ) -> Iterator[Point]:
        """See ``Store.read``."""
        try:
            rows = self._db.execute(
                "SELECT time, tags, fields FROM points"
                " WHERE measurement = ? AND time >= ? AND time < ? ORDER BY time, tags",
                (measurement, -_INT64 if start is None else start, _INT64 - 1 if end is None else end),
            )
            for time, tags_text, fields in rows:
                tags = json.loads(tags_text)
                if all(tags.get(name) == value for name, value in (where or {}).items()):
                    yield Point(measurement, tags, time, json.loads(fields))
        except sqlite3.Error as error:
            raise SinkUnavailableError(f"store {self.path}: {error}") from None

    def close(self) -> None:
        """See ``Store.close``."""
        self._db.close()


def _unfit(point: Point) -> str | None:
    if not point.fields:
        return "no fields"
    for name, value in point.fields.items():
        if isinstance(value, int) and not -_INT64 <= value < _INT64:
            return f"{name}: not a 64-bit integer"
        if isinstance(value, float) and value - value != 0.0:
            return f"{name}: not a finite number"
    return None


def _canonical(mapping: Mapping[str, FieldValue] | Mapping[str, str]) -> str:
    return json.dumps(mapping, sort_keys=True, separators=(",", ":"))
