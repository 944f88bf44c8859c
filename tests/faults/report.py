"""Collects what the tests of the fault matrix did, and writes their table at the end of a run.

``tests/conftest.py`` takes the hooks over, so that a row may be tested in any folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.faults.matrix import Note, Row, Table

PAGE = "TIDEGAUGE_RELIABILITY"
"""The variable that names the page to be written; set by ``make faults``."""

_NOTE = pytest.StashKey[Note]()
_TABLE = pytest.StashKey[Table]()


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[_TABLE] = Table()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    # Of a test that is skipped or breaks before it begins, there is the set-up alone to tell of.
    if call.when == "call" or (call.when == "setup" and not report.passed):
        for marker in item.iter_markers("fault"):
            number, done = marker.args
            result = "passed" if report.passed else "FAILED"
            if report.skipped:
                result = f"not here: {call.excinfo.value if call.excinfo else ''}"
            note = item.stash.get(_NOTE, Note())
            item.config.stash[_TABLE].rows.append(Row(number, done, note, call.duration, result))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    path, table = os.environ.get(PAGE), session.config.stash.get(_TABLE, Table())
    if path and table.rows:
        table.write(Path(path))


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """For what the table tells of this test: load, events, difference."""
    return request.node.stash.setdefault(_NOTE, Note())
