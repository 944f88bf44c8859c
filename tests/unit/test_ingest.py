"""The first stage, record by record.

Logs are written as lists of messages; record n has offset n and, unless told, was appended n seconds after START.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytest
from msgspec import json, structs

from tidegauge.processors.core.cardinality import Admitted
from tidegauge.processors.core.ingest import Checkpoint, Ingest, IngestConfig, Outbox
from tidegauge.processors.core.merge import Merge
from tidegauge.processors.core.pricing import Overrides, PriceTable
from tidegauge.processors.core.request_columns import MAX_NAMES
from tidegauge.processors.core.sketch import MAX_VALUE
from tidegauge.processors.core.views import OTHER, VIEWS
from tidegauge.schemas.codec import encode
from tidegauge.schemas.pane import LARGEST, PaneBatch
from tidegauge.schemas.request import GuardrailResult, RequestEvent

START = 1_700_010_000
CONFIG = IngestConfig(allowed_lateness=600.0, future_tolerance=300.0, epoch_events=4, epoch_seconds=1_000.0)
ONE_EPOCH = IngestConfig(allowed_lateness=600.0, future_tolerance=300.0)
PRICES = PriceTable()


@dataclass
class Record:
    offset: int
    timestamp: int
    value: bytes | None


def event(identity: object, **fields: Any) -> RequestEvent:
    return RequestEvent(id=str(identity), time=fields.pop("time", float(START)), **fields)


def records(*messages: object, first: int = 0, seconds: int = 1) -> list[Record]:
    return [
        Record(n, (START + n * seconds) * 1000, m if isinstance(m, bytes | None) else encode(m))
        for n, m in enumerate(messages, first)
    ]


def ingest(
    config: IngestConfig = CONFIG,
    checkpoint: Checkpoint | None = None,
    admitted: list[Admitted] | None = None,
) -> Ingest:
    return Ingest("requests", 0, config, PRICES, checkpoint, admitted or [])


def outcomes(*outboxes: Outbox) -> dict[str, int]:
    """Events by outcome; epochs add up, and of each the newest snapshot counts."""
    newest = {
        (batch.epoch, pane.key, pane.start): pane.counters[0]
        for out in outboxes
        for batch in out.batches
        for pane in batch.panes
        if pane.view == "intake"
    }
    result: Counter[str] = Counter()
    for (_, key, _), n in newest.items():
        result[key[1]] += n
    return dict(result)


def panes(out: Outbox, view: str) -> dict[tuple[str, ...], dict[str, int]]:
    """The counters of a view's panes by key."""
    return {
        pane.key: dict(zip(VIEWS[view].counters, pane.counters, strict=True))
        for batch in out.batches
        for pane in batch.panes
        if pane.view == view
    }


def only(out: Outbox, view: str = "requests") -> dict[str, int]:
    (counters,) = panes(out, view).values()
    return counters


# Epochs


def test_an_epoch_is_sealed_before_the_event_that_would_exceed_it() -> None:
    #   0 1 2 3 │ 4 5
    stage = ingest()
    stage.apply(records(*map(event, range(4))))
    assert not stage.sealed
    stage.apply(records(event(4), event(5), first=4))
    assert stage.sealed
    first, second = stage.flush(0.0).batches
    assert (first.epoch, first.last) == (0, 3)
    assert (second.epoch, second.last) == (4, 5)


def test_an_array_is_never_cut_by_an_epoch() -> None:
    stage = ingest()
    stage.apply(records(event(0), [event(n) for n in range(1, 9)], event(9)))
    first, second = stage.flush(0.0).batches
    assert (first.epoch, first.last, second.epoch, second.last) == (0, 1, 2, 2)
    assert outcomes(Outbox([first], [], [], Checkpoint())) == {"applied": 9}


def test_an_epoch_is_sealed_when_kafkas_clock_has_moved_on() -> None:
    stage = ingest()
    stage.apply(records(event(0), event(1), event(2), seconds=500))
    assert [batch.epoch for batch in stage.flush(0.0).batches] == [0, 2]


def test_refused_events_count_for_the_epoch_too() -> None:
    stage = ingest()
    stage.apply(records(b"{", b"{", b"{", b"{", event(4)))
    assert [batch.epoch for batch in stage.flush(0.0).batches] == [0, 4]


def test_snapshots_are_absolute_since_their_epoch_began() -> None:
    stage = ingest(ONE_EPOCH)
    stage.apply(records(event(0), event(1)))
    assert only(stage.flush(0.0))["requests"] == 2
    stage.apply(records(event(2), first=2))
    assert only(stage.flush(1.0))["requests"] == 3
    assert not stage.pending or not stage.flush(1.0).batches


def test_records_read_twice_are_skipped() -> None:
    stage = ingest(ONE_EPOCH)
    assert stage.apply(records(event(0), event(1))) == 2
    assert stage.apply(records(event(0), event(1), event(2))) == 1
    assert only(stage.flush(0.0))["requests"] == 3


def test_wide_panes_wait_and_the_announced_watermark_waits_with_them() -> None:
    # Else the second stage gives up the hour before it has heard of it.
    stage = ingest(ONE_EPOCH)
    stage.apply(records(event(0)))
    (batch,) = stage.flush(0.0).batches
    assert batch.watermark == START
    stage.apply(records(event(1, time=START + 200.0), first=1))
    (batch,) = stage.flush(1.0).batches
    assert {pane.view for pane in batch.panes} == {"requests", "intake"}
    assert batch.watermark == START
    (batch,) = stage.flush(20.0).batches
    assert {pane.view for pane in batch.panes} == {"requests_1h", "cost_1d"}
    assert batch.watermark == START + 200.0


