"""What docs/specs/events.md says of the codec is what the codec does."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import msgspec
import pytest

from tidegauge.schemas.codec import Codec
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.request import GuardrailResult, RequestEvent
from tidegauge.settings import Worker

TEXT = (Path(__file__).parents[2] / "docs" / "specs" / "events.md").read_text()
_ROW = re.compile(r"^\| `(.+)` \| `(\w+)` \| (.+) \|$", re.MULTILINE)


def _section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _examples(title: str) -> list[bytes]:
    return [block.encode() for block in re.findall(r"```json\n(.*?)```", _section(title), re.DOTALL)]


@pytest.mark.parametrize(("given", "reason", "said"), _ROW.findall(_section("What is refused")))
def test_a_refusal_reads_as_the_specification_says(given: str, reason: str, said: str) -> None:
    if re.match(r'"[\w.]+": ', given):
        given = f'{{"id": "a", "time": 1767225600, {given}}}'
    events, refused = Codec(RequestEvent).decode(given.encode())
    assert list(events) == []
    assert [(r.error.reason, str(r.error)) for r in refused] == [(reason, said.replace("\\|", "|"))]


def test_the_specification_shows_enough_refusals_to_mean_something() -> None:
    assert len(_ROW.findall(_section("What is refused"))) >= 15


@pytest.mark.parametrize(
    ("title", "kind"), [("Request event", RequestEvent), ("Feedback event", FeedbackEvent)]
)
def test_the_examples_are_good_events_without_unknown_fields(title: str, kind: type[msgspec.Struct]) -> None:
    (example,) = _examples(title)
    events, refused = Codec(kind).decode(example)
    assert (len(events), refused) == (1, [])
    assert set(json.loads(example)) <= {field.encode_name for field in msgspec.structs.fields(kind)}


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("Request event", RequestEvent),
        ("Guardrail result", GuardrailResult),
        ("Feedback event", FeedbackEvent),
    ],
)
def test_every_field_is_described_once_and_none_besides(title: str, kind: type[msgspec.Struct]) -> None:
    cells = [line.split("|")[1] for line in _section(title).splitlines() if line.startswith("| `")]
    described = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert sorted(described) == sorted(field.encode_name for field in msgspec.structs.fields(kind))


def test_the_numbers_in_the_text_are_the_settings_defaults() -> None:
    worker = Worker()
    assert f"`worker.future_tolerance` ({worker.future_tolerance:g} s)" in TEXT
    assert f"`worker.allowed_lateness` ({worker.allowed_lateness / 3600:g} h)" in TEXT
    assert (worker.epoch_events, worker.epoch_seconds) == (131_072, 600)
    assert f"`{zlib.crc32(b'tidegauge'):#010x}`" in TEXT
