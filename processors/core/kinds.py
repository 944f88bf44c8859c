"""The kinds of events that the first stage takes: a topic's wire type, and how its events are folded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tidegauge.schemas.feedback import FeedbackEvent
from tidegauge.schemas.judgement import Judgement

from .cardinality import Admission
from .fold import Fold
from .opinions import FeedbackFold, JudgementFold
from .panes import EventFold
from .pricing import PriceTable
from .request_columns import IncomingRequest


@dataclass(frozen=True)
class Kind:
    """A row of the table.

    Attributes:
        name: of the topic, after the settings' prefix; in the keys of the stored state.
        wire: the struct that its events are decoded into; has ``id`` and ``time``.
        fold: makes the fold of a source partition out of the topic's full name, prices and caps.
    """

    name: str
    wire: type[Any]
    fold: Callable[[str, PriceTable, Admission], EventFold[Any]]


REQUESTS: Final = Kind("requests", IncomingRequest, Fold)
FEEDBACK: Final = Kind("feedback", FeedbackEvent, FeedbackFold)
JUDGEMENTS: Final = Kind("judgements", Judgement, JudgementFold)

KINDS: Final[Mapping[str, Kind]] = {kind.name: kind for kind in (REQUESTS, FEEDBACK, JUDGEMENTS)}
