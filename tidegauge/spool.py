"""What a rebuild reads more of than memory should hold: event ids, late events, and shares of panes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final

import msgspec

from .processors.core.recount import BEFORE, Row, Stretch
from .processors.core.views import VIEWS
from .schemas.pane import PaneSnapshot

_CACHE_KIB: Final = 65_536
_DIGEST: Final = 16
"""Bytes kept of an id's hash: among 10¹² ids, the odds that any two are taken for one are 1 in 10¹⁴."""

_SCHEMA: Final = """
CREATE TABLE ids (source INTEGER, id BLOB, PRIMARY KEY (source, id)) WITHOUT ROWID;
CREATE TABLE late (number INTEGER PRIMARY KEY, source INTEGER, event BLOB);
CREATE TABLE shares (
    topic TEXT, partition INTEGER, share INTEGER, view TEXT, start INTEGER, ending INTEGER, key BLOB, pane BLOB
);
"""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PaneSnapshot).decode


class Spool:
    """A temporary SQLite file that nobody else sees, in SQLite's own folder for such (``SQLITE_TMPDIR``).

    Of it, 64 MiB are in memory at most; it is gone when it is closed, or with the process.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._db.execute("PRAGMA journal_mode = OFF")  # whoever dies begins anew
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")
        self._sources = 0

    def close(self) -> None:
        """Let go of it; safe to call twice."""
        self._db.close()

    def memory(self) -> SpoolMemory:
        """The memory of one source partition."""
        self._sources += 1
        return SpoolMemory(self._db, self._sources)

    def add(
        self, topic: str, partition: int, share: int, panes: Iterable[PaneSnapshot], stretch: Stretch
    ) -> None:
        """Keep those of the panes that belong to a stretch."""
        self._db.executemany(
            "INSERT INTO shares VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    topic,
                    partition,
                    share,
                    pane.view,
                    pane.start,
                    pane.start + VIEWS[pane.view].width,
                    _encode(pane.key),
                    _encode(pane),
                )
                for pane in panes
                if stretch.covers(pane.view, pane.start)
            ),
        )

    def forget_moving(self, topic: str) -> None:
        """Drop of a topic what is counted anew each time: late events, and the workers' epochs."""
        self._db.execute("DELETE FROM shares WHERE topic = ? AND share != ?", (topic, BEFORE))

    def rows(self, topic: str) -> Iterator[Row]:
        """All shares of a topic's panes, pane by pane; those that end last, which may still change, come first."""
        query = """
            SELECT partition, share, pane FROM shares WHERE topic = ?
            ORDER BY ending DESC, view, start, key, partition, share
        """
        for partition, share, pane in self._db.execute(query, (topic,)):
            yield Row(partition, share, _decode(pane))


class SpoolMemory:
    """A ``Memory`` of one source partition; see ``processors.core.recount``."""

    def __init__(self, db: sqlite3.Connection, source: int) -> None:
        self._db = db
        self._source = source

    def new(self, identity: str) -> bool:
        """See ``Memory.new``."""
        row = (self._source, _digest(identity))
        return self._db.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", row).rowcount == 1

    def knows(self, identity: str) -> bool:
        """See ``Memory.knows``."""
        row = (self._source, _digest(identity))
        return self._db.execute("SELECT 1 FROM ids WHERE source = ? AND id = ?", row).fetchone() is not None

    def keep(self, event: bytes) -> None:
        """See ``Memory.keep``."""
        self._db.execute("INSERT INTO late (source, event) VALUES (?, ?)", (self._source, event))

    def kept(self) -> Iterator[bytes]:
        """See ``Memory.kept``."""
        for (event,) in self._db.execute(
            "SELECT event FROM late WHERE source = ? ORDER BY number", (self._source,)
        ):
            yield event


def _digest(identity: str) -> bytes:
    return blake2b(identity.encode(errors="surrogatepass"), digest_size=_DIGEST).digest()
