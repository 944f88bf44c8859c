"""Events on which our own code raises: each is found, and nothing else is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tidegauge.processors.core.ingest import Checkpoint, Ingest, IngestConfig
from tidegauge.processors.core.poison import Poison, find
from tidegauge.processors.core.pricing import PriceTable, UnitPrice
from tidegauge.schemas.codec import Codec, encode
from tidegauge.schemas.request import RequestEvent

START = 1_700_010_000
CODEC = Codec(RequestEvent)


@dataclass
class Record:
    offset: int
    timestamp: int
    value: bytes | None


class Raising(PriceTable):
    """Prices with a bug."""

    def unit(self, provider: str, model: str, time: float) -> UnitPrice | None:
        if model == "poison":
            raise ZeroDivisionError
        return super().unit(provider, model, time)


def event(n: int, model: str = "gpt-4o") -> RequestEvent:
    return RequestEvent(f"e{n}", float(START), "shop", "openai", model, input_tokens=10, output_tokens=1)


def log(*messages: Any) -> list[Record]:
    return [
        Record(n, START * 1000, m if isinstance(m, bytes | None) else encode(m))
        for n, m in enumerate(messages)
    ]


def begin(offset: int, poison: Poison | None = None) -> Ingest:
    at = Checkpoint(previous=offset, epoch=offset)
    return Ingest("requests", 0, IngestConfig(), Raising(), at, poison=poison)


def test_nothing_is_found_where_nothing_raises() -> None:
    assert find(begin, CODEC, log(*(event(n) for n in range(50)), b"not json", None)) == []
    assert find(begin, CODEC, []) == []


def test_each_event_that_raises_is_found_in_arrays_and_alone() -> None:
    array = [event(100), event(101, "poison"), event(102), event(103, "poison")]
    messages = [event(n, "poison" if n in {3, 17} else "gpt-4o") for n in range(20)]
    assert find(begin, CODEC, log(*messages, array, b"[1,2")) == [(3, None), (17, None), (20, 1), (20, 3)]


@pytest.mark.parametrize("cut", [1, 2, 5, 100])
def test_with_its_poison_known_a_log_is_folded_whole_but_for_that(cut: int) -> None:
    array = [event(100), b"", event(101, "poison"), event(102)]
    raw = b"[" + b",".join(encode(e) if e else b"7" for e in array) + b"]"
    records = log(*(event(n, "poison" if n == 3 else "gpt-4o") for n in range(20)), raw)
    stage = begin(0, Poison(find(begin, CODEC, records)))
    for i in range(0, len(records), cut):
        stage.apply(records[i : i + cut])
    out = stage.flush(0.0, whole=True)
    assert stage.outcomes == {"applied": 21, "refused_processing_failed": 2, "refused_wrong_type": 1}
    poisoned = [
        (letter.offset, letter.refused.index)
        for letter in out.letters
        if letter.refused.error.reason == "processing_failed"
    ]
    assert poisoned == [(3, None), (20, 2)]
    assert "poison" not in {letter.refused.error.expected for letter in out.letters}
