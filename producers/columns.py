"""The column map: how the columns of a file become the fields of an event.

    time=started:ms,input_tokens=usage.prompt_tokens,duration=latency_ms*0.001

A field is called by its Python name or its name on the wire. A column is a CSV header's name or a JSON key; a dot
goes into nested JSON objects. ``*`` scales a number, exactly in decimal; ``:`` says what a time is in: ``s``,
``ms``, ``us`` or ``ns`` since 1970, ``iso``, or a format of Python's ``strptime``, such as ``%d.%m.%Y %H:%M:%S``.
Without it a number is in seconds and a text is ISO 8601; a text without a zone is UTC. ``@`` says when a number
counts from where that is not 1970: ``time=elapsed_ms:ms@2025-06-01T12:00:00``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from tidegauge.errors import InvalidEventError, UsageError
from tidegauge.schemas.common import MIN_TIME
from tidegauge.schemas.request import RequestEvent

WIRE_NAMES: Final[Mapping[str, str]] = {f.name: f.encode_name for f in msgspec.structs.fields(RequestEvent)}
"""Wire name of each field, by Python name."""
_FIELDS: Final = {**{wire: wire for wire in WIRE_NAMES.values()}, **WIRE_NAMES}
_UNITS: Final = {"s": Decimal(1), "ms": Decimal("1e-3"), "us": Decimal("1e-6"), "ns": Decimal("1e-9")}
_COLUMN: Final = re.compile(
    r"(?P<column>.+?)(?:\*(?P<factor>[\d.eE+-]+))?(?::(?P<unit>s|ms|us|ns|iso|%.+?))?(?:@(?P<origin>[\dTZ:.+-]+))?"
)
# A format of times may hold commas: a part begins where a field is named.
_PARTS: Final = re.compile(r",(?=\s*[\w.]*=)|,(?=[^%=]*(?:,|$))")
_INTEGERS: Final = frozenset(
    WIRE_NAMES[name] for name in WIRE_NAMES if name.endswith("tokens") or name in ("cost", "retries")
)
_FRACTIONS: Final = frozenset(("duration", "time_to_first_chunk"))
_NUMBERS: Final = _INTEGERS | {WIRE_NAMES[name] for name in _FRACTIONS}
_LISTS: Final = frozenset((WIRE_NAMES["finish_reasons"],))
_TIME: Final = "time"


def wire_name(name: str) -> str:
    """The wire name of a field of request events; raises ``UsageError``."""
    try:
        return _FIELDS[name]
    except KeyError:
        raise UsageError(
            f"'{name}' is no field of a request event; fields are {', '.join(WIRE_NAMES)}"
        ) from None


@dataclass(frozen=True)
class Column:
    """Where a field's value comes from."""

    field: str
    """The wire name."""
    column: str
    factor: Decimal | None = None
    unit: str = ""
    origin: Decimal = Decimal(0)
    """Unix seconds from which a time counts."""


