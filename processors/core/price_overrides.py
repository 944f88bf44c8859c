"""Prices of your own: a TOML file that stands before the built-in table.

    [[price]]
    provider = "anthropic"          # as on the wire, or genai-prices' id
    model = "claude-sonnet-4-5*"    # exact, or a prefix with *
    from = 2026-01-01               # first day, from midnight UTC; optional
    to = 2026-07-01                 # first day that is out again; optional
    input = "2.40"                  # USD per million tokens, as text or number
    output = "12"
    cache_read = "0.24"             # optional, like the next two: see below
    cache_creation = "3"
    cache_creation_1h = "4.80"

An exact name goes before a prefix, and a longer prefix before a shorter one. A cache rate left out is billed
as the built-in table would: reads and writes as input, one-hour writes as writes (Claude models: twice the
input rate).
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from tidegauge.errors import SettingsError

from .price_names import CLAUDE_1H_FACTOR, is_claude, price_provider
from .unit_price import Rates, UnitPrice

_RATES: Final = ("input", "output", "cache_read", "cache_creation", "cache_creation_1h")
_REQUIRED: Final = ("provider", "model", "input", "output")
_KEYS: Final = frozenset(("provider", "model", "from", "to", *_RATES))
_MAX_RATE: Final = Decimal(1_000_000)
_MAX_DECIMALS: Final = 18
_SECONDS_PER_DAY: Final = 86_400


@dataclass(frozen=True)
class _Entry:
    number: int
    provider: str
    model: str
    first: int
    """Day number since the Unix epoch, inclusive."""
    end: int
    """Day number since the Unix epoch, exclusive."""
    unit: UnitPrice

    def overlaps(self, other: _Entry) -> bool:
        return (
            (self.provider, self.model) == (other.provider, other.model)
            and self.first < other.end
            and other.first < self.end
        )


class Overrides:
    """The entries of an override file; make one with ``parse``. ``digest`` is a hash of its text."""

    def __init__(self, entries: list[_Entry], digest: str) -> None:
        self.digest: Final = digest
        self._exact: dict[tuple[str, str], list[_Entry]] = {}
        self._prefixes: dict[str, list[_Entry]] = {}
        for entry in entries:
            if entry.model.endswith("*"):
                self._prefixes.setdefault(entry.provider, []).append(entry)
            else:
                self._exact.setdefault((entry.provider, entry.model), []).append(entry)
        for prefixes in self._prefixes.values():
            prefixes.sort(key=lambda entry: -len(entry.model))

    @classmethod
    def parse(cls, text: str, name: str) -> Overrides:
        """Read the file's text; ``name`` is put before errors.

        Raises:
            SettingsError: names the file, the entry and the field.
        """
        try:
            content = tomllib.loads(text, parse_float=Decimal)
        except (tomllib.TOMLDecodeError, InvalidOperation) as error:
            raise SettingsError(f"{name}: {error}") from None
        unknown = sorted(content.keys() - {"price"})
        if unknown:
            raise SettingsError(f"{name}: {unknown[0]}: no such section; the file is a list of [[price]]")
        tables = content.get("price", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise SettingsError(f"{name}: price: expected a list of tables, written [[price]]")
        entries: list[_Entry] = []
        for number, table in enumerate(tables, 1):
            try:
                entry = _entry(number, table)
                for earlier in entries:
                    if entry.overlaps(earlier):
                        raise SettingsError(f"from: overlaps with entry {earlier.number} of the same model")
            except SettingsError as error:
                raise SettingsError(f"{name}: [[price]] {number}: {error}") from None
            entries.append(entry)
        return cls(entries, hashlib.sha256(text.encode()).hexdigest()[:12])

    def find(self, provider: str, model: str, day: int) -> UnitPrice | None:
        """The price on a day since the Unix epoch; ``provider`` as ``price_provider`` gives it."""
        model = model.lower()
        for entry in self._exact.get((provider, model), ()):
            if entry.first <= day < entry.end:
                return entry.unit
        for entry in self._prefixes.get(provider, ()):
            if entry.first <= day < entry.end and model.startswith(entry.model[:-1]):
                return entry.unit
        return None


def _entry(number: int, table: Mapping[str, Any]) -> _Entry:
    for key in table:
        if key not in _KEYS:
            raise SettingsError(f"{key}: no such field; fields are {', '.join(sorted(_KEYS))}")
    for key in _REQUIRED:
        if key not in table:
            raise SettingsError(f"{key}: is required")
    for key in ("provider", "model"):
        if not isinstance(table[key], str) or not table[key].strip("*"):
            raise SettingsError(f"{key}: expected a name")
    provider, model = price_provider(table["provider"]), table["model"].lower()
    if "*" in model[:-1]:
        raise SettingsError("model: expected * only at the end")
    rates = {key: _rate(key, table[key]) for key in _RATES if key in table}
    if "cache_creation" in rates and "cache_creation_1h" not in rates and is_claude(model):
        rates["cache_creation_1h"] = CLAUDE_1H_FACTOR * rates["input"]
    first = _day("from", table["from"]) if "from" in table else 0
    end = _day("to", table["to"]) if "to" in table else 1 << 30
    if first >= end:
        raise SettingsError("to: expected a day after from")
    return _Entry(number, provider, model, first, end, UnitPrice(Rates(**rates)))


def _rate(key: str, value: object) -> Decimal:
    expected = f"{key}: expected USD per million tokens, 0 … {_MAX_RATE}, with up to {_MAX_DECIMALS} decimals"
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise SettingsError(expected)
    try:
        rate = Decimal(value)
    except InvalidOperation:
        raise SettingsError(expected) from None
    if not rate.is_finite() or not 0 <= rate <= _MAX_RATE:
        raise SettingsError(expected)
    exponent = rate.normalize().as_tuple().exponent
    if isinstance(exponent, int) and exponent < -_MAX_DECIMALS:
        raise SettingsError(expected)
    return rate


def _day(key: str, value: object) -> int:
    if isinstance(value, str):
        with suppress(ValueError):
            value = date.fromisoformat(value)
    if not isinstance(value, date) or isinstance(value, datetime):
        raise SettingsError(f"{key}: expected a day such as 2026-01-31; prices change at midnight UTC")
    return int(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()) // _SECONDS_PER_DAY
