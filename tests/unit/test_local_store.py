"""What is particular to the store in a SQLite file; the contract's tests hold it to everything else."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tidegauge.errors import SinkUnavailableError
from tidegauge.settings import Settings, StoreSettings
from tidegauge.sinks.base import Point
from tidegauge.sinks.local import LocalStore
from tidegauge.sinks.open import open_store


def point(time: int = 60, value: int = 1) -> Point:
    return Point("latency", {"model": "a"}, time, {"requests": value})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a folder" / "50% #1?.db"


WRITER = """
import sys
from tidegauge.sinks.base import Point
from tidegauge.sinks.local import LocalStore
store = LocalStore(sys.argv[1])
for time in range(1_000_000):
    store.write([Point("latency", {"model": "a"}, time, {"requests": time})])
    print(time, flush=True)
"""


def test_what_was_acknowledged_is_there_after_kill_9_and_readable_while_the_writer_writes(path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    try:
        acknowledged = int(writer.stdout.readline())
        reader = LocalStore(path, readonly=True)
        before = len(list(reader.read("latency")))
        assert before > acknowledged
        while acknowledged < before + 50:
            acknowledged = int(writer.stdout.readline())
        assert len(list(reader.read("latency"))) > before
        reader.close()
    finally:
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().splitlines()
        writer.wait()
        writer.stdout.close()
    acknowledged = int(rest[-1]) if rest else acknowledged
    store = LocalStore(path)
    found = [(p.time, p.fields["requests"]) for p in store.read("latency")]
    store.close()
    assert found == [(n, n) for n in range(len(found))]
    assert len(found) > acknowledged


def test_two_writers_take_turns(path: Path) -> None:
    one, other = LocalStore(path), LocalStore(path)
    for n in range(20):
        assert (one if n % 2 else other).write([point(60 * n)]) == []
    assert len(list(one.read("latency"))) == 20
    one.close()
    other.close()


def test_a_write_is_synced_to_disk_before_it_is_acknowledged(path: Path) -> None:
    store = LocalStore(path)
    full = 2
    assert store._db.execute("PRAGMA synchronous").fetchone() == (full,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_a_reader_cannot_write(path: Path) -> None:
    LocalStore(path).close()
    reader = LocalStore(path, readonly=True)
    reader.check()
    with pytest.raises(SinkUnavailableError, match="readonly"):
        reader.write([point()])
    reader.close()


def test_a_file_that_another_process_holds_is_waited_for_and_then_named(path: Path) -> None:
    store = LocalStore(path, timeout=0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    for call in (store.check, lambda: store.write([point()])):
        with pytest.raises(SinkUnavailableError, match="database is locked"):
            call()
    holder.execute("ROLLBACK")
    store.check()
    assert store.write([point()]) == []
    holder.close()
    store.close()


def text(path: Path) -> None:
    path.write_text("not a database at all\n" * 100)


def foreign(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE points (x, y)")
    database.commit()
    database.close()


def newer(path: Path) -> None:
    LocalStore(path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (text, "file is not a database"),
        (foreign, "not a file of tidegauge's"),
        (newer, "another version of tidegauge"),
        (folder, "."),
    ],
)
@pytest.mark.parametrize("readonly", [False, True])
def test_a_file_that_is_no_store_is_refused_in_one_line_and_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], None], told: str, *, readonly: bool
) -> None:
    path = tmp_path / "x.db"
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(SinkUnavailableError, match=told) as caught:
        LocalStore(path, readonly=readonly)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_damaged_page_is_told_and_not_read_over(path: Path) -> None:
    store = LocalStore(path)
    store.write([point(60 * n) for n in range(2000)])
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size // 4))
    reader = LocalStore(path, readonly=True)
    with pytest.raises(SinkUnavailableError, match="malformed"):
        list(reader.read("latency"))
    reader.close()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkUnavailableError, match="file"):
        LocalStore(tmp_path / "file" / "x.db")


@pytest.mark.parametrize(
    "bad",
    [
        Point("latency", {}, 2**63, {"requests": 1}),
        Point("latency", {}, 60, {"requests": None}),  # type: ignore[dict-item]
        Point("latency", {}, 60, {"requests": [1]}),  # type: ignore[dict-item]
    ],
)
def test_what_sqlite_cannot_hold_is_refused_alone(path: Path, bad: Point) -> None:
    store = LocalStore(path)
    assert [r.point for r in store.write([bad, point()])] == [bad]
    assert list(store.read("latency")) == [point()]
    store.close()


def test_a_reader_is_told_of_a_missing_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LocalStore(tmp_path / "x.db").close()
    monkeypatch.chdir(tmp_path)
    forgotten = Settings(store=StoreSettings(f"sqlite:///{str(tmp_path / 'x.db').lstrip(os.sep)}"))
    with pytest.raises(SinkUnavailableError, match=f"fourth slash, as in sqlite:///{tmp_path}"):
        open_store(forgotten, readonly=True)
    for url in ("sqlite:///x.db", f"sqlite:///{tmp_path}/x.db"):
        store = open_store(Settings(store=StoreSettings(url)), readonly=True)
        store.check()
        store.close()
