import threading
from pathlib import Path

import msgspec
import pytest
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from tests.support.fake_producer import FakeKafka
from tidegauge import cli
from tidegauge.errors import BrokerUnavailableError, UsageError
from tidegauge.producers import publisher as publisher_module
from tidegauge.producers import replay as replay_module
from tidegauge.producers.ids import partition_for
from tidegauge.producers.publisher import ReliablePublisher
from tidegauge.producers.replay import publish_paced, replay
from tidegauge.schemas.codec import Codec
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import Settings

START = 1_700_000_000


@pytest.fixture
def broker():
    return FakeKafka()


@pytest.fixture
def publish(broker):
    def make(**options):
        return ReliablePublisher(Settings(), producer_factory=broker.factory, **options)

    return make


@pytest.fixture
def trace(tmp_path) -> Path:
    path = tmp_path / "trace.csv"
    rows = "".join(f"{START + n * 10},{n}\n" for n in range(50))
    path.write_text("time,input_tokens\n" + rows + "nonsense,1\n")
    return path


def event(number: int) -> RequestEvent:
    return RequestEvent(id=f"e{number}", time=START + number)


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 5_000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 1_800_000_000

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(replay_module, "time", clock)
    return clock


def test_each_event_goes_to_the_partition_of_its_id(broker, publish):
    publisher = publish()
    for number in range(100):
        publisher.publish("t", f"e{number}", event(number))
    publisher.flush()
    for _, partition, value in broker.records:
        assert partition == partition_for(msgspec.json.decode(value)["id"], 4)
    assert publisher.stats.acknowledged == publisher.stats.published == publisher.stats.messages == 100


def test_a_batch_is_an_array_of_one_partition_and_flush_sends_the_rest(broker, publish):
    publisher = publish(batch=10)
    for number in range(105):
        publisher.publish("t", f"e{number}", event(number))
    publisher.flush()
    codec = Codec(RequestEvent)
    ids = []
    for _, partition, value in broker.records:
        events, refused = codec.decode(value)
        assert not refused
        assert len(events) <= 10
        assert {partition_for(e.id, 4) for e in events} == {partition}
        ids += [e.id for e in events]
    assert sorted(ids) == sorted(f"e{number}" for number in range(105))
    assert publisher.stats.acknowledged == 105


def test_a_full_buffer_holds_the_caller_up_until_kafka_acknowledges(broker, publish, monkeypatch):
    monkeypatch.setattr(publisher_module, "MAX_IN_FLIGHT_MESSAGES", 5)
    broker.holding = True
    publisher = publish()
    done = threading.Event()

    def work():
        for number in range(6):
            publisher.publish("t", f"e{number}", event(number))
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not done.wait(0.1)
    assert len(broker.records) == 5
    broker.release()
    assert done.wait(5)
    thread.join()
    publisher.flush()
    assert publisher.stats.acknowledged == 6


def test_a_message_larger_than_the_bound_still_goes_out(broker, publish, monkeypatch):
    monkeypatch.setattr(publisher_module, "MAX_IN_FLIGHT_BYTES", 10)
    publisher = publish()
    publisher.publish("t", "e1", event(1))
    publisher.flush()
    assert publisher.stats.acknowledged == 1


def test_an_unacknowledged_event_is_an_error_with_counts(broker, publish):
    publisher = publish()
    publisher.publish("t", "e1", event(1))
    broker.error = KafkaTimeoutError()
    publisher.publish("t", "e2", event(2))
    with pytest.raises(
        BrokerUnavailableError, match=r"acknowledged only 1 of 2 events \(KafkaTimeoutError\)"
    ):
        publisher.flush()
    assert publisher.stats.failed == {"KafkaTimeoutError": 1}