def test_a_whole_flush_leaves_no_pane_waiting_however_soon_it_comes_again() -> None:
    stage = ingest(ONE_EPOCH)
    for n in range(3):
        stage.apply(records(event(n, time=START + 100.0 * n), first=n))
        (batch,) = stage.flush(0.1 * n, whole=True).batches
        assert {pane.view for pane in batch.panes} == {"requests", "intake", "requests_1h", "cost_1d"}
        assert batch.watermark == START + 100.0 * n


def test_an_idle_partition_tells_its_watermark_and_no_panes() -> None:
    stage = ingest(ONE_EPOCH)
    stage.apply(records(event(0)))
    stage.flush(0.0)
    batch = stage.idle()
    assert (batch.idle, batch.watermark, batch.panes) == (True, START, [])


# Restarts and duplicates


def test_a_duplicate_is_counted_as_such_and_not_folded() -> None:
    stage = ingest()
    stage.apply(records(event("a"), event("a")))
    out = stage.flush(0.0)
    assert only(out)["requests"] == 1
    assert outcomes(out) == {"applied": 1, "duplicate": 1}


@pytest.mark.parametrize(
    ("distance", "outcome"),
    [
        (3, "duplicate"),  # a 1 2 a            the same epoch
        (7, "duplicate"),  # a 1 2 3 │ 4 5 6 a  the epoch after
        (8, "applied"),  #   a 1 2 3 │ 4 5 6 7 │ a  beyond the horizon of one to two epochs
    ],
)
@pytest.mark.parametrize("restart", [False, True])
def test_duplicates_are_recognised_over_the_horizon_with_and_without_a_restart(
    distance: int,
    outcome: str,
    restart: bool,  # noqa: FBT001
) -> None:
    log = records(event("a"), *(event(n) for n in range(1, distance)), event("a"))
    stage = ingest()
    stage.apply(log[:distance])
    outs = [stage.flush(0.0)]
    if restart:
        stage = ingest(checkpoint=outs[0].checkpoint, admitted=outs[0].admitted)
        stage.apply(log[stage.position : distance])
        assert stage.position == distance
    stage.apply(log[distance:])
    outs.append(stage.flush(1.0))
    expected = Counter({"applied": distance})
    expected[outcome] += 1
    assert outcomes(*outs) == dict(expected)


def test_after_a_restart_the_previous_epoch_is_read_for_its_ids_alone() -> None:
    log = records(*map(event, range(6)))
    stage = ingest()
    stage.apply(log)
    checkpoint = stage.flush(0.0).checkpoint
    assert checkpoint == Checkpoint(previous=0, epoch=4, watermark=float(START), last=5)
    again = ingest(checkpoint=checkpoint)
    assert again.position == 0
    assert again.apply(log[:4]) == 0
    assert not again.pending
    assert again.catching_up
    assert again.apply(log[4:]) == 2
    assert not again.catching_up
    (batch,) = again.flush(0.0).batches
    assert (batch.epoch, batch.last) == (4, 5)


def test_a_dead_letter_that_was_delivered_is_not_delivered_again() -> None:
    log = records(event(0), b"{", b"[")
    stage = ingest()
    stage.apply(log[:2])
    out = stage.flush(0.0)
    assert [letter.offset for letter in out.letters] == [1]
    again = ingest(checkpoint=out.checkpoint)
    again.apply(log)
    assert [letter.offset for letter in again.flush(0.0).letters] == [2]


# Time


def test_an_event_beyond_the_lateness_is_counted_late_and_not_folded() -> None:
    stage = ingest()
    stage.apply(records(event(0), event(1, time=START - 600.0), event(2, time=START - 600.5)))
    out = stage.flush(0.0)
    assert outcomes(out) == {"applied": 2, "late": 1}
    assert sum(c["requests"] for c in panes(out, "cost_1d").values()) == 2


def test_an_event_of_the_future_is_refused_and_moves_no_watermark() -> None:
    stage = ingest()
    stage.apply(records(event(0, time=START + 300.0), event(1, time=START + 301.5)))
    out = stage.flush(0.0)
    assert outcomes(out) == {"applied": 1, "refused_future_time": 1}
    assert stage.watermark == START + 300.0
    (letter,) = out.letters
    assert (letter.offset, letter.refused.error.field) == (1, "time")


def test_a_refused_future_event_may_come_again_when_its_time_has_come() -> None:
    stage = ingest()
    stage.apply(records(event("a", time=START + 400.0)))
    stage.apply(records(event("a", time=START + 400.0), first=200))
    assert outcomes(stage.flush(0.0)) == {"refused_future_time": 1, "applied": 1}


def test_a_bad_event_costs_that_event_alone() -> None:
    stage = ingest()
    stage.apply(records([event(0), {"id": 7}, event(1)], b"\xff", None))
    out = stage.flush(0.0)
    counted = outcomes(out)
    assert counted.pop("applied") == 2
    assert sum(counted.values()) == 3
    assert [letter.refused.index for letter in out.letters] == [1, None, None]


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


# Retention


def test_what_retention_took_before_it_was_read_is_told() -> None:
    stage = ingest(checkpoint=Checkpoint(previous=0, epoch=4, watermark=0.0, last=5))
    assert stage.skip_to(10) == 4
    assert stage.position == 10


def test_what_retention_took_after_it_was_delivered_is_not_lost() -> None:
    stage = ingest(checkpoint=Checkpoint(previous=0, epoch=4, watermark=0.0, last=9))
    assert stage.skip_to(6) == 0
    assert stage.position == 10


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
