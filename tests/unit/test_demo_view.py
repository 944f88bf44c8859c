from __future__ import annotations

from io import StringIO
from pathlib import Path

from rich.console import Console

from tidegauge.commands.demo_view import dashboard
from tidegauge.processors.core.views import REQUESTS
from tidegauge.processors.engine.merging import points
from tidegauge.sinks.local import LocalStore


def test_a_models_name_is_shown_as_it_is_and_never_taken_for_markup_or_control(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "points.db")
    pane = REQUESTS.empty()
    pane.counters[0] = 3
    for model in ("[/x]", "\x1b[2Jgone"):
        store.write(points(REQUESTS, 1_700_000_040, ("shop", "", "", "p", model, "", ""), pane))
    console = Console(width=200, file=StringIO())
    console.print(dashboard(store))
    shown = console.file.getvalue()
    store.close()
    assert "[/x]" in shown
    assert "\\x1b[2Jgone" in shown
