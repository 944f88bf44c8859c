from collections import Counter

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic

from tidegauge import cli
from tidegauge.producers.ids import partition_for
from tidegauge.producers.simulator import Simulator
from tidegauge.schemas.codec import Codec
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.request import RequestEvent


def read(servers, topic, kind):
    """All events of a topic, with their partitions; every one must be good."""
    consumer = KafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
    try:
        partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        found = []
        while any(consumer.position(p) < ends[p] for p in partitions):
            for partition, records in consumer.poll(1000).items():
                for record in records:
                    events, refused = Codec(kind).decode(record.value)
                    assert not refused
                    found += [(partition.partition, event) for event in events]
        return found
    finally:
        consumer.close()


@pytest.fixture
def topics(kafka, topic_prefix):
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    try:
        admin.create_topics([NewTopic(f"{topic_prefix}{name}", 3, 1) for name in ("requests", "feedback")])
    finally:
        admin.close()
    return ["--bootstrap-servers", kafka.bootstrap_servers, "--topic-prefix", topic_prefix]


def test_a_replayed_trace_is_in_kafka_once_per_replay_each_event_in_its_partition(
    kafka, topics, topic_prefix, tmp_path
):
    path = tmp_path / "trace.csv"
    path.write_text("time,input_tokens\n" + "".join(f"{1_700_000_000 + n},{n}\n" for n in range(2_000)))
    for flags in ([], ["--batch", "50", "--shuffle", "7"]):
        assert cli.main(["replay", str(path), "--format", "csv", *flags, *topics]) == 0
    found = read(kafka.bootstrap_servers, f"{topic_prefix}requests", RequestEvent)
    assert set(Counter(event.id for _, event in found).values()) == {2}
    assert sum(event.input_tokens for _, event in found) == 2 * sum(range(2_000))
    assert all(partition == partition_for(event.id, 3) for partition, event in found)


def test_simulated_traffic_is_in_kafka_as_the_simulator_made_it(kafka, topics, topic_prefix):
    flags = ["--events", "500", "--seed", "3", "--start", "1750000000", "--speed", "max"]
    assert cli.main(["simulate", *flags, *topics]) == 0
    made = list(Simulator(3).traffic(1_750_000_000.0, count=500))
    for name, kind in (("requests", RequestEvent), ("feedback", FeedbackEvent)):
        found = [event for _, event in read(kafka.bootstrap_servers, topic_prefix + name, kind)]
        expected = [event for _, event in made if isinstance(event, kind)]
        assert sorted(found, key=lambda e: e.id) == sorted(expected, key=lambda e: e.id)
