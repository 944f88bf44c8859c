"""What holds of any simulated traffic."""

from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st

from tidegauge.producers.incidents import KINDS, Incident
from tidegauge.producers.simulator import Simulator
from tidegauge.schemas.codec import Codec, encode
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.request import RequestEvent

SEEDS = st.integers(-(2**63), 2**63)
STARTS = st.integers(1_600_000_000, 1_900_000_000).map(float)
INCIDENTS = st.one_of(
    st.none(), st.builds(Incident, st.sampled_from(sorted(KINDS)), st.floats(0, 100), st.floats(1, 100))
)
REQUESTS, FEEDBACK = Codec(RequestEvent), Codec(FeedbackEvent)


@given(SEEDS, STARTS, st.sampled_from([0.5, 20.0, 500.0]), INCIDENTS)
@settings(max_examples=40, deadline=None)
def test_every_event_is_one_that_the_wire_takes(seed, start, rate, incident):
    simulator = Simulator(seed, rate=rate, incident=incident)
    seen, answered = set(), {}
    last = start
    for at, event in simulator.traffic(start, count=150):
        assert at >= last
        last = at
        assert event.id not in seen
        seen.add(event.id)
        codec = FEEDBACK if isinstance(event, FeedbackEvent) else REQUESTS
        (again,), refused = codec.decode(encode(event))
        assert again == event
        assert not refused
        if isinstance(event, FeedbackEvent):
            request = answered[event.request_id]
            assert (event.request_time, event.model, event.prompt) == (
                request.time,
                request.model,
                request.prompt,
            )
            assert event.time >= request.time
            continue
        answered[event.id] = event
        if event.error:
            assert event.input_tokens is event.output_tokens is None
            continue
        cached = event.cache_read_input_tokens + event.cache_creation_input_tokens
        assert 0 <= event.cache_creation_1h_input_tokens <= event.cache_creation_input_tokens
        assert cached <= event.input_tokens
        assert event.output_tokens > 0
        assert (event.time_to_first_chunk or 0.0) <= event.duration
    assert len(answered) == 150


@given(SEEDS, STARTS, INCIDENTS, st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_the_same_arguments_are_the_same_events_and_a_later_end_only_adds(seed, start, incident, seconds):
    def events(end):
        return list(Simulator(seed, rate=2.0, incident=incident).events(start, end))

    short, long = events(start + seconds), events(start + 2 * seconds)
    assert long[: len(short)] == short
    assert all(event.time >= start + seconds for event in long[len(short) :])
    assert list(islice(Simulator(seed, rate=2.0, incident=incident).events(start), len(long))) == long


@given(SEEDS, STARTS, INCIDENTS.filter(bool))
@settings(max_examples=30, deadline=None)
def test_an_incident_changes_nothing_before_and_after_it(seed, start, incident):
    calm = list(Simulator(seed, rate=5.0).events(start, count=400))
    struck = list(Simulator(seed, rate=5.0, incident=incident).events(start, count=400))
    assert [event.time for event in calm] == [event.time for event in struck]
    for one, other in zip(calm, struck, strict=True):
        assert one.id != other.id
        if not incident.covers(one.time - start):
            one.id = other.id
            assert one == other
