"""The client: makes calls, records feedback, and hands events to the emitter."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

from tidegauge.errors import InvalidEventError
from tidegauge.schemas.common import MAX_ID_LENGTH
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import Settings, load

from . import diagnostics
from .call import Call
from .emitter import Emitter
from .ids import new_event_id
from .observe import Decorator, Usage, observe
from .receipt import MAX_RECEIPT_LENGTH, decode_receipt, is_receipt

INTERNAL_ERROR = "internal_error"
REDACT_FAILED = "redact_failed"


class EventEmitter(Protocol):
    """What a client needs of an emitter; ``Emitter`` and ``MemoryEmitter`` have it."""

    def emit(self, event: Any) -> bool:
        """Take an event over; False if it was dropped, which the emitter has counted."""

    def note(self, what: str) -> None:
        """Count something that changed or left out a value of an event."""

    def refuse(self, reason: str) -> None:
        """Count an event that was dropped before it could be emitted."""

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until nothing is waiting; False at the deadline."""

    def close(self, timeout: float | None = None) -> bool:
        """Flush, and refuse events from here on."""


class Client:
    """The face of the SDK. Thread-safe; make one and keep it.

    Args:
        settings: ``None`` reads the settings file and the environment.
        service: name of the calling application; ``None`` takes it from ``emitter.service``.
        environment: such as ``production``; ``None`` takes it from ``emitter.environment``.
        team: who pays; ``None`` takes it from ``emitter.team``.
        emitter: ``None`` makes one, which this client then closes.
        redact: gets a prompt's or an answer's text and returns what may be published, where capturing is on.

    Raises:
        SettingsError: a setting is wrong.
        UnavailableError: the settings file cannot be read.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        service: str | None = None,
        environment: str | None = None,
        team: str | None = None,
        emitter: EventEmitter | None = None,
        redact: Callable[[str], str] | None = None,
    ) -> None:
        settings = load() if settings is None else settings
        own = settings.emitter
        self.emitter: EventEmitter = Emitter(settings) if emitter is None else emitter
        self.capture_text = own.capture_text
        self._max_text = own.max_text_length
        self._redact = redact
        self._service = own.service if service is None else service
        self._environment = own.environment if environment is None else environment
        self._team = own.team if team is None else team
        self._user_key = own.user_key.reveal().encode()

    def call(
        self,
        *,
        provider: str,
        model: str,
        operation: str = "chat",
        prompt: str | None = None,
        prompt_version: str | None = None,
        prompt_hash: str | None = None,
        user: str | None = None,
        conversation: str | None = None,
        team: str | None = None,
        stream: bool = False,
    ) -> Call:
        """Start measuring a model call; its clock runs from here.

        Args:
            provider: OpenTelemetry's ``gen_ai.provider.name``, such as ``anthropic`` or ``aws.bedrock``.
            model: the model asked for.
            operation: OpenTelemetry's ``gen_ai.operation.name``.
            prompt: name of the prompt template.
            prompt_version: its version.
            prompt_hash: a hash of its text.
            user: who it was for; stored as HMAC-SHA256 where ``emitter.user_key`` is set.
            conversation: an id of the conversation.
            team: who pays, if not the client's team.
            stream: whether the answer comes in chunks.
        """
        event = RequestEvent(
            new_event_id(),
            time.time(),
            self._service,
            provider,
            model,
            self._environment,
            self._team if team is None else team,
            operation,
            stream=stream,
            prompt=prompt or "",
            prompt_version=prompt_version or "",
            prompt_hash=prompt_hash or "",
            user=self.pseudonym(user) if user else "",
            conversation=conversation or "",
        )
        return Call(self, event)

    def record(self, event: RequestEvent) -> bool:
        """Emit an event of your own making, which must not change any more. False: dropped and counted."""
        try:
            return self.emitter.emit(event)
        except Exception as error:
            self.internal_error(error)
            return False

    def record_feedback(
        self,
        receipt_or_request_id: str,
        *,
        thumb: bool | None = None,
        rating: float | None = None,
        comment: str | None = None,
    ) -> bool:
        """Publish what a person thought of an answer. Never raises; False: dropped and counted.

        Args:
            receipt_or_request_id: the call's receipt, as the front end sent it back; or the event's id alone,
                which counts as unattributed: no model, no prompt.
            thumb: True for up, False for down.
            rating: 0 … 1.
            comment: only its length is published.

        A malformed receipt is counted under ``dropped["invalid_receipt"]``; no id, a rating out of range, or neither
        thumb nor rating, under ``dropped["invalid_feedback"]``. A thumb and a rating make two events.
        """
        try:
            return self._record_feedback(receipt_or_request_id, thumb, rating, comment)
        except InvalidEventError as error:
            self.emitter.refuse(error.reason)
            return False
        except Exception as error:
            self.internal_error(error)
            return False

    def _record_feedback(
        self,
        reference: str,
        thumb: bool | None,  # noqa: FBT001
        rating: float | None,
        comment: str | None,
    ) -> bool:
        scores: list[tuple[Literal["thumb", "rating"], float]] = []
        if thumb is not None:
            scores.append(("thumb", 1.0 if thumb else -1.0))
        if rating is not None:
            if not 0.0 <= rating <= 1.0:
                raise InvalidEventError("invalid_feedback", "rating", "a number 0 … 1")
            scores.append(("rating", float(rating)))
        if not scores:
            raise InvalidEventError("invalid_feedback", "thumb", "a thumb or a rating")
        if not isinstance(reference, str) or not 1 <= len(reference) <= MAX_RECEIPT_LENGTH:
            raise InvalidEventError("invalid_feedback", "receipt", "a receipt or an event id")
        about: dict[str, Any]
        if is_receipt(reference):
            receipt = decode_receipt(reference)
            about = {name: getattr(receipt, name) for name in receipt.__struct_fields__}
        elif len(reference) <= MAX_ID_LENGTH:
            about = {"request_id": reference, "service": self._service}
        else:
            raise InvalidEventError("invalid_feedback", "request_id", f"at most {MAX_ID_LENGTH} characters")
        accepted = True
        for kind, score in scores:
            event = FeedbackEvent(
                id=new_event_id(),
                time=time.time(),
                kind=kind,
                score=score,
                comment_length=len(comment) if comment else 0,
                **about,
            )
            accepted = self.emitter.emit(event) and accepted
        return accepted

    def observe(self, *, provider: str, model: str, usage: Usage | None = None, **fields: Any) -> Decorator:
        """A decorator that measures each call of a function, a coroutine function or a generator function.

        Args:
            provider: as for ``call``.
            model: as for ``call``.
            usage: gets the function's result, or each chunk of a generator's, and returns the keyword
                arguments
                of ``Call.set_usage``, or ``None`` where it says nothing of usage. With a generator the last
                one given counts.
            fields: any other argument of ``call``.
        """
        return observe(lambda: self, usage, provider=provider, model=model, **fields)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all emitted so far is acknowledged or dropped; False after ``timeout`` seconds."""
        return self.emitter.flush(timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Flush and end the emitter; what is not acknowledged by the deadline is dropped and counted."""
        return self.emitter.close(timeout)

    def pseudonym(self, user: str) -> str:
        """The user id as published: 32 hex digits of its HMAC-SHA256; itself without a ``user_key``."""
        if not self._user_key:
            return user
        try:
            return hmac.digest(self._user_key, str(user).encode("utf-8", "replace"), "sha256").hex()[:32]
        except Exception as error:
            self.internal_error(error)
            return ""

    def redacted(self, text: str) -> str | None:
        """The text as it may be published, or ``None`` where the hook failed."""
        if self._redact is not None:
            try:
                redacted: object = self._redact(text)
            except Exception:
                redacted = None
            if not isinstance(redacted, str):
                self.note(REDACT_FAILED)
                return None
            text = redacted
        return text[: self._max_text]

    def note(self, what: str) -> None:
        """Count something that changed or left out a value of an event."""
        self.emitter.note(what)

    def internal_error(self, error: Exception) -> None:
        """Count, and tell of, a bug of ours that the application must not feel."""
        self.emitter.note(INTERNAL_ERROR)
        diagnostics.internal_error(error)
