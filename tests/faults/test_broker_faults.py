"""A Kafka that restarts, crashes, is away, is slow, or has lost the state: the sums stay exact."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest
from kafka import KafkaAdminClient

from tests.faults.scene import Scene
from tests.support.servers import Kafka

pytestmark = pytest.mark.slow


@pytest.mark.fault(10, "Kafka restarted, then killed, under load")
def test_a_broker_that_restarts_and_crashes_under_load_costs_nothing(scene: Scene, kafka: Kafka) -> None:
    with ExitStack() as stack:
        worker = stack.enter_context(scene.pipeline.worker())
        with scene.load(rate=300):
            scene.goes_on(worker, 300)
            kafka.stop()
            kafka.start()
            scene.goes_on(worker, 300)
            kafka.kill()
            kafka.start()
            scene.goes_on(worker, 300)
        scene.finish(worker)


def away(scene: Scene, kafka: Kafka, seconds: float) -> None:
    with ExitStack() as stack:
        worker = stack.enter_context(scene.pipeline.worker())
        with scene.load(rate=100):
            scene.goes_on(worker, 100)
            kafka.kill()
            time.sleep(seconds)
            assert worker.process.poll() is None, worker.tail()
            kafka.start()
            scene.goes_on(worker, 100)
        scene.finish(worker)


@pytest.mark.fault(11, "Kafka gone for 20 seconds, longer than the session timeout")
def test_a_worker_outlives_a_broker_that_is_away(scene: Scene, kafka: Kafka) -> None:
    away(scene, kafka, 20)


@pytest.mark.long_fault
@pytest.mark.timeout(900)
@pytest.mark.fault(11, "Kafka gone for 5 minutes")
def test_a_worker_outlives_a_broker_that_is_away_for_five_minutes(scene: Scene, kafka: Kafka) -> None:
    away(scene, kafka, 300)


@pytest.mark.fault(12, "Kafka frozen for 1 to 8 seconds, again and again")
def test_a_broker_that_stalls_again_and_again_costs_nothing(scene: Scene, kafka: Kafka) -> None:
    with ExitStack() as stack:
        worker = stack.enter_context(scene.pipeline.worker())
        with scene.load(rate=300):
            scene.goes_on(worker, 300)
            for seconds in (1, 3, 8, 2):
                with kafka.paused():
                    time.sleep(seconds)
                scene.goes_on(worker, 100)
        scene.finish(worker)


@pytest.mark.fault(13, "the state topic deleted while no worker runs: noticed, and all counted again")
def test_state_that_was_deleted_is_noticed_and_made_again_from_the_events(scene: Scene, kafka: Kafka) -> None:
    with scene.publisher() as publisher:
        publisher.send(scene.generator.take(2_000))
    with scene.pipeline.worker("first") as first:
        assert scene.settle().ok
        first.end()
    before = scene.stored()
    state = scene.pipeline.settings.topics.state
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    try:
        admin.delete_topics([state])
    finally:
        admin.close()
    refused = scene.pipeline.run("worker", "--store", scene.pipeline.store)
    assert refused.returncode == 1
    assert state in refused.stderr
    assert "topics create" in refused.stderr
    scene.pipeline.do("topics", "create")
    with scene.publisher() as publisher:
        publisher.send(scene.generator.take(100))
    with scene.pipeline.worker("second") as second:
        scene.finish(second)
    assert "counted again" in second.tail()
    assert sum(scene.stored().outcomes.values()) == sum(before.outcomes.values()) + 101
