"""Sources of every kind, of which some fall silent, say so or not, and wake up behind the others: no figure changes.

source 0   a a a ······ idle ······················ a a     in time by its own log
source 1         b b ── hours ── b                          the panes of the a's were given up meanwhile
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pipeline import Quiet, Record, Restless, Source, run, totals
from tidegauge.processors.core.ingest import IngestConfig
from tidegauge.processors.core.kinds import FEEDBACK, JUDGEMENTS, KINDS, REQUESTS, Kind
from tidegauge.processors.core.pricing import PriceTable
from tidegauge.schemas.codec import encode
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.judgement import Judgement
from tidegauge.schemas.request import RequestEvent

BASE = 1_700_006_400
CONFIG = IngestConfig(600.0, 300.0, epoch_events=4, epoch_seconds=10_000.0)
PRICES = PriceTable()
TIMES = st.sampled_from([0, 50, 70, 500, 700, 2_000, 5_000, 9_000]).map(lambda seconds: float(BASE + seconds))
LABELS = st.sampled_from(["", "shop", "chat"])
EVENTS: dict[Kind, st.SearchStrategy[Any]] = {
    REQUESTS: st.builds(
        RequestEvent, id=st.uuids().map(str), time=TIMES, service=LABELS, duration=st.sampled_from([0.1, 2.0])
    ),
    FEEDBACK: st.one_of(
        st.builds(
            FeedbackEvent,
            id=st.integers(0, 30).map(str),
            time=TIMES,
            request_id=st.just("r"),
            kind=st.just("thumb"),
            score=st.sampled_from([-1.0, 1.0]),
            service=LABELS,
        ),
        st.builds(
            FeedbackEvent,
            id=st.integers(0, 30).map(str),
            time=TIMES,
            request_id=st.just("r"),
            kind=st.just("rating"),
            score=st.sampled_from([-0.5, 0.0, 0.25, 1.0]),  # the first is refused
            service=LABELS,
        ),
    ),
    JUDGEMENTS: st.builds(
        Judgement,
        id=st.uuids().map(str),
        time=TIMES,
        request_id=st.just("r"),
        request_time=TIMES,
        criterion=st.sampled_from(["helpful", "safe"]),
        outcome=st.just("scored"),
        judge_model=st.just("judge"),
        rubric_hash=st.just("abc"),
        probability=st.sampled_from([0.1, 1 / 3, 1.0]),
        score=st.sampled_from([0.0, 0.3, 1.0]),
        cost=st.sampled_from([None, 100]),
    ),
}


@st.composite
def sources(draw: Callable[..., Any], kinds: tuple[Kind, ...] = tuple(KINDS.values())) -> list[Source]:
    """Up to two partitions of each kind; all events were appended when the newest of them was young."""
    result = []
    for kind in kinds:
        for partition in range(draw(st.integers(0, 2))):
            events = draw(st.lists(EVENTS[kind], min_size=draw(st.sampled_from([0, 6])), max_size=10))
            log = [Record(n, (BASE + 9_000 + n) * 1000, encode(e)) for n, e in enumerate(events)]
            result.append(Source(kind, partition, log))
    return result


@given(sources(), st.data())
@settings(max_examples=400, deadline=None)
def test_a_source_that_is_idle_or_wakes_up_changes_no_figure(
    sources: list[Source], data: st.DataObject
) -> None:
    straight = run(sources, CONFIG, PRICES, Quiet())
    restless = run(sources, CONFIG, PRICES, Restless(data.draw))
    note(f"panes given up: {restless.evicted > 0}, taken back: {restless.revived > 0}")
    assert restless.store == straight.store


@given(sources((FEEDBACK,)))
@settings(max_examples=100, deadline=None)
def test_feedback_is_counted_as_a_clerk_would(sources: list[Source]) -> None:
    expected: Counter[str] = Counter()
    intake: Counter[str] = Counter()
    for source in sources:
        epochs: list[set[str]] = [set(), set()]
        newest = 0.0
        for record in source.log:
            event = _decode(record.value)
            if record.offset and record.offset % CONFIG.epoch_events == 0:
                epochs = [epochs[1], set()]
            if event["score"] == -0.5:
                intake["refused_out_of_range"] += 1
                continue
            known = event["id"] in epochs[0] | epochs[1]
            epochs[1].add(event["id"])
            if known:
                intake["duplicate"] += 1
            elif event["time"] < newest - CONFIG.allowed_lateness:
                intake["late"] += 1
            else:
                newest = max(newest, event["time"])
                intake["applied"] += 1
                expected["feedback"] += 1
                expected["unattributed"] += "service.name" not in event
                if event["kind"] == "thumb":
                    expected["thumbs_up" if event["score"] > 0 else "thumbs_down"] += 1
                else:
                    expected["ratings"] += 1
                    expected["ratings_sum_micro"] += int(event["score"] * 1_000_000)
    store = run(sources, CONFIG, PRICES, Quiet()).store
    assert totals(store, "feedback") == +expected
    outcomes: Counter[str] = Counter()
    for (view, _, key), (counters, _) in store.items():
        if view == "intake":
            assert key[0] == "feedback"
            outcomes[key[1]] += counters[0]
    assert outcomes == intake


def _decode(value: bytes | None) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(value or b"")
    return result
