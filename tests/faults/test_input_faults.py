"""Whatever is on the topic: each event is accounted for once, and what is right beside it is counted."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable
from zlib import crc32

import pytest
from kafka import KafkaProducer
from kafka.errors import MessageSizeTooLargeError

from tests.faults.oracle.events import MIDNIGHT, make
from tests.faults.scene import PARTITIONS, Scene, dead_letters

pytestmark = pytest.mark.slow

GOOD = {
    "id": "good",
    "time": MIDNIGHT,
    "service.name": "shop",
    "gen_ai.provider.name": "oracle",
    "gen_ai.request.model": "small",
}


def put(scene: Scene, messages: Iterable[bytes | None]) -> None:
    """Send raw messages, in turn to all partitions; with a key, without which each must have a value."""
    producer = KafkaProducer(
        bootstrap_servers=scene.kafka.bootstrap_servers,
        acks="all",
        enable_idempotence=False,
        max_request_size=16 * 1024 * 1024,
    )
    try:
        sent = [
            producer.send(scene.topic, message, b"key", partition=n % PARTITIONS)
            for n, message in enumerate(messages)
        ]
        for future in sent:
            future.get(timeout=60)
    finally:
        producer.close()


@pytest.mark.fault(23, "each event 1 to 5 times, across restarts of the worker")
def test_repeats_are_counted_once_across_restarts(scene: Scene) -> None:
    chance = random.Random(23)
    with scene.publisher() as publisher:
        events = scene.generator.take(1_500)
        for part in range(3):
            with scene.pipeline.worker(f"worker-{part}") as worker:
                for event in events[part * 500 : part * 500 + 500]:
                    publisher.send([event], copies=chance.randint(1, 5))
                if part:  # and some of what the worker before had
                    publisher.send(chance.sample(events[(part - 1) * 500 : part * 500], 200))
                scene.goes_on(worker, 300)
                worker.kill()
    with scene.pipeline.worker("last") as worker:
        scene.finish(worker)
    assert scene.stored().outcomes["duplicate"] > 1_500


@pytest.mark.fault(24, "shuffled, an hour late, two days late: counted as late, and folded in by rebuild")
def test_late_events_are_told_and_then_folded_in_by_a_rebuild(scene: Scene) -> None:
    events = scene.generator.take(2_000)
    random.Random(24).shuffle(events)
    hour_late = [make(f"hour-{n}", MIDNIGHT - 3_600, "small", 10, 1) for n in range(50)]
    two_days_late = [make(f"days-{n}", MIDNIGHT - 2 * 86_400, "large", 20, 2) for n in range(70)]
    scene.late = {event.id for event in two_days_late}
    with scene.pipeline.worker() as worker:
        with scene.publisher() as publisher:
            publisher.send(events)
        scene.goes_on(worker, 2_000)
        with scene.publisher() as publisher:
            publisher.send(hour_late + two_days_late)
        verdict = scene.settle(lambda: worker.process.poll() is None)
        assert verdict.ok, verdict
        scene.pipeline.do(
            "rebuild",
            "--store",
            scene.pipeline.store,
            "--from",
            str(MIDNIGHT - 3 * 86_400),
            "--to",
            str(MIDNIGHT - 86_400),
        )
        worker.end()
    late = scene.stored().sums["cost_1d"]["large", MIDNIGHT // 86_400 - 2]
    assert (late.requests, late.input_tokens) == (70, 1_400)
    assert scene.stored().outcomes["late"] == 70


DEEP = b'{"id":"deep","time":%d,"x":' % MIDNIGHT + b"[" * 10_000 + b"]" * 10_000 + b"}"
BAD: dict[str, tuple[bytes | None, str]] = {
    "milliseconds": (json.dumps(GOOD | {"time": MIDNIGHT * 1000}).encode(), "time"),
    "far future": (json.dumps(GOOD | {"time": 4e9}).encode(), "time"),
    "NaN": (b'{"id":"nan","time":NaN}', ""),
    "infinite": (b'{"id":"inf","time":1e999}', ""),
    "a string for a time": (json.dumps(GOOD | {"time": str(MIDNIGHT)}).encode(), "time"),
    "no id": (json.dumps({"time": MIDNIGHT}).encode(), "id"),
    "raw bytes": (b"\x00\xff\xfe raw", ""),
    "truncated": (json.dumps(GOOD).encode()[:-5], ""),
    "null": (b"null", ""),
    "no value": (None, ""),
    "an empty array": (b"[]", ""),
    "a number": (b"17", ""),
    "negative tokens": (
        json.dumps(GOOD | {"gen_ai.usage.input_tokens": -1}).encode(),
        "gen_ai.usage.input_tokens",
    ),
    "a fraction of a token": (
        json.dumps(GOOD | {"gen_ai.usage.output_tokens": 1.5}).encode(),
        "gen_ai.usage.output_tokens",
    ),
    "an absurd number of tokens": (
        json.dumps(GOOD | {"gen_ai.usage.input_tokens": 10**17}).encode(),
        "gen_ai.usage.input_tokens",
    ),
    "an integer of 400 digits": (
        b'{"id":"long","time":%d,"gen_ai.usage.input_tokens":%s}' % (MIDNIGHT, b"9" * 400),
        "",
    ),
    "a negative duration": (
        json.dumps(GOOD | {"gen_ai.client.operation.duration": -0.1}).encode(),
        "gen_ai.client.operation.duration",
    ),
    "an object for a model": (
        json.dumps(GOOD | {"gen_ai.request.model": {}}).encode(),
        "gen_ai.request.model",
    ),
    "nested 10,000 deep": (DEEP, ""),
    "bad UTF-8": (b'{"id":"\xff","time":%d}' % MIDNIGHT, ""),
}


@pytest.mark.fault(25, "times in milliseconds, in the far future, NaN")
@pytest.mark.fault(26, "raw bytes, truncated JSON, null, []")
@pytest.mark.fault(27, "wrong types, negative, huge, nested 10,000 deep, integers of 400 digits")
def test_what_is_no_event_becomes_a_dead_letter_and_costs_its_neighbours_nothing(scene: Scene) -> None:
    good = scene.generator.take(500)
    neighbour = make("neighbour", MIDNIGHT, "odd", 3, 4)
    array = b"[%s,%s]" % (neighbour.payload, json.dumps(GOOD | {"id": "bad", "time": "never"}).encode())
    with scene.pipeline.worker() as worker:
        with scene.publisher() as publisher:
            publisher.send(good)
        put(scene, [message for message, _ in BAD.values()] + [array])
        expected = len(good) + 1 + len(BAD) + 1
        worker.wait("every event", lambda: scene.handled() >= expected)
        worker.end()
    stored = scene.stored()
    assert stored.outcomes["applied"] == len(good) + 1
    assert sum(stored.outcomes.values()) == expected
    for view, sums in stored.sums.items():
        assert sum(each.requests for each in sums.values()) == len(good) + 1, view
        assert sum(each.cost_nano for each in sums.values()) == sum(
            event.cost_nano for event in [*good, neighbour]
        ), view
    found = dead_letters(scene)
    assert len(found) == len(BAD) + 1
    fields = [letter.get("field", "") for letter in found]
    for name, (_, field) in BAD.items():
        assert field in fields, name
    scene.note.events, scene.note.difference = expected, 0


@pytest.mark.fault(28, "messages of 10 MB and of 4 MB and a byte")
def test_a_message_that_is_too_large_is_refused_and_costs_nothing(scene: Scene) -> None:
    huge = json.dumps(GOOD | {"tidegauge.input.text": "x" * 10_000_000}).encode()
    with pytest.raises(MessageSizeTooLargeError):
        put(scene, [huge])
    large = json.dumps(GOOD | {"tidegauge.input.text": "x" * (4 * 1024 * 1024)}).encode()
    put(scene, [large])
    with scene.publisher() as publisher:
        publisher.send(scene.generator.take(500))
    with scene.pipeline.worker() as worker:
        worker.wait("every event", lambda: scene.handled() >= 501)
        worker.end()
    assert scene.stored().outcomes == {"applied": 500, "refused_too_large": 1}
    (letter,) = dead_letters(scene)
    assert len(json.dumps(letter)) < 1_500_000  # it says how large it was, and does not hold it
    scene.note.events, scene.note.difference = 501, 0


@pytest.mark.fault(31, "newline, comma, =, backslash, quotes, unicode and nothing in tags, in InfluxDB")
def test_names_of_any_characters_stay_apart(influx_scene: Callable[[], Scene]) -> None:
    scene = influx_scene()
    services = [
        "a b",
        "a\nb",
        "a,b",
        "a=b",
        "a\\b",
        "a\\",
        "a\\\\",
        'a"b',
        "ä",
        "a\u0308",
        "日本",
        "🙂",
        "",
        " ",
        "a ",
        "\t",
    ]
    events = [
        make(f"{n}-{copy}", MIDNIGHT + n, "odd", 1, 1, **{"service.name": service})
        for n, service in enumerate(services)
        for copy in range(n + 1)
    ]
    with scene.pipeline.worker() as worker:
        with scene.publisher() as publisher:
            publisher.send(events)
        verdict = scene.settle(lambda: worker.process.poll() is None)
        assert verdict.ok, verdict
        worker.end()
    found = {str(row["service"]): row["requests"] for row in scene.pipeline.rows("cost", by=["service"])}
    assert found == {service: n + 1 for n, service in enumerate(services)}


@pytest.mark.fault(32, "50,000 different values of a tag: the cap holds, totals exact")
def test_a_flood_of_names_meets_the_cap_and_no_total_is_lost(scene: Scene) -> None:
    flood(scene, 50_000)


@pytest.mark.long_fault
@pytest.mark.timeout(1_800)
@pytest.mark.fault(32, "a million different values of a tag: the cap holds, totals exact")
def test_a_million_names_meet_the_cap_and_no_total_is_lost(scene: Scene) -> None:
    flood(scene, 1_000_000)


def flood(scene: Scene, names: int) -> None:
    with scene.pipeline.worker() as worker:
        producer = KafkaProducer(
            bootstrap_servers=scene.kafka.bootstrap_servers,
            acks="all",
            enable_idempotence=False,
            linger_ms=20,
        )
        for n in range(names):
            event = make(f"e{n}", MIDNIGHT + n % 600, "odd", 2, 3, **{"service.name": f"service {n}"})
            producer.send(scene.topic, event.payload, partition=crc32(event.id.encode()) % PARTITIONS)
        producer.flush()
        producer.close()
        worker.wait("every event", lambda: scene.handled() >= names)
        worker.end()
    stored = scene.stored()
    assert stored.outcomes == {"applied": names}
    for view, sums in stored.sums.items():
        assert sum(each.requests for each in sums.values()) == names, view
        assert sum(each.cost_nano for each in sums.values()) == names * (2 * 7 + 3 * 13), view
    cap = scene.pipeline.settings.worker.max_dimension_values
    assert len(scene.pipeline.rows("cost_1d", by=["service"])) <= PARTITIONS * cap + 1
    scene.note.load, scene.note.events, scene.note.difference = "at once", names, 0


@pytest.mark.fault(33, "events a year old, published now: nothing of them is deleted")
def test_events_of_a_year_ago_outlive_retention(influx_scene: Callable[[], Scene]) -> None:
    scene = influx_scene()
    old = int(time.time()) // 86_400 * 86_400 - 365 * 86_400
    with scene.pipeline.worker() as worker:
        with scene.publisher() as publisher:
            publisher.send([make(f"old-{n}", old + n, "small", 5, 5) for n in range(500)])
        verdict = scene.settle(lambda: worker.process.poll() is None)
        assert verdict.ok, verdict
        worker.end()
