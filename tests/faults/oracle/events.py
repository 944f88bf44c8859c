"""Events whose cost is a whole number of nano-dollars, known before they are sent."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

PROVIDER = "oracle"
MODELS = {"small": (150, 600), "large": (2_500, 10_000), "odd": (7, 13)}
"""Nano-dollars for a token of input and one of output, by model."""

MIDNIGHT = 1_700_006_400
"""A moment at which a day (UTC) begins."""


def _per_million(nano: int) -> str:
    """Nano-dollars for a token as dollars for a million, exactly."""
    return f"{nano // 1_000}.{nano % 1_000:03}"


PRICES_TOML = "\n".join(
    f'[[price]]\nprovider = "{PROVIDER}"\nmodel = "{model}"\n'
    f'input = "{_per_million(rates[0])}"\noutput = "{_per_million(rates[1])}"\n'
    for model, rates in MODELS.items()
)
"""For ``prices.override_file``."""


@dataclass(frozen=True)
class Event:
    """One request: what it must add to the sums, and its bytes for Kafka."""

    id: str
    model: str
    day: int
    cost_nano: int
    input_tokens: int
    output_tokens: int
    time: float
    payload: bytes


def make(
    identity: str,
    time: float,
    model: str,
    input_tokens: int,
    output_tokens: int,
    **more: object,
) -> Event:
    """An event; ``more`` are further fields of the message."""
    rates = MODELS.get(model, (0, 0))
    message = {
        "id": identity,
        "time": time,
        "service.name": "shop",
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model,
        "gen_ai.usage.input_tokens": input_tokens,
        "gen_ai.usage.output_tokens": output_tokens,
        "gen_ai.client.operation.duration": 0.25 + output_tokens / 100,
        **more,
    }
    cost = input_tokens * rates[0] + output_tokens * rates[1]
    payload = json.dumps(message).encode()
    return Event(identity, model, int(time) // 86_400, cost, input_tokens, output_tokens, time, payload)


class Generator:
    """Traffic of a few services, teams and users, around a midnight.

    Args:
        seed: the same gives the same events.
        start: time of the first, in Unix seconds.
        step: seconds between two.
        jitter: seconds by which an event may be before or after its turn.
    """

    def __init__(
        self, seed: int, start: float = MIDNIGHT - 300, step: float = 0.05, jitter: float = 30.0
    ) -> None:
        self._random = random.Random(seed)
        self._seed = seed
        self._start = start
        self._step = step
        self._jitter = jitter
        self._number = 0

    def __iter__(self) -> Iterator[Event]:
        while True:
            yield self._next()

    def take(self, count: int) -> list[Event]:
        """The next events."""
        return list(islice(self, count))

    def _next(self) -> Event:
        n, draw = self._number, self._random
        self._number += 1
        time = round(self._start + n * self._step + draw.uniform(-self._jitter, self._jitter), 3)
        more: dict[str, object] = {
            "service.name": draw.choice(["shop", "search", "mail"]),
            "tidegauge.team": draw.choice(["one", "two"]),
            "user.id": f"user-{draw.randrange(50)}",
        }
        if draw.random() < 0.05:
            more["error.type"] = "timeout"
        if draw.random() < 0.2:
            more["tidegauge.guardrails"] = [
                {"name": "pii", "stage": "input", "action": "flag", "triggered": draw.random() < 0.3}
            ]
        return make(
            f"{self._seed}-{n}",
            time,
            draw.choice(list(MODELS)),
            draw.randrange(1, 5_000),
            draw.randrange(1, 900),
            **more,
        )
