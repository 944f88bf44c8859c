"""Event-driven monitoring for LLM applications: event time, counted once, to the nano-dollar."""

from __future__ import annotations

__version__ = "0.1.0"
