"""Folding what people and judges think of answers: feedback and judgements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.judgement import Judgement

from .cardinality import DAY, Admission
from .panes import Panes
from .pricing import PriceTable
from .views import FEEDBACK, QUALITY

MICRO: Final = 1_000_000
"""Scores and weights are summed as integers of a millionth, which add up to the same in any order."""


class FeedbackFold(Panes):
    """Thumbs and ratings; see ``EventFold``."""

    def __init__(self, topic: str, prices: PriceTable, admission: Admission) -> None:
        super().__init__(topic, (FEEDBACK,))
        self._admission = admission

    def add(self, events: Sequence[FeedbackEvent]) -> None:
        """Fold events that are valid, in time and no duplicates."""
        for event in events:
            self._add(event)

    def _add(self, event: FeedbackEvent) -> None:
        call = (event.service, event.provider, event.model, event.prompt, event.prompt_version)
        unattributed = not any(call)
        key = self._admission.admit("feedback", int(event.time) // DAY, call)
        c = self.pane(FEEDBACK, event.time, key).counters
        c[0] += 1
        if event.kind == "thumb":
            c[1 if event.score > 0 else 2] += 1
        else:
            c[3] += 1
            c[4] += round(event.score * MICRO)
        c[5] += unattributed


class JudgementFold(Panes):
    """Verdicts, each with the weight of the requests it stands for; see ``EventFold``."""

    def __init__(self, topic: str, prices: PriceTable, admission: Admission) -> None:
        super().__init__(topic, (QUALITY,))
        self._admission = admission

    def add(self, events: Sequence[Judgement]) -> None:
        """Fold events that are valid, in time and no duplicates."""
        for event in events:
            self._add(event)

    def _add(self, event: Judgement) -> None:
        dimensions = (
            event.service,
            event.provider,
            event.model,
            event.prompt,
            event.prompt_version,
            event.criterion,
            event.judge_model,
            event.rubric_hash,
        )
        key = self._admission.admit("quality", int(event.time) // DAY, dimensions)
        pane = self.pane(QUALITY, event.time, key)
        c = pane.counters
        c[0] += 1
        if event.cost is None:
            c[5] += 1
        else:
            c[4] += event.cost
        if event.score is None:
            c[3 if event.outcome == "unscored" else 2] += 1
            return
        c[1] += 1
        score, weight = event.score, 1 / event.probability
        c[6] += round(weight * MICRO)
        c[7] += round(weight * score * MICRO)
        c[8] += round(weight * score * score * MICRO)
        c[9] += round(weight * weight * MICRO)
        c[10] += round(weight * weight * score * MICRO)
        c[11] += round(weight * weight * score * score * MICRO)
        pane.sketches[0].add(round(score * MICRO))
