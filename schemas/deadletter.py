"""A message that could not be processed, with where it came from and why."""

from __future__ import annotations

from typing import Final

import msgspec

from .common import SchemaVersion, UnixSeconds

MAX_COPY_BYTES: Final = 16_384


class DeadLetter(msgspec.Struct, omit_defaults=True):
    """``payload`` is the message, or the first ``MAX_COPY_BYTES`` of it (``payload_size`` tells), in base64.

    ``index`` is the position in a JSON array of events, or ``None`` where the whole message is at fault; in an
    array's case ``payload`` holds that one event. ``sink`` letters hold a line that the store refused.
    """

    topic: str
    partition: int
    offset: int
    reason: str
    field: str
    detail: str
    time: UnixSeconds
    payload: bytes
    payload_size: int
    index: int | None = None
    schema_version: SchemaVersion = 1

    @property
    def truncated(self) -> bool:
        """Whether the copy is shorter than the message was."""
        return self.payload_size > len(self.payload)
