"""Workers that die, come, go, freeze, or whose clock is wrong: the sums stay exact."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from base64 import b64encode
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.oracle.events import MIDNIGHT, make
from tests.faults.scene import Scene, dead_letters
from tests.support.deployment import Worker
from tests.support.servers import Kafka

pytestmark = pytest.mark.slow

BUGGY = (sys.executable, str(Path(__file__).parents[1] / "support" / "poisoned.py"))
SESSION = 6.0  # seconds, as tests.support.deployment sets it


def wander(chance: random.Random, least: float, most: float) -> None:
    """Let the pipeline run on for a moment that nobody has chosen."""
    time.sleep(chance.uniform(least, most))


def kills(scene: Scene, repeats: int, seed: int) -> None:
    chance = random.Random(seed)
    with scene.load(rate=400):
        for repeat in range(repeats):
            with scene.pipeline.worker(f"worker-{repeat}") as worker:
                scene.goes_on(worker)
                wander(chance, 0.0, 2.5)
                worker.kill()
    with scene.pipeline.worker("last") as worker:
        scene.finish(worker)


@pytest.mark.fault(1, "kill -9 mid-pane at random moments, 3 repeats")
def test_a_worker_killed_three_times_under_load_counts_exactly(scene: Scene) -> None:
    kills(scene, 3, seed=1)


@pytest.mark.long_fault
@pytest.mark.timeout(1_800)
@pytest.mark.fault(1, "kill -9 mid-pane at random moments, 20 repeats")
def test_a_worker_killed_twenty_times_under_load_counts_exactly(scene: Scene) -> None:
    kills(scene, 20, seed=20)


@pytest.mark.fault(2, "SIGTERM under load: exit 0, nothing read twice by the next")
def test_a_worker_told_to_end_under_load_leaves_nothing_to_be_read_again(scene: Scene) -> None:
    with scene.load(rate=400):
        with scene.pipeline.worker("first") as first:
            scene.goes_on(first, 500)
            begin = time.monotonic()
            first.process.send_signal(signal.SIGTERM)
            assert first.process.wait(30) == 0, first.tail()
            assert time.monotonic() - begin < 30
        # Nothing that the store has was read after the stored position: the next goes on right behind it.
        assert sum(scene.positions().values()) == scene.handled()
        with scene.pipeline.worker("second") as second:
            scene.goes_on(second, 500)
    with scene.pipeline.worker("last") as last:
        scene.finish(last)


@pytest.mark.fault(3, "a second and a third worker join and leave under load")
def test_workers_that_join_and_leave_under_load_count_exactly(scene: Scene) -> None:
    with ExitStack() as stack:
        with scene.load(rate=400):
            first = stack.enter_context(scene.pipeline.worker("first"))
            scene.goes_on(first, 200)
            others = [stack.enter_context(scene.pipeline.worker(name)) for name in ("second", "third")]
            for other in others:
                scene.goes_on(other, 800)
            first.end()
            scene.goes_on(others[0], 800)
            others[1].end()
            scene.goes_on(others[0], 800)
        scene.finish(others[0])


@pytest.mark.fault(4, "kill -9 of one worker while another joins")
def test_a_worker_killed_during_a_rebalance_costs_nothing(scene: Scene) -> None:
    chance = random.Random(4)
    with ExitStack() as stack:
        with scene.load(rate=400):
            survivor = stack.enter_context(scene.pipeline.worker("survivor"))
            scene.goes_on(survivor, 200)
            for n in range(2):
                joining = stack.enter_context(scene.pipeline.worker(f"joining-{n}", "--loglevel", "INFO"))
                joining.says("(Re-)joining group")
                wander(chance, 0.0, 0.3)
                joining.kill()
                scene.goes_on(survivor, 400)
        scene.finish(survivor)


@pytest.mark.fault(5, "SIGSTOP of a worker for twice its session timeout, then SIGCONT: no sum goes back")
def test_a_worker_that_was_frozen_writes_nothing_older_over_what_is_newer(scene: Scene) -> None:
    with ExitStack() as stack:
        with scene.load(rate=400):
            frozen = stack.enter_context(scene.pipeline.worker("frozen"))
            scene.goes_on(frozen, 400)
            other = stack.enter_context(scene.pipeline.worker("other"))
            scene.goes_on(other, 400)
            os.kill(frozen.process.pid, signal.SIGSTOP)
            begin = time.monotonic()
            scene.goes_on(other, 1)
            watch = Watch(scene)
            while time.monotonic() - begin < 2 * SESSION:
                watch.look()
            os.kill(frozen.process.pid, signal.SIGCONT)
            end = time.monotonic() + 2 * SESSION
            while time.monotonic() < end:
                watch.look()
        scene.finish(other)
        frozen.end()


class Watch:
    """Looks whether any sum ever goes back."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._seen: dict[tuple[str, str, int], int] = {}

    def look(self) -> None:
        """Compare with what was seen before."""
        for view, sums in self._scene.stored().sums.items():
            for (model, day), found in sums.items():
                before = self._seen.get((view, model, day), 0)
                assert found.requests >= before, (
                    f"{view} of {model} went back from {before} to {found.requests}"
                )
                self._seen[view, model, day] = found.requests
        time.sleep(0.1)


