"""Whatever happens on the way, the same log gives the same panes, and the panes are a plain recount of the log.
What happens is in ``tests/support/pipeline.py``.

The recount knows nothing of sketches, snapshots or epochs' panes: it is loops, Counter and Fraction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import Any

import msgspec
from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import pipeline
from tests.support.pipeline import Crashes, Quiet, Record, Source, Stored, totals
from tidegauge.processors.core.ingest import IngestConfig
from tidegauge.processors.core.kinds import REQUESTS as REQUEST_EVENTS
from tidegauge.processors.core.pricing import Overrides, PriceTable
from tidegauge.processors.core.views import COST_DAILY, REQUESTS
from tidegauge.schemas.codec import encode
from tidegauge.schemas.request import GuardrailResult, RequestEvent

BASE = 1_700_006_400 + 5 * 60
LATENESS, TOLERANCE = 600.0, 300.0
CONFIG = IngestConfig(LATENESS, TOLERANCE, epoch_events=5, epoch_seconds=120.0)
CAPPED = replace(CONFIG, max_series=3, max_dimension_values=2)
INPUT_PRICE, OUTPUT_PRICE = Fraction(5, 2), Fraction(10)
PRICES = PriceTable(
    Overrides.parse('[[price]]\nprovider = "own"\nmodel = "priced"\ninput = "2.5"\noutput = "10"\n', "test")
)


GUARDRAILS = st.builds(
    GuardrailResult,
    name=st.sampled_from(["pii", "toxicity", "topic"]),
    stage=st.sampled_from(["input", "output"]),
    triggered=st.booleans(),
    status=st.sampled_from(["ok", "error", "timeout"]),
)
EVENTS = st.builds(
    RequestEvent,
    id=st.integers(0, 25).map("event-{}".format),  # few ids: some events come again
    time=st.one_of(
        st.integers(BASE, BASE + 240),
        st.sampled_from([BASE + 1_000, BASE + 5_000, BASE + 90_000, BASE - 5_000, BASE + 4_000_000]),
    ).map(float),
    service=st.sampled_from(["shop", "chat", "mail"]),
    provider=st.sampled_from(["own", "nobody"]),
    model=st.sampled_from(["priced", "unknown"]),
    user=st.sampled_from(["", "ann", "bob", "cid", "dan"]),
    input_tokens=st.one_of(st.none(), st.integers(0, 2_000)),
    output_tokens=st.one_of(st.none(), st.integers(0, 2_000)),
    duration=st.one_of(st.none(), st.integers(0, 5_000).map(lambda ms: ms / 1000)),
    error=st.sampled_from(["", "", "timeout"]),
    cost=st.one_of(st.none(), st.none(), st.integers(0, 10**6)),
    guardrails=st.lists(GUARDRAILS, max_size=2),
)
GARBAGE = st.sampled_from(
    [None, b"", b"{", b"[]", b'{"id":"x"}', b"\xff", b'[{"id":"x","time":17000000000000}]']
)
VALUES = st.one_of(
    EVENTS.map(encode),
    EVENTS.map(encode),
    EVENTS.map(encode),
    st.lists(st.one_of(EVENTS, st.just({"id": 7})), min_size=1, max_size=4).map(encode),
    GARBAGE,
)
GAPS = st.sampled_from([0, 0, 0, 1, 30, 130])


@st.composite
def logs(draw: Callable[..., Any], partitions: int = 3) -> list[list[Record]]:
    """One log a source partition; append times grow by some seconds."""
    result = []
    for _ in range(draw(st.integers(1, partitions))):
        clock, log = BASE + 90_000, []
        for offset, (value, gap) in enumerate(
            draw(st.lists(st.tuples(VALUES, GAPS), min_size=draw(st.sampled_from([0, 20])), max_size=40))
        ):
            clock += gap
            log.append(Record(offset, clock * 1000, value))
        result.append(log)
    return result


def run(log: list[list[Record]], config: IngestConfig, fate: Crashes) -> Stored:
    """What the store holds in the end."""
    return pipeline.run(sources(log), config, PRICES, fate).store


def sources(log: list[list[Record]]) -> list[Source]:
    return [Source(REQUEST_EVENTS, partition, records) for partition, records in enumerate(log)]


@dataclass
class Recount:
    intake: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    guardrails: Counter[str] = field(default_factory=Counter)
    users: Counter[str] = field(default_factory=Counter)
    panes: Counter[tuple[int, tuple[str, ...]]] = field(default_factory=Counter)
    durations: Counter[int] = field(default_factory=Counter)
    events: int = 0


def members(value: bytes | None) -> list[Any]:
    """The events of a message as plain JSON values; a message that is none counts as one."""
    try:
        content = msgspec.json.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return [None]
    return content if isinstance(content, list) and content else [content]


def recount(logs_: list[list[Record]]) -> Recount:
    """What an honest clerk would count."""
    result = Recount()
    for log in logs_:
        epoch: set[str] = set()
        before: set[str] = set()
        in_epoch, began, newest = 0, 0, 0.0
        for record in log:
            if in_epoch and (in_epoch >= CONFIG.epoch_events or record.timestamp - began >= 120_000):
                before, epoch, in_epoch = epoch, set(), 0
            if not in_epoch:
                began = record.timestamp
            for member in members(record.value):
                in_epoch += 1
                result.events += 1
                if (
                    not isinstance(member, dict)
                    or not isinstance(member.get("id"), str)
                    or "time" not in member
                ):
                    result.intake["refused"] += 1
                    continue
                time = member["time"]
                if time > record.timestamp / 1000 + TOLERANCE:
                    result.intake["refused"] += 1
                elif member["id"] in epoch | before:
                    epoch.add(member["id"])
                    result.intake["duplicate"] += 1
                elif time < newest - LATENESS:
                    epoch.add(member["id"])
                    result.intake["late"] += 1
                else:
                    epoch.add(member["id"])
                    newest = max(newest, time)
                    result.intake["applied"] += 1
                    add(result, member)
    return result


def add(result: Recount, event: dict[str, Any]) -> None:
    inputs, outputs = event.get("gen_ai.usage.input_tokens"), event.get("gen_ai.usage.output_tokens")
    provider, model = event.get("gen_ai.provider.name", ""), event.get("gen_ai.request.model", "")
    cost, kind = 0, "unpriced_requests"
    if "tidegauge.cost.nano_usd" in event:
        cost, kind = event["tidegauge.cost.nano_usd"], "provider_reported_requests"
    elif inputs is None and outputs is None:
        kind = "priced_requests" if "error.type" in event else kind
    elif (provider, model) == ("own", "priced"):
        # USD per million tokens is 1000 nano-dollars a token.
        exact = 1000 * (INPUT_PRICE * (inputs or 0) + OUTPUT_PRICE * (outputs or 0))
        cost = int((Decimal(exact.numerator) / exact.denominator).quantize(Decimal(1), ROUND_HALF_EVEN))
        kind = "priced_requests"
    sums = {"requests": 1, "input_tokens": inputs or 0, "output_tokens": outputs or 0, "cost_nano_usd": cost}
    result.requests.update(sums)
    result.requests[kind] += 1
    result.requests["errors"] += "error.type" in event
    if "user.id" in event:
        result.users.update(sums)
        result.users["unpriced_requests"] += kind == "unpriced_requests"
    for check in event.get("tidegauge.guardrails", []):
        result.guardrails["checks"] += 1
        result.guardrails["triggers"] += check["triggered"]
        result.guardrails["failures"] += check.get("status") == "error"
        result.guardrails["timeouts"] += check.get("status") == "timeout"
    key = (event.get("service.name", ""), "", "", provider, model, "", "")
    result.panes[int(event["time"]) // 60 * 60, key] += 1
    if "gen_ai.client.operation.duration" in event:
        result.durations[round(event["gen_ai.client.operation.duration"] * 10**9)] += 1


def compare(store: Stored, expected: Recount) -> None:
    """The totals of every view, whatever the caps folded together."""
    parts = ("input_cost_nano_usd", "output_cost_nano_usd")
    for view in ("requests", "requests_1h", "cost_1d"):
        found = totals(store, view)
        for part in parts:
            del found[part]
        assert found == +expected.requests
    assert totals(store, "users_1d") == +expected.users
    assert totals(store, "guardrails") == +expected.guardrails
    intake: Counter[str] = Counter()
    for (name, _, key), (counters, _) in store.items():
        if name == "intake":
            intake[key[1].split("_")[0]] += counters[0]
    assert intake == expected.intake
    assert intake.total() == expected.events
    latency: Counter[str] = Counter()
    for (name, _, _), (_, sketches) in store.items():
        if name == "requests":
            latency["count"] += sketches[0].count
            latency["sum"] += sketches[0].total
    assert latency["count"] == expected.durations.total()
    assert latency["sum"] == sum(value * n for value, n in expected.durations.items())


@given(logs())
@settings(max_examples=150, deadline=None)
def test_a_straight_run_counts_what_a_clerk_would_count(log: list[list[Record]]) -> None:
    expected = recount(log)
    store = run(log, CONFIG, Quiet())
    compare(store, expected)
    counts = {(start, key): c[0] for (view, start, key), (c, _) in store.items() if view == REQUESTS.name}
    assert counts == expected.panes
    by_day: Counter[tuple[int, tuple[str, ...]]] = Counter()
    for (start, key), n in expected.panes.items():
        by_day[start // 86_400 * 86_400, key[:5]] += n
    daily = {(start, key): c[0] for (view, start, key), (c, _) in store.items() if view == COST_DAILY.name}
    assert daily == by_day


@given(logs(), st.sampled_from([CONFIG, CAPPED]), st.data())
@settings(max_examples=400, deadline=None)
def test_chunks_flushes_crashes_and_repeats_change_nothing(
    log: list[list[Record]], config: IngestConfig, data: st.DataObject
) -> None:
    straight = run(log, config, Quiet())
    broker = pipeline.run(sources(log), config, PRICES, Crashes(data.draw))
    note("capped" if any("__other__" in key for _, _, key in straight) else "not capped")
    note(f"panes given up: {broker.evicted > 0}, taken back: {broker.revived > 0}")
    assert broker.store == straight


@given(logs())
@settings(max_examples=150, deadline=None)
def test_caps_fold_series_together_and_lose_nothing(log: list[list[Record]]) -> None:
    store = run(log, CAPPED, Quiet())
    compare(store, recount(log))
    for view in ("requests", "guardrails", "users_1d"):
        for part in range(len(log)):
            single = run([log[part]], CAPPED, Quiet())
            days: dict[int, set[tuple[str, ...]]] = {}
            for name, start, key in single:
                if name == view and set(key) != {"__other__"}:
                    days.setdefault(start // 86_400, set()).add(key)
            assert all(len(keys) <= CAPPED.max_series for keys in days.values())
