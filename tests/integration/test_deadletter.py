"""Dead letters are shown, and sent again to where they came from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests.support.servers import Kafka
from tidegauge.cli import main
from tidegauge.schemas.codec import Codec, encode
from tidegauge.schemas.deadletter import MAX_COPY_BYTES, DeadLetter
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import Kafka as KafkaSettings
from tidegauge.settings import Settings, Topics
from tidegauge.sinks.deadletter import letter_of_event
from tidegauge.topics import ensure_topics

NOW = 1_700_000_000.0
GOOD = b'{"id":"good","time":1700000000}'
SECRET = "a-private-prompt"


def _letter(settings: Settings, offset: int, message: bytes, now: float = NOW) -> DeadLetter:
    _, refused = Codec(RequestEvent).decode(message)
    return letter_of_event(settings.topics.requests, 1, offset, refused[0], now)


@pytest.fixture
def settings(kafka: Kafka, topic_prefix: str) -> Settings:
    settings = Settings(
        kafka=KafkaSettings(kafka.bootstrap_servers), topics=Topics(prefix=topic_prefix, partitions=2)
    )
    ensure_topics(settings)
    return settings


@pytest.fixture
def letters(settings: Settings) -> list[DeadLetter]:
    """Three that can be sent again (the last one in time an element of an array), and three that cannot."""
    newer = b'{"id":"n","time":1700000000,"schema_version":2,"tidegauge.input.text":"%s"}' % SECRET.encode()
    made = [
        _letter(settings, 10, newer),
        _letter(settings, 11, b"\xff\x00no json"),
        _letter(settings, 12, b"[" + GOOD + b',{"id":"x"}]', NOW + 3600),
        _letter(settings, 13, b'{"id":"' + b"x" * (MAX_COPY_BYTES + 1) + b'"}'),
        DeadLetter("latency", -1, -1, "store_refused", "", "type conflict", NOW, b"{}", 2),
        DeadLetter("some.other.topic", 0, 0, "invalid_json", "", "valid JSON", NOW, b"{}", 2),
    ]
    producer = KafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers)
    for letter in made:
        producer.send(settings.topics.deadletter, encode(letter)).get(timeout=20)
    producer.close()
    return made


def _run(settings: Settings, *arguments: str) -> int:
    servers = settings.kafka.bootstrap_servers
    flags = ["--bootstrap-servers", servers, "--topic-prefix", settings.topics.prefix]
    return main(["deadletter", *arguments, *flags])


def _listed(settings: Settings, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert _run(settings, "list", "--output", "json", *arguments) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def _requests(settings: Settings) -> list[tuple[int, bytes | None]]:
    partitions = [TopicPartition(settings.topics.requests, number) for number in range(2)]
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers,
        auto_offset_reset="earliest",
        consumer_timeout_ms=5_000,
    )
    try:
        consumer.assign(partitions)
        count = sum(consumer.end_offsets(partitions).values())
        return [(record.partition, record.value) for _, record in zip(range(count), consumer, strict=False)]
    finally:
        consumer.close()


def test_a_letter_says_where_it_came_from_and_why(
    settings: Settings, letters: list[DeadLetter], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _listed(settings, capsys)
    assert [row["offset"] for row in rows] == [f"0:{n}" for n in range(len(letters))]
    assert rows[2] == {
        "offset": "0:2",
        "time": "2023-11-14T23:13:20Z",
        "origin_topic": settings.topics.requests,
        "origin_partition": 1,
        "origin_offset": 12,
        "origin_index": 1,
        "reason": "missing_field",
        "field": "time",
        "detail": "is required",
        "size": 10,
        "truncated": False,
    }
    assert rows[3]["truncated"] is True
    assert rows[3]["size"] == letters[3].payload_size > MAX_COPY_BYTES


def test_letters_are_chosen_by_reason_time_place_and_number(
    settings: Settings, letters: list[DeadLetter], capsys: pytest.CaptureFixture[str]
) -> None:
    def offsets(*arguments: str) -> list[str]:
        return [row["offset"] for row in _listed(settings, capsys, *arguments)]

    assert offsets("--reason", "invalid_json") == ["0:1", "0:5"]
    assert offsets("--from", str(NOW + 1)) == ["0:2"]
    assert offsets("--from", "2023-11-14T23:00:00Z") == ["0:2"]
    assert offsets("--from", "2090-01-01") == []
    assert offsets("--offset", "0:3") == ["0:3"]
    assert offsets("--offset", "0:99") == []
    assert offsets("--offset", "7:0") == []
    assert offsets("--limit", "2") == ["0:4", "0:5"]


def test_payloads_are_shown_on_request_only_and_cannot_steer_the_terminal(
    settings: Settings, letters: list[DeadLetter], capsys: pytest.CaptureFixture[str]
) -> None:
    assert SECRET not in json.dumps(_listed(settings, capsys))
    assert _run(settings, "list") == 0
    assert SECRET not in capsys.readouterr().out

    rows = _listed(settings, capsys, "--show-payload")
    assert SECRET in rows[0]["payload"]
    assert rows[1]["payload_base64"] == "/wBubyBqc29u"

    producer = KafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers)
    nasty = DeadLetter("\x1b[2J", 0, 0, "\x1b]0;x\x07", "", "\r\n", NOW, b"\x1b[31mred", 8)
    producer.send(settings.topics.deadletter, encode(nasty)).get(timeout=20)
    producer.close()
    assert _run(settings, "list", "--show-payload") == 0
    assert "\x1b" not in (shown := capsys.readouterr().out)
    assert "\\x1b[31mred" in shown


def test_what_is_no_dead_letter_is_listed_as_unreadable_and_kept_back(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    producer = KafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers)
    producer.send(settings.topics.deadletter, b"garbage").get(timeout=20)
    producer.send(settings.topics.deadletter, None, key=b"k").get(timeout=20)
    producer.close()
    assert [row["reason"] for row in _listed(settings, capsys)] == ["unreadable", "unreadable"]
    assert _run(settings, "resend") == 1
    assert "0:0 not sent: cannot be read" in capsys.readouterr().err


def test_resending_puts_whole_events_where_they_came_from_and_says_what_it_keeps_back(
    settings: Settings, letters: list[DeadLetter], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(settings, "resend", "--dry-run") == 1
    assert "3 dead letters would be sent, 0 failed, 3 kept back" in capsys.readouterr().out
    assert _requests(settings) == []

    assert _run(settings, "resend") == 1

    captured = capsys.readouterr()
    assert _requests(settings) == [(1, letter.payload) for letter in letters[:3]]
    assert "3 dead letters sent, 0 failed, 3 kept back" in captured.out
    assert "de-duplicated by id" in captured.out
    lines = captured.err.splitlines()
    assert [line.partition(" not sent: ")[0] for line in lines] == ["0:3", "0:4", "0:5"]
    assert f"only {MAX_COPY_BYTES} of its {letters[3].payload_size} bytes were kept" in lines[0]
    assert "tidegauge rebuild" in lines[1]
    assert "topic of events" in lines[2]


def test_resending_one_letter_leaves_the_others(
    settings: Settings, letters: list[DeadLetter], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(settings, "resend", "--reason", "schema_version", "--limit", "1") == 0
    assert _requests(settings) == [(1, letters[0].payload)]


def test_without_the_topic_the_command_says_how_to_make_it(
    kafka: Kafka, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(kafka=KafkaSettings(kafka.bootstrap_servers), topics=Topics(prefix=topic_prefix))
    assert _run(settings, "list") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"no topic {topic_prefix}deadletter; make it with: tidegauge topics create")


def test_an_empty_topic_lists_nothing(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert _listed(settings, capsys) == []
    assert _run(settings, "resend") == 0


@pytest.mark.parametrize(
    "arguments",
    [["--offset", "3"], ["--offset", "a:b"], ["--from", "yesterday"], ["--from", "1700000000000"]],
)
def test_a_wrong_selection_is_wrong_use(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deadletter", "list", *arguments]) == 2
    assert arguments[1] in capsys.readouterr().err
