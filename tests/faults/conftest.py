"""The fault matrix: ``@pytest.mark.fault(number, "what is done")``, and the table of a run.

Tests with ``@pytest.mark.long_fault`` are part of ``make faults`` alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.matrix import Note, Row, Table
from tests.faults.scene import Scene
from tests.support.servers import InfluxDB, Kafka

NOTE = pytest.StashKey[Note]()
TABLE = pytest.StashKey[Table]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = Table()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("TIDEGAUGE_RELIABILITY"):
        return
    left_out = [item for item in items if item.get_closest_marker("long_fault")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    for marker in item.iter_markers("fault") if call.when == "call" else ():
        number, done = marker.args
        note = item.stash.get(NOTE, Note())
        item.config.stash[TABLE].rows.append(Row(number, done, note, call.duration, report.passed))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    path, table = os.environ.get("TIDEGAUGE_RELIABILITY"), session.config.stash[TABLE]
    if path and table.rows:
        table.write(Path(path))


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """For what the table tells of this test."""
    return request.node.stash.setdefault(NOTE, Note())


@pytest.fixture
def scene(kafka: Kafka, topic_prefix: str, tmp_path: Path, note: Note) -> Iterator[Scene]:
    """A deployment with SQLite."""
    made = Scene(kafka, topic_prefix, tmp_path, note)
    with made.ledger:
        yield made


@pytest.fixture
def influx_scene(
    kafka: Kafka, topic_prefix: str, influxdb: InfluxDB, influx_bucket: str, tmp_path: Path, note: Note
) -> Iterator[Callable[..., Scene]]:
    """Makes a deployment with InfluxDB; takes what ``Scene`` takes besides."""
    made: list[Scene] = []

    def make(**more: Any) -> Scene:
        made.append(Scene(kafka, topic_prefix, tmp_path, note, influxdb=(influxdb, influx_bucket), **more))
        return made[-1]

    yield make
    for each in made:
        with each.ledger:
            pass
