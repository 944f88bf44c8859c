"""The Grafana dashboard's queries, as Grafana would send them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards" / "tidegauge.json"


def panel_queries() -> list[tuple[str, str]]:
    """Title and Flux query of every panel."""
    dashboard: dict[str, Any] = json.loads(FILE.read_text())
    return [
        (panel["title"], target["query"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])  # a row has none
    ]


def variable_queries() -> list[tuple[str, str]]:
    """Name and Flux query of every variable."""
    dashboard: dict[str, Any] = json.loads(FILE.read_text())
    return [(variable["name"], variable["query"]) for variable in dashboard["templating"]["list"]]


def fill_in(query: str, bucket: str, start: int, stop: int, window: str, **variables: str) -> str:
    """The query with Grafana's values for it.

    Args:
        query: Flux, with ``v.…`` and ``${name:regex}`` in it.
        bucket: name of the bucket.
        start: Unix seconds.
        stop: Unix seconds.
        window: width of a step, as Flux writes durations.
        variables: what the user chose; ``.*`` unless named.
    """
    choices = {name: variables.get(name, ".*") for name in re.findall(r"\$\{(\w+):regex\}", query)}
    for name, choice in choices.items():
        query = query.replace(f"${{{name}:regex}}", choice)
    for name, value in (
        ("defaultBucket", json.dumps(bucket)),
        ("timeRangeStart", f"time(v: {start}000000000)"),
        ("timeRangeStop", f"time(v: {stop}000000000)"),
        ("windowPeriod", window),
    ):
        query = query.replace(f"v.{name}", value)
    return query
