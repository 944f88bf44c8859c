import gzip
import json
import random
from pathlib import Path

import pytest

from tidegauge.errors import TidegaugeError, UnavailableError, UsageError
from tidegauge.producers import sources
from tidegauge.producers.columns import ColumnMap
from tidegauge.producers.sources import Trace
from tidegauge.schemas.codec import encode
from tidegauge.schemas.request import RequestEvent

AZURE = (
    b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    b"2023-11-16 18:15:46.6805900,374,44\r\n"
    b"2023-11-16 18:15:50.9951690,396,109\r\n"
    b"2023-11-16 18:15:50.9951690,396,109"
)


def aider(event="message_send", time=1723561241, user="52b5cc12", **properties):
    known = {"main_model": "gpt-4o-mini", "prompt_tokens": 638, "completion_tokens": 25, "cost": 0.0001107}
    line = {"event": event, "properties": known | properties, "user_id": user, "time": time}
    return json.dumps(line).encode()


@pytest.fixture
def write(tmp_path):
    def write(content, name="trace"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def test_azure_rows_become_events_that_claim_no_more_than_the_trace_tells(write):
    event = next(iter(Trace(write(AZURE), "azure")))
    assert (event.time, event.input_tokens, event.output_tokens) == (1700158546.68059, 374, 44)
    assert (event.service, event.provider, event.model) == ("azure", "azure.ai.openai", "")
    assert event.duration is None
    assert event.cost is None


def test_azure_times_of_the_later_trace_bear_their_zone(write):
    rows = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 02:00:00.009930+02:00,1,2\n"
    assert next(iter(Trace(write(rows), "azure"))).time == 1715299200.00993


def test_equal_rows_are_events_of_their_own_and_a_replay_repeats_every_id(write):
    trace = Trace(write(AZURE), "azure")
    ids = [event.id for event in trace]
    assert len(set(ids)) == 3
    assert ids == [event.id for event in trace]


@pytest.mark.parametrize("in_memory", [2, 500_000])
def test_any_order_of_the_lines_gives_the_same_events(write, monkeypatch, in_memory):
    monkeypatch.setattr(sources, "MAX_IN_MEMORY", in_memory)
    lines = [aider(time=1723561241 + n % 4) for n in range(30)] + [aider(event="launched")] * 3
    expected = sorted(encode(event) for event in Trace(write(b"\n".join(lines)), "aider"))
    assert len(expected) == 30
    for seed in range(3):
        random.Random(seed).shuffle(lines)
        again = Trace(write(b"\n".join(lines), f"shuffled-{seed}"), "aider")
        assert sorted(encode(event) for event in again) == expected


def test_a_compressed_trace_is_the_same_trace(write):
    plain = [encode(event) for event in Trace(write(AZURE), "azure")]
    assert [encode(event) for event in Trace(write(gzip.compress(AZURE), "z"), "azure")] == plain


def test_aider_money_is_exact_and_users_are_not_readable(write):
    trace = Trace(write(aider(cost=0.0001107) + b"\n" + aider(event="repo")), "aider")
    (event,) = trace
    assert event.cost == 110_700
    assert "52b5cc12" not in event.user
    assert (event.provider, event.model) == ("openai", "gpt-4o-mini")
    assert trace.report.skipped == {"repo": 1}
    keyed = next(iter(Trace(trace.path, "aider", user_key=b"k")))
    assert keyed.user != event.user
    assert keyed.id == event.id


@pytest.mark.parametrize(
    ("cost", "tokens", "expected"),
    [(0, 638, None), (0, 0, 0), (1.23e-9, 638, 1), (None, 638, None), (0.5e-9, 1, 0)],
)
def test_aiders_zero_for_unknown_prices_is_not_free(write, cost, tokens, expected):
    line = aider(cost=cost, prompt_tokens=tokens, completion_tokens=0)
    assert next(iter(Trace(write(line), "aider"))).cost == expected


@pytest.mark.parametrize(
    ("name", "provider", "model"),
    [
        ("claude-3-5-sonnet-20241022", "anthropic", "claude-3-5-sonnet-20241022"),
        ("gemini/gemini-1.5-pro", "gcp.gemini", "gemini-1.5-pro"),
        ("openrouter/anthropic/claude-3.7-sonnet", "openrouter", "anthropic/claude-3.7-sonnet"),
        ("bedrock/REDACTED", "aws.bedrock", "REDACTED"),
        ("someone-elses", "", "someone-elses"),
        ("None", "", ""),
    ],
)
def test_aiders_model_names_become_provider_and_model(write, name, provider, model):
    event = next(iter(Trace(write(aider(main_model=name)), "aider")))
    assert (event.provider, event.model) == (provider, model)


def test_a_failed_call_is_an_error_without_its_private_text(write):
    line = aider(event="message_send_exception", exception="certificate of secret.example failed")
    event = next(iter(Trace(write(line), "aider")))
    assert event.error == "_OTHER"
    assert event.input_tokens is None
    assert b"secret" not in encode(event)


def test_bad_lines_are_counted_with_line_and_reason(write):
    lines = [
        aider(),
        b"{nonsense",
        aider(prompt_tokens=-1),
        aider(time="soon"),
        b"",
        b"\xff\xfe",
        aider(cost="x"),
    ]
    trace = Trace(write(b"\n".join(lines)), "aider")
    assert len(list(trace)) == 1
    assert trace.report.bad == {"invalid_json": 2, "out_of_range": 1, "wrong_type": 2}
    assert [bad.line for bad in trace.report.examples] == [2, 3, 4, 6, 7]
    assert trace.report.events == 1


def test_strict_stops_at_the_first_bad_line(write):
    path = write(b"\n".join([aider(), aider(prompt_tokens=-1)]))
    with pytest.raises(TidegaugeError, match=r"line 2: gen_ai\.usage\.input_tokens: "):
        list(Trace(path, "aider", strict=True))


def test_bad_rows_of_a_table_cost_themselves_alone(write):
    rows = b"time,model\n1700000000,a\n1700000001\n1700000002,\xff\n1700000003,b\n1700000000000,c\n"
    trace = Trace(write(rows), "csv")
    assert [event.model for event in trace] == ["a", "b"]
    assert trace.report.bad == {"invalid_csv": 2, "time_out_of_range": 1}
    assert [bad.line for bad in trace.report.examples] == [3, 4, 6]


def test_a_huge_line_is_refused_without_reading_it_into_memory(write, monkeypatch):
    monkeypatch.setattr("tidegauge.producers.trace_formats.MAX_MESSAGE_BYTES", 1000)
    trace = Trace(write(b"x" * 100_000 + b"\n" + aider()), "aider")
    assert len(list(trace)) == 1
    assert trace.report.bad == {"too_large": 1}


def test_columns_become_fields_scaled_and_nested(write):
    line = {
        "at": 1700000000123,
        "usage": {"in": 12, "out": "7"},
        "latency_ms": 1234.5,
        "usd": "0.00000000149",
        "who": 42,
        "done": "stop",
    }
    columns = ColumnMap.parse(
        "time=at:ms,input_tokens=usage.in,gen_ai.usage.output_tokens=usage.out,duration=latency_ms*0.001,"
        "cost=usd*1e9,user=who,finish_reasons=done,prompt=missing"
    )
    (event,) = Trace(
        write(json.dumps(line).encode()), "jsonl", columns=columns, constants={"model": "m", "stream": "true"}
    )
    assert event.time == 1700000000.123
    assert (event.input_tokens, event.output_tokens, event.duration, event.cost) == (12, 7, 1.2345, 1)
    assert (event.model, event.stream, event.finish_reasons, event.prompt) == ("m", True, ["stop"], "")
    assert event.user not in ("", "42")


@pytest.mark.parametrize(
    ("text", "unit", "time"),
    [
        ("1700000000.25", "", 1700000000.25),
        ("1700000000250", ":ms", 1700000000.25),
        ("1700000000250000", ":us", 1700000000.25),
        ("1700000000250000000", ":ns", 1700000000.25),
        ("2023-11-14T22:13:20.25Z", "", 1700000000.25),
        ("2023-11-14 23:13:20.25+01:00", ":iso", 1700000000.25),
    ],
)
def test_times_are_read_in_every_unit(write, text, unit, time):
    columns = ColumnMap.parse(f"time=t{unit}")
    assert next(iter(Trace(write(f"t\n{text}\n".encode()), "csv", columns=columns))).time == time


def test_events_as_on_the_wire_pass_through_unchanged(write):
    event = RequestEvent(id="e1", time=1700000000.5, model="m", duration=0.1, cost=7, user="u")
    (again,) = Trace(write(encode(event)), "jsonl")
    assert again == event


def test_wire_events_are_read_strictly_and_get_an_id_where_they_have_none(write):
    good, bad = b'{"time": 1700000000}', b'{"time": 1700000000, "gen_ai.usage.input_tokens": "12"}'
    newer = b'{"time": 1700000000, "schema_version": 2}'
    trace = Trace(write(b"\n".join([good, bad, newer])), "jsonl")
    (event,) = trace
    assert len(event.id) == 32
    assert trace.report.bad == {"wrong_type": 1, "schema_version": 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("input_tokens=a", "no column for 'time'"),
        ("time", "expected FIELD=COLUMN"),
        ("time=a,colour=b", "'colour' is no field"),
        ("time=a,time=b", "given twice"),
        ("time=a,model=b*2", "takes no factor"),
        ("time=a,duration=b:ms", "for time alone"),
        ("time=a,duration=b*1e", "expected a number"),
        ("time=a@2025", "from 2001 on"),
        ("time=a:iso@2025-01-01", "times that are numbers"),
        ("time=a:%d.%m.%Y@2025-01-01", "times that are numbers"),
        ("time=a,duration=b@2025-01-01", "times that are numbers"),
        ("time=a,,model=b", "expected FIELD=COLUMN"),
    ],
)
def test_a_wrong_map_is_refused(text, told):
    with pytest.raises(UsageError, match=told):
        ColumnMap.parse(text)


