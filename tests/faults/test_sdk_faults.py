"""Applications that fork, end early or are killed, and a Kafka that is not there: no event is lost silently."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.matrix import Note
from tests.faults.oracle import read_records
from tests.support.servers import Kafka
from tidegauge.producers import Client, Emitter
from tidegauge.settings import Settings, load
from tidegauge.topics import ensure_topics

pytestmark = [
    pytest.mark.slow,
    # kafka-python leaves the socket of a refused connection to the garbage collector.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]
ROOT = Path(__file__).parents[2]

APP = """
import atexit, json, os, sys

# Registered before the SDK does, so called after the SDK has closed: what is told is final.
def tell():
    stats = emitter.stats()
    print(json.dumps({"pid": os.getpid(), "sent": sent, "delivered": stats.delivered, "dropped": stats.dropped,
                      "left": stats.in_queue + stats.in_flight}), flush=True)

atexit.register(tell)
from tidegauge.producers import Client, Emitter
from tidegauge.settings import load

servers, prefix, patience = sys.argv[1:4]
settings = load(environ={}, overrides={
    "kafka.bootstrap_servers": servers, "topics.prefix": prefix, "emitter.close_timeout": float(patience)})
emitter = Emitter(settings)
client = Client(settings, emitter=emitter)
sent = []

def call(number):
    for _ in range(number):
        with client.call(provider="p", model="m") as measured:
            measured.set_usage(input_tokens=1, output_tokens=2)
        sent.append(measured.event_id)
"""
EXITS = "call(1_000)\n"
FORKS = """
call(100)
assert client.flush(30)
call(50)
for _ in range(3):
    if not (child := os.fork()):
        sent.clear()
        call(200)
        sys.exit(0)
    call(50)
    assert os.waitpid(child, 0)[1] == 0
call(50)
"""
IS_KILLED = """
while True:
    call(40)
    # Once a flush has returned and nothing was dropped, Kafka has acknowledged it all.
    if client.flush(30) and not emitter.stats().dropped:
        print(json.dumps({"acknowledged": len(sent), "ids": sent[-40:]}), flush=True)
    call(25)
    client.flush(30)
"""


def settings_for(kafka: Kafka, prefix: str, **emitter: object) -> Settings:
    overrides: dict[str, object] = {
        "kafka.bootstrap_servers": kafka.bootstrap_servers,
        "topics.prefix": prefix,
    }
    return load(environ={}, overrides=overrides | {f"emitter.{k}": v for k, v in emitter.items()})


def on_topic(settings: Settings) -> Counter[str]:
    """How often each id is on the topic of requests."""
    found: Counter[str] = Counter()
    for record in read_records(settings.kafka.bootstrap_servers, settings.topics.requests):
        message = json.loads(record.value)
        found.update(each["id"] for each in (message if isinstance(message, list) else [message]))
    return found


def app(kafka: Kafka, prefix: str, body: str, patience: float = 30) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", APP + body, kafka.bootstrap_servers, prefix, str(patience)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("body", "processes"), [(EXITS, 1), (FORKS, 4)], ids=["exits", "forks"])
@pytest.mark.fault(34, "the app exits right after its last call; forks in the middle of sending")
def test_what_an_app_sent_is_on_the_topic_after_its_end(
    kafka: Kafka, topic_prefix: str, note: Note, body: str, processes: int
) -> None:
    settings = settings_for(kafka, topic_prefix)
    ensure_topics(settings)
    with app(kafka, topic_prefix, body) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    told = [json.loads(line) for line in out.splitlines()]
    assert len({each["pid"] for each in told}) == len(told) == processes
    for each in told:
        assert (each["delivered"], each["dropped"], each["left"]) == (len(each["sent"]), {}, 0)
    assert on_topic(settings) == Counter(identity for each in told for identity in each["sent"])
    note.events = sum(len(each["sent"]) for each in told)


@pytest.mark.fault(34, "the app exits while Kafka does not answer")
def test_what_an_app_could_not_send_before_its_end_is_counted(
    kafka: Kafka, topic_prefix: str, note: Note
) -> None:
    settings = settings_for(kafka, topic_prefix)
    ensure_topics(settings)
    with kafka.paused(), app(kafka, topic_prefix, EXITS, patience=1) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    (told,) = map(json.loads, out.splitlines())
    assert told["left"] == 0
    assert told["delivered"] + sum(told["dropped"].values()) == len(told["sent"]) == 1_000
    assert set(told["dropped"]) == {"close_timeout"}
    assert told["delivered"] <= len(on_topic(settings))
    note.events = 1_000


@pytest.mark.fault(34, "the app killed while sending: 5 times")
def test_what_was_acknowledged_to_a_killed_app_is_on_the_topic(
    kafka: Kafka, topic_prefix: str, note: Note
) -> None:
    settings = settings_for(kafka, topic_prefix)
    ensure_topics(settings)
    acknowledged: set[str] = set()
    for round_ in range(1, 6):
        with app(kafka, topic_prefix, IS_KILLED) as process:
            assert process.stdout is not None
            for _ in range(round_ * 2):
                line = process.stdout.readline()
                assert line, process.communicate()[1]
                acknowledged.update(json.loads(line)["ids"])
            process.kill()  # somewhere in the calls and the flush that come next
            process.communicate()
    assert len(acknowledged) == 40 * (2 + 4 + 6 + 8 + 10)
    assert acknowledged <= set(on_topic(settings))
    note.events = len(acknowledged)


@pytest.mark.fault(35, "Kafka dead at the app's start, comes, dies, comes back")
def test_a_kafka_that_comes_and_goes_neither_blocks_an_app_nor_loses_events_silently(
    kafka: Kafka, topic_prefix: str, note: Note
) -> None:
    settings = settings_for(kafka, topic_prefix, queue_size=1_000)
    ensure_topics(settings)
    took: list[float] = []
    sent: list[str] = []
    kafka.kill()
    with Emitter(settings) as emitter:
        client = Client(settings, emitter=emitter)

        def call(number: int) -> None:
            for _ in range(number):
                begin = time.perf_counter()
                with client.call(provider="p", model="m") as measured:
                    measured.set_usage(input_tokens=1, output_tokens=2)
                took.append(time.perf_counter() - begin)
                sent.append(measured.event_id)

        call(3_000)  # more than the queue takes
        assert emitter.stats().delivered == 0
        at_start = emitter.stats().dropped["queue_full"]
        kafka.start()
        assert emitter.flush(90)
        call(500)
        assert emitter.flush(90)
        assert emitter.stats().delivered == 3_500 - at_start
        kafka.kill()
        call(5_000)
        kafka.start()
        assert emitter.flush(90)
        call(500)
        assert emitter.flush(90)
        stats = emitter.stats()
    assert len(sent) == 9_000
    assert set(stats.dropped) == {"queue_full"}
    assert stats.dropped["queue_full"] > at_start > 0
    assert stats.delivered + stats.dropped["queue_full"] == len(sent)
    found = on_topic(settings)
    assert found.keys() <= set(sent)
    assert len(found) == stats.delivered
    # About 10 µs on an idle machine; a thread that waits for its turn on a loaded one is no fault of the call.
    assert statistics.median(took) < 0.001
    assert max(took) < 1.0
    note.load, note.events = "at once", len(sent)
