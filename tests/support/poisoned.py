"""``tidegauge`` with a bug that nobody knows yet: whatever names the model ``poison`` makes the prices raise.

python tests/support/poisoned.py worker …
"""

from __future__ import annotations

import sys
from typing import Any

from tidegauge.cli import main
from tidegauge.processors.core.pricing import PriceTable

unit = PriceTable.unit


def raising(self: PriceTable, provider: str, model: str, time: float) -> Any:
    """As before, but for one model."""
    if model == "poison":
        raise ZeroDivisionError("nobody has thought of this")
    return unit(self, provider, model, time)


if __name__ == "__main__":
    PriceTable.unit = raising  # type: ignore[method-assign,assignment]
    sys.exit(main(sys.argv[1:]))