def test_an_event_that_kafka_finds_too_large_costs_itself_alone(broker, publish):
    publisher = publish()
    broker.error = MessageSizeTooLargeError()
    publisher.publish("t", "e1", event(1))
    broker.error = None
    publisher.publish("t", "e2", event(2))
    publisher.flush()
    assert publisher.stats.acknowledged == 1
    assert publisher.stats.failed == {"MessageSizeTooLargeError": 1}


def test_no_broker_and_no_topic_are_one_clear_line(broker, publish):
    broker.refusing = KafkaTimeoutError()
    with pytest.raises(BrokerUnavailableError, match=r"^no Kafka at 127.0.0.1:9092 \(KafkaTimeoutError\)$"):
        publish(connect_timeout=0.0)
    broker.refusing = None
    broker.missing.add("t")
    with pytest.raises(BrokerUnavailableError, match=r"no topic t at .*tidegauge topics create"):
        publish(connect_timeout=0.0).publish("t", "e1", event(1))


def test_a_raw_message_goes_where_it_is_told(broker, publish):
    publisher = publish(batch=10)
    publisher.publish_raw("t", 3, b"not json")
    assert broker.records == [("t", 3, b"not json")]
    with pytest.raises(UsageError, match="no partition 4"):
        publisher.publish_raw("t", 4, b"")


def test_replay_publishes_every_event_and_reports_the_rest(broker, publish, trace):
    told: list[int] = []
    result = replay(trace, format="csv", publisher=publish(), topic="t", progress=told.append)
    assert [e["gen_ai.usage.input_tokens"] for e in broker.events] == list(range(50))
    assert result.stats.acknowledged == result.report.events == 50
    assert result.report.bad == {"wrong_type": 1}
    assert told[-1] == 50


def test_replaying_again_and_shuffled_is_the_same_events(broker, publish, trace):
    runs = []
    for shuffle in (None, 1, 2):
        broker.records.clear()
        replay(trace, format="csv", publisher=publish(), topic="t", shuffle=shuffle)
        runs.append(broker.events)
    assert runs[0] != runs[1] != runs[2]
    first, second, third = (sorted(map(str, run)) for run in runs)
    assert first == second == third


def test_recorded_speed_waits_as_the_trace_did(broker, publish, trace, clock):
    replay(trace, format="csv", publisher=publish(batch=100), topic="t", speed="recorded", limit=4)
    assert clock.slept == [10.0, 10.0, 10.0]
    assert len(broker.records) == 4  # what waits to be grouped goes out before a pause


def test_ten_times_the_speed_waits_a_tenth(publish, trace, clock):
    replay(trace, format="csv", publisher=publish(), topic="t", speed=10, limit=4)
    assert sum(clock.slept) == pytest.approx(3.0)


def test_late_items_go_out_at_once(publish, clock):
    items = [(START + at, "t", event(n)) for n, at in enumerate((0, 5, 2, 6))]
    publish_paced(items, publish(), 1.0)
    assert clock.slept == [5.0, 1.0]


def test_the_clock_may_start_before_the_first_item(publish, clock):
    publish_paced([(START + 5, "t", event(1))], publish(), 1.0, begin=START)
    assert clock.slept == [5.0]


@pytest.mark.parametrize(
    ("speed", "limit", "end"),
    [("max", None, 0.0), ("recorded", None, 490.0), (10, None, 49.0), ("max", 10, 0.0)],
)
def test_a_moved_trace_ends_when_the_replay_does(broker, publish, trace, clock, speed, limit, end):
    expected = clock.time() + end
    replay(trace, format="csv", publisher=publish(), topic="t", speed=speed, limit=limit, move_to="now")
    times = [e["time"] for e in broker.events]
    assert times[-1] == expected
    assert times[1] - times[0] == 10.0
    assert expected == pytest.approx(clock.time())


