"""Incidents on request: what goes wrong in simulated traffic, and how it looks in the events."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from msgspec.structs import replace

from tidegauge.errors import UsageError
from tidegauge.schemas.request import RequestEvent

DRIFT_VERSION: Final = "16"


@dataclass(frozen=True)
class Incident:
    """Something that goes wrong.

    Attributes:
        kind: one of ``KINDS``.
        at: when it begins, in seconds after the traffic's start.
        duration: how long it lasts, in seconds.
    """

    kind: str
    at: float = 0.0
    duration: float = math.inf

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"no incident '{self.kind}'; incidents are {', '.join(KINDS)}")
        if not 0 <= self.at < math.inf or not self.duration > 0:
            raise UsageError("incident: expected at ≥ 0 and a duration above 0")

    def covers(self, seconds: float) -> bool:
        """Whether it is on, so many seconds after the start."""
        return self.at <= seconds < self.at + self.duration

    def strike(self, event: RequestEvent, random: Random) -> None:
        """Change an event as the incident would have it; most kinds spare most events."""
        KINDS[self.kind](event, random)

    def approval(self, event: RequestEvent, usual: float) -> float:
        """The share of thumbs that are up, during the incident."""
        return 0.4 if self.kind == "drift" and event.prompt_version == DRIFT_VERSION else usual


def _cost(event: RequestEvent, random: Random) -> None:
    # Someone put whole documents into the prompt, anew each time, so that no cache helps.
    if event.service == "support-chat" and not event.error and event.input_tokens is not None:
        event.input_tokens = min(event.input_tokens * 8, 180_000)
        event.cache_read_input_tokens = 0
        event.cache_creation_input_tokens = event.cache_creation_1h_input_tokens = 0


def _latency(event: RequestEvent, random: Random) -> None:
    # One provider is slow: to begin with, and in every token after.
    if event.provider == "anthropic" and event.duration is not None:
        event.duration *= 4
        if event.time_to_first_chunk is not None:
            event.time_to_first_chunk *= 4


def _drift(event: RequestEvent, random: Random) -> None:
    # A new version of a prompt makes the answers short, and people do not like them.
    if event.prompt == "answer-question" and event.prompt_version == "15":
        event.prompt_version = DRIFT_VERSION
        if event.output_tokens is not None and event.duration is not None:
            first = event.time_to_first_chunk or event.duration * 0.3
            event.output_tokens = max(1, round(event.output_tokens * 0.45))
            event.duration = first + (event.duration - first) * 0.45


def _guardrail(event: RequestEvent, random: Random) -> None:
    # A wave of prompt injections.
    if event.service == "support-chat" and random.random() < 0.3:
        event.guardrails = [
            replace(result, triggered=True, score=round(random.uniform(0.8, 1.0), 3))
            if result.name == "prompt-injection"
            else result
            for result in event.guardrails
        ]


def _errors(event: RequestEvent, random: Random) -> None:
    # One provider is overloaded.
    if event.provider == "anthropic":
        if random.random() < 0.4:
            fail(event, "OverloadedError", random.lognormvariate(math.log(1.5), 0.4), retries=2)
        elif random.random() < 0.5:
            event.retries += 1


KINDS: Final[dict[str, Callable[[RequestEvent, Random], None]]] = {
    "cost": _cost,
    "latency": _latency,
    "drift": _drift,
    "guardrail": _guardrail,
    "errors": _errors,
}


def fail(event: RequestEvent, error: str, duration: float, retries: int) -> None:
    """Make an event one of a call that failed: no answer, no usage."""
    event.error = error
    event.retries = retries
    event.duration = duration
    event.time_to_first_chunk = None
    event.input_tokens = event.output_tokens = None
    event.cache_read_input_tokens = 0
    event.cache_creation_input_tokens = event.cache_creation_1h_input_tokens = 0
    event.finish_reasons = []
    event.guardrails = [result for result in event.guardrails if result.stage == "input"]
    event.response_model = event.response_id = ""
