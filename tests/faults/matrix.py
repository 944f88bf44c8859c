"""The fault matrix as a table: what each test did and what the oracle found, for docs/reliability.md.

TIDEGAUGE_RELIABILITY=docs/reliability.md python -m pytest -m fault          # what ``make faults`` runs
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

BEGIN, END = "<!-- begin: written by make faults -->", "<!-- end -->"
FAULTS = range(1, 40)
NOT_HERE: dict[int, str] = {}
"""Why a fault cannot be tested on a machine that has nothing but this repository, by number."""


@dataclass
class Note:
    """What a test tells of itself: how much there was, and by how many nano-dollars it differed."""

    load: str = ""
    events: int = 0
    difference: int | None = None


@dataclass
class Row:
    """One line of the table; ``result`` is ``passed``, ``FAILED``, or why it was not done."""

    number: int
    done: str
    note: Note
    seconds: float
    result: str


@dataclass
class Table:
    """The rows of one run."""

    rows: list[Row] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Put the table between the markers of a page.

        Raises:
            ValueError: the page has not each of the markers once.
        """
        page = path.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        _, after = rest.split(END)
        path.write_text(f"{before}{BEGIN}\n{self.text()}\n{END}{after}", encoding="utf-8")

    def text(self) -> str:
        """The table in Markdown, and what is missing from it."""
        today = datetime.now(UTC).date().isoformat()
        lines = [
            "| fault | what was done | load | events | difference (nano-USD) | seconds | result | date |",
            "|---:|---|---|---:|---:|---:|---|---|",
        ]
        for row in sorted(self.rows, key=lambda row: (row.number, row.done)):
            note = row.note
            difference = "" if note.difference is None else str(note.difference)
            result = "exact" if row.result == "passed" and note.difference == 0 else row.result
            lines.append(
                f"| {row.number} | {_cell(row.done)} | {_cell(note.load)} | {note.events or ''} | {difference}"
                f" | {row.seconds:.0f} | {_cell(result)} | {today} |"
            )
        tested = {row.number for row in self.rows}
        lines += [
            f"| {number} | | | | | | not here: {_cell(reason)} | |"
            for number, reason in sorted(NOT_HERE.items())
            if number not in tested
        ]
        if missing := [str(number) for number in FAULTS if number not in tested | NOT_HERE.keys()]:
            lines += ["", f"Not in this run: {', '.join(missing)}."]
        return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
