"""What simulated traffic looks like: the parameters, and the default set of them.

Fitted to public traces (maximum likelihood of lognormal mixtures unless said otherwise; medians in tokens or
seconds, σ of the logarithm):

- ``CHAT_INPUT``, ``CHAT_OUTPUT``: Azure's conversation trace of 2023, 19,366 requests. Input: 63 % about 532
  (σ 1.01), 30 % at 1,073 (σ 0.06), 7 % at 4,087 (σ 0.005); output: 72 % about 103 (σ 0.71), 28 % at 406 (σ 0.05).
- ``CODE_INPUT``, ``CODE_OUTPUT``: aider's published analytics, 2,669 calls. Input: 85 % about 8,430 (σ 0.75),
  15 % about 1,320 (σ 1.54); output: 57 % about 344 (σ 0.61), 43 % about 128 (σ 1.23).
- Latency: llmperf's runs on eight 70B endpoints, 1,195 requests of about 550 tokens in and 150 out. Medians to
  the first token 0.21 … 1.19 s (σ 0.12 … 0.25), per further token 3.7 … 86 ms (σ 0.04 … 0.22); each model here
  has values within those. Healthy endpoints failed in 2 of 845 requests; two were failing all along.
- Arrivals: the same Azure trace is a Poisson process whose rate drifts. Counts per 10 s vary 0.26 about their
  mean, of which Poisson noise explains 0.13; what is left (σ 0.22) loses its memory in about 7 minutes.

Not in those traces, and thus assumed: the daily cycle, short bursts, the share of failures, users, conversations,
cache use, guardrails and feedback.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tidegauge.schemas.request import GuardrailAction, GuardrailStage


@dataclass(frozen=True)
class Mixture:
    """A mixture of lognormals, rounded to integers and clipped.

    Args:
        parts: (weight, median, σ of the logarithm); the weights sum to 1.
        least: lower bound.
        most: upper bound.
    """

    parts: tuple[tuple[float, float, float], ...]
    least: int
    most: int


CHAT_INPUT: Final = Mixture(((0.632, 532, 1.01), (0.295, 1_073, 0.062), (0.073, 4_087, 0.005)), 10, 14_000)
CHAT_OUTPUT: Final = Mixture(((0.722, 103, 0.71), (0.278, 406, 0.05)), 2, 1_000)
CODE_INPUT: Final = Mixture(((0.849, 8_430, 0.75), (0.151, 1_320, 1.54)), 50, 180_000)
CODE_OUTPUT: Final = Mixture(((0.565, 344, 0.61), (0.435, 128, 1.23)), 2, 8_192)
SHORT_OUTPUT: Final = Mixture(((1.0, 9, 0.35),), 1, 64)


@dataclass(frozen=True)
class Model:
    """A model and how fast and reliable its endpoint is.

    Attributes:
        provider: ``gen_ai.provider.name``.
        name: as asked for.
        dated: what the answer's model name has at its end besides.
        first: median seconds to the first chunk of a short prompt, and its σ.
        per_token: median seconds per output token after that, and its σ; drawn once per request.
        failures: share of requests that fail for good.
        caching: whether prompts can be cached, and whether writing to the cache is billed.
    """

    provider: str
    name: str
    dated: str
    first: tuple[float, float]
    per_token: tuple[float, float]
    failures: float = 0.004
    caching: tuple[bool, bool] = (True, False)


@dataclass(frozen=True)
class Guardrail:
    """A guardrail and how often it finds something; ``took`` is its median duration in seconds."""

    name: str
    stage: GuardrailStage
    action: GuardrailAction
    triggers: float
    took: float
    version: str = "3"


@dataclass(frozen=True)
class Service:
    """An application.

    Attributes:
        name: ``service.name``.
        team: who pays.
        share: of all requests.
        prompts: (name, version, share).
        models: (model, share).
        input: tokens of a prompt.
        output: tokens of an answer.
        guardrails: checked on every call.
        stream: share of calls that stream.
        cached: share of the prompt that is the same as last turn's, in a running conversation.
        long_cache: share of cache writes with a lifetime of one hour.
        continues: chance that a user's next call goes on with the conversation.
        users: how many there are; their activity follows Zipf's law.
        approval: share of thumbs that are up, by prompt version.
    """

    name: str
    team: str
    share: float
    prompts: tuple[tuple[str, str, float], ...]
    models: tuple[tuple[Model, float], ...]
    input: Mixture
    output: Mixture
    guardrails: tuple[Guardrail, ...] = ()
    stream: float = 0.0
    cached: float = 0.0
    long_cache: float = 0.0
    continues: float = 0.0
    users: int = 200
    approval: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Profile:
    """All of it.

    Attributes:
        services: their shares sum to 1.
        drift: σ of the slow drift of the rate, and how long it remembers, in seconds.
        daily: how far the rate swings about its mean over a day, 0 … 1.
        peak: seconds after midnight UTC at which it is highest.
        bursts: how many an hour on average, the factor of the rate, and how long each takes in seconds.
        staging: share of requests from the staging environment.
        retried: share of requests that succeed after a first try failed.
        zipf: exponent of the users' activity.
        voters: share of users who ever give feedback, and the share of their answers that get a thumb.
        votes_after: median seconds until a thumb, and its σ.
    """

    services: tuple[Service, ...]
    drift: tuple[float, float] = (0.22, 420.0)
    daily: float = 0.45
    peak: float = 14.5 * 3600
    bursts: tuple[float, float, float] = (1.5, 2.5, 40.0)
    staging: float = 0.04
    retried: float = 0.01
    zipf: float = 1.1
    voters: tuple[float, float] = (0.25, 0.2)
    votes_after: tuple[float, float] = (35.0, 0.9)


SONNET: Final = Model(
    "anthropic", "claude-sonnet-4-5", "-20250929", (0.64, 0.24), (0.0145, 0.13), caching=(True, True)
)
HAIKU: Final = Model(
    "anthropic", "claude-haiku-4-5", "-20251001", (0.39, 0.16), (0.0078, 0.1), caching=(True, True)
)
OPUS: Final = Model(
    "anthropic", "claude-opus-4-5", "-20251101", (0.93, 0.24), (0.021, 0.1), caching=(True, True)
)
GPT: Final = Model("openai", "gpt-5", "-2025-08-07", (0.92, 0.25), (0.0138, 0.22))
GPT_MINI: Final = Model("openai", "gpt-5-mini", "-2025-08-07", (0.52, 0.24), (0.0085, 0.13))
FLASH: Final = Model("gcp.gemini", "gemini-2.5-flash", "", (0.37, 0.24), (0.0052, 0.08))
LLAMA: Final = Model(
    "vllm", "llama-3.3-70b-instruct", "", (0.22, 0.19), (0.0305, 0.1), failures=0.012, caching=(False, False)
)

_INJECTION: Final = Guardrail("prompt-injection", "input", "flag", 0.004, 0.018)
_PII: Final = Guardrail("pii", "input", "redact", 0.03, 0.002)
_TOXICITY: Final = Guardrail("toxicity", "output", "block", 0.002, 0.025)
_GROUNDED: Final = Guardrail("groundedness", "output", "flag", 0.045, 0.12)

DEFAULT: Final = Profile(
    (
        Service(
            "support-chat",
            "customer-care",
            0.5,
            (("answer-question", "14", 0.4), ("answer-question", "15", 0.4), ("summarise-ticket", "3", 0.2)),
            ((SONNET, 0.4), (HAIKU, 0.4), (GPT_MINI, 0.2)),
            CHAT_INPUT,
            CHAT_OUTPUT,
            (_INJECTION, _PII, _TOXICITY),
            stream=0.9,
            cached=0.7,
            continues=0.65,
            users=2_000,
            approval=(("14", 0.81), ("15", 0.85), ("3", 0.9)),
        ),
        Service(
            "code-assistant",
            "developer-tools",
            0.2,
            (("edit-file", "7", 0.7), ("ask-codebase", "4", 0.3)),
            ((SONNET, 0.6), (OPUS, 0.2), (GPT, 0.2)),
            CODE_INPUT,
            CODE_OUTPUT,
            (_INJECTION,),
            stream=1.0,
            cached=0.85,
            long_cache=0.3,
            continues=0.85,
            users=150,
            approval=(("7", 0.78), ("4", 0.83)),
        ),
        Service(
            "document-search",
            "knowledge",
            0.22,
            (("answer-with-sources", "9", 1.0),),
            ((FLASH, 0.6), (GPT_MINI, 0.4)),
            CODE_INPUT,
            CHAT_OUTPUT,
            (_INJECTION, _PII, _GROUNDED),
            stream=0.5,
            users=600,
            approval=(("9", 0.76),),
        ),
        Service(
            "ticket-router",
            "customer-care",
            0.08,
            (("classify-ticket", "2", 1.0),),
            ((LLAMA, 0.7), (HAIKU, 0.3)),
            CHAT_INPUT,
            SHORT_OUTPUT,
            (_PII,),
            users=20,
        ),
    )
)
