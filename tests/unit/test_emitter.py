from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.support.fake_producer import FakeKafka
from tidegauge.errors import SettingsError
from tidegauge.producers import diagnostics
from tidegauge.producers.emitter import Emitter
from tidegauge.producers.ids import new_event_id, partition_for
from tidegauge.producers.shipper import MAX_MESSAGE_BYTES
from tidegauge.producers.stats import EmitterStats
from tidegauge.schemas.common import MAX_TEXT_LENGTH
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import Settings, load

REQUESTS = "tidegauge.requests"


def settings(**emitter: Any) -> Settings:
    values = {"linger": 0.0, "close_timeout": 5.0} | emitter
    return load(environ={}, overrides={f"emitter.{name}": value for name, value in values.items()})


def request(**fields: Any) -> RequestEvent:
    return RequestEvent(fields.pop("id", None) or new_event_id(), 1_700_000_000.0, **fields)


def balanced(stats: EmitterStats) -> bool:
    return stats.accepted == (
        stats.delivered + stats.dropped_after_accept + stats.in_queue + stats.in_flight
    ) and all(n >= 0 for n in (stats.in_queue, stats.in_flight))


@pytest.fixture(autouse=True)
def _fresh_throttle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "_throttle", diagnostics.Throttle())


@pytest.fixture
def fake() -> FakeKafka:
    return FakeKafka()


@pytest.fixture
def emitter(fake: FakeKafka) -> Iterator[Emitter]:
    with Emitter(settings(), producer_factory=fake.factory) as emitter:
        yield emitter


def test_nothing_is_connected_before_the_first_event(emitter: Emitter, fake: FakeKafka) -> None:
    assert emitter.flush(0)
    assert fake.attempts == 0
    assert emitter.emit(request())
    assert emitter.flush()
    assert fake.made == 1


def test_events_arrive_once_each_on_the_partition_of_their_id(emitter: Emitter, fake: FakeKafka) -> None:
    fake.partitions[REQUESTS] = 7
    ids = [new_event_id() for _ in range(500)]
    for event_id in ids:
        assert emitter.emit(request(id=event_id))
    assert emitter.flush()
    assert sorted(e["id"] for e in fake.events) == sorted(ids)
    for topic, partition, value in fake.records:
        assert topic == REQUESTS
        decoded = msgspec.json.decode(value)
        for event in decoded if isinstance(decoded, list) else [decoded]:
            assert partition_for(event["id"], 7) == partition
    stats = emitter.stats()
    assert (stats.accepted, stats.delivered, stats.dropped) == (500, 500, {})


def test_what_waits_is_sent_as_one_array_per_partition(fake: FakeKafka) -> None:
    with Emitter(settings(linger=60), producer_factory=fake.factory) as emitter:
        for _ in range(400):
            emitter.emit(request())
        assert emitter.flush()
    assert len(fake.records) == 4
    assert {partition for _, partition, _ in fake.records} == {0, 1, 2, 3}


def test_a_single_event_is_sent_as_an_object(emitter: Emitter, fake: FakeKafka) -> None:
    emitter.emit(request())
    emitter.flush()
    assert fake.records[0][2].startswith(b"{")


def test_each_type_goes_to_its_topic(emitter: Emitter, fake: FakeKafka) -> None:
    emitter.emit(request())
    emitter.emit(FeedbackEvent("f", 1_700_000_000.0, "r", "thumb", 1.0))
    emitter.emit({"id": "m", "time": 1_700_000_000, "gen_ai.request.model": "m"}, REQUESTS)
    assert emitter.flush()
    assert sorted(topic for topic, _, _ in fake.records) == ["tidegauge.feedback", REQUESTS, REQUESTS]


def test_a_full_queue_drops_the_newcomer_and_counts_it(fake: FakeKafka) -> None:
    fake.holding = True
    with Emitter(settings(queue_size=10), producer_factory=fake.factory) as emitter:
        assert emitter.emit(request())
        assert fake.sent.wait(5)
        outcomes = [emitter.emit(request()) for _ in range(100)]
        # One is in flight, and the sending thread takes no more than are in flight and in the queue.
        assert 10 <= sum(outcomes) <= 20
        stats = emitter.stats()
        assert stats.dropped == {"queue_full": 100 - sum(outcomes)}
        assert stats.accepted == 1 + sum(outcomes)
        assert balanced(stats)
        fake.release()
        assert emitter.flush()
        assert emitter.stats().delivered == 1 + sum(outcomes)


