"""A folder of ours is imported as ``tidegauge.x``: the bare name belongs to whoever else installs one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BARE = {"schemas", "producers", "processors", "sinks"}
FOLDERS = ("tidegauge", *sorted(BARE), "tests", "benchmarks", "docs", "deploy")


def files() -> list[Path]:
    """Every Python file of the project; the links under ``tidegauge/`` lead to what is listed anyway."""
    found: set[Path] = set()
    for folder in FOLDERS:
        found |= {path.resolve() for path in (ROOT / folder).rglob("*.py")}
    return sorted(found)


def imported(source: str) -> Iterator[str]:
    """The first part of every absolute import's name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def test_the_search_sees_all_ways_to_import() -> None:
    source = "import schemas.x\nfrom sinks import base\ndef f():\n    import a, producers\nfrom . import processors"
    assert list(imported(source)) == ["schemas", "sinks", "a", "producers"]


def test_all_folders_are_searched() -> None:
    names = {path.relative_to(ROOT).parts[0] for path in files()}
    assert {"tidegauge", "tests"} | BARE <= names


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_imports_a_folder_by_its_bare_name(path: Path) -> None:
    assert not BARE & set(imported(path.read_text(encoding="utf-8")))
