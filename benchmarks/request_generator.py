"""Request events as a mid-sized deployment sends them: the same ones for the same seed and start."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final

from tidegauge.schemas.request import GuardrailResult, RequestEvent

_MODELS: Final = (
    ("openai", "gpt-4o", "gpt-4o-2024-08-06"),
    ("openai", "gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
    ("anthropic", "claude-sonnet-4-5", "claude-sonnet-4-5-20250929"),
    ("anthropic", "claude-haiku-4-5", "claude-haiku-4-5-20251001"),
    ("gcp.gemini", "gemini-2.5-flash", "gemini-2.5-flash"),
)
_SHARES: Final = (30, 25, 25, 12, 8)
_SERVICES: Final = (("assistant", "support"), ("search", "discovery"), ("summariser", "documents"))
_PROMPTS: Final = ("answer", "classify", "rewrite", "extract")
_ERRORS: Final = ("429", "500", "timeout")


def requests(
    count: int, *, start: float, span: float = 600.0, seed: int = 1, series: int | None = None
) -> Iterator[RequestEvent]:
    """Yield ``count`` events of about 0.8 kB, nearly in order of time.

    Args:
        count: how many.
        start: Unix seconds of the first.
        span: seconds from the first to the last; an event may be up to 5 s out of place.
        seed: of everything random in them.
        series: spread them evenly over exactly so many base keys, instead of some 120 unevenly.
    """
    random = Random(seed)
    for index in range(count):
        provider, model, response_model = random.choices(_MODELS, _SHARES)[0]
        service, team = random.choice(_SERVICES)
        prompt, version = random.choice(_PROMPTS), random.choice("67")
        if series is not None:
            # Models, services, users and guardrails are the same for any number of series: prompts make them many.
            key = index % series if index < series else random.randrange(series)
            provider, model, response_model = _MODELS[key % len(_MODELS)]
            service, team = _SERVICES[0]
            number = key // len(_MODELS)
            prompt, version = f"p{number % 1_000:05d}", str(number // 1_000)
        failed = random.random() < 0.01
        first_chunk = random.lognormvariate(-0.7, 0.5)
        input_tokens = int(random.lognormvariate(6.8, 1.0)) + 1
        yield RequestEvent(
            id=f"{random.getrandbits(128):032x}",
            time=start + span * index / count + random.uniform(0.0, 5.0),
            service=service,
            provider=provider,
            model=model,
            environment="production",
            team=team,
            response_model=response_model,
            response_id=f"chatcmpl-{random.getrandbits(96):024x}",
            stream=True,
            duration=first_chunk + random.lognormvariate(0.8, 0.6),
            time_to_first_chunk=first_chunk,
            input_tokens=input_tokens,
            output_tokens=0 if failed else int(random.lognormvariate(5.3, 0.8)) + 1,
            cache_read_input_tokens=input_tokens // 2 if random.random() < 0.4 else 0,
            finish_reasons=[] if failed else ["stop"],
            error=random.choice(_ERRORS) if failed else "",
            prompt=prompt,
            prompt_version=version,
            user=f"u-{int(random.paretovariate(1.1)) % 1_000:04d}",
            conversation=f"{random.getrandbits(64):016x}",
            guardrails=[
                GuardrailResult(
                    "pii", "output", random.random() < 0.02, "redact", duration=0.002, version="3"
                )
            ],
        )
