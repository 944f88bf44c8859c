import math
import statistics
from collections import Counter
from dataclasses import replace

import pytest

from tests.support.fake_producer import FakeKafka
from tidegauge import cli
from tidegauge.errors import UsageError
from tidegauge.processors.core.pricing import PriceTable
from tidegauge.producers import publisher as publisher_module
from tidegauge.producers.incidents import KINDS, Incident
from tidegauge.producers.profile import DEFAULT
from tidegauge.producers.simulator import Simulator
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.request import RequestEvent

NOON = 1_750_000_000.0 // 86_400 * 86_400 + 12 * 3600


@pytest.fixture(scope="module")
def sample() -> list[RequestEvent]:
    return list(Simulator(1, rate=50.0).events(NOON, count=20_000))


def struck(kind: str, count: int = 6_000) -> tuple[list[RequestEvent], list[RequestEvent]]:
    """The same requests with and without an incident."""
    incident = Incident(kind)
    return (
        list(Simulator(2, rate=50.0).events(NOON, count=count)),
        list(Simulator(2, rate=50.0, incident=incident).events(NOON, count=count)),
    )


def total(events: list[RequestEvent], field: str) -> float:
    return sum(getattr(event, field) or 0 for event in events)


def test_prompts_of_chats_have_the_lengths_of_azures(sample):
    lengths = sorted(e.input_tokens for e in sample if e.service == "support-chat" and not e.error)
    # Of the trace itself: 396, 1,020 and 1,189.
    quartiles = statistics.quantiles(lengths, n=4)
    assert quartiles == [pytest.approx(value, rel=0.15) for value in (396, 1_020, 1_189)]


def test_answers_of_code_assistants_have_the_lengths_of_aiders(sample):
    lengths = [e.output_tokens for e in sample if e.service == "code-assistant" and not e.error]
    # Of the trace itself: 118, 252 and 430.
    assert statistics.quantiles(lengths, n=4) == [pytest.approx(value, rel=0.2) for value in (118, 252, 430)]


def test_latency_grows_with_the_answer(sample):
    streams = [
        e for e in sample if e.model == "claude-haiku-4-5" and e.stream and not e.error and not e.retries
    ]
    short = [e.duration for e in streams if e.output_tokens < 50]
    long = [e.duration for e in streams if e.output_tokens > 390]
    assert statistics.median(long) > 3 * statistics.median(short)
    per_token = [(e.duration - e.time_to_first_chunk) / (e.output_tokens - 1) for e in streams]
    assert statistics.median(per_token) == pytest.approx(0.0078, rel=0.05)


def test_the_mean_rate_is_the_one_asked_for_and_follows_the_day():
    midnight = NOON - 12 * 3600
    days = 4
    hours = Counter(
        int(e.time - midnight) // 3600 % 24
        for e in Simulator(5, rate=0.5).events(midnight, midnight + days * 86_400)
    )
    assert hours.total() / (days * 86_400) == pytest.approx(0.5, rel=0.06)
    assert sum(hours[h] for h in range(12, 18)) > 1.7 * sum(hours[h] for h in range(6))


def test_arrivals_come_in_waves_as_azures_do():
    # A Poisson process has 1 at any width; Azure's trace has 3.9 per 10 s at 5.5 requests a second.
    profile = replace(DEFAULT, daily=0.0)
    counts = Counter(
        int(e.time - NOON) // 10 for e in Simulator(4, profile, rate=5.5).events(NOON, NOON + 20_000)
    )
    values = [counts[slot] for slot in range(2_000)]
    assert 2.0 < statistics.variance(values) / statistics.mean(values) < 9.0


def test_a_few_users_make_most_of_the_traffic(sample):
    users = Counter(e.user for e in sample if e.service == "support-chat")
    assert len(users) > 500
    assert sum(count for _, count in users.most_common(20)) > 0.3 * users.total()


def test_conversations_go_on_and_read_what_they_cached(sample):
    turns = Counter(e.conversation for e in sample if e.service == "code-assistant")
    assert turns.most_common(1)[0][1] > 3
    later, seen = [], set()
    for event in sample:
        if event.service == "code-assistant" and not event.error:
            if event.conversation in seen:
                later.append(event)
            seen.add(event.conversation)
    assert total(later, "cache_read_input_tokens") > 0.6 * total(later, "input_tokens")
    assert total(sample, "cache_creation_1h_input_tokens") > 0


