"""The oracle itself: it must notice whatever is wrong, and know nothing of the pipeline."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.oracle import VIEWS, Event, Generator, Ledger, Stored, Topic, verify
from tests.faults.oracle.events import MIDNIGHT, make

EVENTS = 200
FIRST_LATE = make("late", MIDNIGHT - 3 * 86_400, "small", 10, 1)


class Case:
    """A topic, a ledger and a store that agree; tests then change one of them."""

    def __init__(self, ledger: Ledger) -> None:
        self.events = Generator(1, start=MIDNIGHT - 5).take(EVENTS)
        self.messages = [event.payload for event in self.events] + [b"not json", FIRST_LATE.payload]
        self.messages.append(b"[%s,%s]" % (self.events[0].payload, self.events[1].payload))  # two repeats
        self.ledger = ledger
        self.ledger.send([*self.events, FIRST_LATE])
        for event in self.events:
            self.ledger.acknowledge(event.id)
        self.stored = Stored()
        for event in self.events:
            self.store(event, 1)
        self.stored.outcomes |= {"applied": EVENTS, "duplicate": 2, "late": 1, "invalid_json": 1}

    def store(self, event: Event, times: int) -> None:
        for view in VIEWS:
            for name, value in (
                ("requests", 1),
                ("input_tokens", event.input_tokens),
                ("output_tokens", event.output_tokens),
                ("cost_nano_usd", event.cost_nano),
            ):
                self.stored.add(view, event.model, int(event.time), name, value * times)

    def differences(self) -> str:
        topic = Topic(frozenset({"late"}))
        for message in self.messages:
            topic.add(message)
        return "\n".join(verify(topic, self.ledger, self.stored).differences)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    with Ledger(tmp_path / "ledger") as ledger:
        yield Case(ledger)


def test_it_finds_no_difference_where_there_is_none(case: Case) -> None:
    assert case.differences() == ""
    assert len({event.day for event in case.events}) == 2
    assert all(event.cost_nano > 0 for event in case.events)


def changed(message: bytes, field: str, by: int) -> bytes:
    event = json.loads(message)
    return json.dumps(event | {field: event[field] + by}).encode()


def one_more_late(case: Case) -> None:
    case.stored.outcomes["late"] += 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda case: case.store(case.events[7], -1), "cost of"),
        (lambda case: case.store(case.events[7], 1), "cost_1d of"),
        (lambda case: case.stored.add("cost_1h", "small", MIDNIGHT, "cost_nano_usd", 1), "cost_1h of small"),
        (lambda case: case.stored.add("cost_1d", "nobody", MIDNIGHT, "requests", 1), "cost_1d of nobody"),
        (lambda case: case.messages.pop(7), "was acknowledged and is not on the topic"),
        (lambda case: case.messages.append(case.messages[7]), "duplicate, must be 3"),
        (
            lambda case: case.messages.append(make("new", MIDNIGHT, "odd", 1, 1).payload),
            "new is on the topic and was never sent",
        ),
        (
            lambda case: case.messages.__setitem__(
                7, changed(case.messages[7], "gen_ai.usage.input_tokens", 1)
            ),
            "sent Sums",
        ),
        (lambda case: case.ledger.send([replace(case.events[7], cost_nano=1)]), "sent Sums"),
        (one_more_late, "late, must be 1"),
        (lambda case: case.stored.outcomes.pop("invalid_json"), "counted as refused, must be 1"),
        (lambda case: case.messages.append(b"{"), "are accounted for"),
    ],
)
def test_it_notices_what_is_removed_doubled_or_changed(
    case: Case, change: Callable[[Case], object], told: str
) -> None:
    change(case)
    assert told in case.differences()


def test_a_ledger_outlives_its_writer_even_one_that_was_cut_short(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with path.open("a") as file:
        file.write("sent\tha")
    with Ledger(path) as again:
        again.acknowledge("late")
    with Ledger(path) as again:
        assert again.sent == case.ledger.sent
        assert again.acknowledged == case.ledger.acknowledged | {"late"}


def test_it_shares_no_code_with_the_pipeline() -> None:
    for path in (Path(__file__).parent / "oracle").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not [name for name in names if name.split(".")[0] in {"tidegauge", "tests"}], path
