"""Feedback and judgements through the first stage, into what the store is given."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.processors.core.aggregate import Aggregate
from tidegauge.processors.core.ingest import Ingest, IngestConfig, Outbox
from tidegauge.processors.core.kinds import FEEDBACK, JUDGEMENTS, KINDS, Kind
from tidegauge.processors.core.pricing import PriceTable
from tidegauge.processors.core.views import OTHER, VIEWS
from tidegauge.schemas.codec import encode
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.judgement import Judgement
from tidegauge.settings import Topics

MINUTE = 1_700_010_000 // 60 * 60
CONFIG = IngestConfig(allowed_lateness=600.0, future_tolerance=300.0)
PRICES = PriceTable()


@dataclass
class Record:
    offset: int
    timestamp: int
    value: bytes | None


def stage(kind: Kind, config: IngestConfig = CONFIG) -> Ingest:
    return Ingest(f"tidegauge.{kind.name}", 0, config, PRICES, kind=kind)


def flushed(kind: Kind, *messages: object, config: IngestConfig = CONFIG) -> Outbox:
    ingest = stage(kind, config)
    raws = [m if isinstance(m, bytes) else encode(m) for m in messages]
    ingest.apply([Record(n, MINUTE * 1000, raw) for n, raw in enumerate(raws)])
    return ingest.flush(0.0)


def fields(out: Outbox, view: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """What the store would be given of each key, in the view's one measurement."""
    (measurement,) = VIEWS[view].measurements
    return {
        pane.key: VIEWS[view].fields(measurement, Aggregate.restore(pane.counters, pane.sketches))
        for batch in out.batches
        for pane in batch.panes
        if pane.view == view
    }


def outcomes(out: Outbox) -> dict[tuple[str, ...], int]:
    return {key: f["events"] for key, f in fields(out, "intake").items()}


def thumb(identity: object, score: float, **more: Any) -> FeedbackEvent:
    return FeedbackEvent(str(identity), float(MINUTE), "request", "thumb", score, **more)


def rating(identity: object, score: float, **more: Any) -> FeedbackEvent:
    return FeedbackEvent(str(identity), float(MINUTE), "request", "rating", score, **more)


def verdict(identity: object, score: float | None, probability: float = 1.0, **more: Any) -> Judgement:
    outcome = more.pop("outcome", "unknown" if score is None else "scored")
    return Judgement(
        id=str(identity),
        time=float(MINUTE),
        request_id="request",
        request_time=float(MINUTE),
        criterion="helpful",
        outcome=outcome,
        judge_model="judge",
        rubric_hash="abc",
        probability=probability,
        score=score,
        **more,
    )


def test_every_kind_is_a_topic_of_the_settings() -> None:
    assert [getattr(Topics("x."), name) for name in KINDS] == ["x.requests", "x.feedback", "x.judgements"]


def test_thumbs_and_ratings_are_counted_by_the_calls_dimensions() -> None:
    out = flushed(
        FEEDBACK,
        thumb(1, 1.0, service="shop", model="m"),
        [thumb(2, -1.0, service="shop", model="m"), rating(3, 0.25, service="shop", model="m")],
        thumb(4, 1.0, service="chat"),
    )
    found = fields(out, "feedback")
    assert found["shop", "", "m", "", ""] == {
        "feedback": 3,
        "thumbs_up": 1,
        "thumbs_down": 1,
        "ratings": 1,
        "ratings_sum_micro": 250_000,
        "unattributed": 0,
        "satisfaction": 0.5,
    }
    assert found["chat", "", "", "", ""]["thumbs_up"] == 1


def test_feedback_with_an_id_alone_is_unattributed() -> None:
    (found,) = fields(flushed(FEEDBACK, thumb(1, 1.0), rating(2, 1.0)), "feedback").values()
    assert (found["feedback"], found["unattributed"]) == (2, 2)


def test_feedback_is_counted_once_and_what_is_wrong_is_refused_by_name() -> None:
    out = flushed(
        FEEDBACK, thumb(1, 1.0), thumb(1, 1.0), thumb(2, 0.5), [rating(3, -0.5), rating(4, 0.5)], b"{"
    )
    topic = "tidegauge.feedback"
    assert outcomes(out) == {
        (topic, "applied"): 2,
        (topic, "duplicate"): 1,
        (topic, "refused_out_of_range"): 2,
        (topic, "refused_invalid_json"): 1,
    }
    assert [(letter.offset, letter.refused.error.field) for letter in out.letters] == [
        (2, "score"),
        (3, "score"),
        (4, ""),
    ]


def test_late_feedback_is_counted_late() -> None:
    late = FeedbackEvent("old", MINUTE - 601.0, "request", "thumb", 1.0)
    assert outcomes(flushed(FEEDBACK, thumb(1, 1.0), late))["tidegauge.feedback", "late"] == 1


def test_feedback_past_the_cap_goes_to_other() -> None:
    config = IngestConfig(600.0, 300.0, max_series=2)
    found = fields(
        flushed(FEEDBACK, *(thumb(n, 1.0, service=f"s{n}") for n in range(5)), config=config), "feedback"
    )
    assert {key[0]: f["feedback"] for key, f in found.items()} == {"s0": 1, "s1": 1, OTHER: 3}


def test_verdicts_are_counted_by_outcome_and_their_cost_is_known_or_not() -> None:
    out = flushed(
        JUDGEMENTS,
        verdict(1, 1.0, cost=700),
        verdict(2, None, cost=300),
        verdict(3, None, outcome="unscored"),
    )
    ((key, found),) = fields(out, "quality").items()
    assert key == ("", "", "", "", "", "helpful", "judge", "abc")
    assert {name: found[name] for name in ("judged", "scored", "unknown", "unscored")} == {
        "judged": 3,
        "scored": 1,
        "unknown": 1,
        "unscored": 1,
    }
    assert (found["cost_nano_usd"], found["unpriced_judgements"]) == (1000, 1)
    assert found["score_count"] == 1


def test_a_score_without_its_outcome_is_refused() -> None:
    out = flushed(JUDGEMENTS, verdict(1, 0.5, outcome="unknown"), verdict(2, None, outcome="scored"))
    assert [letter.refused.error.field for letter in out.letters] == ["gen_ai.evaluation.score.value"] * 2


@given(
    st.lists(
        st.tuples(st.integers(0, 100).map(lambda n: n / 100), st.sampled_from([1e-4, 0.01, 0.2, 1 / 3, 1.0])),
        min_size=1,
        max_size=30,
    )
)
def test_the_sums_give_the_weighted_mean_and_what_sampling_did_to_it(
    scored: list[tuple[float, float]],
) -> None:
    out = flushed(JUDGEMENTS, *(verdict(n, score, p) for n, (score, p) in enumerate(scored)))
    (found,) = fields(out, "quality").values()
    weights = [1 / Fraction(p) for _, p in scored]
    scores = [Fraction(score) for score, _ in scored]
    mean = sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights)
    assert found["mean_score"] == pytest.approx(float(mean), abs=1e-5)
    for name, power, of in (
        ("weight_micro", 1, 0),
        ("weighted_score_micro", 1, 1),
        ("weighted_score_squared_micro", 1, 2),
        ("weight_squared_micro", 2, 0),
        ("weight_squared_score_micro", 2, 1),
        ("weight_squared_score_squared_micro", 2, 2),
    ):
        exact = sum(w**power * s**of for w, s in zip(weights, scores, strict=True)) * 10**6
        assert found[name] == pytest.approx(float(exact), rel=1e-9, abs=len(scored))
    assert (found["score_min"], found["score_max"]) == (float(min(scores)), float(max(scores)))
