"""The runbook has everything that the code says; the lists are read out of the code."""

from __future__ import annotations

import pytest

from tests.support import messages
from tidegauge.processors.core.figures import EVENTS_METRIC, FIGURES

RUNBOOK = " ".join((messages.ROOT / "docs" / "runbook.md").read_text(encoding="utf-8").split())
LEAST = {"warnings": 20, "errors": 40, "refusals": 15, "drops": 10}


def _said(kind: str) -> set[str]:
    return {"warnings": messages.warnings, "errors": messages.errors}[kind]()


@pytest.mark.parametrize("kind", ["warnings", "errors"])
def test_every_message_is_in_the_runbook(kind: str) -> None:
    said = _said(kind)
    assert len(said) >= LEAST[kind], "the code is not read as it was"
    assert {phrase for phrase in said if phrase not in RUNBOOK} == set()


@pytest.mark.parametrize("kind", ["refusals", "drops"])
def test_every_reason_for_which_an_event_is_not_counted_is_in_the_runbook(kind: str) -> None:
    reasons = messages.refusals() if kind == "refusals" else messages.drops()
    assert len(reasons) >= LEAST[kind], "the code is not read as it was"
    assert {reason for reason in reasons if f"`{reason}`" not in RUNBOOK} == set()


def test_every_figure_of_the_pipelines_own_is_in_the_runbook_under_both_names() -> None:
    for figure in FIGURES.values():
        assert f"`{figure.name}`" in RUNBOOK, figure.name
        assert not figure.metric or f"`{figure.metric}`" in RUNBOOK, figure.metric
    assert f"`{EVENTS_METRIC}`" in RUNBOOK


def test_a_message_that_the_runbook_lacks_would_be_found() -> None:
    assert "expired before they were read" in messages.warnings()
    assert "a newer worker has written it; upgrade this one" in messages.errors()
    assert {"store_refused", "future_time"} <= messages.refusals()
    assert "a sentence that the code does not say" not in messages.errors()
