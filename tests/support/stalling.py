"""``tidegauge`` with a first stage that waits for ever for the first chunk it is given: a bug that nobody knows yet.

python -m tests.support.stalling worker …
"""

from __future__ import annotations

import asyncio
import sys

from tidegauge.cli import main
from tidegauge.processors.engine.ingesting import Ingesting
from tidegauge.processors.engine.transport import Chunk


async def apply(self: Ingesting, chunk: Chunk) -> None:
    """Never return."""
    await asyncio.Event().wait()


if __name__ == "__main__":
    Ingesting.apply = apply  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
