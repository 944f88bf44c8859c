"""A deployment under load, and the oracle beside it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.faults.matrix import Note
from tests.faults.oracle import (
    PRICES_TOML,
    Generator,
    Ledger,
    Publisher,
    Stored,
    Verdict,
    read_records,
    read_topic,
    stored_influxdb,
    stored_sqlite,
    verify,
)
from tests.support.deployment import Pipeline, Worker
from tests.support.servers import InfluxDB, Kafka

PARTITIONS = 4
PATIENCE = 240.0


def stored_positions(servers: str, state: str) -> dict[int, int]:
    """The next offset of requests by partition, as the newest checkpoints on the state topic have it."""
    positions: dict[int, int] = {}
    for record in read_records(servers, state):
        if record.key == b"ingest/requests" and record.value:
            last = json.loads(record.value[8:])["last"]
            positions[record.partition] = max(positions.get(record.partition, 0), last + 1)
    return positions


class Scene:
    """Topics, a store, workers to be started, and traffic whose cost the oracle knows.

    Args:
        kafka: the broker.
        prefix: of topics and group.
        folder: for the store, logs and the ledger.
        note: where load, events and difference are told.
        influxdb: the store with a bucket, where it is not SQLite.
        settings: environment variables of the workers.
        seed: of the traffic.
    """

    def __init__(
        self,
        kafka: Kafka,
        prefix: str,
        folder: Path,
        note: Note,
        *,
        influxdb: tuple[InfluxDB, str] | None = None,
        settings: Mapping[str, str] | None = None,
        seed: int = 1,
    ) -> None:
        self.kafka = kafka
        self.note = note
        self.generator = Generator(seed)
        self.late: set[str] = set()
        self._influxdb = influxdb
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prices.toml").write_text(PRICES_TOML)
        self.pipeline = Pipeline(
            folder,
            kafka.bootstrap_servers,
            prefix,
            partitions=PARTITIONS,
            influxdb=influxdb[0].settings(influxdb[1]) if influxdb else None,
            settings={"TIDEGAUGE_PRICES_OVERRIDE_FILE": "prices.toml", **(settings or {})},
        )
        self.pipeline.create_topics()
        self.topic = self.pipeline.settings.topics.requests
        self.ledger = Ledger(folder / "ledger")

    @contextmanager
    def publisher(self) -> Iterator[Publisher]:
        """For the test's own events; Kafka has all of them when the block ends."""
        with Publisher(self.kafka.bootstrap_servers, self.topic, PARTITIONS, self.ledger) as publisher:
            yield publisher

    @contextmanager
    def load(self, rate: int) -> Iterator[Publisher]:
        """So many events a second for as long as the block lasts."""
        self.note.load = f"{rate:,} events/s"
        with self.publisher() as publisher:
            publisher.keep_sending(iter(self.generator), rate)
            yield publisher

    def stored(self) -> Stored:
        """What the store holds now."""
        if self._influxdb is None:
            path = self.pipeline.directory / "store.db"
            try:
                return stored_sqlite(path, self.topic)
            except sqlite3.OperationalError:  # the worker makes the file first and its table later
                return Stored()
        server, bucket = self._influxdb
        return stored_influxdb(server.url, server.org, server.token, bucket, self.topic)

    def handled(self) -> int:
        """Events that the store accounts for."""
        try:
            return sum(self.stored().outcomes.values())
        except OSError:
            return 0

    def positions(self) -> dict[int, int]:
        """Where the stored state says that each partition of requests is to be read on."""
        return stored_positions(self.kafka.bootstrap_servers, self.pipeline.settings.topics.state)

    def goes_on(self, worker: Worker, events: int = 1) -> None:
        """Wait until so many more events are accounted for."""
        before = self.handled()
        worker.wait("progress", lambda: self.handled() >= before + events)

    def settle(self, alive: Callable[[], bool] = lambda: True) -> Verdict:
        """Wait until the store has all that is on the topic, and return the oracle's verdict.

        It is given a moment longer than to the first agreement of the sums, so that what would still be counted twice
        shows.
        """
        topic = read_topic(self.kafka.bootstrap_servers, self.topic, self.late)
        deadline = time.monotonic() + PATIENCE
        verdict = verify(topic, self.ledger, self.stored())
        while not verdict.ok and time.monotonic() < deadline and alive():
            time.sleep(0.3)
            verdict = verify(topic, self.ledger, self.stored())
        self.note.events, self.note.difference = topic.events, verdict.difference_nano
        return verdict

    def finish(self, worker: Worker) -> None:
        """Let one worker store everything and end in order; then the oracle must find nothing, and nor afterwards."""
        with self.publisher() as publisher:
            publisher.send(self.generator.take(1))  # so that it is this worker that says so
        verdict = self.settle(lambda: worker.process.poll() is None)
        assert verdict.ok, f"{verdict}\n{worker.tail()}"
        worker.end()
        again = self.settle(lambda: False)
        assert again.ok, f"after the end: {again}\n{worker.tail()}"


def dead_letters(scene: Scene) -> list[dict[str, str]]:
    """All dead letters."""
    topic = scene.pipeline.settings.topics.deadletter
    return [json.loads(record.value) for record in read_records(scene.kafka.bootstrap_servers, topic)]
