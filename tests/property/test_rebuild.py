"""A stretch recounted beside live workers, with whatever may happen meanwhile to both stages.

What the command does is in ``rebuilder``: it reads a checkpoint, new or old, recounts the log up to there, and puts
rebuilt batches among the workers' snapshots. In ``tests/support/pipeline.py`` the workers go on, crash, read again,
give panes up and take them back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pipeline import Quiet, Rebuild, Record, Restless, Source, Stored, run
from tidegauge.processors.core.cardinality import Admitted
from tidegauge.processors.core.ingest import Checkpoint, IngestConfig
from tidegauge.processors.core.kinds import FEEDBACK, KINDS, REQUESTS, Kind
from tidegauge.processors.core.pricing import Overrides, PriceTable
from tidegauge.processors.core.recount import BEFORE, CURRENT, LATE, Current, Recount, Row, Stretch, assemble
from tidegauge.processors.core.views import VIEWS
from tidegauge.schemas.codec import encode
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.rebuilt import RebuiltBatch, RebuiltSource
from tidegauge.schemas.request import GuardrailResult, RequestEvent

BASE = 1_700_006_400
LATENESS = 600.0
CONFIG = IngestConfig(LATENESS, 300.0, epoch_events=4, epoch_seconds=10_000.0)
CAPPED = replace(CONFIG, max_series=3, max_dimension_values=2)
ALL_IN_TIME = replace(CONFIG, allowed_lateness=1e9)
DEAR = PriceTable(
    Overrides.parse('[[price]]\nprovider = "own"\nmodel = "m"\ninput = "2.5"\noutput = "10"\n', "test")
)
CHEAP = PriceTable()  # which knows no such model
SERVICES = st.sampled_from(["", "shop", "chat", "mail", "desk"])
STEPS = st.sampled_from([0, 0, 20, 70, 300, 1_000, 30_000])
STRETCHES = st.sampled_from(
    [
        (BASE - 90_000, BASE + 900_000),
        (BASE, BASE + 60),
        (BASE + 90, BASE + 2_000),
        (BASE + 30_000, BASE + 30_001),
    ]
).map(lambda ends: Stretch(*map(float, ends)))


class Notebook:
    """A ``Memory`` for tests."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.events: list[bytes] = []

    def new(self, identity: str) -> bool:
        if identity in self.ids:
            return False
        self.ids.add(identity)
        return True

    def knows(self, identity: str) -> bool:
        return identity in self.ids

    def keep(self, event: bytes) -> None:
        self.events.append(event)

    def kept(self) -> Iterator[bytes]:
        return iter(self.events)


def make(kind: Kind, draw: Callable[..., Any], identity: str, time: float) -> Any:
    if kind is FEEDBACK:
        score = draw(st.sampled_from([-1.0, 1.0]))
        return FeedbackEvent(identity, time, "r", "thumb", score, service=draw(SERVICES))
    return RequestEvent(
        identity,
        time,
        service=draw(SERVICES),
        provider="own",
        model="m",
        user=draw(st.sampled_from(["", "ann", "bob"])),
        input_tokens=draw(st.integers(1, 5)),
        output_tokens=1,
        duration=draw(st.sampled_from([0.1, 2.0])),
        guardrails=[GuardrailResult("pii", "input", triggered=True)] if draw(st.booleans()) else [],
    )


@st.composite
def sources(draw: Callable[..., Any], *, late: bool) -> list[Source]:
    """One or two partitions of requests, perhaps one of feedback; times that go on, some of them behind."""
    behind = st.sampled_from([0, 0, 0, 50, 400, *([700, 40_000, 100_000] if late else [])])
    result = []
    for kind, most in ((REQUESTS, 2), (FEEDBACK, 1)):
        for partition in range(draw(st.integers(1 if kind is REQUESTS else 0, most))):
            log: list[Record] = []
            now = BASE
            for n in range(draw(st.integers(0, 12))):
                now += draw(STEPS)
                event = make(kind, draw, f"{kind.name}-{partition}-{n}", float(now - draw(behind)))
                log.append(Record(len(log), (BASE + 900_000 + n) * 1000, encode(event)))
                if draw(st.integers(0, 9)) == 9:  # a repeat at once: within any horizon
                    log.append(Record(len(log), log[-1].timestamp, log[-1].value))
            result.append(Source(kind, partition, log))
    return result