def test_in_flight_is_bounded_by_bytes(fake: FakeKafka) -> None:
    fake.holding = True
    with Emitter(settings(), producer_factory=fake.factory, max_in_flight_bytes=2000) as emitter:
        for _ in range(200):
            emitter.emit(request(prompt="p" * 250))
            fake.sent.wait(0.002)
        assert not emitter.flush(0.2)
        sent = sum(len(value) for _, _, value in fake.records)
        assert sent <= 2000 + MAX_MESSAGE_BYTES
        assert emitter.stats().in_queue > 0
        fake.release()
        assert emitter.flush()
        assert emitter.stats().delivered == 200


def test_delivered_means_acknowledged(emitter: Emitter, fake: FakeKafka) -> None:
    fake.holding = True
    emitter.emit(request())
    assert fake.sent.wait(5)
    assert not emitter.flush(0.05)
    stats = emitter.stats()
    assert (stats.delivered, stats.in_flight) == (0, 1)
    fake.release()
    assert emitter.flush()
    assert emitter.stats().delivered == 1


def test_a_refused_message_is_counted_with_all_its_events(emitter: Emitter, fake: FakeKafka) -> None:
    fake.error = RuntimeError("not enough replicas")
    for _ in range(50):
        emitter.emit(request())
    assert emitter.flush()
    assert emitter.stats().dropped == {"send_failed": 50}
    fake.error, fake.raising = None, ValueError("no such partition")
    emitter.emit(request())
    assert emitter.flush()
    stats = emitter.stats()
    assert stats.dropped == {"send_failed": 51}
    assert balanced(stats)


def test_what_is_no_event_costs_itself_alone(emitter: Emitter, fake: FakeKafka) -> None:
    emitter.emit(object())
    emitter.emit({"id": object()}, "elsewhere")
    emitter.emit({"id": "x", "time": 1_700_000_000_000}, REQUESTS)
    emitter.emit(request(id="good"))
    assert emitter.flush()
    assert [e["id"] for e in fake.events] == ["good"]
    stats = emitter.stats()
    assert stats.dropped == {"encode_error": 2, "invalid": 1}
    assert stats.internal_errors == 0
    assert balanced(stats)