def test_guardrails_trigger_about_as_often_as_the_profile_says(sample):
    checks, triggers = Counter(), Counter()
    for event in sample:
        for result in event.guardrails:
            checks[result.name] += 1
            triggers[result.name] += result.triggered
    assert set(checks) == {"prompt-injection", "pii", "toxicity", "groundedness"}
    assert triggers["pii"] / checks["pii"] == pytest.approx(0.03, rel=0.2)
    assert 0 < triggers["toxicity"] < triggers["pii"]


def test_failures_retries_and_prompt_versions_are_there(sample):
    errors = Counter(e.error for e in sample if e.error)
    assert set(errors) == {"RateLimitError", "InternalServerError", "APITimeoutError"}
    assert 0.001 < errors.total() / len(sample) < 0.01
    assert 0.005 < sum(e.retries > 0 for e in sample) / len(sample) < 0.03
    assert {("answer-question", "14"), ("answer-question", "15")} < {
        (e.prompt, e.prompt_version) for e in sample
    }


def test_every_model_has_a_price_but_the_one_of_ones_own(sample):
    table = PriceTable()
    unpriced = {e.provider for e in sample if table.unit(e.provider, e.model, e.time) is None}
    assert unpriced == {"vllm"}
    dated = {(e.provider, e.response_model) for e in sample if e.response_model and e.provider != "vllm"}
    assert all(table.unit(*key, NOON) for key in dated)


def test_feedback_comes_after_answers_and_knows_what_it_is_about():
    traffic = list(Simulator(1, rate=50.0).traffic(NOON, NOON + 600))
    requests = {e.id: (at, e) for at, e in traffic if isinstance(e, RequestEvent)}
    feedback = [(at, e) for at, e in traffic if isinstance(e, FeedbackEvent)]
    assert 0.02 < len(feedback) / len(requests) < 0.08
    for at, thumb in feedback:
        done, request = requests[thumb.request_id]
        assert done < at == thumb.time <= NOON + 600
        assert not request.error
    ups = sum(thumb.score > 0 for _, thumb in feedback)
    assert 0.7 < ups / len(feedback) < 0.95


def test_what_is_running_at_the_end_is_published_at_the_end():
    traffic = list(Simulator(3, rate=50.0).traffic(NOON, NOON + 60))
    assert max(at for at, _ in traffic) == NOON + 60
    assert len([e for _, e in traffic if isinstance(e, RequestEvent)]) == len(
        list(Simulator(3, rate=50.0).events(NOON, NOON + 60))
    )


def test_a_cost_incident_multiplies_the_prompt_and_defeats_the_cache():
    calm, bad = struck("cost")
    before = [e for e in calm if e.service == "support-chat"]
    chats = [e for e in bad if e.service == "support-chat"]
    assert total(chats, "input_tokens") == 8 * total(before, "input_tokens")
    assert total(before, "cache_read_input_tokens") > 0
    assert total(chats, "cache_read_input_tokens") == total(chats, "cache_creation_input_tokens") == 0
    assert total(bad, "output_tokens") == total(calm, "output_tokens")


def test_a_latency_incident_slows_one_provider_alone():
    calm, bad = struck("latency")
    for one, other in zip(calm, bad, strict=True):
        assert other.duration == one.duration * (4 if one.provider == "anthropic" else 1)


def test_a_drift_incident_shortens_the_answers_of_a_new_prompt_version():
    calm, bad = struck("drift")
    assert {e.prompt_version for e in bad} - {e.prompt_version for e in calm} == {"16"}
    old = [e for e in calm if (e.prompt, e.prompt_version) == ("answer-question", "15")]
    new = [e for e in bad if e.prompt_version == "16"]
    assert len(old) == len(new)
    assert total(new, "output_tokens") == pytest.approx(0.45 * total(old, "output_tokens"), rel=0.01)
    thumbs = [
        e.score
        for _, e in Simulator(2, rate=50.0, incident=Incident("drift")).traffic(NOON, NOON + 1_200)
        if isinstance(e, FeedbackEvent) and e.prompt_version == "16"
    ]
    assert len(thumbs) > 100
    assert 0.25 < sum(score > 0 for score in thumbs) / len(thumbs) < 0.55