def rebuilder(sources: list[Source], config: IngestConfig, prices: PriceTable, stretch: Stretch) -> Rebuild:
    """What the command does between reading the workers' checkpoints and sending what it recounted."""

    def rebuild(checkpoints: dict[Any, tuple[Checkpoint, list[Admitted]]], number: int) -> list[RebuiltBatch]:
        batches = []
        for kind in KINDS.values():
            rows: list[Row] = []
            read = []
            for source in [source for source in sources if source.kind is kind]:
                checkpoint, admitted = checkpoints[kind.name, source.partition]
                where = (kind.name, source.partition, config, prices, stretch)
                recount = Recount(*where, 0, Notebook(), kind)
                recount.apply(source.log[: checkpoint.epoch])
                current = Current(*where, checkpoint, admitted, kind=kind)
                current.apply(source.log[checkpoint.previous : checkpoint.last + 1])
                more = [event for event in current.late if not recount.knows(event.id)]
                for share, panes in (
                    (BEFORE, recount.take(end=True)),
                    (LATE, recount.late_panes(more)),
                    (CURRENT, current.take()),
                ):
                    rows += [
                        Row(source.partition, share, pane)
                        for pane in panes
                        if stretch.covers(pane.view, pane.start)
                    ]
                read.append(
                    RebuiltSource(source.partition, checkpoint.epoch, checkpoint.last, current.closed())
                )
            rows.sort(key=lambda row: (row.pane.view, row.pane.start, row.pane.key))
            batches.append(RebuiltBatch("test", number, kind.name, read, list(assemble(rows))))
        return batches

    return rebuild


def inside(store: Stored, stretch: Stretch) -> Stored:
    return {name: pane for name, pane in store.items() if stretch.covers(name[0], name[1])}


@given(sources(late=False), STRETCHES, st.sampled_from([CONFIG, CAPPED]), st.data())
@settings(max_examples=300, deadline=None)
def test_rebuilding_what_is_right_changes_nothing_whenever_it_happens(
    sources: list[Source], stretch: Stretch, config: IngestConfig, data: st.DataObject
) -> None:
    straight = run(sources, config, DEAR, Quiet())
    rebuild = rebuilder(sources, config, DEAR, stretch)
    rebuilt = run(sources, config, DEAR, Restless(data.draw), rebuild)
    note(f"panes given up: {rebuilt.evicted > 0}")
    note(f"refused: {any(refused for _, refused in rebuilt.answers)}")
    assert rebuilt.store == straight.store


@given(sources(late=True), STRETCHES, st.data())
@settings(max_examples=300, deadline=None)
def test_late_events_are_folded_in_at_the_new_price_once_a_rebuild_has_come_after_all_else(
    sources: list[Source], stretch: Stretch, data: st.DataObject
) -> None:
    live = run(sources, CONFIG, CHEAP, Quiet()).store
    right = run(sources, ALL_IN_TIME, DEAR, Quiet()).store
    rebuild = rebuilder(sources, CONFIG, DEAR, stretch)
    rebuilt = run(sources, CONFIG, CHEAP, Restless(data.draw), rebuild, finally_too=True)
    note(f"panes given up: {rebuilt.evicted > 0}, late ones: {live.keys() != right.keys()}")
    assert [refused for number, refused in rebuilt.answers if number == 0 and refused] == []

    def without_intake(store: Stored) -> Stored:
        return {name: pane for name, pane in store.items() if name[0] != "intake"}

    assert inside(without_intake(rebuilt.store), stretch) == inside(without_intake(right), stretch)
    intake = VIEWS["intake"].name
    assert {n: p for n, p in rebuilt.store.items() if n[0] == intake} == {
        n: p for n, p in live.items() if n[0] == intake
    }


@given(sources(late=True), st.data())
@settings(max_examples=150, deadline=None)
def test_what_is_outside_of_the_stretch_stays_as_it_was(sources: list[Source], data: st.DataObject) -> None:
    stretch = Stretch(BASE + 90.0, BASE + 2_000.0)
    live = run(sources, CONFIG, CHEAP, Quiet()).store
    rebuilt = run(
        sources, CONFIG, CHEAP, Restless(data.draw), rebuilder(sources, CONFIG, DEAR, stretch)
    ).store
    outside = {name: pane for name, pane in rebuilt.items() if not stretch.covers(name[0], name[1])}
    assert outside == {name: pane for name, pane in live.items() if not stretch.covers(name[0], name[1])}
