r"""Points as InfluxDB line protocol, and the reversible spelling of text that it cannot hold.

Line protocol has no spelling for a line break in a tag, reads a backslash before a separator as an escape, and
forbids empty tags. So tags and string fields are stored with percent escapes of their UTF-8 bytes for just the
characters that would go wrong: ``a\b`` is stored as ``a%5Cb``, ``50%`` as ``50%25``, and ``gpt-4, high`` as it is.
The set of escaped characters is part of the stored format: changing it would give old series a second name.

Syntax: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/
"""

from __future__ import annotations

import math
import re
from typing import Final
from urllib.parse import unquote

from .base import FieldValue, Point

# Besides what line protocol forbids: control characters and Unicode's own line breaks, on which CSV readers split
# the answers; halves of surrogate pairs, which UTF-8 cannot hold; and the two non-characters.
_TROUBLE: Final = re.compile("[%\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_EMPTY: Final = "%"
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_RESERVED: Final = frozenset({"time", "result", "table", "error", "reference"})
_SEPARATORS: Final = str.maketrans({",": "\\,", "=": "\\=", " ": "\\ "})
_INT64: Final = 2**63
MAX_TIME: Final = (_INT64 - 1) // 1_000_000_000
"""InfluxDB keeps nanoseconds in 64 bits; whole seconds from -MAX_TIME to MAX_TIME fit (years 1677 to 2262)."""

MAX_STRING: Final = 65_536
"""Bytes of a string field, as stored; InfluxDB's documented limit, which 2.7 itself does not enforce."""


def escape(text: str) -> str:
    """The text as it is stored; ``unescape`` gives it back, and different texts stay different."""
    return _TROUBLE.sub(_percent, text) if text else _EMPTY


def unescape(stored: str) -> str:
    """The text that ``escape`` was given."""
    if "%" not in stored:
        return stored
    return "" if stored == _EMPTY else unquote(stored, errors="surrogatepass")


def encode(point: Point) -> str:
    """The point as one line without its line break, time in seconds. Empty tags are left out.

    Raises:
        ValueError: line protocol cannot hold the point; the text says why in a few words.
    """
    _check_name(point.measurement)
    if not point.fields:
        raise ValueError("no fields")
    if not -MAX_TIME <= point.time <= MAX_TIME:
        raise ValueError("time: not between the years 1677 and 2262")
    parts = [point.measurement]
    for name, text in sorted(point.tags.items()):
        _check_name(name)
        if name in point.fields:
            raise ValueError(f"{name}: both a tag and a field")
        if text:
            parts.append(f"{name}={escape(text).translate(_SEPARATORS)}")
    fields = ",".join(f"{_checked(name)}={_value(name, value)}" for name, value in point.fields.items())
    return f"{','.join(parts)} {fields} {point.time}"


def _value(name: str, value: FieldValue) -> str:
    if isinstance(value, str):
        # Backslashes are gone by now, so that the quote is all that is left to escape.
        stored = escape(value)
        if len(stored.encode()) > MAX_STRING:
            raise ValueError(f"{name}: longer than {MAX_STRING} bytes")
        return '"' + stored.replace('"', '\\"') + '"'
    if isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            raise ValueError(f"{name}: not a 64-bit integer")
        return f"{int(value)}i"
    if not math.isfinite(value):
        raise ValueError(f"{name}: not a finite number")
    return repr(float(value))


def _checked(name: str) -> str:
    _check_name(name)
    return name


def _check_name(name: str) -> None:
    # Names are tidegauge's own, from the table of views; so there is nothing to escape in a good one.
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise ValueError(
            "a name must be letters, digits, '_', '.' or '-', start with a letter, not be reserved"
        )


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))
