"""The emitter against a real Kafka: what is acknowledged is there, once, on the partition of its id."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.admin import NewTopic

from tests.support.servers import Kafka
from tidegauge.producers import Client, Emitter, decode_receipt, partition_for
from tidegauge.schemas.codec import Codec
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import Settings, load

pytestmark = [
    pytest.mark.kafka,
    # kafka-python leaves the socket of a refused connection to the garbage collector.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]
PARTITIONS = 3


def settings_for(kafka: Kafka, prefix: str, **emitter: Any) -> Settings:
    overrides = {"kafka.bootstrap_servers": kafka.bootstrap_servers, "topics.prefix": prefix}
    return load(environ={}, overrides=overrides | {f"emitter.{k}": v for k, v in emitter.items()})


def create(settings: Settings, *topics: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap_servers)
    try:
        admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in topics])
    finally:
        admin.close()


def read(settings: Settings, topic: str) -> list[tuple[int, bytes]]:
    """All messages of a topic: partition and value."""
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers, group_id=None, enable_auto_commit=False
    )
    try:
        from kafka import TopicPartition

        partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(partitions)
        found = []
        while any(consumer.position(p) < end for p, end in ends.items()):
            for records in consumer.poll(timeout_ms=500).values():
                found += [(record.partition, record.value) for record in records]
        return found
    finally:
        consumer.close()


def request_ids(settings: Settings) -> list[str]:
    """The ids of all request events, each checked to be valid and on its partition."""
    codec = Codec(RequestEvent)
    ids = []
    for partition, value in read(settings, settings.topics.requests):
        events, refused = codec.decode(value)
        assert not refused
        for event in events:
            assert partition_for(event.id, PARTITIONS) == partition
            ids.append(event.id)
    return ids


def call(client: Client) -> str:
    with client.call(provider="p", model="m", prompt="answer") as measured:
        measured.set_usage(input_tokens=1, output_tokens=2)
    return measured.event_id


def test_every_event_is_in_kafka_once_on_its_partition(kafka: Kafka, topic_prefix: str) -> None:
    settings = settings_for(kafka, topic_prefix, queue_size=100_000)
    create(settings, settings.topics.requests, settings.topics.feedback)
    emitter = Emitter(settings)
    client = Client(settings, service="svc", emitter=emitter)
    ids: list[str] = []

    def work() -> None:
        ids.extend([call(client) for _ in range(2000)])

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with client.call(provider="p", model="m") as last:
        pass
    assert client.record_feedback(last.receipt, thumb=True)
    assert client.close(30)
    assert sorted(request_ids(settings)) == sorted([*ids, last.event_id])
    ((_, value),) = read(settings, settings.topics.feedback)
    feedback = msgspec.json.decode(value, type=FeedbackEvent)
    assert feedback.request_id == decode_receipt(last.receipt).request_id == last.event_id
    stats = emitter.stats()
    assert stats.accepted == stats.delivered == 6002
    assert (stats.dropped, stats.adjusted, stats.internal_errors) == ({}, {}, 0)


def test_events_wait_for_a_topic_that_is_created_late_and_do_not_create_it(
    kafka: Kafka, topic_prefix: str
) -> None:
    settings = settings_for(kafka, topic_prefix)
    with Emitter(settings) as emitter:
        client = Client(settings, emitter=emitter)
        first = call(client)
        assert not emitter.flush(3)
        assert emitter.stats().in_queue == 1
        create(settings, settings.topics.requests)  # raises if the broker has made it by itself
        assert emitter.flush(30)
        assert request_ids(settings) == [first]


def test_a_killed_broker_costs_no_event_once_it_is_back(kafka: Kafka, topic_prefix: str) -> None:
    settings = settings_for(kafka, topic_prefix)
    create(settings, settings.topics.requests)
    with Emitter(settings) as emitter:
        client = Client(settings, emitter=emitter)
        ids = [call(client) for _ in range(100)]
        assert emitter.flush(30)
        kafka.kill()
        ids += [call(client) for _ in range(500)]
        assert not emitter.flush(2)
        stats = emitter.stats()
        assert stats.delivered == 100
        assert stats.in_queue + stats.in_flight == 500
        kafka.start()
        assert emitter.flush(60)
        assert emitter.stats().delivered == 600
        # A retry of what the dead broker had written already may repeat an event, never lose one.
        assert set(request_ids(settings)) == set(ids)


def test_an_app_that_starts_before_its_broker_loses_nothing(kafka: Kafka, topic_prefix: str) -> None:
    settings = settings_for(kafka, topic_prefix)
    create(settings, settings.topics.requests)
    kafka.stop()
    with Emitter(settings) as emitter:
        client = Client(settings, emitter=emitter)
        ids = [call(client) for _ in range(50)]
        assert not emitter.flush(1)
        kafka.start()
        assert emitter.flush(60)
        assert sorted(request_ids(settings)) == sorted(ids)


def test_a_broker_that_does_not_acknowledge_makes_drops_that_are_counted(
    kafka: Kafka, topic_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(kafka, topic_prefix, service="private-service")
    create(settings, settings.topics.requests)
    with caplog.at_level(logging.DEBUG), Emitter(settings, delivery_timeout=2.0) as emitter:
        client = Client(settings, emitter=emitter)
        call(client)
        assert emitter.flush(30)
        kafka.pause()
        for _ in range(10):
            call(client)
        assert emitter.flush(30)
        assert emitter.stats().dropped == {"send_failed": 10}
        kafka.resume()
        call(client)
        assert emitter.flush(30)
        assert emitter.stats().delivered == 2
    assert "private-service" not in caplog.text


PREFORK = """
import os, sys
from tidegauge.producers import Client
from tidegauge.settings import load

client = Client(load(environ={}, overrides={"kafka.bootstrap_servers": sys.argv[1], "topics.prefix": sys.argv[2]}))

def call(name):
    with client.call(provider="p", model=name):
        pass

call("master")
assert client.flush(30)  # the connection and its threads exist when the workers are forked
call("master")
children = []
for worker in range(3):
    pid = os.fork()
    if pid == 0:
        for _ in range(20):
            call(f"worker{worker}")
        sys.exit(0)
    children.append(pid)
call("master")
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
call("master")
"""


def test_preforked_workers_and_their_master_send_everything_once(kafka: Kafka, topic_prefix: str) -> None:
    settings = settings_for(kafka, topic_prefix)
    create(settings, settings.topics.requests)
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(PREFORK), kafka.bootstrap_servers, topic_prefix],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
        env={"PATH": os.environ["PATH"]},
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    ids = request_ids(settings)
    assert len(ids) == len(set(ids)) == 64
