"""One model call: a context manager that becomes one request event.

Nothing here may break the application: what goes wrong in our own code is counted
(``EmitterStats.internal_errors``) and the application's call goes on. What the application's call raises is
re-raised untouched.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tidegauge.schemas.request import (
    GuardrailAction,
    GuardrailResult,
    GuardrailStage,
    GuardrailStatus,
    RequestEvent,
)

from .receipt import encode_receipt

if TYPE_CHECKING:
    from .client import Client

AFTER_FINISH = "after_finish"
ABANDONED = "abandoned"


class Call:
    """A model call being measured; made by ``Client.call``, and emitted exactly once when it is finished.

    Use it with ``with`` or ``async with``, or call ``finish`` yourself (streams). The clock starts when the
    call is made. Set what you know while the block runs: what comes after ``finish`` is not part of the event
    any more; it is ignored and counted under ``adjusted["after_finish"]``. A call that is neither left nor
    finished before it is garbage collected is counted under ``adjusted["abandoned"]``.

    Values that the wire would refuse are put right when the event is sent, and counted under ``adjusted`` by
    their wire name: see ``tidegauge.producers.fit``.
    """

    __slots__ = ("_client", "_done", "_event", "_started")

    def __init__(self, client: Client, event: RequestEvent) -> None:
        self._done = False
        self._client = client
        self._event = event
        self._started = time.perf_counter()

    @property
    def event_id(self) -> str:
        """The event's id, which is also the ``request_id`` of feedback."""
        return self._event.id

    @property
    def finished(self) -> bool:
        """Whether the event has been handed over."""
        return self._done

    @property
    def receipt(self) -> str:
        """What to hand to the front end, and get back with feedback. See ``tidegauge.producers.receipt``."""
        try:
            return encode_receipt(self._event)
        except Exception as error:
            self._client.internal_error(error)
            return self._event.id

    def set_usage(
        self,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cache_read_input_tokens: int = 0,
        cache_creation_input_tokens: int = 0,
        cache_creation_1h_input_tokens: int = 0,
        reasoning_output_tokens: int = 0,
        estimated: bool = False,
    ) -> None:
        """Set the tokens; replaces what was set before.

        As OpenTelemetry defines them: ``input_tokens`` includes cache reads and cache writes,
        ``output_tokens`` includes reasoning. ``cache_creation_input_tokens`` counts all cache writes, the
        one-hour ones included.

        Args:
            input_tokens: all of the prompt, or ``None`` if unknown.
            output_tokens: all of the answer, or ``None`` if unknown.
            cache_read_input_tokens: the part of the input that was read from the provider's cache.
            cache_creation_input_tokens: the part of the input that was written to it.
            cache_creation_1h_input_tokens: the part of those writes with the one-hour lifetime.
            reasoning_output_tokens: the part of the output that was reasoning.
            estimated: the numbers are our own count and not the provider's.
        """
        if self._done:
            self._late()
            return
        event = self._event
        event.input_tokens = input_tokens
        event.output_tokens = output_tokens
        event.cache_read_input_tokens = cache_read_input_tokens
        event.cache_creation_input_tokens = cache_creation_input_tokens
        event.cache_creation_1h_input_tokens = cache_creation_1h_input_tokens
        event.reasoning_output_tokens = reasoning_output_tokens
        event.usage_estimated = estimated

    def set_response(
        self,
        *,
        model: str | None = None,
        id: str | None = None,  # noqa: A002 - OpenTelemetry's name
        finish_reasons: Sequence[str] | None = None,
    ) -> None:
        """Set what the provider said of its answer; ``None`` leaves a value as it is."""
        if self._done:
            self._late()
            return
        event = self._event
        if model is not None:
            event.response_model = model
        if id is not None:
            event.response_id = id
        if finish_reasons is not None:
            try:
                event.finish_reasons = list(finish_reasons)
            except Exception as error:
                self._client.internal_error(error)

    def set_cost(self, nano_usd: int) -> None:
        """Set the cost in nano-dollars (1e-9 USD), only where the provider itself reported it."""
        if self._done:
            self._late()
        else:
            self._event.cost = nano_usd

    def first_chunk(self) -> None:
        """Say that the first chunk of a stream has come; only the first time counts."""
        now = time.perf_counter()
        event = self._event
        if event.time_to_first_chunk is None and not self._done:
            event.time_to_first_chunk = now - self._started

    def set_retries(self, n: int) -> None:
        """Set how many attempts went before the one that counted."""
        if self._done:
            self._late()
        else:
            self._event.retries = n

    def guardrail(
        self,
        name: str,
        *,
        stage: GuardrailStage,
        triggered: bool,
        action: GuardrailAction = "log",
        score: float | None = None,
        duration: float | None = None,
        version: str = "",
        status: GuardrailStatus = "ok",
    ) -> None:
        """Attach what one guardrail found. Never pass the matched text.

        Args:
            name: which guardrail.
            stage: what it looked at.
            triggered: whether it found something.
            action: what was done about it.
            score: its confidence, 0 … 1.
            duration: seconds it took.
            version: of the guardrail, for telling a change of detector from a change of traffic.
            status: ``error`` or ``timeout`` where it gave no verdict.
        """
        if self._done:
            self._late()
            return
        self._event.guardrails.append(
            GuardrailResult(name, stage, triggered, action, score, duration, version, status)
        )

    def set_text(self, input: str | None = None, output: str | None = None) -> None:  # noqa: A002
        """Attach the prompt's and the answer's text; ignored unless ``emitter.capture_text`` is set.

        The client's redaction hook sees the whole text first, then it is cut to ``emitter.max_text_length``
        characters: cutting first could cut a secret in two, and hide it from the hook. A hook that fails
        drops the text, and is counted under ``adjusted["redact_failed"]``.
        """
        client = self._client
        if not client.capture_text:
            return
        if self._done:
            self._late()
            return
        if input is not None:
            self._event.input_text = client.redacted(input)
        if output is not None:
            self._event.output_text = client.redacted(output)

    def fail(self, error_type: str) -> None:
        """Record the call as failed: a class name such as ``anthropic.RateLimitError``, never a message."""
        if self._done:
            self._late()
        else:
            self._event.error = error_type

    def stop(self) -> None:
        """Stop the clock and leave the call open: checks of the answer are no part of its duration."""
        now = time.perf_counter()
        if self._event.duration is None and not self._done:
            self._event.duration = now - self._started

    def finish(self) -> None:
        """Stop the clock, if ``stop`` has not, and emit the event; further calls do nothing."""
        self.stop()
        if self._done:
            return
        self._done = True
        self._client.record(self._event)

    def _late(self) -> None:
        self._client.note(AFTER_FINISH)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # GeneratorExit is a consumer that has read enough of a stream, not a failure.
        if kind is not None and kind is not GeneratorExit and not self._done and not self._event.error:
            self._event.error = error_type(kind)
        self.finish()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __del__(self) -> None:
        if self._done:
            return
        if self._event.duration is not None:
            # Stopped, so complete: in a garbage cycle we may be finalised before the block that would finish us.
            self.finish()
        else:
            self._client.note(ABANDONED)


def error_type(kind: type[BaseException]) -> str:
    """OpenTelemetry's ``error.type`` of an exception class: its qualified name."""
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"
