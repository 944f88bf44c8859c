"""One model call, as an instrumented application reports it.

Field names on the wire are OpenTelemetry's GenAI attributes (semantic conventions 1.41) wherever it has one;
the rest carry the prefix ``tidegauge.``. Durations are in seconds, times in Unix seconds, money in nano-dollars.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from .common import (
    Count,
    EventId,
    Label,
    NanoUSD,
    SchemaVersion,
    Seconds,
    Text,
    Tokens,
    UnixSeconds,
)

MAX_GUARDRAILS: Final = 64
MAX_FINISH_REASONS: Final = 16

GuardrailStage = Literal["input", "output", "retrieval", "tool"]
GuardrailAction = Literal["log", "flag", "redact", "block", "retry", "fallback"]
GuardrailStatus = Literal["ok", "error", "timeout"]


class GuardrailResult(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What one guardrail found in one call. Never carries the matched text."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    stage: GuardrailStage
    triggered: bool
    action: GuardrailAction = "log"
    score: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    duration: Seconds | None = None
    version: Label = ""
    status: GuardrailStatus = "ok"


class RequestEvent(
    msgspec.Struct,
    omit_defaults=True,
    rename={
        "service": "service.name",
        "environment": "deployment.environment.name",
        "team": "tidegauge.team",
        "operation": "gen_ai.operation.name",
        "provider": "gen_ai.provider.name",
        "model": "gen_ai.request.model",
        "response_model": "gen_ai.response.model",
        "response_id": "gen_ai.response.id",
        "stream": "gen_ai.request.stream",
        "duration": "gen_ai.client.operation.duration",
        "time_to_first_chunk": "gen_ai.response.time_to_first_chunk",
        "input_tokens": "gen_ai.usage.input_tokens",
        "output_tokens": "gen_ai.usage.output_tokens",
        "cache_read_input_tokens": "gen_ai.usage.cache_read.input_tokens",
        "cache_creation_input_tokens": "gen_ai.usage.cache_creation.input_tokens",
        "cache_creation_1h_input_tokens": "tidegauge.usage.cache_creation_1h.input_tokens",
        "reasoning_output_tokens": "gen_ai.usage.reasoning.output_tokens",
        "usage_estimated": "tidegauge.usage.estimated",
        "cost": "tidegauge.cost.nano_usd",
        "finish_reasons": "gen_ai.response.finish_reasons",
        "error": "error.type",
        "retries": "tidegauge.retries",
        "prompt": "gen_ai.prompt.name",
        "prompt_version": "tidegauge.prompt.version",
        "prompt_hash": "tidegauge.prompt.hash",
        "user": "user.id",
        "conversation": "gen_ai.conversation.id",
        "guardrails": "tidegauge.guardrails",
        "input_text": "tidegauge.input.text",
        "output_text": "tidegauge.output.text",
    },
):
    """A request event.

    ``time`` is when the call was issued. ``input_tokens`` includes cache reads and cache writes, and
    ``output_tokens`` includes reasoning, as OpenTelemetry defines them. ``cache_creation_input_tokens`` counts
    all cache writes; ``cache_creation_1h_input_tokens`` is the part of it with the one-hour lifetime.
    ``cost`` is set only where the provider itself reported it.
    """

    id: EventId
    time: UnixSeconds
    service: Label = ""
    provider: Label = ""
    model: Label = ""
    environment: Label = ""
    team: Label = ""
    operation: Label = "chat"
    response_model: Label = ""
    response_id: Label = ""
    stream: bool = False
    duration: Seconds | None = None
    time_to_first_chunk: Seconds | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    cache_read_input_tokens: Tokens = 0
    cache_creation_input_tokens: Tokens = 0
    cache_creation_1h_input_tokens: Tokens = 0
    reasoning_output_tokens: Tokens = 0
    usage_estimated: bool = False
    cost: NanoUSD | None = None
    finish_reasons: Annotated[list[Label], Meta(max_length=MAX_FINISH_REASONS)] = []
    error: Label = ""
    retries: Count = 0
    prompt: Label = ""
    prompt_version: Label = ""
    prompt_hash: Label = ""
    user: Label = ""
    conversation: Label = ""
    guardrails: Annotated[list[GuardrailResult], Meta(max_length=MAX_GUARDRAILS)] = []
    input_text: Text | None = None
    output_text: Text | None = None
    schema_version: SchemaVersion = 1
