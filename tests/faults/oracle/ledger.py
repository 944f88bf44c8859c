"""What a sender meant to send, and what Kafka said it has: an append-only file that outlives the sender."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from .events import Event


class Ledger:
    """Lines ``sent`` are written before an event goes out, lines ``acknowledged`` after Kafka has it.

    Args:
        path: the file; one that is there is read and continued.
    """

    def __init__(self, path: Path) -> None:
        self.sent: dict[str, tuple[str, int, int, int, int]] = {}
        """Model, day, cost, tokens of input and of output, by id."""
        self.acknowledged: set[str] = set()
        self._lock = threading.Lock()
        if path.exists():
            for line in path.read_text().splitlines():
                self._read(line.split("\t"))
        self._file = path.open("a", buffering=1)
        self._file.write("\n")  # after what a killed writer may have left of a line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def send(self, events: Iterable[Event]) -> None:
        """Note events that are about to be sent."""
        with self._lock:
            for event in events:
                facts = (event.model, event.day, event.cost_nano, event.input_tokens, event.output_tokens)
                self.sent[event.id] = facts
                self._file.write("\t".join(["sent", event.id, *map(str, facts)]) + "\n")

    def acknowledge(self, identity: str) -> None:
        """Note that Kafka has an event."""
        with self._lock:
            self.acknowledged.add(identity)
            self._file.write(f"acknowledged\t{identity}\n")

    def _read(self, words: list[str]) -> None:
        if words[0] == "sent" and len(words) == 7:
            day, cost, tokens_in, tokens_out = map(int, words[3:])
            self.sent[words[1]] = (words[2], day, cost, tokens_in, tokens_out)
        elif words[0] == "acknowledged" and len(words) == 2:
            self.acknowledged.add(words[1])
