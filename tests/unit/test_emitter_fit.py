from __future__ import annotations

import math
import uuid
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.errors import InvalidEventError
from tidegauge.producers.fit import Fitter
from tidegauge.schemas.codec import Codec
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.request import GuardrailResult, RequestEvent

TIME = 1_700_000_000.5


def fit(**fields: Any) -> tuple[RequestEvent, Counter[str]]:
    """The event as the worker will decode it, and what was adjusted."""
    notes: Counter[str] = Counter()
    fitter = Fitter(RequestEvent, lambda name: notes.update([name]))
    _, data = fitter.encode(RequestEvent(**({"id": "e", "time": TIME} | fields)))
    events, refused = Codec(RequestEvent).decode(data)
    assert not refused
    return events[0], notes


def test_a_good_event_is_left_as_it_is() -> None:
    event = RequestEvent(
        "e",
        TIME,
        "svc",
        "p",
        "m",
        duration=1.5,
        input_tokens=3,
        guardrails=[GuardrailResult("g", "input", True)],
    )
    notes: list[str] = []
    event_id, data = Fitter(RequestEvent, notes.append).encode(event)
    assert event_id == "e"
    assert msgspec.json.decode(data, type=RequestEvent) == event
    assert notes == []


@pytest.mark.parametrize(
    ("field", "wire", "given", "becomes"),
    [
        ("model", "gen_ai.request.model", "m" * 300, "m" * 256),
        ("model", "gen_ai.request.model", None, ""),
        ("model", "gen_ai.request.model", ["m"], ""),
        ("prompt_version", "tidegauge.prompt.version", 7, "7"),
        ("user", "user.id", uuid.UUID(int=1), str(uuid.UUID(int=1))),
        ("user", "user.id", "\ud800x", "?x"),
        ("input_tokens", "gen_ai.usage.input_tokens", -1, None),
        ("input_tokens", "gen_ai.usage.input_tokens", 10**30, None),
        ("input_tokens", "gen_ai.usage.input_tokens", "12", None),
        ("input_tokens", "gen_ai.usage.input_tokens", 1.5, None),
        ("input_tokens", "gen_ai.usage.input_tokens", True, None),
        ("cache_read_input_tokens", "gen_ai.usage.cache_read.input_tokens", -5, 0),
        ("cache_read_input_tokens", "gen_ai.usage.cache_read.input_tokens", None, 0),
        ("retries", "tidegauge.retries", 10**20, 10**15),
        ("duration", "gen_ai.client.operation.duration", -0.5, None),
        ("duration", "gen_ai.client.operation.duration", math.nan, None),
        ("duration", "gen_ai.client.operation.duration", math.inf, None),
        ("cost", "tidegauge.cost.nano_usd", -1, None),
        ("stream", "gen_ai.request.stream", "yes", False),
        ("finish_reasons", "gen_ai.response.finish_reasons", ["r"] * 20, ["r"] * 16),
        ("finish_reasons", "gen_ai.response.finish_reasons", "stop", []),
        ("output_text", "tidegauge.output.text", "t" * 70_000, "t" * 65_536),
    ],
)
def test_a_value_that_the_wire_would_refuse_is_put_right_and_counted(
    field: str, wire: str, given: object, becomes: object
) -> None:
    event, notes = fit(**{field: given, "output_tokens": 5})
    assert getattr(event, field) == becomes
    assert event.output_tokens == 5
    assert notes == {wire: 1}


@pytest.mark.parametrize(
    ("field", "given", "becomes"),
    [
        ("input_tokens", np.int64(12), 12),
        ("duration", np.float32(0.5), 0.5),
        ("stream", np.bool_(True), True),
        ("input_tokens", 12.0, 12),
        ("finish_reasons", ("a", "b"), ["a", "b"]),
    ],
)
def test_what_only_looks_different_is_converted_and_not_counted(
    field: str, given: object, becomes: object
) -> None:
    event, notes = fit(**{field: given})
    assert getattr(event, field) == becomes
    assert notes == {}


def test_a_guardrail_that_cannot_be_put_right_costs_itself_alone() -> None:
    good = GuardrailResult("good", "output", False, score=0.25)
    high = GuardrailResult("high", "output", True, score=3.0)
    stage: Any = "nowhere"
    bad = GuardrailResult("bad", stage, True)
    event, notes = fit(guardrails=[good, bad, high])
    assert [(g.name, g.score) for g in event.guardrails] == [("good", 0.25), ("high", None)]
    assert notes == {"tidegauge.guardrails.stage": 1, "tidegauge.guardrails.score": 1}


def test_guardrails_past_the_cap_are_left_out_and_counted() -> None:
    event, notes = fit(guardrails=[GuardrailResult(f"g{n}", "input", False) for n in range(70)])
    assert [g.name for g in event.guardrails] == [f"g{n}" for n in range(64)]
    assert notes == {"tidegauge.guardrails": 1}


def test_a_long_id_keeps_meeting_its_repeats() -> None:
    one, _ = fit(id="i" * 500)
    again, notes = fit(id="i" * 500)
    other, _ = fit(id="i" * 500 + "j")
    assert one.id == again.id != other.id
    assert notes == {"id": 1}


@pytest.mark.parametrize("time", [0.0, 1_700_000_000_000.0, math.nan, "now", None])
def test_an_event_without_a_time_to_trust_is_refused(time: Any) -> None:
    with pytest.raises(InvalidEventError, match="time"):
        fit(time=time)


@pytest.mark.parametrize("event_id", ["", None, b"x"])
def test_an_event_without_an_id_is_refused(event_id: Any) -> None:
    with pytest.raises(InvalidEventError, match="id"):
        fit(id=event_id)


def test_feedback_with_a_wrong_kind_is_refused() -> None:
    with pytest.raises(InvalidEventError):
        Fitter(FeedbackEvent, print).encode(FeedbackEvent("f", TIME, "r", "stars", 1.0))


_anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(max_size=3),
    st.lists(st.one_of(st.text(), st.integers()), max_size=3),
    st.text(alphabet=st.characters(categories=["Cs", "L"])),
)
_optional_fields = [f for f in RequestEvent.__struct_fields__ if f not in ("id", "time", "schema_version")]


@given(st.dictionaries(st.sampled_from(_optional_fields), _anything))
def test_whatever_is_in_the_other_fields_the_event_gets_through(fields: dict[str, Any]) -> None:
    event, _ = fit(**fields)
    assert (event.id, event.time) == ("e", TIME)
