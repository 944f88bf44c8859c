"""What a rebuild reads from Kafka and sends there: checkpoints, logs of events, rebuilt panes, answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from .errors import BrokerUnavailableError, UnavailableError
from .processors.core.kinds import Kind
from .processors.core.stored import IngestState, Newest, ingest_state
from .schemas.codec import encode
from .schemas.rebuilt import RebuiltAnswer, RebuiltBatch

_PANE: Final = b"pane/"  # begins the keys of the second stage's state
_ANSWER: Final = b'{"type":"rebuilt_answer"'
_decode_answer = msgspec.json.Decoder(RebuiltAnswer).decode
SILENCE: Final = 60.0
"""Seconds without any answer of Kafka's after which it is given up."""


def read_log(client: KafkaConsumer, place: TopicPartition, begin: int, end: int) -> Iterator[Sequence[Any]]:
    """The records of one partition with begin ≤ offset < end, in runs.

    Raises:
        BrokerUnavailableError: Kafka gives nothing for a minute.
    """
    if begin >= end:
        return
    client.assign([place])
    client.seek(place, begin)
    heard = time.monotonic()
    position = begin
    while position < end:
        records = client.poll(timeout_ms=500).get(place, [])
        position = client.position(place)
        if records:
            heard = time.monotonic()
            if wanted := [record for record in records if record.offset < end]:
                yield wanted
        elif time.monotonic() - heard > SILENCE:
            raise BrokerUnavailableError(
                f"Kafka has given nothing of {place.topic}/{place.partition} for {SILENCE:.0f} s"
            )


class Checkpoints:
    """How far the workers' first stage is, as the state topic tells.

    Args:
        client: a consumer of its own.
        topic: the state topic.
        partitions: of it.
    """

    def __init__(self, client: KafkaConsumer, topic: str, partitions: int) -> None:
        self._client = client
        self._places = [TopicPartition(topic, number) for number in range(partitions)]
        self._stored = [Newest(number) for number in range(partitions)]
        client.assign(self._places)
        client.seek_to_beginning(*self._places)

    def refresh(self) -> None:
        """Read what has been stored by now.

        Raises:
            BrokerUnavailableError: Kafka gives nothing for a minute.
        """
        ends = self._client.end_offsets(self._places)
        heard = time.monotonic()
        while any(self._client.position(place) < end for place, end in ends.items()):
            polled = self._client.poll(timeout_ms=500)
            for place, records in polled.items():
                for record in records:
                    if not record.key.startswith(_PANE):  # by far the most of it
                        self._stored[place.partition].take(record.key, record.value)
            if polled:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENCE:
                raise BrokerUnavailableError(
                    f"Kafka has given nothing of the state topic for {SILENCE:.0f} s"
                )

    def of(self, kind: Kind, partition: int) -> IngestState:
        """What the workers have stored of a source partition.

        Raises:
            StateError: it cannot be read, or a newer version has written it.
        """
        return ingest_state(kind.name, partition, self._stored[partition].values())


class Panes:
    """The way to the workers' second stage, and back.

    Args:
        consumer: of its own.
        producer: of its own.
        topic: the panes topic.
        partitions: of it.
        rebuild: names this run.
        patience: seconds to wait for an answer.
        outstanding: batches sent before an answer is waited for.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        producer: KafkaProducer,
        topic: str,
        partitions: int,
        rebuild: str,
        patience: float,
        outstanding: int = 16,
    ) -> None:
        self._consumer = consumer
        self._producer = producer
        self._topic = topic
        self._rebuild = rebuild
        self._patience = patience
        self._most = outstanding
        self._waiting: dict[int, RebuiltBatch] = {}
        places = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(places)
        for place, end in consumer.end_offsets(places).items():
            consumer.seek(place, end)

    def send(self, partition: int, batch: RebuiltBatch, refused: Callable[[RebuiltBatch, int], None]) -> None:
        """Send a batch; ``refused`` hears of each place of an earlier one that was refused."""
        self._producer.send(self._topic, encode(batch), partition=partition).get(timeout=SILENCE)
        self._waiting[batch.number] = batch
        if len(self._waiting) >= self._most:
            self.wait(refused, self._most // 2)

    def wait(self, refused: Callable[[RebuiltBatch, int], None], left: int = 0) -> None:
        """Wait until no more than ``left`` batches have no answer yet.

        Raises:
            UnavailableError: no worker answers.
        """
        heard = time.monotonic()
        while len(self._waiting) > left:
            for records in self._consumer.poll(timeout_ms=200).values():
                for record in records:
                    if not (record.value or b"").startswith(_ANSWER):
                        continue
                    answer = _decode_answer(record.value)
                    batch = self._waiting.get(answer.number) if answer.rebuild == self._rebuild else None
                    if batch is not None:
                        del self._waiting[answer.number]
                        heard = time.monotonic()
                        for place in answer.refused:
                            refused(batch, place)
            if len(self._waiting) > left and time.monotonic() - heard > self._patience:
                raise UnavailableError(
                    f"no worker has answered for {self._patience:.0f} s: does one run, and does the store answer it?"
                    " What was sent will be stored when one gets to it; run the rebuild again then"
                )
