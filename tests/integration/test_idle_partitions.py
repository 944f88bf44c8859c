"""The second stage hears of silent partitions, whether or not they ever had an event."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from kafka import KafkaConsumer, KafkaProducer

from tests.support.deployment import DEADLINE, Pipeline, Worker
from tests.support.servers import Kafka
from tidegauge.schemas.codec import encode
from tidegauge.schemas.pane import PaneBatch
from tidegauge.schemas.request import RequestEvent

pytestmark = pytest.mark.kafka

PARTITIONS = 2


def heard(consumer: KafkaConsumer, worker: Worker) -> Iterator[tuple[int, PaneBatch]]:
    """What the first stage tells, with the panes partition that it told it to."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        assert worker.process.poll() is None, worker.tail()
        for records in consumer.poll(timeout_ms=500).values():
            for record in records:
                yield record.partition, msgspec.json.decode(record.value, type=PaneBatch)
    pytest.fail(f"not heard within {DEADLINE} s: {worker.tail()}")


def test_each_silent_partition_says_so_to_all_and_speaks_again(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    settings = {"TIDEGAUGE_WORKER_IDLE_AFTER": "1"}
    pipeline = Pipeline(
        tmp_path, kafka.bootstrap_servers, topic_prefix, partitions=PARTITIONS, settings=settings
    )
    pipeline.create_topics()
    topics = pipeline.settings.topics
    consumer = KafkaConsumer(
        topics.panes, bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest"
    )
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, acks="all")
    sources = [
        (topic, partition)
        for topic in (topics.requests, topics.feedback, topics.judgements)
        for partition in range(PARTITIONS)
    ]
    silent = {(to, *source) for to in range(PARTITIONS) for source in sources}
    now = time.time()
    with closing(consumer), closing(producer), pipeline.worker() as worker:
        producer.send(topics.requests, encode(RequestEvent("a", now)), partition=0).get(timeout=30)
        told = heard(consumer, worker)
        watermarks = {}
        while silent:
            to, batch = next(told)
            if batch.idle:
                assert batch.panes == []
                silent.remove((to, batch.topic, batch.partition))  # told once, and not again and again
                watermarks[batch.topic, batch.partition] = batch.watermark
        assert watermarks == {source: now if source == (topics.requests, 0) else 0.0 for source in sources}

        producer.send(topics.requests, encode(RequestEvent("b", now)), partition=1).get(timeout=30)
        to, batch = next(told)
        assert (batch.topic, batch.partition, batch.idle) == (topics.requests, 1, False)
        while not batch.idle:
            to, batch = next(told)
        assert (batch.topic, batch.partition, batch.watermark) == (topics.requests, 1, now)
