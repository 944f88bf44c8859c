"""Whose prices a provider's name on the wire stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PRICE_PROVIDERS: Final[Mapping[str, str]] = {
    # OpenTelemetry's gen_ai.provider.name, semantic conventions 1.41. ibm.watsonx.ai is missing on purpose:
    # the price table knows no prices of it.
    "anthropic": "anthropic",
    "aws.bedrock": "aws",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "groq": "groq",
    "mistral_ai": "mistral",
    "openai": "openai",
    "perplexity": "perplexity",
    "x_ai": "x-ai",
    # Its deprecated gen_ai.system, which many instrumentations still send.
    "az.ai.inference": "azure",
    "az.ai.openai": "azure",
    "gemini": "google",
    "vertex_ai": "google",
    "xai": "x-ai",
}

CLAUDE_1H_FACTOR: Final = 2
"""Anthropic bills cache writes with a lifetime of one hour at twice the input rate, says its caching guide."""


def price_provider(provider: str) -> str:
    """genai-prices' id of a provider; a name that the map lacks stays itself, in lower case."""
    name = provider.strip().lower()
    return PRICE_PROVIDERS.get(name, name)


def is_claude(model: str) -> bool:
    """Whether a model is one of Anthropic's, whoever serves it."""
    return "claude" in model.lower()
