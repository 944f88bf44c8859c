"""The first stage, record by record: what it adds up: money, caps, numbers of any size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from msgspec import json, structs

from tests.support.ingest_log import (
    ONE_EPOCH,
    START,
    Record,
    event,
    ingest,
    only,
    panes,
    records,
)
from tidegauge.processors.core.ingest import Ingest, IngestConfig
from tidegauge.processors.core.merge import Merge
from tidegauge.processors.core.pricing import Overrides, PriceTable
from tidegauge.processors.core.request_columns import MAX_NAMES
from tidegauge.processors.core.sketch import MAX_VALUE
from tidegauge.processors.core.views import OTHER, VIEWS
from tidegauge.schemas.codec import encode
from tidegauge.schemas.pane import LARGEST, PaneBatch
from tidegauge.schemas.request import GuardrailResult, RequestEvent

# Money


def test_unpriced_is_not_free() -> None:
    stage = ingest()
    stage.apply(records(event(0, provider="nobody", model="nothing", input_tokens=10)))
    counters = only(stage.flush(0.0))
    assert counters["unpriced_requests"] == 1
    assert counters["priced_requests"] == counters["estimated_requests"] == 0
    fields = VIEWS["requests"].fields(VIEWS["requests"].measurements[1], _aggregate(counters))
    assert "cost_per_request_nano_usd" not in fields


def test_a_call_that_failed_before_it_used_anything_cost_nothing_for_sure() -> None:
    stage = ingest()
    stage.apply(records(event(0, provider="nobody", model="nothing", error="timeout")))
    counters = only(stage.flush(0.0))
    assert (counters["priced_requests"], counters["unpriced_requests"]) == (1, 0)


def test_what_the_provider_reports_goes_before_the_price_table() -> None:
    stage = ingest()
    stage.apply(records(event(0, provider="openai", model="gpt-4o", input_tokens=1_000_000, cost=7)))
    counters = only(stage.flush(0.0))
    assert (counters["cost_nano_usd"], counters["provider_reported_requests"]) == (7, 1)


def _aggregate(counters: dict[str, int]) -> Any:
    aggregate = VIEWS["requests"].empty()
    aggregate.counters = list(counters.values())
    return aggregate


# Caps

CAPPED = IngestConfig(600.0, 300.0, max_series=2, max_dimension_values=100)


def test_caps_send_the_rest_to_other_with_exact_totals() -> None:
    stage = ingest(CAPPED)
    stage.apply(records(*(event(n, service=f"s{n % 5}", input_tokens=n) for n in range(20))))
    found = panes(stage.flush(0.0), "requests")
    assert {key[0]: c["requests"] for key, c in found.items()} == {"s0": 4, "s1": 4, OTHER: 12}
    assert sum(c["input_tokens"] for c in found.values()) == sum(range(20))


def test_one_dimensions_cap_leaves_the_others_as_they_are() -> None:
    stage = ingest(IngestConfig(600.0, 300.0, max_dimension_values=1))
    stage.apply(records(event(0, service="a", model="m"), event(1, service="b", model="m")))
    assert {(key[0], key[4]) for key in panes(stage.flush(0.0), "requests")} == {("a", "m"), (OTHER, "m")}


def test_a_restart_admits_whom_the_first_life_admitted() -> None:
    #   a b x x │ b a x       a and b are admitted for the day, in the first epoch
    config = IngestConfig(600.0, 300.0, epoch_events=4, max_series=2)
    log = records(*(event(n, service=s) for n, s in enumerate("abxxxba")))
    stage = ingest(config)
    stage.apply(log[:5])
    out = stage.flush(0.0)
    again = ingest(config, out.checkpoint, out.admitted)
    again.apply(log)
    assert {key[0] for key in panes(again.flush(0.0), "requests")} == {"a", "b", OTHER}


def test_admissions_of_several_epochs_have_names_of_their_own() -> None:
    stage = ingest()
    stage.apply(records(*(event(n, service=f"s{n}") for n in range(9))))
    admitted = stage.flush(0.0).admitted
    assert [(a.epoch, a.day) for a in admitted] == [(0, START // 86_400), (4, START // 86_400)]


def test_admissions_are_forgotten_once_no_event_in_time_asks_for_their_day() -> None:
    day = 86_400
    times = [START, START, START, START, START + day, START + day + 1_000]
    log = records(*(event(n, time=float(t)) for n, t in enumerate(times)), seconds=40_000)
    config = IngestConfig(600.0, 300.0, epoch_events=4, epoch_seconds=10_000_000.0)
    log = [Record(r.offset, (START + 2 * day) * 1000, r.value) for r in log]
    stage = ingest(config)
    stage.apply(log[:5])
    out = stage.flush(0.0)
    assert [(a.epoch, a.day) for a in out.admitted] == [(0, START // day)]
    assert out.forgotten == []
    again = ingest(config, out.checkpoint, out.admitted)
    more = records(*(event(f"x{n}", time=START + day + 1_000.0) for n in range(4)), first=6)
    again.apply(log + [Record(r.offset, (START + 2 * day) * 1000, r.value) for r in more])
    assert again.flush(0.0).forgotten == [(0, START // day)]


@pytest.mark.parametrize("together", [True, False])
def test_guardrails_are_admitted_in_the_logs_order_however_it_is_flushed(together: bool) -> None:  # noqa: FBT001
    #   shop: pii    chat: topic    shop: toxicity        two are admitted: the first two of the log
    def checked(n: int, service: str, guardrail: str) -> RequestEvent:
        return event(n, service=service, guardrails=[GuardrailResult(guardrail, "input", triggered=True)])

    log = records(checked(0, "shop", "pii"), checked(1, "chat", "topic"), checked(2, "shop", "toxicity"))
    stage = ingest(IngestConfig(600.0, 300.0, max_series=2))
    found: dict[tuple[str, ...], int] = {}
    for chunk in [log] if together else [[record] for record in log]:
        stage.apply(chunk)
        found |= {key[:2]: c["checks"] for key, c in panes(stage.flush(0.0), "guardrails").items()}
    assert found == {("shop", "pii"): 1, ("chat", "topic"): 1, (OTHER, OTHER): 1}


# Numbers that are too large for 64 bits, or look like one another


def test_costs_of_more_than_53_bits_are_exact_in_every_view() -> None:
    text = '[[price]]\nprovider = "own"\nmodel = "dear"\ninput = "1000000"\noutput = "0.000000001"\n'
    stage = Ingest("requests", 0, ONE_EPOCH, PriceTable(Overrides.parse(text, "test")))
    tokens = 10**9 + 1
    stage.apply(
        records(
            *(
                event(n, provider="own", model="dear", user="u", input_tokens=tokens, output_tokens=1_000 * n)
                for n in range(3)
            )
        )
    )
    out = stage.flush(0.0, whole=True)
    total = 3 * tokens * 10**9  # a million dollars for a million tokens; the output rounds to nothing
    for view in ("requests", "requests_1h", "cost_1d", "users_1d"):
        assert only(out, view)["cost_nano_usd"] == total
    assert only(out)["input_cost_nano_usd"] == total
    assert only(out)["priced_requests"] == 3


def test_the_largest_cost_that_a_provider_may_report_is_exact() -> None:
    stage = ingest(ONE_EPOCH)
    stage.apply(records(*(event(n, cost=10**18 - n) for n in range(9))))
    assert only(stage.flush(0.0))["cost_nano_usd"] == 9 * 10**18 - 36


def test_what_is_beyond_64_bits_stands_at_the_largest_number_that_can_be_stored() -> None:
    stage, second = ingest(ONE_EPOCH), Merge(0.0)
    stage.apply(records(*(event(n, cost=10**18) for n in range(20))))
    for batch in stage.flush(0.0, whole=True).batches:
        sent = json.decode(encode(batch), type=PaneBatch)
        second.apply(sent)
        second.apply(structs.replace(sent, partition=1))
    found = {view.name: aggregate for view, _, _, aggregate in second.changed(100)}
    for view in ("requests", "requests_1h", "cost_1d"):
        counters = dict(zip(VIEWS[view].counters, found[view].counters, strict=True))
        assert counters["cost_nano_usd"] == LARGEST
    assert all(packed for _, packed in second.unsaved())


def test_an_output_rate_that_no_float_can_hold_counts_as_the_largest() -> None:
    stage = ingest(ONE_EPOCH)
    stage.apply(records(event(0, output_tokens=10**12, duration=5e-324)))
    (pane,) = [p for batch in stage.flush(0.0).batches for p in batch.panes if p.view == "requests"]
    assert pane.sketches[2].maximum == MAX_VALUE


def test_a_null_is_as_good_as_a_field_left_out() -> None:
    told = b'{"id":"%d","time":%d%s}'
    null = b',"gen_ai.usage.input_tokens":null,"gen_ai.client.operation.duration":null,"tidegauge.cost.nano_usd":null'
    stage = ingest(ONE_EPOCH)
    stage.apply(records(told % (0, START, null), told % (1, START, b"")))
    (pane,) = [p for batch in stage.flush(0.0).batches for p in batch.panes if p.view == "requests"]
    assert dict(zip(VIEWS["requests"].counters, pane.counters, strict=True))["unpriced_requests"] == 2
    assert pane.sketches[0].count == 0


def test_dimensions_that_look_alike_when_joined_stay_apart() -> None:
    stage = ingest(ONE_EPOCH)
    stage.apply(
        records(
            event(0, service="a\x1fb", environment="c"),
            event(1, service="a", environment="b\x1fc"),
            event(2, service="a\x1fb", environment="c"),
        )
    )
    counted = {key[:2]: counters["requests"] for key, counters in panes(stage.flush(0.0), "requests").items()}
    assert counted == {("a\x1fb", "c"): 2, ("a", "b\x1fc"): 1}


def test_more_names_than_are_remembered_between_blocks_stay_apart_too() -> None:
    many = 3 * MAX_NAMES
    wide = replace(ONE_EPOCH, max_series=2 * many, max_dimension_values=2 * many)
    stage = ingest(wide)
    for first in range(0, many, 4_000):
        batch = [event(n, service="s", user=f"u{n % (many // 2)}") for n in range(first, first + 4_000)]
        stage.apply(records(batch, first=first, seconds=0))
    counted = panes(stage.flush(0.0, whole=True), "users_1d")
    assert len(counted) == many // 2
    assert sum(counters["requests"] for counters in counted.values()) >= many


def test_an_event_of_the_future_costs_an_array_that_event_alone_and_keeps_its_own_bytes() -> None:
    future = b'{"id":"f","time":%d,"mine":1}' % (START + 10_000)
    message = b'[{"id":"a","time":%d}, 7, %s]' % (START, future)
    stage = ingest(ONE_EPOCH)
    assert stage.apply(records(message)) == 1
    letters = stage.flush(0.0).letters
    assert [(letter.refused.index, letter.refused.error.reason) for letter in letters] == [
        (1, "wrong_type"),
        (2, "future_time"),
    ]
    assert letters[1].refused.raw == future