@pytest.mark.parametrize(
    ("content", "format_", "error", "told"),
    [
        (b"a,b\n1,2\n", "azure", UsageError, "no column 'TIMESTAMP' in the file; its columns are a, b"),
        (b"a,b\n1,2\n", "csv", UsageError, "no column for 'time'"),
        (b"", "aider", UnavailableError, "holds no event"),
        (gzip.compress(AZURE)[:-20], "azure", UnavailableError, "end-of-stream"),
    ],
)
def test_a_file_of_another_kind_is_one_clear_error(write, content, format_, error, told):
    with pytest.raises(error, match=told):
        Trace(write(content), format_).span()


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(UnavailableError, match="No such file"):
        list(Trace(tmp_path / "none", "azure"))


def test_half_a_token_is_a_mistake_in_the_map(write):
    columns = ColumnMap.parse("time=t,input_tokens=n*0.5")
    trace = Trace(write(b"t,n\n1700000000,3\n1700000000,4\n"), "csv", columns=columns)
    assert [event.input_tokens for event in trace] == [2]
    assert trace.report.bad == {"wrong_type": 1}


@pytest.mark.parametrize(
    ("time", "written", "expected"),
    [
        ("t:%m/%d/%Y, %H:%M:%S", '"07/11/2023, 01:04:13"', 1_689_037_453),
        ("t:%d.%m.%Y %H:%M %z", "11.07.2023 03:04 +0200", 1_689_037_440),
        ("t:ms@2025-06-01", "1500", 1_748_736_001.5),
        ("t@2025-06-01T02:00:00+02:00", "7", 1_748_736_007),
        ("t*60@1748736000", "2", 1_748_736_120),
    ],
)
def test_times_may_be_written_in_a_format_or_count_from_a_moment(write, time, written, expected):
    columns = ColumnMap.parse(f"time={time},model=m,duration=d*0.001")
    trace = Trace(write(f"t,m,d\n{written},a,5\n".encode()), "csv", columns=columns)
    (event,) = trace
    assert (event.time, event.model, event.duration) == (expected, "a", 0.005)