def test_moved_events_are_other_events_and_the_same_move_is_the_same_events(broker, publish, trace):
    ids = []
    for move_to in (None, 1_750_000_000.0, 1_750_000_000.0, 1_750_000_060.0):
        broker.records.clear()
        replay(trace, format="csv", publisher=publish(), topic="t", move_to=move_to)
        ids.append({e["id"] for e in broker.events})
    assert ids[1] == ids[2]
    assert ids[0].isdisjoint(ids[1])
    assert ids[1].isdisjoint(ids[3])


def test_a_shuffled_trace_has_no_pace(publish, trace):
    with pytest.raises(UsageError, match="shuffle"):
        replay(trace, format="csv", publisher=publish(), topic="t", speed="recorded", shuffle=1)


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan"), "fast"])
def test_a_wrong_speed_is_refused(publish, trace, speed):
    with pytest.raises(UsageError, match="speed"):
        replay(trace, format="csv", publisher=publish(), topic="t", speed=speed)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--map", "time"], "expected FIELD=COLUMN"),
        (["--set", "model"], "--set: 'model': expected FIELD=VALUE"),
        (["--set", "colour=red"], "'colour' is no field"),
        (["--speed", "fast"], "--speed: 'fast'"),
        (["--move-to", "later"], "--move-to later"),
        (["--limit", "0"], "--limit"),
    ],
)
def test_wrong_flags_are_one_line_and_exit_code_2(trace, capsys, flags, told):
    assert cli.main(["replay", str(trace), "--format", "csv", *flags]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_the_command_publishes_and_tells_of_what_it_left_out(trace, broker, monkeypatch, capsys):
    monkeypatch.setattr(publisher_module, "make_producer", broker.factory)
    monkeypatch.setattr("tidegauge.commands.replay.knock", lambda kafka: None)
    assert cli.main(["replay", str(trace), "--format", "csv", "--batch", "20", "--topic-prefix", "p."]) == 0
    out, error = capsys.readouterr()
    assert out.startswith("50 events in 4 messages to p.requests in ")
    assert "left out 1 bad records: wrong_type 1" in error
    assert "line 52: time: a time in ISO 8601" in error
    assert len(broker.events) == 50


def test_the_command_fails_if_kafka_refuses_an_event(trace, broker, monkeypatch, capsys):
    monkeypatch.setattr(publisher_module, "make_producer", broker.factory)
    monkeypatch.setattr("tidegauge.commands.replay.knock", lambda kafka: None)
    broker.error = MessageSizeTooLargeError()
    assert cli.main(["replay", str(trace), "--format", "csv", "--limit", "3"]) == 1
    assert (
        "0 of 3 events acknowledged; refused by Kafka: MessageSizeTooLargeError 3" in capsys.readouterr().out
    )


def test_a_sorted_replay_is_in_order_of_time_and_the_same_events(broker, publish, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("time,input_tokens\n" + "".join(f"{START + n * 7 % 50},{n}\n" for n in range(50)))
    result = replay(path, format="csv", publisher=publish(), topic="t")
    ids = {e["id"] for e in broker.events}
    assert result.lag == 48
    broker.records.clear()
    result = replay(path, format="csv", publisher=publish(), topic="t", sort=True)
    times = [e["time"] for e in broker.events]
    assert times == sorted(times)
    assert {e["id"] for e in broker.events} == ids
    assert (result.lag, result.span) == (0.0, (START, START + 49))


def test_the_command_says_when_workers_would_find_the_trace_too_late(tmp_path, broker, monkeypatch, capsys):
    monkeypatch.setattr(publisher_module, "make_producer", broker.factory)
    monkeypatch.setattr("tidegauge.commands.replay.knock", lambda kafka: None)
    path = tmp_path / "t.csv"
    path.write_text(f"time\n{START + 7_201}\n{START}\n")
    assert cli.main(["replay", str(path), "--format", "csv"]) == 0
    assert "an event came 7,201 s after a later one" in capsys.readouterr().err
    assert cli.main(["replay", str(path), "--format", "csv", "--sort"]) == 0
    assert capsys.readouterr().err == ""