def test_a_guardrail_incident_is_a_wave_of_injections():
    def rate(events):
        found = [r.triggered for e in events if e.service == "support-chat" for r in e.guardrails[:1]]
        return sum(found) / len(found)

    calm, bad = struck("guardrail")
    assert rate(calm) < 0.01
    assert rate(bad) == pytest.approx(0.3, abs=0.05)


def test_an_error_incident_fails_one_provider():
    calm, bad = struck("errors")
    hit = [e for e in bad if e.provider == "anthropic"]
    assert sum(e.error == "OverloadedError" for e in hit) / len(hit) == pytest.approx(0.4, abs=0.04)
    assert [e for e in calm if e.provider != "anthropic"] == [
        replace_id(e, of) for e, of in zip(bad, calm, strict=True) if e.provider != "anthropic"
    ]


def replace_id(event: RequestEvent, of: RequestEvent) -> RequestEvent:
    event.id = of.id
    return event


@pytest.mark.parametrize("rate", [0, -1, math.inf, math.nan])
def test_a_wrong_rate_is_refused(rate):
    with pytest.raises(UsageError, match="rate"):
        Simulator(1, rate=rate)


def test_a_wrong_incident_is_refused():
    with pytest.raises(UsageError, match=f"incidents are {', '.join(KINDS)}"):
        Incident("flood")
    with pytest.raises(UsageError, match="duration above 0"):
        Incident("cost", duration=0)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--speed", "max"], "--speed max: needs --seconds or --events"),
        (["--rate", "0"], "--rate"),
        (["--seconds", "-1"], "--seconds"),
        (["--seconds", "5", "--start", "later"], "--start later"),
        (["--seconds", "5", "--incident-at", "1m"], "need --incident"),
        (["--seconds", "5", "--incident", "cost", "--incident-at", "soon"], "'soon' is no duration"),
    ],
)
def test_wrong_flags_are_one_line_and_exit_code_2(capsys, flags, told, monkeypatch):
    monkeypatch.setattr(publisher_module, "make_producer", FakeKafka().factory)
    assert cli.main(["simulate", *flags]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_the_command_publishes_requests_and_feedback_to_their_topics(capsys, monkeypatch):
    broker = FakeKafka()
    monkeypatch.setattr(publisher_module, "make_producer", broker.factory)
    monkeypatch.setattr("tidegauge.commands.simulate.knock", lambda kafka: None)
    flags = ["--events", "400", "--seed", "9", "--start", str(NOON), "--speed", "max", "--rate", "2"]
    assert cli.main(["simulate", *flags]) == 0
    topics = Counter(topic for topic, _, _ in broker.records)
    assert topics["tidegauge.requests"] == 400
    assert topics["tidegauge.feedback"] > 5
    assert {event["id"] for event in broker.events} == {
        event.id for _, event in Simulator(9, rate=2.0).traffic(NOON, count=400)
    }
    assert f"--rate 2 --seed 9 --start {NOON:.3f}" in capsys.readouterr().out


def test_the_command_says_how_to_make_the_same_traffic_again_incident_included(capsys, monkeypatch):
    printed, ids = [], []
    flags = [
        "--events",
        "50",
        "--start",
        str(NOON),
        "--speed",
        "max",
        "--incident",
        "cost",
        "--incident-for",
        "1m",
    ]
    for _ in range(2):
        broker = FakeKafka()
        monkeypatch.setattr(publisher_module, "make_producer", broker.factory)
        monkeypatch.setattr("tidegauge.commands.simulate.knock", lambda kafka: None)
        assert cli.main(["simulate", *flags]) == 0
        ids.append({event["id"] for event in broker.events})
        printed.append(capsys.readouterr().out.partition("again: ")[2].split())
        flags = ["--events", "50", "--speed", "max", *printed[0]]
    assert printed[0] == printed[1]
    assert ids[0] == ids[1]
    assert "--incident cost --incident-at 0s --incident-for 60s" in " ".join(printed[0])
