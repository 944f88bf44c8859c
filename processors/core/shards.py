"""How the second stage holds and stores panes: in shards, which are only unpacked while they are being touched.

Most panes are held for hours after the last event that reached them, in case of a late one. Packed they take a
fraction of the memory, and a restart need not unpack them at all.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from zlib import compress, crc32, decompress

import msgspec

from tidegauge.schemas.pane import SketchSnapshot

Key = tuple[str, ...]
Source = tuple[str, int]
"""A topic of events and one of its partitions."""

SHARDS: Final = 64
"""Shards of the panes of one view and start."""


class Part(msgspec.Struct, array_like=True):
    """One source partition's share of a pane: sealed epochs' sum, and the current epoch's newest snapshot.

    The part of the source ``BASE`` is what the store held of a pane that had been given up.
    """

    topic: str
    partition: int
    epoch: int
    last: int
    counters: list[int]
    sketches: list[SketchSnapshot]
    sealed_counters: list[int] = []
    sealed_sketches: list[SketchSnapshot] = []


BASE: Final[Source] = ("", -1)


class PaneState(msgspec.Struct, array_like=True):
    """All that is known of one pane."""

    key: Key
    parts: list[Part]


class ShardName(msgspec.Struct, frozen=True, array_like=True, order=True):
    """What identifies a shard, in memory and, as text, in the stored state."""

    view: str
    start: int
    number: int

    def __str__(self) -> str:
        return f"{self.view}/{self.start}/{self.number}"

    @classmethod
    def parse(cls, text: str) -> ShardName:
        """The name that ``str`` gave."""
        view, start, number = text.rsplit("/", 2)
        return cls(view, int(start), int(number))

    @classmethod
    def of(cls, view: str, start: int, key: Key) -> ShardName:
        """The shard that a pane belongs to."""
        return cls(view, start, crc32("\x1f".join(key).encode(errors="surrogatepass")) % SHARDS)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[PaneState]).decode


class Shard:
    """Panes of one view and start, by key.

    Args:
        packed: what ``pack`` gave; ``None`` begins an empty shard.
    """

    __slots__ = ("_packed", "_panes", "held_by")

    def __init__(self, packed: bytes | None = None) -> None:
        self._packed = packed
        self._panes: dict[Key, PaneState] | None = None if packed else {}
        self.held_by: Source | None = None
        """A source that could still reach a pane in here when that was last asked."""

    def read(self) -> dict[Key, PaneState]:
        """The panes, to look at once: unpacked for the caller alone where they are packed."""
        return self._unpack() if self._panes is None else self._panes

    def wake(self) -> dict[Key, PaneState]:
        """The panes, to look at again and again; ``touch`` before changing them."""
        if self._panes is None:
            self._panes = self._unpack()
        return self._panes

    def touch(self) -> None:
        """Forget the packed form: the panes are about to change."""
        self._packed = None

    def pack(self, leave_out: Collection[Key] = ()) -> bytes:
        """The panes as bytes, without those named."""
        if self._packed is not None:
            return self._packed
        panes = self.read()
        packed = compress(_encode([pane for key, pane in panes.items() if key not in leave_out]), 1)
        if not leave_out:
            self._packed = packed
        return packed

    def rest(self) -> None:
        """Keep only the packed form, where there is one."""
        if self._packed is not None:
            self._panes = None

    def _unpack(self) -> dict[Key, PaneState]:
        assert self._packed is not None
        return {pane.key: pane for pane in _decode(decompress(self._packed))}
