"""The documents say what the types say, and a document's reader and the codec agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from tidegauge.schemas.codec import Codec, encode
from tidegauge.schemas.documents import WIRE_TYPES, WireType, asyncapi, documents, json_schema, main, stale
from tidegauge.schemas.request import GuardrailResult, RequestEvent
from tidegauge.settings import Topics

DOCS = Path(__file__).parents[2] / "docs"


def test_the_committed_documents_are_current() -> None:
    assert stale(DOCS) == []


def test_a_changed_missing_or_left_over_document_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--docs", str(tmp_path)]) == 0
    assert main(["--docs", str(tmp_path), "--check"]) == 0
    (tmp_path / "schemas" / "request.json").write_text("{}")
    (tmp_path / "asyncapi.json").unlink()
    (tmp_path / "schemas" / "gone.json").write_text("{}")
    capsys.readouterr()

    assert main(["--docs", str(tmp_path), "--check"]) == 1

    said = capsys.readouterr().err
    assert [name in said for name in ("request.json", "asyncapi.json", "gone.json")] == [True] * 3
    assert "alert.json" not in said


@pytest.mark.parametrize("wire", WIRE_TYPES, ids=lambda wire: wire.name)
def test_each_schema_is_valid_json_schema(wire: WireType) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema(wire))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"id": ""},
        {"id": None},
        {"time": 1_700_000_000_000},
        {"time": "now"},
        {"gen_ai.usage.input_tokens": -1},
        {"gen_ai.usage.input_tokens": None},
        {"gen_ai.client.operation.duration": 1e9},
        {"tidegauge.guardrails": [{"name": "pii", "stage": "nowhere", "triggered": True}]},
        {"tidegauge.guardrails": [{"name": "pii", "stage": "input"}]},
        {"gen_ai.response.finish_reasons": ["stop"] * 17},
        {"some.unknown.field": {"a": 1}},
    ],
    ids=str,
)
def test_schema_and_codec_take_and_refuse_the_same(change: dict[str, Any]) -> None:
    event = RequestEvent("r", 1_700_000_000, guardrails=[GuardrailResult("pii", "input", triggered=True)])
    message = msgspec.json.decode(encode(event)) | change
    validator = jsonschema.Draft202012Validator(json_schema(WIRE_TYPES[0]))
    events, _ = Codec(RequestEvent).decode(msgspec.json.encode(message))
    assert validator.is_valid(message) == bool(events)


def test_asyncapi_names_every_topic_of_the_settings_that_carries_events() -> None:
    topics = Topics(prefix="")
    addresses = {channel["address"].removeprefix("{prefix}") for channel in asyncapi()["channels"].values()}
    named = {
        topics.requests,
        topics.feedback,
        topics.judgements,
        topics.panes,
        topics.alerts,
        topics.deadletter,
    }
    assert addresses == named


def test_every_reference_in_asyncapi_leads_somewhere() -> None:
    document = json.loads(documents()["asyncapi.json"])
    references = list(_references(document))
    assert len(references) > 3 * len(WIRE_TYPES)
    for reference in references:
        file, _, pointer = reference.partition("#")
        if file:
            assert file in documents()
            continue
        node: Any = document
        for part in pointer.strip("/").split("/"):
            node = node[part]


def _references(node: Any) -> Any:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for inner in node.values():
            yield from _references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _references(inner)
