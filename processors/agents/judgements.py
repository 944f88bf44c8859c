"""The judgements agent: chunks of judgements to the first stage."""

from __future__ import annotations

from typing import Any

from tidegauge.processors.engine.ingesting import Ingesting

from . import chunks


def attach(app: Any, ingesting: Ingesting) -> None:
    """Add the agent to a Faust app."""
    chunks.attach(app, "judgements", ingesting)
