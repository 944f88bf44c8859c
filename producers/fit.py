"""Makes an event fit the wire: what the worker would refuse is put right here, and counted, instead of lost.

Each event is encoded and decoded with the very decoder that the worker uses. Only where that refuses it, or
gives something else back, its fields are looked at one by one. What happens to a wrong value:

- text longer than the cap is cut; lone surrogates in it become "?";
- a number, UUID or the like where text is wanted becomes its text; numpy's scalars become Python's;
- a number out of range, NaN or infinite is left out if the field may be unknown: a negative count is no
  measurement, and must not look like a measured 0; else it becomes the nearest bound;
- any other wrong value gives way to the field's default;
- lists are cut at their cap, and items that cannot be put right are left out;
- an id longer than the cap becomes its SHA-256, so that repeats still meet;
- with a wrong value in a required field the event is refused.

The limits are read from the wire types: there is no second copy of them.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import inspect

from tidegauge.errors import InvalidEventError
from tidegauge.schemas.codec import encode, explain
from tidegauge.schemas.common import MAX_ID_LENGTH

_WRONG: Final = object()
Note = Callable[[str], None]


class Fitter:
    """Encodes events of one wire type, so that the wire takes them.

    Args:
        kind: the struct.
        note: called with the wire name of each value that was changed or left out.
    """

    def __init__(self, kind: type[msgspec.Struct], note: Note) -> None:
        info = inspect.type_info(kind)
        assert isinstance(info, inspect.StructType)
        self._info = info
        self._note = note
        self._decode = msgspec.json.Decoder(kind).decode

    def encode(self, event: Any) -> tuple[str, bytes]:
        """The event's id, and its JSON.

        Raises:
            InvalidEventError: it cannot be made to fit.
        """
        try:
            data = encode(event)
            # Equality finds what JSON changes without a word: NaN, which becomes null.
            if self._decode(data) == event:
                return event.id, data
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
            pass  # found again below, field by field
        fitted, adjusted = _fit_struct(event, self._info)
        if fitted is _WRONG:
            raise InvalidEventError("invalid", adjusted[-1], "a value that the wire takes")
        try:
            data = encode(fitted)
            self._decode(data)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise explain(error) from None
        for name in adjusted:
            self._note(name)
        return fitted.id, data


def _fit_struct(value: Any, info: inspect.StructType) -> tuple[Any, list[str]]:
    """The struct put right, and the wire names of what was changed; if it is wrong, the last is guilty."""
    adjusted: list[str] = []
    changes: dict[str, Any] = {}
    for field in info.fields:
        before = getattr(value, field.name)
        inner: list[str] = []
        if field.name == "id" and isinstance(before, str) and len(before) > MAX_ID_LENGTH:
            after: Any = hashlib.sha256(before.encode("utf-8", "replace")).hexdigest()
        else:
            after = _fit(before, field.type, inner)
        if after is _WRONG:
            if field.required:
                return _WRONG, [*adjusted, field.encode_name]
            after = _default(field)
        if inner:
            adjusted += [f"{field.encode_name}.{name}" for name in inner]
        elif after != (list(before) if isinstance(before, tuple) else before):
            adjusted.append(field.encode_name)
        changes[field.name] = after
    return msgspec.structs.replace(value, **changes), adjusted


def _default(field: inspect.Field) -> Any:
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default


def _fit(value: Any, info: inspect.Type, inner: list[str], *, optional: bool = False) -> Any:
    if isinstance(info, inspect.Metadata):
        return _fit(value, info.type, inner, optional=optional)
    if isinstance(info, inspect.UnionType):
        if value is None:
            return None
        kinds = [t for t in info.types if not isinstance(t, inspect.NoneType)]
        fitted = _fit(value, kinds[0], inner, optional=True)
        return None if fitted is _WRONG else fitted
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    if isinstance(info, inspect.StrType):
        return _fit_text(value, info)
    if isinstance(info, inspect.BoolType):
        return value if isinstance(value, bool) else _WRONG
    if isinstance(info, inspect.IntType):
        return _fit_int(value, info, optional=optional)
    if isinstance(info, inspect.FloatType):
        return _fit_float(value, info, optional=optional)
    if isinstance(info, inspect.LiteralType):
        return value if isinstance(value, (str, int)) and value in info.values else _WRONG
    if isinstance(info, inspect.ListType):
        return _fit_list(value, info, inner)
    if isinstance(info, inspect.StructType):
        if type(value) is not info.cls:
            return _WRONG
        fitted, names = _fit_struct(value, info)
        inner += names
        return fitted
    return _WRONG


def _fit_text(value: Any, info: inspect.StrType) -> Any:
    if not isinstance(value, str):
        if value is None or isinstance(value, (bytes, list, tuple, dict, set, msgspec.Struct)):
            return _WRONG
        try:
            value = str(value)
        except Exception:
            return _WRONG
    value = value[: info.max_length].encode("utf-8", "replace").decode("utf-8")
    return _WRONG if len(value) < (info.min_length or 0) else value


def _fit_int(value: Any, info: inspect.IntType, *, optional: bool) -> Any:
    if isinstance(value, bool):
        return _WRONG
    try:
        number = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError:
        return _WRONG
    return _within(number, info, optional=optional)


def _fit_float(value: Any, info: inspect.FloatType, *, optional: bool) -> Any:
    if isinstance(value, (bool, str, bytes)):
        return _WRONG
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return _WRONG
    return _within(number, info, optional=optional) if math.isfinite(number) else _WRONG


def _within(number: Any, info: inspect.IntType | inspect.FloatType, *, optional: bool) -> Any:
    low, high = info.ge, info.le
    if (low is None or number >= low) and (high is None or number <= high):
        return number
    if optional or isinstance(info, inspect.FloatType):
        return _WRONG
    return low if low is not None and number < low else high


def _fit_list(value: Any, info: inspect.ListType, inner: list[str]) -> Any:
    if not isinstance(value, (list, tuple)):
        return _WRONG
    items = []
    for item in value[: info.max_length]:
        fitted = _fit(item, info.item_type, inner)
        if fitted is not _WRONG:
            items.append(fitted)
    return items
