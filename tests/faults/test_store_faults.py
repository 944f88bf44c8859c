"""An InfluxDB that is away, stalls, or has lost points: the sums are exact again once it is back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.scene import Scene
from tests.support.deployment import Worker
from tests.support.servers import InfluxDB

pytestmark = pytest.mark.slow

DAY = 86_400


def resident(worker: Worker) -> int:
    """Bytes of memory that a worker holds."""
    pages = Path(f"/proc/{worker.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def down(scene: Scene, influxdb: InfluxDB, seconds: float) -> None:
    """Have no store for a while; the worker's memory must not grow with the time."""
    with ExitStack() as stack:
        worker = stack.enter_context(scene.pipeline.worker())
        with scene.load(rate=300):
            scene.goes_on(worker, 1_000)
            influxdb.stop()
            time.sleep(seconds / 4)
            before = resident(worker)
            time.sleep(3 * seconds / 4)
            grown = resident(worker) - before
            assert worker.process.poll() is None, worker.tail()
            influxdb.start()
            scene.goes_on(worker, 1_000)
        assert grown < 40 * 1024 * 1024, f"{grown} bytes in {seconds} s"
        scene.finish(worker)


@pytest.mark.fault(15, "InfluxDB down for 20 s under load")
def test_a_store_that_was_down_has_everything_afterwards(
    influx_scene: Callable[[], Scene], influxdb: InfluxDB
) -> None:
    down(influx_scene(), influxdb, 20)


@pytest.mark.long_fault
@pytest.mark.timeout(1_800)
@pytest.mark.fault(15, "InfluxDB down for 10 minutes under load, memory measured")
def test_a_store_that_was_down_for_ten_minutes_has_everything_afterwards(
    influx_scene: Callable[[], Scene], influxdb: InfluxDB
) -> None:
    down(influx_scene(), influxdb, 600)


@pytest.mark.fault(20, "InfluxDB accepts connections and answers nothing for 15 s, and is killed meanwhile")
def test_a_store_that_hangs_and_dies_has_everything_afterwards(
    influx_scene: Callable[[], Scene], influxdb: InfluxDB
) -> None:
    scene = influx_scene()
    with ExitStack() as stack:
        worker = stack.enter_context(scene.pipeline.worker())
        with scene.load(rate=300):
            scene.goes_on(worker, 1_000)
            influxdb.pause()
            time.sleep(15)
            influxdb.kill()
            influxdb.start()
            scene.goes_on(worker, 1_000)
        scene.finish(worker)


@pytest.mark.fault(21, "kill -9 of the worker while InfluxDB holds its write, and again right after it")
def test_a_worker_killed_between_a_write_and_its_checkpoint_counts_once(
    influx_scene: Callable[[], Scene], influxdb: InfluxDB
) -> None:
    scene = influx_scene()
    with scene.load(rate=300):
        with scene.pipeline.worker("first") as first:
            scene.goes_on(first, 1_000)
            with influxdb.paused():
                time.sleep(2)  # long enough for a write to be under way
                first.kill()
        with scene.pipeline.worker("second") as second:
            # A checkpoint follows an export by seconds: what is seen here first is in no checkpoint yet.
            scene.goes_on(second, 1)
            second.kill()
    with scene.pipeline.worker("last") as last:
        scene.finish(last)


@pytest.mark.fault(22, "acknowledged points deleted from InfluxDB; tidegauge rebuild beside a live worker")
def test_points_that_the_store_lost_are_made_again_beside_a_live_worker(
    influx_scene: Callable[[], Scene], influxdb: InfluxDB
) -> None:
    scene = influx_scene()
    with ExitStack() as stack:
        worker = stack.enter_context(scene.pipeline.worker())
        with scene.publisher() as publisher:
            publisher.send(scene.generator.take(6_000))
        assert scene.settle().ok
        for measurement in ("cost", "cost_1h", "cost_1d", "latency"):
            influxdb.call(
                "POST",
                f"/api/v2/delete?org={influxdb.org}&bucket={scene.pipeline.settings.influxdb.bucket}",
                {
                    "start": "2020-01-01T00:00:00Z",
                    "stop": "2030-01-01T00:00:00Z",
                    "predicate": f'_measurement="{measurement}"',
                },
            )
        assert not scene.stored().sums["cost"]
        with scene.load(rate=50):
            scene.goes_on(worker, 50)
            first = min(event[1] for event in scene.ledger.sent.values())
            last = max(event[1] for event in scene.ledger.sent.values())
            scene.pipeline.do(
                "rebuild", "--store", "influxdb", "--from", str(first * DAY), "--to", str((last + 1) * DAY)
            )
        scene.finish(worker)
