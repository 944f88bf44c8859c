"""Cuts what is too much for one Kafka message into several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from tidegauge.schemas.codec import MAX_MESSAGE_BYTES, encode
from tidegauge.schemas.pane import PaneBatch, PaneSnapshot

from .cardinality import Admitted

PANES_PER_MESSAGE: Final = 1_000

T = TypeVar("T")


def pane_messages(
    batch: PaneBatch, panes: Sequence[PaneSnapshot], limit: int = MAX_MESSAGE_BYTES
) -> list[bytes]:
    """A batch with these of its panes, in as many messages as it takes; at least one.

    Only the last may say how far the source is: panes of the messages after it would be too late.
    """

    def message(some: Sequence[PaneSnapshot], last: bool) -> bytes:  # noqa: FBT001
        watermark = batch.watermark if last else 0.0
        return encode(msgspec.structs.replace(batch, panes=list(some), watermark=watermark))

    return _cut(panes, message, PANES_PER_MESSAGE, limit)


def admitted_messages(admitted: Admitted, limit: int = MAX_MESSAGE_BYTES) -> list[bytes]:
    """The admissions of an epoch and day, in as many values as it takes; each says as much as one of fewer keys."""
    entries = [(family, key) for family, keys in admitted.keys.items() for key in keys]

    def message(some: Sequence[tuple[str, tuple[str, ...]]], last: bool) -> bytes:  # noqa: FBT001
        keys: dict[str, list[tuple[str, ...]]] = {}
        for family, key in some:
            keys.setdefault(family, []).append(key)
        return encode(Admitted(admitted.epoch, admitted.day, keys))

    return _cut(entries, message, len(entries), limit)


def _cut(
    items: Sequence[T], message: Callable[[Sequence[T], bool], bytes], most: int, limit: int
) -> list[bytes]:
    """Messages of at most ``most`` items each, and within ``limit`` bytes unless one item alone is larger."""
    messages: list[bytes] = []
    # What is to be sent next is at the end. Measured once encoded: nearly always it is within the limit at once.
    left = [items[i : i + most] for i in range(0, max(1, len(items)), max(1, most))][::-1]
    while left:
        some = left.pop()
        made = message(some, not left)
        if len(made) > limit and len(some) > 1:
            half = len(some) // 2
            left += [some[half:], some[:half]]
        else:
            messages.append(made)
    return messages
