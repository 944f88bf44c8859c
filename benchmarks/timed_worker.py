"""``tidegauge worker`` with a clock around each fetched chunk, and nothing else changed.

    python benchmarks/timed_worker.py CLOCK --bootstrap-servers … --store …

The file CLOCK is written when the first chunk comes and again at the orderly end (see ``workers.Clock``). Times are
of the system's monotonic clock, so that those of several workers can be compared.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tidegauge.cli import main
from tidegauge.processors.engine.ingesting import Ingesting
from tidegauge.processors.engine.transport import Chunk


def run(file: Path, flags: Sequence[str]) -> int:
    """Run the worker with these flags until it is told to stop; returns its exit code."""
    fold = Ingesting.apply
    clock: dict[str, float] = {}

    def write() -> None:
        part = file.with_suffix(".part")  # so that nobody reads half a file
        part.write_text(json.dumps(clock))
        part.replace(file)

    async def timed(self: Ingesting, chunk: Chunk) -> None:
        if not clock:
            clock.update(first=time.monotonic(), cpu_before=time.process_time(), last=0.0, applied=0)
            write()
        await fold(self, chunk)
        clock.update(last=time.monotonic(), applied=self.applied)

    Ingesting.apply = timed  # type: ignore[method-assign]
    code = main(["worker", *flags])
    if clock:
        write()
    return code


if __name__ == "__main__":
    path, flags = Path(sys.argv[1]), sys.argv[2:]
    sys.argv = sys.argv[:1]  # Faust reads the command line, too
    sys.exit(run(path, flags))
