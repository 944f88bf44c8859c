"""Made-up traffic that looks like real traffic; see ``profile`` for what it was fitted to.

Everything follows from the arguments: the same seed, profile, rate, start and incident give the same events with
the same ids. Each event is drawn from a generator of its own, so that an incident changes the events it strikes and
no others.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Final, Generic, TypeVar

from tidegauge.errors import UsageError
from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.request import GuardrailResult, RequestEvent

from .arrivals import arrivals
from .incidents import Incident, fail
from .profile import DEFAULT, Guardrail, Mixture, Model, Profile, Service

T = TypeVar("T")
Emission = tuple[float, RequestEvent | FeedbackEvent]
"""An event, and the Unix time at which the application publishes it."""

# Prompts take about this long to read per token that was not cached (assumed; llmperf varied the output alone).
_SECONDS_PER_INPUT_TOKEN: Final = 4e-5
_FAILURES: Final = (("RateLimitError", 0.55), ("InternalServerError", 0.3), ("APITimeoutError", 0.15))
_TIMEOUT: Final = 60.0
_APPROVAL: Final = 0.8  # of a prompt version that the profile does not name
_FEEDBACK_SEED: Final = 1 << 128
_FINISH: Final = {"anthropic": ("end_turn", "max_tokens")}


class _Choice(Generic[T]):
    """Draws from weighted values; one random number a draw."""

    def __init__(self, weighted: Iterable[tuple[T, float]]) -> None:
        values, weights = zip(*weighted, strict=True)
        self._values: tuple[T, ...] = values
        total = sum(weights)
        self._edges = [edge / total for edge in accumulate(weights)][:-1]

    def draw(self, random: Random) -> T:
        return self._values[bisect_left(self._edges, random.random())]


class _Caller:
    """A user's conversation."""

    __slots__ = ("conversation", "turn")

    def __init__(self) -> None:
        self.conversation = 0
        self.turn = 0


@dataclass
class _Ready:
    """A service with its distributions worked out."""

    service: Service
    prompts: _Choice[tuple[str, str]]
    models: _Choice[Model]
    users: _Choice[int]
    callers: dict[int, _Caller]


