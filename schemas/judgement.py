"""A judge model's verdict on one sampled request."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tidegauge.errors import InvalidEventError

from .common import EventId, Label, NanoUSD, SchemaVersion, UnixSeconds


class Judgement(
    msgspec.Struct,
    omit_defaults=True,
    rename={
        "service": "service.name",
        "provider": "gen_ai.provider.name",
        "model": "gen_ai.request.model",
        "prompt": "gen_ai.prompt.name",
        "prompt_version": "tidegauge.prompt.version",
        "criterion": "gen_ai.evaluation.name",
        "score": "gen_ai.evaluation.score.value",
        "label": "gen_ai.evaluation.score.label",
    },
):
    """One criterion's score in 0 … 1 (``None`` with an outcome that says why there is none).

    ``probability`` is the request's chance of having been sampled: the weight of the score is its inverse. It is no
    less than one in ten thousand, so that the weights' squares stay small enough to be summed exactly.
    """

    id: EventId
    time: UnixSeconds
    request_id: EventId
    request_time: UnixSeconds
    criterion: Label
    outcome: Literal["scored", "unknown", "unscored"]
    judge_model: Label
    rubric_hash: Label
    probability: Annotated[float, Meta(ge=1e-4, le=1.0)]
    score: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    label: Label = ""
    reason: Label = ""
    cost: NanoUSD | None = None
    service: Label = ""
    provider: Label = ""
    model: Label = ""
    prompt: Label = ""
    prompt_version: Label = ""
    schema_version: SchemaVersion = 1

    def check(self) -> None:
        """Raise ``InvalidEventError`` where score and outcome contradict each other."""
        if (self.outcome == "scored") != (self.score is not None):
            expected = "a score with the outcome scored, and none with another"
            raise InvalidEventError("out_of_range", "gen_ai.evaluation.score.value", expected)
