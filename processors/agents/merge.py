"""The merge agent: chunks of pane snapshots to the second stage."""

from __future__ import annotations

from typing import Any

from tidegauge.processors.engine.merging import Merging

from . import chunks


def attach(app: Any, merging: Merging) -> None:
    """Add the agent to a Faust app."""
    chunks.attach(app, "merge", merging)
