"""A request to the second stage to store panes again: something older may have been written over them."""

from __future__ import annotations

import msgspec

from .common import SchemaVersion


class RewrittenPane(msgspec.Struct, array_like=True, frozen=True):
    """Which pane: of which view, for which values of its dimensions, beginning when (Unix seconds)."""

    view: str
    key: tuple[str, ...]
    start: int


class RewriteBatch(msgspec.Struct, frozen=True, tag="rewrite", tag_field="type"):
    """Panes of one panes partition whose points may be older in the store than what is known of them.

    Sent by a worker that was frozen, or out of the group, while it wrote them: their new owner's values may have been
    in the store already.
    """

    panes: list[RewrittenPane]
    schema_version: SchemaVersion = 1