class Simulator:
    """Makes traffic.

    Args:
        seed: any integer.
        profile: what the traffic looks like.
        rate: mean requests per second.
        incident: something that goes wrong.

    Raises:
        UsageError: the rate is not above 0.
    """

    def __init__(
        self, seed: int, profile: Profile = DEFAULT, *, rate: float = 10.0, incident: Incident | None = None
    ) -> None:
        if not 0 < rate < math.inf:
            raise UsageError("rate: expected a number above 0")
        self._seed = seed
        self._profile = profile
        self._rate = rate
        self._incident = incident
        self._failures = _Choice(_FAILURES)
        self._approval = {service.name: dict(service.approval) for service in profile.services}

    def events(
        self, start: float, end: float | None = None, count: int | None = None
    ) -> Iterator[RequestEvent]:
        """Yield request events in order of their time.

        Args:
            start: Unix time at which the traffic begins; each start is traffic of its own.
            end: Unix time at which it ends; a later end adds events and changes none.
            count: how many requests at most. Without ``end`` and ``count`` there is no end.
        """
        return (event for _, event in self._seeded(start, end, count))

    def _seeded(
        self, start: float, end: float | None, count: int | None
    ) -> Iterator[tuple[int, RequestEvent]]:
        """The events, each with the seed it was drawn from."""
        drawn_from = f"{self._seed} {start:.6f} {self._rate} {self._profile}"
        root = int.from_bytes(hashlib.blake2b(drawn_from.encode(), digest_size=8).digest(), "big") << 40
        # Struck or not, an event of a run with an incident is another event than that of the run without.
        run = hashlib.blake2b(f"{drawn_from} {self._incident}".encode(), digest_size=16).digest()
        ready = _Choice((self._ready(service), service.share) for service in self._profile.services)
        random = Random()
        times = arrivals(Random(root), self._profile, self._rate, start)
        for number, time in enumerate(times):
            if (end is not None and time >= end) or (count is not None and number >= count):
                return
            seed = root + number + 1
            random.seed(seed)
            event = self._request(random, ready.draw(random), round(time, 6))
            event.id = hashlib.blake2b(b"%d" % number, digest_size=16, key=run).hexdigest()
            if self._incident is not None and self._incident.covers(time - start):
                self._incident.strike(event, random)
            yield seed, event

    def traffic(self, start: float, end: float | None = None, count: int | None = None) -> Iterator[Emission]:
        """Yield requests and the feedback on them, in the order in which they are published.

        A request is published when it is answered, or at the end of the traffic if that comes first. Feedback
        that would come after the end is not given any more. The end is ``end``, or else the last request's time.

        Args:
            start: as for ``events``, like the others.
            end: as there.
            count: of requests.
        """
        waiting: list[tuple[float, int, RequestEvent | FeedbackEvent]] = []
        order = 0
        last = start
        for seed, event in self._seeded(start, end, count):
            last = event.time
            while waiting and waiting[0][0] <= last:
                at, _, due = heapq.heappop(waiting)
                yield at, due
            for at, made in self._emissions(event, start, seed):
                order += 1
                heapq.heappush(waiting, (at, order, made))
        last = last if end is None else end
        for at, _, due in sorted(waiting, key=lambda entry: entry[:2]):
            if isinstance(due, RequestEvent) or at <= last:
                yield min(at, last), due

    def _ready(self, service: Service) -> _Ready:
        return _Ready(
            service,
            _Choice(((name, version), share) for name, version, share in service.prompts),
            _Choice(service.models),
            _Choice((user, (user + 1) ** -self._profile.zipf) for user in range(service.users)),
            {},
        )

    def _request(self, random: Random, ready: _Ready, time: float) -> RequestEvent:
        service, profile = ready.service, self._profile
        model = ready.models.draw(random)
        prompt, version = ready.prompts.draw(random)
        user = ready.users.draw(random)
        caller = ready.callers.setdefault(user, _Caller())
        if caller.turn and random.random() < service.continues:
            caller.turn += 1
        else:
            caller.conversation += 1
            caller.turn = 1
        input_tokens = _sample(random, service.input)
        output_tokens = _sample(random, service.output)
        event = RequestEvent(
            id="",
            time=time,
            service=service.name,
            provider=model.provider,
            model=model.name,
            environment="staging" if random.random() < profile.staging else "production",
            team=service.team,
            response_model=model.name + model.dated,
            response_id=f"r{random.getrandbits(48):012x}",
            stream=random.random() < service.stream,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            finish_reasons=[
                _FINISH.get(model.provider, ("stop", "length"))[output_tokens == service.output.most]
            ],
            prompt=prompt,
            prompt_version=version,
            user=f"{service.name}-{user:04d}",
            conversation=f"{service.name}-{user:04d}-{caller.conversation}" if service.continues else "",
            guardrails=[_check(random, guardrail) for guardrail in service.guardrails],
        )
        _cache(random, event, service, model, caller.turn)
        first = random.lognormvariate(math.log(model.first[0]), model.first[1])
        uncached = input_tokens - event.cache_read_input_tokens
        first += uncached * _SECONDS_PER_INPUT_TOKEN
        per_token = random.lognormvariate(math.log(model.per_token[0]), model.per_token[1])
        if random.random() < profile.retried:
            event.retries = 1
            first += random.uniform(0.5, 1.5)
        event.duration = round(first + per_token * (output_tokens - 1), 6)
        if event.stream:
            event.time_to_first_chunk = round(first, 6)
        if random.random() < model.failures:
            error = self._failures.draw(random)
            took = _TIMEOUT if error == "APITimeoutError" else random.lognormvariate(math.log(0.3), 0.5)
            fail(event, error, round(took, 6), retries=2)
        return event

    def _emissions(self, event: RequestEvent, start: float, seed: int) -> Iterator[Emission]:
        done = event.time + (event.duration or 0.0)
        yield done, event
        feedback = self._feedback(event, start, done, seed)
        if feedback is not None:
            yield feedback.time, feedback

    def _feedback(self, event: RequestEvent, start: float, done: float, seed: int) -> FeedbackEvent | None:
        approval = self._approval[event.service]
        if not approval or event.error:
            return None
        vote, give = self._profile.voters
        if _share(event.user) >= vote:
            return None
        random = Random(seed | _FEEDBACK_SEED)
        if random.random() >= give:
            return None
        usual = approval.get(event.prompt_version, _APPROVAL)
        if self._incident is not None and self._incident.covers(event.time - start):
            usual = self._incident.approval(event, usual)
        after, sigma = self._profile.votes_after
        return FeedbackEvent(
            id=hashlib.blake2b(event.id.encode(), digest_size=16, key=b"feedback").hexdigest(),
            time=round(done + random.lognormvariate(math.log(after), sigma), 6),
            request_id=event.id,
            kind="thumb",
            score=1.0 if random.random() < usual else -1.0,
            request_time=event.time,
            service=event.service,
            provider=event.provider,
            model=event.model,
            prompt=event.prompt,
            prompt_version=event.prompt_version,
            comment_length=round(random.lognormvariate(math.log(60), 0.8)) if random.random() < 0.1 else 0,
        )


def _sample(random: Random, mixture: Mixture) -> int:
    point = random.random()
    chosen = mixture.parts[-1]
    for part in mixture.parts:
        point -= part[0]
        if point < 0:
            chosen = part
            break
    _, median, sigma = chosen
    value = round(random.lognormvariate(math.log(median), sigma))
    return min(max(value, mixture.least), mixture.most)


def _share(text: str) -> float:
    """A number 0 … 1 that is always the same for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") / (1 << 32)


def _cache(random: Random, event: RequestEvent, service: Service, model: Model, turn: int) -> None:
    can, billed = model.caching
    if not can or not service.cached:
        return
    assert event.input_tokens is not None
    # Anthropic and others cache from about a thousand tokens on; a conversation reads what it wrote last turn.
    cacheable = int(event.input_tokens * service.cached * random.uniform(0.8, 1.1))
    cacheable = min(cacheable, event.input_tokens)
    if cacheable < 1_024:
        return
    if turn > 1:
        event.cache_read_input_tokens = cacheable
        rest = event.input_tokens - cacheable
        written = int(rest * random.uniform(0.3, 0.9))
    else:
        written = cacheable
    if billed:
        event.cache_creation_input_tokens = written
        if random.random() < service.long_cache:
            event.cache_creation_1h_input_tokens = written


def _check(random: Random, guardrail: Guardrail) -> GuardrailResult:
    took = round(random.lognormvariate(math.log(guardrail.took), 0.4), 6)
    if random.random() < 0.001:
        return GuardrailResult(
            guardrail.name,
            guardrail.stage,
            triggered=False,
            action=guardrail.action,
            duration=took,
            version=guardrail.version,
            status="timeout",
        )
    triggered = random.random() < guardrail.triggers
    score = random.uniform(0.7, 1.0) if triggered else random.uniform(0.0, 0.5)
    return GuardrailResult(
        guardrail.name,
        guardrail.stage,
        triggered,
        guardrail.action,
        round(score, 3),
        took,
        guardrail.version,
    )