@pytest.mark.fault(1, "kill -9, and the next worker never shows a sum smaller than one seen before")
def test_what_was_stored_before_a_kill_never_goes_back(scene: Scene) -> None:
    watch = Watch(scene)
    with scene.load(rate=400):
        for repeat in range(2):
            with scene.pipeline.worker(f"worker-{repeat}") as worker:
                scene.goes_on(worker, 300)
                watch.look()
                worker.kill()
        with scene.pipeline.worker("last") as last:
            before = scene.handled()
            while scene.handled() < before + 500:
                assert last.process.poll() is None, last.tail()
                watch.look()
    with scene.pipeline.worker("end") as end:
        scene.finish(end)


@pytest.mark.fault(6, "code that raises on some events: those dead-lettered once, all others counted")
def test_events_on_which_our_own_code_raises_become_dead_letters_once(scene: Scene) -> None:
    bad = [make(f"bad-{n}", MIDNIGHT + n, "poison", 5, 5) for n in range(3)]
    with scene.pipeline.worker("buggy", program=BUGGY) as worker:
        with scene.publisher() as publisher:
            events = scene.generator.take(3_000)
            publisher.send(events[:1_000])
            publisher.send(bad)
            publisher.send(events[1_000:])
        worker.wait("every event", lambda: scene.handled() == 3_003)
        worker.end()  # killed, it might leave a letter that its checkpoint does not know of yet
    with scene.pipeline.worker("again", program=BUGGY) as worker:
        with scene.publisher() as publisher:
            publisher.send(scene.generator.take(500))
        worker.wait("what came after", lambda: scene.handled() == 3_503)
        stretch = ("--from", str(MIDNIGHT - 86_400), "--to", str(MIDNIGHT + 86_400))
        scene.pipeline.do("rebuild", "--store", scene.pipeline.store, *stretch)  # leaves them out as well
        worker.end()
    stored = scene.stored()
    assert stored.outcomes == {"applied": 3_500, "refused_processing_failed": 3}
    costs = {view: sum(each.cost_nano for each in sums.values()) for view, sums in stored.sums.items()}
    expected = sum(sent[2] for identity, sent in scene.ledger.sent.items() if not identity.startswith("bad"))
    assert set(costs.values()) == {expected}
    letters = [letter for letter in dead_letters(scene) if letter["reason"] == "processing_failed"]
    assert sorted(letter["payload"] for letter in letters) == sorted(
        b64encode(event.payload).decode() for event in bad
    )
    scene.note.events, scene.note.difference = 3_503, 0


def ends_with_one_line(worker: Worker, told: str) -> None:
    assert worker.process.wait(60) == 1, worker.tail()
    assert told in worker.tail()


@pytest.mark.fault(9, "state of a newer format: one clear line and exit 1, and nothing is written")
def test_state_that_a_newer_version_has_written_is_left_alone(scene: Scene, kafka: Kafka) -> None:
    from kafka import KafkaProducer

    with scene.publisher() as publisher:
        publisher.send(scene.generator.take(500))
    with scene.pipeline.worker("first") as first:
        assert scene.settle().ok
        first.end()
    before = scene.stored()
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, acks="all")
    state = scene.pipeline.settings.topics.state
    for partition in range(4):
        producer.send(state, key=b"format", value=(2).to_bytes(8, "big"), partition=partition).get(timeout=30)
    producer.close()
    with scene.pipeline.worker("old") as old:
        ends_with_one_line(old, "is of format 2, and this version of tidegauge knows 1")
    assert scene.stored() == before
