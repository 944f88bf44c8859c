"""Deployments for the fault matrix: ``@pytest.mark.fault(number, "what is done")``.

Tests with ``@pytest.mark.long_fault`` are part of ``make faults`` alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.matrix import Note
from tests.faults.report import PAGE
from tests.faults.scene import Scene
from tests.support.servers import InfluxDB, Kafka


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get(PAGE):
        return
    left_out = [item for item in items if item.get_closest_marker("long_fault")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


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
