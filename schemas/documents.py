"""Writes the documents that describe the wire, from the types themselves.

    python -m tidegauge.schemas.documents            # docs/schemas/*.json and docs/asyncapi.json, in the checkout
    python -m tidegauge.schemas.documents --check    # exit with 1 where they are not what it would write

One JSON Schema (2020-12) a wire type, for producers in any language, and one AsyncAPI 3 document of the topics.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from .alert import Alert
from .codec import MAX_EVENTS_PER_MESSAGE, MAX_MESSAGE_BYTES
from .common import SCHEMA_VERSION
from .deadletter import DeadLetter
from .feedback import FeedbackEvent
from .judgement import Judgement
from .pane import PaneBatch
from .rebuilt import RebuiltAnswer, RebuiltBatch
from .request import RequestEvent
from .rewrite import RewriteBatch

JSON_SCHEMA: Final = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_FORMAT: Final = "application/schema+json;version=draft-2020-12"


@dataclass(frozen=True)
class WireType:
    """A wire type and the topic it travels on.

    Attributes:
        name: of the document, and of the message in AsyncAPI.
        kind: the struct.
        topic: the topic's name without the prefix.
        title: for a reader.
        actions: what tidegauge itself does with the topic: "receive", "send" or both.
        arrays: whether a message may also be an array of them.
        partition: how the partition is chosen.
    """

    name: str
    kind: type
    topic: str
    title: str
    actions: Sequence[Literal["receive", "send"]]
    arrays: bool
    partition: str


_BY_ID: Final = "CRC-32 of the id's UTF-8 bytes, modulo the number of partitions"
_BY_SERIES: Final = "by series, so that all parts of a pane meet"

WIRE_TYPES: Final = (
    WireType(
        "request", RequestEvent, "requests", "Request event", ("receive",), arrays=True, partition=_BY_ID
    ),
    WireType(
        "feedback", FeedbackEvent, "feedback", "Feedback event", ("receive",), arrays=True, partition=_BY_ID
    ),
    WireType(
        "judgement", Judgement, "judgements", "Judgement", ("receive", "send"), arrays=True, partition=_BY_ID
    ),
    WireType(
        "pane-batch",
        PaneBatch,
        "panes",
        "Pane snapshots",
        ("receive", "send"),
        arrays=False,
        partition=_BY_SERIES,
    ),
    WireType(
        "rebuilt",
        RebuiltBatch,
        "panes",
        "Rebuilt panes",
        ("receive", "send"),
        arrays=False,
        partition=_BY_SERIES,
    ),
    WireType(
        "rebuilt-answer",
        RebuiltAnswer,
        "panes",
        "Answer to rebuilt panes",
        ("receive", "send"),
        arrays=False,
        partition=_BY_SERIES,
    ),
    WireType(
        "rewrite",
        RewriteBatch,
        "panes",
        "Panes to be stored again",
        ("receive", "send"),
        arrays=False,
        partition=_BY_SERIES,
    ),
    WireType(
        "alert", Alert, "alerts", "Alert", ("send",), arrays=False, partition="one; the key is the alert's"
    ),
    WireType(
        "dead-letter", DeadLetter, "deadletter", "Dead letter", ("send",), arrays=False, partition="one"
    ),
)


def json_schema(wire: WireType) -> dict[str, Any]:
    """The JSON Schema of one event of a wire type."""
    (_,), components = msgspec.json.schema_components([wire.kind], ref_template="#/$defs/{name}")
    definitions = {name: _tidy(component) for name, component in components.items()}
    root = definitions.pop(wire.kind.__name__)
    head = {
        "$schema": JSON_SCHEMA,
        "$id": f"urn:tidegauge:schema:{wire.name}:{SCHEMA_VERSION}",
        "title": wire.title,
        "description": root.pop("description", ""),
    }
    del root["title"]
    return head | root | ({"$defs": definitions} if definitions else {})


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3 document: topics, what travels on them, and who sends it."""
    topics: dict[str, list[WireType]] = {}
    for wire in WIRE_TYPES:
        topics.setdefault(wire.topic, []).append(wire)
    channels = {topic: _channel(wires) for topic, wires in topics.items()}
    operations = {
        f"{action}-{topic}": {
            "action": action,
            "channel": {"$ref": f"#/channels/{topic}"},
            "summary": f"tidegauge {action}s {', '.join(w.title for w in wires).lower()} messages.",
            "messages": [{"$ref": f"#/channels/{topic}/messages/{wire.name}"} for wire in wires],
        }
        for topic, wires in topics.items()
        for action in wires[0].actions
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "tidegauge",
            "version": f"{SCHEMA_VERSION}.0.0",
            "description": "The events that tidegauge reads from Kafka, and those it writes there. "
            "What each field means is in specs/events.md.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {wire.name: _message(wire) for wire in WIRE_TYPES},
            "parameters": {
                "prefix": {
                    "default": "tidegauge.",
                    "description": "The setting topics.prefix of the workers.",
                }
            },
        },
    }


def _channel(wires: Sequence[WireType]) -> dict[str, Any]:
    wire = wires[0]
    return {
        "address": f"{{prefix}}{wire.topic}",
        "title": wire.topic,
        "description": f"Partition: {wire.partition}.",
        "parameters": {"prefix": {"$ref": "#/components/parameters/prefix"}},
        "messages": {w.name: {"$ref": f"#/components/messages/{w.name}"} for w in wires},
    }


def _message(wire: WireType) -> dict[str, Any]:
    one = {"$ref": f"schemas/{wire.name}.json"}
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_EVENTS_PER_MESSAGE}
    size = f"at most {MAX_MESSAGE_BYTES} bytes"
    return {
        "name": wire.name,
        "title": wire.title,
        "summary": f"One event or a JSON array of events, {size}." if wire.arrays else f"One event, {size}.",
        "payload": {"schemaFormat": SCHEMA_FORMAT, "schema": {"oneOf": [one, many]} if wire.arrays else one},
    }


def documents() -> dict[str, bytes]:
    """All documents, by their path under ``docs/``."""
    written: dict[str, Mapping[str, Any]] = {f"schemas/{w.name}.json": json_schema(w) for w in WIRE_TYPES}
    written["asyncapi.json"] = asyncapi()
    return {
        path: msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
        for path, content in written.items()
    }


def stale(folder: Path) -> list[str]:
    """The documents under ``folder`` that are missing, differ, or describe what no longer exists."""
    wanted = documents()
    differing = [path for path, content in wanted.items() if _read(folder / path) != content]
    gone = {f"schemas/{file.name}" for file in (folder / "schemas").glob("*.json")} - set(wanted)
    return differing + sorted(gone)


def _read(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    # msgspec takes over a docstring as it stands in the source, with its indentation and its double backquotes.
    if "description" in schema:
        schema["description"] = inspect.cleandoc(schema["description"]).replace("``", "`")
    return schema


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the documents; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tidegauge.schemas.documents", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where one is not current"
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"), metavar="DIR", help="default: docs")
    args = parser.parse_args(argv)
    if args.check:
        for path in (old := stale(args.docs)):
            sys.stderr.write(f"{args.docs / path} is not current; run: make docs\n")
        return 1 if old else 0
    (args.docs / "schemas").mkdir(parents=True, exist_ok=True)
    for path, content in documents().items():
        (args.docs / path).write_bytes(content)
        sys.stdout.write(f"{args.docs / path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
