"""The producers' SDK: measure model calls and publish them, without ever getting in the application's way.

    from tidegauge.producers import Client

    client = Client(service="support-bot")

    with client.call(provider="openai", model="gpt-5", prompt="answer", prompt_version="7", user=user_id) as
    call:
        answer = ask_the_model(question)
        call.set_usage(input_tokens=answer.prompt_tokens, output_tokens=answer.completion_tokens)
        call.guardrail("pii", stage="output", triggered=False)
    return answer.text, call.receipt

    client.record_feedback(receipt, thumb=True)

An application that needs one client only may say ``configure(service="support-bot")`` once and use the
functions of this module. Where Kafka is comes from the settings (``tidegauge.settings``).
"""

from __future__ import annotations

from .call import Call
from .client import Client
from .context import Context, context, current_call
from .default import call, configure, default_client, observe, record, record_feedback
from .emitter import Emitter
from .ids import new_event_id, partition_for
from .memory import MemoryEmitter
from .receipt import Receipt, decode_receipt, encode_receipt
from .stats import EmitterStats

__all__ = [
    "Call",
    "Client",
    "Context",
    "Emitter",
    "EmitterStats",
    "MemoryEmitter",
    "Receipt",
    "call",
    "configure",
    "context",
    "current_call",
    "decode_receipt",
    "default_client",
    "encode_receipt",
    "new_event_id",
    "observe",
    "partition_for",
    "record",
    "record_feedback",
]
