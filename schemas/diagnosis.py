"""Why a message was refused, in words that name the field and what was expected, and never the value.

All of this runs for refused messages alone. msgspec stops at the first byte that is not JSON and names no field then;
yet what producers really send is almost JSON: Python's ``json.dumps`` writes ``NaN``, ``Infinity`` and lone
surrogates without a murmur. So a refused message is read once more by a reader that takes those, to find the field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import inspect

from tidegauge.errors import InvalidEventError

from .common import MAX_TIME

_PATH: Final = re.compile(r" - at `(?:key in )?\$(?P<path>[^`]*)`$")
_MISSING: Final = re.compile(r"missing required field `([^`]+)`")
_BOUND: Final = re.compile(r"[<>]=? ?-?[\d.]|length|out of range")
_QUOTED: Final = re.compile(r"'[^']*'")
_INDEX: Final = re.compile(r"\[\d+\]")
_TIME_FIELDS: Final = frozenset({"time", "request_time", "since"})

# A string (group 1 is its end, or empty where it has none), a run of brackets, or a comma.
# Possessive, so that no input makes it go over the same bytes twice.
_STRUCTURE: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)|[\[{]++|[\]}]++|,', re.DOTALL)


def explain(error: Exception, kind: type | None = None, raw: bytes | None = None) -> InvalidEventError:
    """The error of a refused message in our own terms: reason, field, what was expected.

    Args:
        error: what the decoder raised.
        kind: the struct that was decoded into; with it, a choice is refused with what there was to choose from.
        raw: the bytes that were decoded; with them, a field that made them invalid JSON is found.
    """
    if isinstance(error, InvalidEventError):
        return error
    if isinstance(error, RecursionError):
        return InvalidEventError("too_deep", "", "less deep nesting")
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return (raw and _almost_json(raw, kind)) or InvalidEventError(
            "invalid_json", "", _not_json(error, text)
        )
    match = _PATH.search(text)
    field = match["path"].removeprefix("[...]").lstrip(".") if match else ""
    expected = text[: match.start()] if match else text
    if missing := _MISSING.search(expected):
        field = f"{field}.{missing[1]}" if field else missing[1]
        return InvalidEventError("missing_field", field, "is required")
    if expected.startswith("Invalid enum value"):
        choices = _wire(kind).choices.get(_INDEX.sub("", field), ())
        return InvalidEventError("wrong_type", field, f"one of {', '.join(choices) or 'the known values'}")
    expected = _QUOTED.sub("'…'", expected)[:200]  # what msgspec quotes may be a value
    if field in _TIME_FIELDS and f"<= {MAX_TIME}" in expected:
        return InvalidEventError("time_out_of_range", field, "Unix seconds; this looks like milliseconds")
    if field in _TIME_FIELDS and ("<=" in expected or ">=" in expected):
        return InvalidEventError("time_out_of_range", field, f"Unix seconds; {expected}")
    return InvalidEventError("out_of_range" if _BOUND.search(expected) else "wrong_type", field, expected)


def split_array(message: bytes, limit: int) -> list[bytes] | None:
    """The elements of a JSON array as they stand, without reading them.

    ``None`` where that cannot be said, or where there are more than ``limit``.

    Takes what no JSON reader takes inside an element, such as NaN or a nesting without end, so that such an element
    costs itself alone. One pass, no recursion.
    """
    elements = []
    depth, begin = 0, 0
    end = 0
    for match in _STRUCTURE.finditer(message):
        token = match[0]
        if token[:1] == b'"':
            if not match[1]:
                return None
        elif token[:1] in b"[{":
            if depth == 0:
                begin = match.start() + 1
            depth += len(token)
        elif token != b",":
            depth -= len(token)
            if depth <= 0:
                elements.append(message[begin : match.end() - 1])
                end = match.end()
                break
        elif depth == 1:
            elements.append(message[begin : match.start()])
            begin = match.end()
            if len(elements) == limit:
                return None
    elements = [element.strip() for element in elements]
    if depth or message[end:].strip() or not all(elements):
        return None
    return elements


def _not_json(error: Exception, text: str) -> str:
    return "valid JSON in UTF-8" if isinstance(error, UnicodeDecodeError) else f"valid JSON: {text[:200]}"


def _almost_json(raw: bytes, kind: type | None) -> InvalidEventError | None:
    """The error that names the field which keeps ``raw`` from being JSON, if there is one to be found."""
    try:
        value = json.loads(raw.decode("utf-8", "surrogateescape"), parse_constant=float)
        found = _culprit(value, "", _wire(kind).names)
    except (ValueError, RecursionError):
        return None
    if found is None:
        return None
    field, number = found
    if number:
        return InvalidEventError("not_finite", field, "a finite number; NaN and Infinity are not JSON")
    return InvalidEventError("invalid_text", field, "valid Unicode text")


def _culprit(value: Any, path: str, names: frozenset[str]) -> tuple[str, bool] | None:
    """The path of the first non-finite number (True) or text that is no Unicode (False).

    A name that is not of the wire's is shown as "?": it is the producer's own, and as private as a value.
    """
    if isinstance(value, float):
        return (path, True) if not math.isfinite(value) else None
    if isinstance(value, str):
        return (path, False) if not _is_unicode(value) else None
    if isinstance(value, dict):
        for key, inner in value.items():
            name = key if key in names else "?"
            inner_path = f"{path}.{name}" if path else name
            if not _is_unicode(key):
                return inner_path, False
            if found := _culprit(inner, inner_path, names):
                return found
    if isinstance(value, list):
        for index, inner in enumerate(value):
            if found := _culprit(inner, f"{path}[{index}]", names):
                return found
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class _Wire:
    """A struct's field names, at any depth, and what there is to choose from, by path without indices."""

    names: frozenset[str]
    choices: Mapping[str, tuple[str, ...]]


@cache
def _wire(kind: type | None) -> _Wire:
    names: set[str] = set()
    choices: dict[str, tuple[str, ...]] = {}

    def walk(node: inspect.Type, path: str) -> None:
        if isinstance(node, inspect.Metadata):
            walk(node.type, path)
        elif isinstance(node, inspect.UnionType):
            for inner in node.types:
                walk(inner, path)
        elif isinstance(node, inspect.ListType):
            walk(node.item_type, path)
        elif isinstance(node, inspect.StructType):
            for field in node.fields:
                names.add(field.encode_name)
                walk(field.type, f"{path}.{field.encode_name}" if path else field.encode_name)
        elif isinstance(node, inspect.LiteralType):
            choices[path] = tuple(str(value) for value in node.values)

    if kind is not None:
        walk(inspect.type_info(kind), "")
    return _Wire(frozenset(names), choices)
