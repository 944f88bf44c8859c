"""What is written to InfluxDB, line by line."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegauge.sinks.base import FieldValue, Point
from tidegauge.sinks.line_protocol import MAX_STRING, MAX_TIME, encode, escape, unescape

ANY_TEXT = st.text(st.characters(exclude_categories=()))


def point(
    value: FieldValue = 1, tag: str = "chat", *, time: int = 60, name: str = "x", measurement: str = "latency"
) -> Point:
    return Point(measurement, {"service": tag}, time, {name: value})


@given(ANY_TEXT)
@example("")
@example("%")
@example("%25")
@example("ends with \\")
@example("\ud83d\ude00")
def test_any_text_comes_back_as_it_was(text: str) -> None:
    assert unescape(escape(text)) == text


@given(ANY_TEXT, ANY_TEXT)
@example("%0A", "\n")
@example("", "%")
def test_different_texts_stay_different(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@given(ANY_TEXT)
def test_a_point_is_one_line_of_valid_unicode_without_an_unescaped_backslash(text: str) -> None:
    line = encode(Point("latency", {"service": text}, 60, {"s": text}))
    assert line.encode().decode().splitlines() == [line]
    for escaped in ("\\,", "\\=", "\\ ", '\\"'):
        line = line.replace(escaped, "")
    assert "\\" not in line


@pytest.mark.parametrize("text", ["gpt-4o", "a b", "a,b=c", "#1", "größe", "日本", "😀", 'say "hi"', "${x}"])
def test_harmless_text_is_stored_as_it_is_so_that_dashboards_can_be_read(text: str) -> None:
    assert escape(text) == text


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("a,b=c d", r"a\,b\=c\ d"),
        ("a\nb", "a%0Ab"),
        ("end\\", "end%5C"),
        ("50%", "50%25"),
        ("\u2028", "%E2%80%A8"),
        ("\ud800", "%ED%A0%80"),
    ],
)
def test_tags_are_spelled_so_that_they_cannot_break_the_line(text: str, tag: str) -> None:
    assert encode(point(tag=text)) == f"latency,service={tag} x=1i 60"


def test_an_empty_tag_is_left_out() -> None:
    assert encode(point(tag="")) == "latency x=1i 60"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2**63 - 1, "9223372036854775807i"),
        (-(2**63), "-9223372036854775808i"),
        (1.0, "1.0"),
        (0.1, "0.1"),
        (1e300, "1e+300"),
        ('say "hi"', r'"say \"hi\""'),
        ("a\\b\nc", '"a%5Cb%0Ac"'),
        ("", '"%"'),
    ],
)
def test_a_value_keeps_its_type(value: FieldValue, text: str) -> None:
    assert encode(point(value)) == f"latency,service=chat x={text} 60"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (point(math.nan), "x: not a finite number"),
        (point(-math.inf), "x: not a finite number"),
        (point(2**63), "x: not a 64-bit integer"),
        (point(-(2**63) - 1), "x: not a 64-bit integer"),
        (point("é" * (MAX_STRING // 2 + 1)), "x: longer than 65536 bytes"),
        (point(time=MAX_TIME + 1), "time: not between"),
        (point(time=-MAX_TIME - 1), "time: not between"),
        (point(name="service"), "service: both a tag and a field"),
        (Point("latency", {}, 60, {}), "no fields"),
        (point(measurement="# comment"), "a name must be"),
        (point(name="_field"), "a name must be"),
        (point(name="time"), "a name must be"),
        (point(name="x\ny"), "a name must be"),
    ],
)
def test_what_line_protocol_cannot_hold_is_refused_with_a_reason(bad: Point, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        encode(bad)


@pytest.mark.parametrize("time", [MAX_TIME, -MAX_TIME, 0])
def test_every_second_that_fits_is_written(time: int) -> None:
    assert encode(point(time=time)).endswith(f" {time}")
