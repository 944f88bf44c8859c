"""What the stages send each other is too large for one message, or for an operator's own limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from tests.faults.matrix import Note
from tests.faults.oracle import Event, read_records
from tests.faults.oracle.events import MIDNIGHT, make
from tests.faults.scene import Scene
from tests.support.servers import Kafka

pytestmark = pytest.mark.slow

WIDE = "𝄞" * 250  # four bytes each: about as long as the schema lets a name be


@pytest.fixture
def wide_scene(kafka: Kafka, topic_prefix: str, tmp_path: Path, note: Note) -> Iterator[Scene]:
    """Epochs long enough for thousands of series to be shown at once."""
    made = Scene(kafka, topic_prefix, tmp_path, note, settings={"TIDEGAUGE_WORKER_EPOCH_EVENTS": "20000"})
    with made.ledger:
        yield made


def wide(numbers: range) -> Iterator[Event]:
    """Events of a series each, all of one minute."""
    for n in numbers:
        names = {
            "service.name": f"{n % 80:03}{WIDE}",
            "deployment.environment.name": WIDE,
            "tidegauge.team": WIDE,
            "gen_ai.prompt.name": f"{n // 80:03}{WIDE}",
            "tidegauge.prompt.version": WIDE,
        }
        yield make(f"wide-{n}", MIDNIGHT + n % 60, "small", 10 + n % 7, 1 + n % 5, **names)


@pytest.mark.fault(14, "panes and admitted series larger than a message may be")
def test_panes_that_fit_into_no_message_are_sent_in_several(wide_scene: Scene) -> None:
    with wide_scene.publisher() as publisher:
        publisher.send(wide(range(6_400)))
        publisher.send(make(f"more-{n}", MIDNIGHT + 1, "odd", 1, 1) for n in range(100_000))
    wide_scene.note.load = "6,400 series with names of 5 kB"
    with wide_scene.pipeline.worker() as worker:
        wide_scene.finish(worker)
    assert [key for key in state_keys(wide_scene) if key.startswith("admitted/") and key.count("/") > 3]
    with wide_scene.pipeline.worker("again") as again:
        wide_scene.finish(again)


def state_keys(scene: Scene) -> set[str]:
    topic = scene.pipeline.settings.topics.state
    return {record.key.decode() for record in read_records(scene.kafka.bootstrap_servers, topic)}


@pytest.mark.fault(14, "a limit of 2 kB on the panes topic: told in one line, and exact once it is mended")
def test_a_limit_below_what_panes_need_is_told_and_costs_nothing_once_mended(
    scene: Scene, kafka: Kafka
) -> None:
    panes = scene.pipeline.settings.topics.panes
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    try:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, panes, {"max.message.bytes": "2000"})])
    finally:
        admin.close()
    with scene.publisher() as publisher:
        publisher.send(scene.generator.take(3_000))
    with scene.pipeline.worker("limited") as limited:
        assert limited.process.wait(120) == 1, limited.tail()
    log = limited.log.read_text()
    assert f"{panes}: max.message.bytes" in log
    assert "--alter" in log
    assert "MessageSizeTooLargeError" in log
    scene.pipeline.do("topics", "create", "--alter")
    with scene.pipeline.worker("mended") as mended:
        scene.finish(mended)
