"""What a check of ``tidegauge doctor`` found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from .settings import Settings

State = Literal["OK", "WARN", "FAIL"]


@dataclass(frozen=True)
class Finding:
    """What one check found; ``mend`` says what to do, where there is something to do."""

    check: str
    state: State
    found: str
    mend: str = ""


Check = Callable[[Settings], Iterator[Finding]]
