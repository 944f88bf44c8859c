"""A worker told to stop stores what it knows first, of every kind of event, and leaves nothing lying about."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from tests.support.deployment import Pipeline
from tests.support.servers import Kafka
from tidegauge.schemas.codec import encode
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.judgement import Judgement
from tidegauge.schemas.request import RequestEvent

pytestmark = pytest.mark.kafka

NOW = time.time()


def request(n: int) -> RequestEvent:
    return RequestEvent(f"r{n}", NOW, "shop", "openai", "gpt-4o", input_tokens=10, output_tokens=1)


def thumb(n: int) -> FeedbackEvent:
    return FeedbackEvent(
        f"f{n}", NOW, f"r{n}", "thumb", 1.0 if n % 2 else -1.0, service="shop", model="gpt-4o"
    )


def verdict(n: int) -> Judgement:
    score, probability = (1.0, 0.5) if n % 2 else (0.0, 1.0)
    return Judgement(
        f"j{n}", NOW, f"r{n}", NOW, "helpful", "scored", "judge", "abc", probability, score, service="shop"
    )


def publish(pipeline: Pipeline, servers: str, numbers: range) -> None:
    topics = pipeline.settings.topics
    producer = KafkaProducer(bootstrap_servers=servers, acks="all")
    made = ((topics.requests, request), (topics.feedback, thumb), (topics.judgements, verdict))
    try:
        sent = [
            producer.send(topic, encode(make(n)), partition=n % topics.partitions)
            for topic, make in made
            for n in numbers
        ]
        for future in sent:
            future.get(timeout=30)
    finally:
        producer.close()


def test_all_that_was_taken_in_is_stored_when_the_worker_has_ended(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    pipeline = Pipeline(tmp_path, kafka.bootstrap_servers, topic_prefix)
    pipeline.create_topics()

    def count(view: str, field: str) -> Any:
        found = pipeline.rows(view)
        return found[0][field] if found else 0

    with pipeline.worker() as worker:
        publish(pipeline, kafka.bootstrap_servers, range(10))
        worker.wait("the first day", lambda: count("cost_1d", "requests") == 10)
        publish(pipeline, kafka.bootstrap_servers, range(10, 30))
        worker.wait("the second minute", lambda: count("cost", "requests") == 30)
        worker.wait("the feedback", lambda: count("feedback", "feedback") == 30)
        worker.wait("the judgements", lambda: count("quality", "judged") == 30)
        worker.end()  # long before the next turn of the panes of an hour and of a day

    for view in ("cost", "cost_1h", "cost_1d"):
        assert count(view, "requests") == 30, view
    (feedback,) = pipeline.rows("feedback")
    assert (feedback["thumbs_up"], feedback["thumbs_down"], feedback["unattributed"]) == (15, 15, 0)
    (quality,) = pipeline.rows("quality")
    assert quality["mean_score"] == pytest.approx(2 * 15 / (2 * 15 + 15))
    outcomes = {
        (row["topic"], row["outcome"]): row["events"]
        for row in pipeline.rows("intake", by=["topic", "outcome"])
    }
    topics = pipeline.settings.topics
    assert outcomes == {(t, "applied"): 30 for t in (topics.requests, topics.feedback, topics.judgements)}
    left = {path.name for path in tmp_path.iterdir()}
    assert {name for name in left if not name.startswith("store.db")} <= {worker.log.name}
