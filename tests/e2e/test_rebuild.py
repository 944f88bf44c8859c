"""``tidegauge rebuild`` beside live workers, against a recount of the events in plain loops."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from tests.support.deployment import COMMAND, DEADLINE, Pipeline
from tests.support.servers import InfluxDB, Kafka
from tidegauge.schemas.codec import encode
from tidegauge.schemas.request import RequestEvent

PARTITIONS = 2
DAY = 86_400
NOON = 1_700_006_400 // DAY * DAY + DAY // 2
EVENTS = 4_000  # in half an hour; at 1500 an epoch, some epochs of each partition are sealed
PRICES = '[[price]]\nprovider = "own"\nmodel = "m"\ninput = "2.5"\noutput = "10"\n'
INPUT_NANO, OUTPUT_NANO = 2_500, 10_000
FIELDS = ("requests", "input_tokens", "output_tokens", "cost_nano_usd", "unpriced_requests")
VIEWS = (("cost", 60), ("cost_1h", 3_600), ("cost_1d", DAY))

Sums = dict[tuple[int, str], tuple[int, ...]]


def made(prefix: str, number: int, begin: float = NOON, seconds: float = 1_800.0) -> list[RequestEvent]:
    """Events at even distances of time, of three services."""
    return [
        RequestEvent(
            f"{prefix}-{n}",
            begin + seconds * n / number,
            service=("shop", "chat", "mail")[n % 3],
            provider="own",
            model="m",
            user=f"user-{n % 5}",
            input_tokens=n % 700,
            output_tokens=n % 90,
            duration=0.001 * (n % 400),
        )
        for n in range(number)
    ]


def recounted(events: Sequence[RequestEvent], width: int, *, priced: bool) -> Sums:
    sums: dict[tuple[int, str], Counter[str]] = {}
    for event in events:
        counter = sums.setdefault((int(event.time) // width * width, event.service), Counter())
        tokens = (event.input_tokens or 0, event.output_tokens or 0)
        counter.update(requests=1, input_tokens=tokens[0], output_tokens=tokens[1])
        counter.update(cost_nano_usd=tokens[0] * INPUT_NANO + tokens[1] * OUTPUT_NANO if priced else 0)
        counter.update(unpriced_requests=not priced)
    return {name: tuple(counter[field] for field in FIELDS) for name, counter in sums.items()}


def measured(pipeline: Pipeline, view: str, width: int) -> Sums:
    return {
        (int(row["time"]), str(row["service"])): tuple(int(row[field] or 0) for field in FIELDS)
        for row in pipeline.rows(view, every=width, by=["service"])
    }


def whole(pipeline: Pipeline, events: Sequence[RequestEvent], *, priced: bool = True) -> bool:
    return all(
        measured(pipeline, view, width) == recounted(events, width, priced=priced) for view, width in VIEWS
    )


class Deployment:
    """A pipeline, and a producer of its traffic."""

    def __init__(self, pipeline: Pipeline, kafka: Kafka) -> None:
        self.pipeline = pipeline
        self.topic = pipeline.settings.topics.requests
        self._producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, acks="all")
        pipeline.create_topics()

    def publish(self, events: Sequence[RequestEvent]) -> None:
        futures = [
            self._producer.send(self.topic, encode(event), partition=crc32(event.id.encode()) % PARTITIONS)
            for event in events
        ]
        for future in futures:
            future.get(timeout=60)

    def rebuild(self, begin: float, end: float, *flags: str) -> str:
        done = self.try_to_rebuild(begin, end, *flags)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def try_to_rebuild(self, begin: float, end: float, *flags: str) -> subprocess.CompletedProcess[str]:
        times = ("--from", utc(begin), "--to", utc(end))
        return self.pipeline.run("rebuild", *times, "--store", self.pipeline.store, *flags, timeout=DEADLINE)

    def close(self) -> None:
        self._producer.close()


def utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def stored(deployment: Deployment) -> list[Any]:
    """All of a SQLite store, byte for byte, but for what workers tell of themselves."""
    with closing(sqlite3.connect(deployment.pipeline.directory / "store.db")) as db:
        return db.execute("SELECT * FROM points WHERE measurement != 'pipeline' ORDER BY 1, 2, 3").fetchall()


@contextmanager
def deployed(
    kafka: Kafka, prefix: str, directory: Path, *, priced: bool = True, **options: Any
) -> Iterator[Deployment]:
    settings = {"TIDEGAUGE_PRICES_OVERRIDE_FILE": "prices.toml"} if priced else {}
    pipeline = Pipeline(
        directory, kafka.bootstrap_servers, prefix, partitions=PARTITIONS, settings=settings, **options
    )
    (directory / "prices.toml").write_text(PRICES, encoding="utf-8")
    deployment = Deployment(pipeline, kafka)
    try:
        yield deployment
    finally:
        deployment.close()


@pytest.fixture
def sqlite(kafka: Kafka, topic_prefix: str, tmp_path: Path) -> Iterator[Deployment]:
    with deployed(kafka, topic_prefix, tmp_path) as deployment:
        yield deployment


def lose_points_under_traffic(deployment: Deployment, delete: Any) -> None:
    pipeline = deployment.pipeline
    before, after = made("before", EVENTS), made("after", EVENTS, NOON + 1_800)
    with pipeline.worker() as worker:
        deployment.publish(before)
        worker.wait("the first half hour", lambda: whole(pipeline, before))
        delete()
        assert pipeline.rows("cost_1d") == []
        sent = threading.Event()

        def go_on() -> None:
            for n in range(0, EVENTS, 50):
                deployment.publish(after[n : n + 50])
                time.sleep(0.05)  # traffic has a pace
            sent.set()

        traffic = threading.Thread(target=go_on)
        traffic.start()
        try:
            said = deployment.rebuild(NOON - 60, NOON + 1_800)
            busy = not sent.is_set()
        finally:
            traffic.join()
        assert busy, "the traffic was over before the rebuild"
        assert "panes rewritten" in said
        worker.wait("both halves", lambda: whole(pipeline, before + after))
        assert pipeline.intake() == {"applied": 2 * EVENTS}
        worker.end()
    assert whole(pipeline, before + after)


@pytest.mark.slow
def test_a_sqlite_store_that_lost_points_is_made_whole_beside_a_live_worker(sqlite: Deployment) -> None:
    def delete() -> None:
        with closing(sqlite3.connect(sqlite.pipeline.directory / "store.db", timeout=30)) as db:
            db.execute("DELETE FROM points WHERE measurement != 'intake'")
            db.commit()

    lose_points_under_traffic(sqlite, delete)


@pytest.mark.slow
def test_an_influxdb_that_lost_points_is_made_whole_beside_a_live_worker(
    kafka: Kafka, topic_prefix: str, influxdb: InfluxDB, influx_bucket: str, tmp_path: Path
) -> None:
    def delete() -> None:
        for measurement in ("cost", "latency", "cost_1h", "latency_1h", "cost_1d", "users"):
            influxdb.call(
                "POST",
                f"/api/v2/delete?org={influxdb.org}&bucket={influx_bucket}",
                {
                    "start": "2001-01-01T00:00:00Z",
                    "stop": "2050-01-01T00:00:00Z",
                    "predicate": f'_measurement="{measurement}"',
                },
            )

    settings = influxdb.settings(influx_bucket)
    with deployed(kafka, topic_prefix, tmp_path, influxdb=settings) as deployment:
        lose_points_under_traffic(deployment, delete)


def test_an_untouched_stretch_stays_as_it_is_byte_for_byte(sqlite: Deployment) -> None:
    events = made("event", EVENTS)
    with sqlite.pipeline.worker() as worker:
        sqlite.publish([*events, *events[-10:]])
        worker.wait("all stored", lambda: whole(sqlite.pipeline, events))
        worker.wait("the repeats", lambda: sqlite.pipeline.intake() == {"applied": EVENTS, "duplicate": 10})
        before = stored(sqlite)
        now = time.time()
        assert "0 of" in sqlite.rebuild(NOON - DAY, NOON + DAY)
        assert "0 of" in sqlite.rebuild(now - DAY, now + DAY)  # of the intake, which is by Kafka's time
        with closing(sqlite3.connect(sqlite.pipeline.directory / "store.db", timeout=30)) as db:
            db.execute("DELETE FROM points")
            db.commit()
        assert " 0 of" not in sqlite.rebuild(NOON - DAY, NOON + DAY)
        sqlite.rebuild(now - DAY, now + DAY)
        assert stored(sqlite) == before
        worker.end()
    with sqlite.pipeline.worker("later") as worker:
        sqlite.publish(made("later", 1))
        worker.wait("one more", lambda: sqlite.pipeline.intake()["applied"] == EVENTS + 1)
        worker.end()
    assert whole(sqlite.pipeline, [*events, *made("later", 1)])


def test_events_two_days_late_are_counted_as_late_and_folded_in_by_a_rebuild(sqlite: Deployment) -> None:
    events, late = made("event", EVENTS), made("late", 30, NOON - 2 * DAY)
    pipeline = sqlite.pipeline
    with pipeline.worker() as worker:
        sqlite.publish(events)
        worker.wait("those in time", lambda: whole(pipeline, events))
        sqlite.publish(late)
        worker.wait("the late ones", lambda: pipeline.intake() == {"applied": EVENTS, "late": len(late)})
        assert whole(pipeline, events)
        before = stored(sqlite)
        told = sqlite.rebuild(NOON - 2 * DAY, NOON - 2 * DAY + 1_800, "--dry-run")
        assert "would be rewritten" in told
        assert "requests absent → 10" in told
        assert stored(sqlite) == before
        told = sqlite.rebuild(NOON - 2 * DAY, NOON - 2 * DAY + 1_800)
        assert f"{len(late)} events recounted, {len(late)} of them late ones, folded in" in told
        assert whole(pipeline, events + late)
        assert pipeline.intake() == {"applied": EVENTS, "late": len(late)}
        told = sqlite.rebuild(NOON - 2 * DAY, NOON + DAY)
        assert "\n0 of " in told
        worker.end()
    with pipeline.worker("again") as worker:
        more = made("more", 10, NOON + 1_800)
        sqlite.publish(more)
        worker.wait("some more", lambda: whole(pipeline, events + late + more))
        worker.end()


def test_what_was_unpriced_is_priced_by_a_rebuild_with_an_override_file(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    events = made("event", EVENTS)
    with deployed(kafka, topic_prefix, tmp_path, priced=False) as deployment:
        pipeline = deployment.pipeline
        with pipeline.worker() as worker:
            deployment.publish(events)
            worker.wait("tokens", lambda: whole(pipeline, events, priced=False))
            deployment.rebuild(NOON, NOON + 1_800, "--prices", "prices.toml")
            assert whole(pipeline, events)
            worker.end()
        assert whole(pipeline, events)


def test_a_rebuild_that_is_killed_can_be_run_again(sqlite: Deployment) -> None:
    events = made("event", EVENTS)
    pipeline = sqlite.pipeline
    panes = [TopicPartition(pipeline.settings.topics.panes, number) for number in range(PARTITIONS)]
    servers = pipeline.settings.kafka.bootstrap_servers
    with pipeline.worker() as worker, closing(KafkaConsumer(bootstrap_servers=servers)) as consumer:
        sqlite.publish(events)
        worker.wait("all stored", lambda: whole(pipeline, events))
        with closing(sqlite3.connect(pipeline.directory / "store.db", timeout=30)) as db:
            db.execute("DELETE FROM points WHERE time < ?", (NOON + 900,))
            db.commit()
        worker.process.send_signal(signal.SIGSTOP)  # so that it cannot answer
        before = sum(consumer.end_offsets(panes).values())
        times = ("--from", utc(NOON), "--to", utc(NOON + 1_800))
        rebuild = subprocess.Popen(
            [str(COMMAND), "rebuild", *times, "--store", pipeline.store],
            cwd=pipeline.directory,
            env=pipeline._environment(),
        )
        try:
            await_growth(consumer, panes, before, rebuild)
            rebuild.kill()
        finally:
            rebuild.kill()
            rebuild.wait()
        worker.process.send_signal(signal.SIGCONT)
        sqlite.rebuild(NOON, NOON + 1_800)
        assert whole(pipeline, events)
        worker.end()


def await_growth(
    consumer: KafkaConsumer, places: list[TopicPartition], before: int, process: subprocess.Popen[bytes]
) -> None:
    deadline = time.monotonic() + DEADLINE
    while sum(consumer.end_offsets(places).values()) == before:
        assert process.poll() is None, "the rebuild ended by itself"
        assert time.monotonic() < deadline, "the rebuild sent nothing"
        time.sleep(0.05)


def test_a_worker_that_is_killed_while_a_rebuild_waits_for_it_is_followed_by_one_that_answers(
    sqlite: Deployment,
) -> None:
    events, late = made("event", EVENTS), made("late", 30, NOON - 2 * DAY)
    pipeline = sqlite.pipeline
    with pipeline.worker() as worker:
        sqlite.publish(events)
        worker.wait("those in time", lambda: whole(pipeline, events))
        sqlite.publish(late)
        worker.wait("the late ones", lambda: pipeline.intake().get("late") == len(late))
        worker.process.send_signal(signal.SIGSTOP)
        told: list[str] = []
        rebuild = threading.Thread(target=lambda: told.append(sqlite.rebuild(NOON - 3 * DAY, NOON + DAY)))
        rebuild.start()
        worker.kill()
        with pipeline.worker("next") as following:
            rebuild.join()
            assert told, following.tail()
            assert whole(pipeline, events + late)
            following.end()


def test_without_a_worker_a_rebuild_says_so_and_what_it_sent_is_stored_by_the_next(
    sqlite: Deployment,
) -> None:
    events, late = made("event", EVENTS), made("late", 30, NOON - 2 * DAY)
    pipeline = sqlite.pipeline
    with pipeline.worker() as worker:
        sqlite.publish(events)
        worker.wait("those in time", lambda: whole(pipeline, events))
        sqlite.publish(late)
        worker.wait("the late ones", lambda: pipeline.intake().get("late") == len(late))
        worker.end()
    done = sqlite.try_to_rebuild(NOON - 3 * DAY, NOON + DAY, "--patience", "1s")
    assert done.returncode == 1
    assert "no worker has answered" in done.stderr
    assert done.stderr.count("\n") <= 2, done.stderr
    with pipeline.worker("next") as worker:
        worker.wait("what was sent", lambda: whole(pipeline, events + late))
        worker.end()


def test_a_stretch_without_events_and_wrong_use_are_told(sqlite: Deployment) -> None:
    pipeline = sqlite.pipeline
    with pipeline.worker() as worker:
        sqlite.publish(made("event", 100))
        worker.wait("all stored", lambda: whole(pipeline, made("event", 100)))
        assert "0 of 0 panes rewritten" in sqlite.rebuild(NOON - 9 * DAY, NOON - 8 * DAY)
        worker.end()
    done = sqlite.try_to_rebuild(NOON, NOON)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--from" in done.stderr
    done = sqlite.try_to_rebuild(NOON, NOON + 60, "--topic-prefix", "none.")
    assert done.returncode == 1
    assert "no topic none.requests; make it with: tidegauge topics create" in done.stderr


def test_what_retention_has_deleted_is_missed_unless_forced(sqlite: Deployment, kafka: Kafka) -> None:
    events = made("event", EVENTS)
    pipeline = sqlite.pipeline
    with pipeline.worker() as worker:
        sqlite.publish(events)
        worker.wait("all stored", lambda: whole(pipeline, events))
        with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)) as admin:
            admin.delete_records({TopicPartition(sqlite.topic, 0): 10})
        before = stored(sqlite)
        done = sqlite.try_to_rebuild(NOON, NOON + 60)
        assert done.returncode == 1
        assert f"{sqlite.topic}/0 begins at" in done.stderr
        assert "--force" in done.stderr
        assert stored(sqlite) == before
        assert "would be rewritten" in sqlite.rebuild(NOON, NOON + 60, "--force", "--dry-run")
        worker.end()