class ColumnMap:
    """Makes the fields of an event out of a row.

    Args:
        columns: where each field comes from; one of them must be ``time``.
    """

    def __init__(self, columns: Iterable[Column]) -> None:
        self.columns: Final = tuple(columns)
        if _TIME not in {c.field for c in self.columns}:
            raise UsageError("there is no column for 'time'; name it in the map: time=COLUMN")

    @classmethod
    def parse(cls, text: str) -> ColumnMap:
        """Read ``field=column[*factor][:unit][@origin],…``; raises ``UsageError``."""
        columns: dict[str, Column] = {}
        for part in _PARTS.split(text):
            name, equals, source = part.strip().partition("=")
            match = _COLUMN.fullmatch(source.strip())
            if not equals or match is None:
                raise UsageError(f"map: '{part.strip()}': expected FIELD=COLUMN[*FACTOR][:UNIT][@ORIGIN]")
            field = wire_name(name.strip())
            if field in columns:
                raise UsageError(f"map: '{name}' is given twice")
            factor = _factor(match["factor"]) if match["factor"] else None
            if factor is not None and field not in _NUMBERS | {_TIME}:
                raise UsageError(f"map: '{name}' is no number, and takes no factor")
            if match["unit"] and field != _TIME:
                raise UsageError(f"map: '{name}': ':{match['unit']}' is for time alone; scale with *FACTOR")
            columns[field] = Column(
                field,
                match["column"],
                factor,
                match["unit"] or "",
                _origin(name, match["origin"], match["unit"]),
            )
        return cls(columns.values())

    @classmethod
    def of_header(cls, header: Iterable[str]) -> ColumnMap:
        """The map of a file whose columns bear the fields' names; other columns are left out."""
        columns = {_FIELDS[name]: Column(_FIELDS[name], name) for name in header if name in _FIELDS}
        return cls(columns.values())

    def check(self, header: Collection[str]) -> None:
        """Raise ``UsageError`` if a column is not there."""
        for column in self.columns:
            if column.column not in header:
                raise UsageError(
                    f"no column '{column.column}' in the file; its columns are {', '.join(header)[:500]}"
                )

    def fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The event's fields by wire name; what the row leaves empty is absent.

        Raises:
            InvalidEventError: a value cannot be what its field wants.
        """
        fields: dict[str, Any] = {}
        for column in self.columns:
            value = _look_up(row, column.column)
            if value is None or value == "":
                continue
            if column.field == _TIME:
                fields[_TIME] = _time(value, column)
            elif column.field in _NUMBERS:
                fields[column.field] = _number(value, column)
            elif column.field in _LISTS and not isinstance(value, list):
                fields[column.field] = [value]
            elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
                # A numeric user or conversation id.
                fields[column.field] = str(value)
            else:
                fields[column.field] = value
        return fields


def iso_time(text: str, field: str = _TIME) -> float:
    """Unix seconds of an ISO 8601 time, UTC where it names no zone; raises ``InvalidEventError``."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidEventError("wrong_type", field, "a time in ISO 8601") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _origin(name: str, text: str | None, unit: str | None) -> Decimal:
    if text is None:
        return Decimal(0)
    if wire_name(name.strip()) != _TIME or (unit is not None and unit not in _UNITS):
        raise UsageError(f"map: '{name}': '@{text}' is for times that are numbers alone")
    try:
        origin = Decimal(text) if _is_number(text) else Decimal(repr(iso_time(text)))
    except InvalidEventError:
        origin = Decimal(0)
    if origin < MIN_TIME:
        raise UsageError(f"map: '@{text}': expected ISO 8601 or Unix seconds, from 2001 on")
    return origin


def _factor(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise UsageError(f"map: '*{text}': expected a number") from None


def _look_up(row: Mapping[str, Any], column: str) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _decimal(value: Any, field: str) -> Decimal:
    if not isinstance(value, str | int | float | Decimal) or isinstance(value, bool):
        raise InvalidEventError("wrong_type", field, "a number")
    try:
        number = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        raise InvalidEventError("wrong_type", field, "a number") from None
    if not number.is_finite():
        raise InvalidEventError("out_of_range", field, "a finite number")
    return number


def _number(value: Any, column: Column) -> int | float:
    number = _decimal(value, column.field)
    if column.factor is not None:
        number *= column.factor
    if column.field not in _INTEGERS:
        return float(number)
    if abs(number) > 10**30:
        raise InvalidEventError("out_of_range", column.field, "a smaller number")
    whole = number.to_integral_value(ROUND_HALF_EVEN)
    # Money may have been scaled from dollars; half a token is a mistake in the map.
    if whole != number and column.field != WIRE_NAMES["cost"]:
        raise InvalidEventError("wrong_type", column.field, "a whole number")
    return int(whole)


def _time(value: Any, column: Column) -> float:
    if column.unit == "iso" or (not column.unit and isinstance(value, str) and not _is_number(value)):
        if not isinstance(value, str):
            raise InvalidEventError("wrong_type", _TIME, "a time in ISO 8601")
        return iso_time(value)
    if column.unit.startswith("%"):
        try:
            moment = datetime.strptime(str(value), column.unit)  # noqa: DTZ007 (most formats name no zone)
        except ValueError:
            raise InvalidEventError("wrong_type", _TIME, f"a time written as {column.unit}") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    number = _decimal(value, _TIME) * _UNITS[column.unit or "s"]
    return float(column.origin + (number if column.factor is None else number * column.factor))


def _is_number(text: str) -> bool:
    try:
        Decimal(text)
    except InvalidOperation:
        return False
    return True
