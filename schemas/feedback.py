"""What a person thought of one answer."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tidegauge.errors import InvalidEventError

from .common import EventId, Label, SchemaVersion, UnixSeconds


class FeedbackEvent(
    msgspec.Struct,
    omit_defaults=True,
    rename={
        "service": "service.name",
        "provider": "gen_ai.provider.name",
        "model": "gen_ai.request.model",
        "prompt": "gen_ai.prompt.name",
        "prompt_version": "tidegauge.prompt.version",
    },
):
    """A thumb (``score`` −1 or 1 with ``kind`` "thumb") or a rating (0 … 1 with ``kind`` "rating").

    The dimensions come out of the call's receipt; with ``request_id`` alone the feedback counts as
    unattributed. ``time`` is when the feedback was given, ``request_time`` when the call was made.
    """

    id: EventId
    time: UnixSeconds
    request_id: EventId
    kind: Literal["thumb", "rating"]
    score: Annotated[float, Meta(ge=-1.0, le=1.0)]
    request_time: UnixSeconds | None = None
    service: Label = ""
    provider: Label = ""
    model: Label = ""
    prompt: Label = ""
    prompt_version: Label = ""
    comment_length: Annotated[int, Meta(ge=0, le=10**9)] = 0
    schema_version: SchemaVersion = 1

    def check(self) -> None:
        """Raise ``InvalidEventError`` for a score that its kind does not have."""
        if self.kind == "thumb" and self.score not in (-1.0, 1.0):
            raise InvalidEventError("out_of_range", "score", "-1 or 1 for a thumb")
        if self.kind == "rating" and self.score < 0.0:
            raise InvalidEventError("out_of_range", "score", "0 to 1 for a rating")
