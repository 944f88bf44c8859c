"""Whatever comes in, the codec answers; and good events are never lost to their neighbours."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from tidegauge.schemas.codec import Codec, encode
from tidegauge.schemas.diagnosis import split_array
from tidegauge.schemas.request import RequestEvent

requests = Codec(RequestEvent)

ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
good_events = st.builds(
    RequestEvent,
    id=ids,
    time=st.floats(1_000_000_000, 4_000_000_000),
    service=st.text(st.characters(codec="utf-8"), max_size=20),
    input_tokens=st.none() | st.integers(0, 10**12),
    duration=st.none() | st.floats(0, 604_800),
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
field_names = st.sampled_from([f.encode_name for f in msgspec.structs.fields(RequestEvent)])


@given(st.binary(max_size=300))
@example(b"[" + b'"' * 3)
@example(b'["' + b'\\"' * 100)
@example(b"[[]]]")
@example(b'[{"a":1}\x00]')
def test_no_bytes_raise(message: bytes) -> None:
    events, refused = requests.decode(message)
    assert events or refused


@given(st.text(alphabet='[]{}",:\\ ntNaIe1-.', max_size=60))
def test_nothing_that_looks_like_json_raises(message: str) -> None:
    events, refused = requests.decode(message.encode())
    assert events or refused


@given(field_names, json_values)
def test_every_value_in_every_field_is_taken_or_refused_by_name(field: str, value: Any) -> None:
    # Python's own writer: it writes NaN and lone surrogates without a murmur, and producers use it.
    message = json.dumps({"id": "a", "time": 1_700_000_000, field: value}).encode()
    events, refused = requests.decode(message)
    assert len(events) + len(refused) == 1
    for only in refused:
        assert only.error.field.startswith(field)


@given(st.lists(good_events | json_values, min_size=1, max_size=8))
def test_an_array_is_worth_what_its_events_are_worth_alone(items: list[Any]) -> None:
    texts = [
        encode(item)
        if isinstance(item, RequestEvent)
        else json.dumps(item, ensure_ascii=False).encode("utf-8", "surrogatepass")
        for item in items
    ]
    alone = [Codec(RequestEvent).decode(text if text[:1] != b"[" else b"null") for text in texts]

    events, refused = requests.decode(b"[" + b",".join(texts) + b"]")

    assert list(events) == [event for taken, _ in alone for event in taken]
    assert [r.index for r in refused] == [i for i, (taken, _) in enumerate(alone) if not taken]
    assert [r.raw for r in refused] == [texts[r.index] for r in refused if r.index is not None]
    assert len(events) + len(refused) == len(items)


@given(st.lists(json_values, max_size=6), st.sampled_from(["", " ", "\n\t"]))
def test_an_array_is_split_where_json_says(items: list[Any], space: str) -> None:
    texts = [json.dumps(item) for item in items]
    message = f"{space}[{space}{f'{space},{space}'.join(texts)}{space}]{space}".encode()
    assert split_array(message, 10) == ([text.encode() for text in texts] if items else None)
