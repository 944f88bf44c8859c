"""What an application says once of all the model calls that it makes in a block.

    with context(prompt="answer", prompt_version="7", user=user_id) as scope:
        message = anthropic_client.messages.create(...)
    return message, scope.receipts[-1]

Instrumented clients take the labels from here, since a call of theirs has no room for them. Blocks nest: an
inner one adds to or overrides the labels of the outer one. A block belongs to the thread or asyncio task that
entered it and to the tasks started inside; hand it to a thread with ``contextvars.copy_context().run``.
"""

from __future__ import annotations

from collections import deque
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final, Self

from tidegauge.schemas.request import GuardrailAction, GuardrailStage, GuardrailStatus
from tidegauge.schemas.request import GuardrailResult as Finding

from . import diagnostics
from .call import Call
from .client import Client

MAX_RECEIPTS: Final = 1_000
AFTER_THE_ANSWER: Final = frozenset({"output", "tool"})
"""Guardrail stages that look at an answer; the others come before the call."""

_current: ContextVar[Context | None] = ContextVar("tidegauge_context", default=None)


class Context:
    """A block's labels, receipts and current call; made by ``context``.

    The *current call* is the last one begun inside the block, by whatever task or thread. Give calls that run
    in parallel a block each.

    Attributes:
        receipts: the receipts of the calls begun in the block, in order; of the last 1,000.
        current: the current call, or ``None`` before the first.
    """

    def __init__(self, labels: dict[str, str], *, hold: bool) -> None:
        self.receipts: deque[str] = deque(maxlen=MAX_RECEIPTS)
        self.current: Call | None = None
        self._labels = labels
        self._hold = hold
        self._answered = True
        self._held: Call | None = None
        self._waiting: list[Finding] = []
        self._outer: Context | None = None
        self._tokens: list[Token[Context | None]] = []

    @property
    def labels(self) -> dict[str, str]:
        """The labels in force: this block's over those of the blocks around it."""
        return {**self._outer.labels, **self._labels} if self._outer is not None else dict(self._labels)

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
        """Attach what a guardrail found to the call it belongs to; arguments as for ``Call.guardrail``.

        A check of an answer (stages ``output`` and ``tool``) goes to the current call, which must still be
        open: a running stream, or any call of a block with ``hold=True``. Any other check goes to the running
        call, or to the next one if none is running. A check that no call follows, because it refused the
        input, is measured with ``Client.call`` instead; here it is left out with a warning.
        """
        finding = Finding(name, stage, triggered, action, score, duration, version, status)
        if stage not in AFTER_THE_ANSWER and self._answered:
            self._waiting.append(finding)
        elif self.current is None:
            _warn(1)
        else:
            _attach(self.current, finding)

    def began(self, call: Call) -> None:
        """Make a call the current one of this block and of those around it. For instrumentations."""
        self.release()
        self.current = call
        self._answered = False
        self.receipts.append(call.receipt)
        waiting, self._waiting = self._waiting, []
        for finding in waiting:
            _attach(call, finding)
        if self._outer is not None:
            self._outer.began(call)

    def ended(self, call: Call) -> bool:
        """Say that a call has its whole answer; True if a block keeps it open. For instrumentations."""
        if call is self.current:
            self._answered = True
        if self._outer is not None and self._outer.ended(call):
            return True
        if not self._hold or call is not self.current:
            return False
        self._held = call
        return True

    def release(self) -> None:
        """Emit the call that is kept open, if any."""
        held, self._held = self._held, None
        if held is not None:
            held.finish()

    def __enter__(self) -> Self:
        if self._tokens:
            raise RuntimeError("this context block is already entered; make one for each block")
        self._outer = _current.get()
        self._tokens.append(_current.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            _current.reset(self._tokens.pop())
        except ValueError:
            # Left in another context than it was entered in, as an asynchronous generator's block may be.
            _current.set(self._outer)
        self.release()
        if self._waiting:
            _warn(len(self._waiting))
            self._waiting.clear()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __del__(self) -> None:
        if self._held is not None:
            self.release()


def context(
    *,
    prompt: str | None = None,
    prompt_version: str | None = None,
    prompt_hash: str | None = None,
    user: str | None = None,
    conversation: str | None = None,
    team: str | None = None,
    hold: bool = False,
) -> Context:
    """Label the model calls made in a block; use it with ``with`` or ``async with``.

    Args:
        prompt: name of the prompt template.
        prompt_version: its version.
        prompt_hash: a hash of its text.
        user: who the calls are for; pseudonymised where ``emitter.user_key`` is set.
        conversation: an id of the conversation.
        team: who pays, if not the client's team.
        hold: keep a call's event back until the block ends or the next call begins in it, so that guardrails
            which look at the answer can be attached; its duration is not affected. Use short blocks then.
    """
    given = {
        "prompt": prompt,
        "prompt_version": prompt_version,
        "prompt_hash": prompt_hash,
        "user": user,
        "conversation": conversation,
        "team": team,
    }
    return Context({name: value for name, value in given.items() if value is not None}, hold=hold)


def current_context() -> Context | None:
    """The innermost block around the caller."""
    return _current.get()


def current_call() -> Call | None:
    """The current call of the innermost block around the caller; ``None`` outside of a block."""
    scope = _current.get()
    return scope.current if scope is not None else None


def begin(client: Client, *, provider: str, model: str, stream: bool) -> tuple[Call, Context | None]:
    """Start a call with the labels in force, and make it the block's current one. For instrumentations."""
    scope = _current.get()
    if scope is None:
        return client.call(provider=provider, model=model, stream=stream), None
    call = client.call(provider=provider, model=model, stream=stream, **scope.labels)
    scope.began(call)
    return call, scope


def _attach(call: Call, finding: Finding) -> None:
    call.guardrail(
        finding.name,
        stage=finding.stage,
        triggered=finding.triggered,
        action=finding.action,
        score=finding.score,
        duration=finding.duration,
        version=finding.version,
        status=finding.status,
    )


def _warn(findings: int) -> None:
    diagnostics.warn(
        "guardrail_without_call",
        f"{findings} guardrail result(s) had no model call to be attached to; "
        "measure a refused input with Client.call",
    )
