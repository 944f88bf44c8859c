"""Reads a topic of requests again from its beginning and sums up what is on it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from .events import MODELS


@dataclass
class Sums:
    """Of the requests of one model and day."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0


@dataclass
class Topic:
    """What a topic holds.

    Attributes:
        records: messages.
        events: events in them, repeats included.
        unreadable: messages that are no JSON object or array of such, counted as one event each.
        ids: how often each id was seen.
        sums: by model and day, over the first copy of each id.
        late: ids that are not summed: what the pipeline must count as late.
    """

    late: frozenset[str] = frozenset()

    records: int = 0
    events: int = 0
    unreadable: int = 0
    ids: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    sums: dict[tuple[str, int], Sums] = field(default_factory=lambda: defaultdict(Sums))

    def add(self, message: bytes | None) -> None:
        """Count one message, and sum its events."""
        self.records += 1
        try:
            found = json.loads(message or b"")
        except ValueError:
            found = None
        events = found if isinstance(found, list) and found else [found]
        if not all(isinstance(event, dict) for event in events):
            self.events += 1
            self.unreadable += 1
            return
        for event in events:
            self._count(event)

    def _count(self, event: dict[str, Any]) -> None:
        self.events += 1
        identity = str(event.get("id"))
        self.ids[identity] += 1
        if self.ids[identity] > 1 or identity in self.late:
            return
        model = str(event.get("gen_ai.request.model", ""))
        sums = self.sums[model, int(event["time"]) // 86_400]
        tokens = event.get("gen_ai.usage.input_tokens") or 0, event.get("gen_ai.usage.output_tokens") or 0
        rates = MODELS.get(model, (0, 0))
        sums.requests += 1
        sums.input_tokens += tokens[0]
        sums.output_tokens += tokens[1]
        sums.cost_nano += tokens[0] * rates[0] + tokens[1] * rates[1]


def read_topic(servers: str, topic: str, late: Iterable[str] = ()) -> Topic:
    """Read all that is on a topic now.

    Args:
        servers: Kafka's ``host:port``.
        topic: of requests.
        late: ids of the events that are too late to be counted.
    """
    found = Topic(frozenset(late))
    for record in read_records(servers, topic):
        found.add(record.value)
    return found


def read_records(servers: str, topic: str) -> Iterator[Any]:
    """All records that are on a topic now, those of a partition in their order."""
    consumer = KafkaConsumer(
        bootstrap_servers=servers, enable_auto_commit=False, auto_offset_reset="earliest", check_crcs=True
    )
    try:
        partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            for records in consumer.poll(timeout_ms=1_000).values():
                yield from records
    finally:
        consumer.close()