def test_a_time_in_another_format_is_bad(write):
    columns = ColumnMap.parse("time=t:%d.%m.%Y")
    trace = Trace(write(b"t\n31.12.2024\n12/31/2024\n"), "csv", columns=columns)
    assert len(list(trace)) == 1
    assert str(trace.report.examples[0].error) == "time: a time written as %d.%m.%Y"


DATA = Path(__file__).parents[3] / "shared" / "data" / "traces"


@pytest.mark.skipif(not DATA.is_dir(), reason="the public traces are not beside the checkout")
@pytest.mark.parametrize(
    ("name", "format", "columns", "events"),
    [
        ("AzureLLMInferenceTrace_conv.csv", "azure", None, 19_366),
        ("aider_events_2024-08_2025-02.jsonl.gz", "aider", None, 2_712),
        (
            "mooncake_synthetic_trace.jsonl",
            "jsonl",
            "time=timestamp:ms@2025-06-01,input_tokens=input_length,output_tokens=output_length",
            3_993,
        ),
        ("llmdrift_LEETCODE_EASY_EVAL.csv", "csv", "time=timestamp:%m/%d/%Y, %H:%M:%S,duration=latency", 200),
        ("llmdrift_OPINIONQA_EVAL.csv", "csv", "time=timestamp:%m/%d/%Y, %H:%M:%S,cost=cost*1e9", 6_024),
    ],
)
def test_public_traces_are_read_whole(name, format, columns, events):  # noqa: A002
    trace = Trace(DATA / name, format, columns=columns and ColumnMap.parse(columns))
    assert sum(1 for _ in trace) == events
    assert trace.report.bad == {}
