"""One call of an instrumented anthropic client, from the request to its event."""

from __future__ import annotations

from typing import Any, Final

from . import diagnostics
from .anthropic_messages import Answer, BodyReader, prompt_text
from .anthropic_stream import watch_body
from .call import error_type
from .client import Client
from .context import begin

UNREADABLE: Final = "unreadable_response"
MAX_RECEIPTS: Final = 4_096

_receipts: dict[str, str] = {}


class Record:
    """Fills a ``Call`` with what the response says, and hands it on exactly once.

    Args:
        client: whose call it is.
        provider: OpenTelemetry's ``gen_ai.provider.name``.
        model: the model asked for.
        stream: whether a stream was asked for.
    """

    def __init__(self, client: Client, provider: str, model: str, *, stream: bool) -> None:
        self._client = client
        self._call, self._scope = begin(client, provider=provider, model=model, stream=stream)
        self._answer = Answer(keep_text=client.capture_text)
        self._reader: BodyReader | None = None
        self._known = False
        self._done = False
        self.answered = False
        self.body_pending = False

    def sending(self, body: Any, retries: int) -> None:
        """Say that an attempt is made, with the request's body as it is sent."""
        if retries:
            self._call.set_retries(retries)
        elif self._client.capture_text:
            self._call.set_text(input=prompt_text(body))

    def responded(self, response: Any) -> None:
        """Take in a successful HTTP response; an unread body is watched while the application reads it."""
        self.answered = True
        self._reader = BodyReader(self._answer, response.headers.get("content-type", ""))
        if response.is_closed:
            self._reader.feed(response.content)
            self._reader.end()
            self._remember()
        else:
            self.body_pending = True
            watch_body(response, self)

    def data(self, chunk: bytes) -> None:
        """Take in a piece of a watched body."""
        if self._done or self._reader is None:
            return
        answer = self._answer
        begun = answer.content_begun
        self._reader.feed(chunk)
        if answer.content_begun and not begun:
            self._call.first_chunk()
        if not self._known and answer.id:
            self._remember()
        if answer.stopped:
            self.finish()

    def complete(self) -> None:
        """Say that a watched body was read to its end."""
        if not self._done and self._reader is not None:
            self._reader.end()
            self._remember()
            self.finish()

    def raised(self, error: BaseException) -> None:
        """Say what the application's call, or its reading of the body, ended with."""
        self.finish(_name(error))

    def finish(self, error: str = "") -> None:
        """Hand the call on with what is known; further calls do nothing."""
        if self._done:
            return
        self._done = True
        call, answer = self._call, self._answer
        try:
            usage = answer.usage()
            if usage is not None:
                call.set_usage(**usage)  # type: ignore[arg-type]
            call.set_response(
                model=answer.model or None,
                id=answer.id or None,
                finish_reasons=[answer.stop_reason] if answer.stop_reason else None,
            )
            if error or answer.error:
                call.fail(error or answer.error)
            if answer.text:
                call.set_text(output="".join(answer.text))
            if answer.unreadable:
                self._client.note(UNREADABLE)
        finally:
            if self._scope is not None and self._scope.ended(call):
                call.stop()
            else:
                call.finish()

    def safely(self, step: Any, *args: Any) -> None:
        """Run a step of ours; what goes wrong in it is counted and does not reach the application."""
        try:
            step(*args)
        except Exception as error:
            tell(self._client, error)

    def _remember(self) -> None:
        if self._answer.id:
            self._known = True
            _receipts[self._answer.id] = self._call.receipt
            if len(_receipts) > MAX_RECEIPTS:
                _receipts.pop(next(iter(_receipts)), None)


def receipt_of(message: Any) -> str | None:
    """The receipt of the call that a message came from.

    Args:
        message: what an instrumented client returned (``Message``, ``ParsedMessage``, a stream's final
            message or ``current_message_snapshot``), or a message's id.

    Returns:
        ``None`` if the message is not one of the last 4,096 of this process.
    """
    return _receipts.get(message if isinstance(message, str) else str(getattr(message, "id", "")))


def tell(client: Client, error: Exception) -> None:
    """Count and log a bug of ours, whatever the application gave us as an emitter."""
    try:
        client.internal_error(error)
    except Exception as worse:
        diagnostics.internal_error(worse)


def _name(error: BaseException) -> str:
    kind = type(error)
    if kind.__name__ == "APIStatusError":
        # The class that stands for all statuses without a class of their own, and for a stream's error event.
        return str(getattr(error, "type", None) or getattr(error, "status_code", "")) or error_type(kind)
    return error_type(kind)
