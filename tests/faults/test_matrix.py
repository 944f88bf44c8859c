"""The table of the fault matrix says what a run did, and hides nothing that failed or was left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.matrix import BEGIN, END, Note, Row, Table

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def table() -> Table:
    return Table(
        [
            Row(8, "clock | stepped", Note(), 1.2, "not here: no\nlibfaketime"),
            Row(1, "killed", Note("400 events/s", 5_000, 0), 61.4, "passed"),
            Row(2, "ended", Note("400 events/s", 5_000, -7), 2.0, "FAILED"),
            Row(3, "joined", Note(), 2.0, "passed"),
        ]
    )


def test_each_row_says_what_was_done_and_what_came_of_it() -> None:
    lines = table().text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:6]] == ["| 1", "| 2", "| 3", "| 8"]
    assert lines[2].startswith("| 1 | killed | 400 events/s | 5000 | 0 | 61 | exact | 20")
    assert "| -7 | 2 | FAILED |" in lines[3]
    assert "| passed |" in lines[4]
    assert "clock \\| stepped" in lines[5]
    assert "not here: no libfaketime" in lines[5]


def test_what_no_test_did_is_named() -> None:
    assert "Not in this run: 4, 5, 6, 7, 9, 10," in table().text()


def test_the_page_keeps_its_prose_around_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    table().write(page)
    table().write(page)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| fault |")
    assert text.endswith(f".\n{END}\nafter\n")
    assert "old" not in text


def test_a_page_without_the_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no table here")
    with pytest.raises(ValueError, match="unpack"):
        table().write(page)
    assert page.read_text() == "no table here"


def test_the_real_page_has_the_markers() -> None:
    assert PAGE.read_text().count(BEGIN) == PAGE.read_text().count(END) == 1
