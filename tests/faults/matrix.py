"""The fault matrix as a table: what each test did and what the oracle found, for docs/reliability.md.

TIDEGAUGE_RELIABILITY=docs/reliability.md python -m pytest tests/faults      # what ``make faults`` runs
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

BEGIN, END = "<!-- begin: written by make faults -->", "<!-- end -->"


@dataclass
class Note:
    """What a test tells of itself: how much there was, and by how many nano-dollars it differed."""

    load: str = ""
    events: int = 0
    difference: int | None = None


@dataclass
class Row:
    """One line of the table."""

    number: int
    done: str
    note: Note
    seconds: float
    passed: bool


@dataclass
class Table:
    """The rows of one run."""

    rows: list[Row] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Put the table between the markers of a page."""
        page = path.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        _, after = rest.split(END)
        path.write_text(f"{before}{BEGIN}\n{self.text()}\n{END}{after}", encoding="utf-8")

    def text(self) -> str:
        """The table in Markdown."""
        today = datetime.now(UTC).date().isoformat()
        lines = [
            "| fault | what was done | load | events | difference (nano-USD) | seconds | result | date |",
            "|---:|---|---|---:|---:|---:|---|---|",
        ]
        for row in sorted(self.rows, key=lambda row: (row.number, row.done)):
            note = row.note
            difference = "" if note.difference is None else str(note.difference)
            result = "exact" if row.passed and note.difference == 0 else "passed" if row.passed else "FAILED"
            lines.append(
                f"| {row.number} | {row.done} | {note.load} | {note.events or ''} | {difference}"
                f" | {row.seconds:.0f} | {result} | {today} |"
            )
        return "\n".join(lines)
