"""What on-call is told."""

from __future__ import annotations

from typing import Literal

import msgspec

from .common import EventId, Label, SchemaVersion, UnixSeconds


class Alert(msgspec.Struct, omit_defaults=True):
    """A change of state of one alert. ``key`` is stable over all changes of the same alert.

    ``value`` and ``threshold`` are in ``unit``; ``since`` is when the condition began, ``time`` when this change
    was decided (both Unix seconds of event time). ``command`` shows the data behind it.
    """

    id: EventId
    key: Label
    time: UnixSeconds
    rule: Label
    state: Literal["pending", "firing", "resolved", "no_data"]
    severity: Literal["info", "warning", "critical"]
    summary: Label
    since: UnixSeconds
    value: float | None = None
    threshold: float | None = None
    unit: Label = ""
    labels: dict[str, str] = {}
    command: str = ""
    schema_version: SchemaVersion = 1