def test_a_time_in_milliseconds_is_refused_and_told_without_its_value(
    emitter: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    emitter.emit(RequestEvent("x", 1_700_000_000_123.0))
    assert emitter.flush()
    assert emitter.stats().dropped == {"invalid": 1}
    assert "time" in caplog.text
    assert "1700000000123" not in caplog.text.replace("_", "")


def test_texts_that_make_an_event_too_large_are_left_out_and_the_numbers_get_through(
    emitter: Emitter, fake: FakeKafka
) -> None:
    text = "\x01" * MAX_TEXT_LENGTH  # six bytes each in JSON
    emitter.emit(request(input_tokens=7, input_text=text, output_text=text))
    assert emitter.flush()
    (event,) = fake.events
    assert event["gen_ai.usage.input_tokens"] == 7
    assert "tidegauge.input.text" not in event
    assert emitter.stats().adjusted == {"tidegauge.input.text": 1, "tidegauge.output.text": 1}


def test_a_mapping_too_large_is_dropped_and_counted(emitter: Emitter, fake: FakeKafka) -> None:
    emitter.emit({"id": "x", "blob": "b" * MAX_MESSAGE_BYTES}, "elsewhere")
    assert emitter.flush()
    assert emitter.stats().dropped == {"too_large": 1}


def test_events_of_a_topic_that_does_not_exist_wait_for_it() -> None:
    fake = FakeKafka(missing=["tidegauge.feedback"])
    with Emitter(settings(), producer_factory=fake.factory) as emitter:
        emitter.emit(FeedbackEvent("f", 1_700_000_000.0, "r", "thumb", 1.0))
        emitter.emit(request(id="r"))
        assert not emitter.flush(0.3)
        assert [e["id"] for e in fake.events] == ["r"]
        assert emitter.stats().in_queue == 1
        fake.missing.clear()
        assert emitter.flush(10)
        assert emitter.stats().delivered == 2


def test_events_of_a_topic_that_never_comes_are_counted() -> None:
    fake = FakeKafka(missing=[REQUESTS])
    with Emitter(settings(), producer_factory=fake.factory, delivery_timeout=0.1) as emitter:
        emitter.emit(request())
        assert emitter.flush(10)
        assert emitter.stats().dropped == {"unknown_topic": 1}


def test_without_a_broker_events_wait_and_go_out_when_it_comes(fake: FakeKafka) -> None:
    fake.refusing = ConnectionError("nobody there")
    with Emitter(settings(), producer_factory=fake.factory) as emitter:
        assert all(emitter.emit(request()) for _ in range(1000))
        assert fake.attempted.wait(5)
        assert not emitter.flush(0.05)
        assert emitter.stats().in_queue == 1000
        fake.refusing = None
        assert emitter.flush(10)
        assert emitter.stats().delivered == 1000


def test_closing_without_a_broker_keeps_its_deadline_and_counts_the_loss(fake: FakeKafka) -> None:
    fake.refusing = ConnectionError("nobody there")
    emitter = Emitter(settings(), producer_factory=fake.factory)
    for _ in range(10):
        emitter.emit(request())
    began = time.monotonic()
    assert not emitter.close(0.2)
    assert time.monotonic() - began < 2
    stats = emitter.stats()
    assert stats.dropped == {"close_timeout": 10}
    assert balanced(stats)


def test_closing_while_the_producer_is_being_made_keeps_its_deadline() -> None:
    going = threading.Event()

    def stuck(settings: Settings, delivery_timeout: float) -> FakeKafka:
        assert going.wait(30)
        raise ConnectionError

    emitter = Emitter(settings(), producer_factory=stuck)
    emitter.emit(request())
    began = time.monotonic()
    assert not emitter.close(0.2)
    assert time.monotonic() - began < 2
    assert emitter.stats().dropped == {"close_timeout": 1}
    going.set()


def test_news_that_come_after_closing_change_no_count(fake: FakeKafka) -> None:
    fake.holding = True
    emitter = Emitter(settings(), producer_factory=fake.factory)
    emitter.emit(request())
    assert fake.sent.wait(5)
    assert not emitter.close(0.05)
    fake.release()
    stats = emitter.stats()
    assert (stats.delivered, stats.dropped) == (0, {"close_timeout": 1})
    assert balanced(stats)


def test_closing_sends_what_waits_and_refuses_the_rest(fake: FakeKafka) -> None:
    emitter = Emitter(settings(linger=60), producer_factory=fake.factory)
    emitter.emit(request())
    assert emitter.close()
    assert emitter.close()
    assert len(fake.events) == 1
    assert len(fake.closed_with) == 1
    assert not emitter.emit(request())
    assert emitter.stats().dropped == {"closed": 1}
    assert emitter.flush(0)


def test_flush_waits_for_what_was_accepted_before_and_not_for_what_comes_later(fake: FakeKafka) -> None:
    with Emitter(settings(linger=0.01), producer_factory=fake.factory) as emitter:
        stop = threading.Event()

        def keep_emitting() -> None:
            while not stop.wait(0.0005):
                emitter.emit(request())

        thread = threading.Thread(target=keep_emitting)
        thread.start()
        try:
            for _ in range(20):
                emitter.emit(request(id=(mine := new_event_id())))
                assert emitter.flush(5)
                assert mine in {e["id"] for e in fake.events}
        finally:
            stop.set()
            thread.join()


def test_the_books_balance_at_any_moment_while_threads_emit_and_sends_fail(fake: FakeKafka) -> None:
    each, threads = 2000, 4
    with Emitter(settings(queue_size=200, linger=0.001), producer_factory=fake.factory) as emitter:
        accepted = [0] * threads

        def work(me: int) -> None:
            for n in range(each):
                accepted[me] += emitter.emit(request())
                if n % 500 == 0:
                    fake.error = RuntimeError() if me % 2 else None

        workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            assert balanced(emitter.stats())
        for worker in workers:
            worker.join()
        assert emitter.flush()
        stats = emitter.stats()
        assert stats.accepted == sum(accepted)
        assert stats.dropped.get("queue_full", 0) == each * threads - sum(accepted)
        assert stats.in_queue == stats.in_flight == 0
        assert balanced(stats)


def test_drops_are_warned_of_once_a_minute_at_most(fake: FakeKafka, caplog: pytest.LogCaptureFixture) -> None:
    fake.error = RuntimeError("secret payload")
    with Emitter(settings(), producer_factory=fake.factory) as emitter:
        for _ in range(5):
            emitter.emit(request(prompt="private prompt"))
            assert emitter.flush()
    drops = [r for r in caplog.records if "send_failed" in r.getMessage()]
    assert len(drops) == 1
    assert drops[0].name == "tidegauge"
    assert "private" not in caplog.text
    assert "secret" not in caplog.text


def test_a_bug_in_the_sending_thread_costs_its_batch_and_not_the_thread(
    fake: FakeKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Emitter(settings(), producer_factory=fake.factory) as emitter:
        monkeypatch.setattr("tidegauge.producers.shipper.partition_for", lambda *_: 1 / 0)
        emitter.emit(request())
        assert emitter.flush()
        monkeypatch.undo()
        stats = emitter.stats()
        assert (stats.dropped, stats.internal_errors) == ({"internal_error": 1}, 1)
        emitter.emit(request())
        assert emitter.flush()
        assert emitter.stats().delivered == 1


def test_settings_that_do_not_fit_together_are_refused_at_once() -> None:
    wrong = load(environ={}, overrides={"kafka.security_protocol": "SASL_SSL"})
    with pytest.raises(SettingsError, match="sasl_username"):
        Emitter(wrong)
