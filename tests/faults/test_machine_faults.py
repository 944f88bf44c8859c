"""A machine that lets a worker down: a disk that is full, a clock that jumps."""

from __future__ import annotations

import importlib.util
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.matrix import Note
from tests.faults.scene import Scene
from tests.support.deployment import Worker
from tests.support.servers import Kafka

pytestmark = pytest.mark.slow


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit(2), which Linux has")
@pytest.mark.fault(7, "no file of the worker's may grow any more (EFBIG, by prlimit), then it may again")
def test_a_store_that_can_grow_no_more_is_waited_for(scene: Scene) -> None:
    with scene.load(rate=300), scene.pipeline.worker("first") as worker:
        scene.goes_on(worker, 300)
        _, hard = resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE)
        # Room for the worker's log, and less than the store and its write-ahead log are or will be in a moment.
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (65_536, hard))
        stood = stands_still(scene, worker)
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        worker.wait("progress", lambda: scene.handled() > stood)
        worker.says("trying again in")
    with scene.pipeline.worker("last") as last:
        scene.finish(last)


def stands_still(scene: Scene, worker: Worker) -> int:
    """Wait until the store has taken nothing for a while, which under load it otherwise does every second."""
    seen: list[int] = []

    def still() -> bool:
        seen.append(scene.handled())
        return len(seen) > 40 and len(set(seen[-40:])) == 1

    worker.wait("the store to stand still", still)
    return seen[-1]


def faketime() -> Path | None:
    """libfaketime's library, which stands between a process and its wall clock."""
    found = importlib.util.find_spec("libfaketime") if sys.platform == "linux" else None
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.glob("vendor/libfaketime/src/libfaketime.so*"), None)


@pytest.fixture
def clock_scene(
    kafka: Kafka, topic_prefix: str, tmp_path: Path, note: Note
) -> Iterator[tuple[Scene, Callable[[int], Any]]]:
    """A deployment whose workers' wall clock can be set while they run, and how: by seconds from the true time."""
    library = faketime()
    if library is None:
        pytest.skip("needs libfaketime's library, which its package builds with a C compiler on Linux")
    file = tmp_path / "clock"

    def step(seconds: int) -> None:
        # Replaced and not written over: libfaketime reads it again at every look at the clock.
        new = file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(file)

    step(0)
    environment = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",  # seconds; reading the file at every look at the clock is slow
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DISABLE_SHM": "1",
    }
    made = Scene(kafka, topic_prefix, tmp_path, note, settings=environment)
    with made.ledger:
        yield made, step


@pytest.mark.fault(8, "the worker's wall clock stepped an hour on, two back, and one on (libfaketime)")
def test_the_wall_clock_of_a_worker_decides_no_figure(
    clock_scene: tuple[Scene, Callable[[int], Any]],
) -> None:
    scene, step = clock_scene
    with scene.load(rate=300):
        with scene.pipeline.worker("first") as worker:
            scene.goes_on(worker, 300)
            step(3_600)
            scene.goes_on(worker, 900)
            step(-3_600)
            scene.goes_on(worker, 900)
            worker.kill()
        with scene.pipeline.worker("an hour behind", "--loglevel", "INFO") as behind:
            scene.goes_on(behind, 600)
            assert 3_000 < -hands(behind) < 4_000
            step(3_600)
            scene.goes_on(behind, 600)
            behind.end()
    with scene.pipeline.worker("an hour ahead", "--loglevel", "INFO") as last:
        scene.finish(last)
        assert 3_000 < hands(last) < 4_000


def hands(worker: Worker) -> float:
    """Seconds by which the first line of a worker's log is ahead of the true time, but for how long it runs."""
    found = re.search(r"^\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", worker.log.read_text(), re.MULTILINE)
    assert found, worker.tail()
    return datetime.fromisoformat(found[1]).astimezone().timestamp() - time.time()
