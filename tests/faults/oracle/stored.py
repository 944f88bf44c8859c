"""Reads what a store holds with nothing but SQL and Flux."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import urllib.request
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from .topic import Sums

VIEWS = ("cost", "cost_1h", "cost_1d")
_FIELDS = {
    "requests": "requests",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cost_nano_usd": "cost_nano",
}


@dataclass
class Stored:
    """Sums by view, model and day, and the events of a topic by what became of them."""

    sums: dict[str, dict[tuple[str, int], Sums]] = field(
        default_factory=lambda: {view: defaultdict(Sums) for view in VIEWS}
    )
    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, view: str, model: str, time: int, name: str, value: int) -> None:
        """Add one field of one point."""
        if name in _FIELDS:
            sums = self.sums[view][model, time // 86_400]
            setattr(sums, _FIELDS[name], getattr(sums, _FIELDS[name]) + value)


def stored_sqlite(path: Path, topic: str) -> Stored:
    """What a SQLite store holds.

    Args:
        path: of its file.
        topic: of requests, for the outcomes.
    """
    found = Stored()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as db:
        rows = db.execute(
            "SELECT measurement, time, tags, fields FROM points"
            " WHERE measurement IN ('cost', 'cost_1h', 'cost_1d', 'intake')"
        ).fetchall()
    for measurement, time, tags, fields in rows:
        named, values = json.loads(tags), json.loads(fields)
        if measurement != "intake":
            for name, value in values.items():
                found.add(measurement, named["model"], time, name, value)
        elif named["topic"] == topic:
            found.outcomes[named["outcome"]] += values["events"]
    return found


def stored_influxdb(url: str, org: str, token: str, bucket: str, topic: str) -> Stored:
    """What a bucket of InfluxDB 2 holds; ``topic`` of requests, for the outcomes."""
    found = Stored()
    for view in VIEWS:
        for row in _ask(url, org, token, bucket, f'r._measurement == "{view}"'):
            if row["_field"] in _FIELDS:
                time = datetime.fromisoformat(row["_time"].replace("Z", "+00:00"))
                found.add(view, row["model"], int(time.timestamp()), row["_field"], int(row["_value"]))
    for row in _ask(
        url, org, token, bucket, 'r._measurement == "intake" and r._field == "events" and exists r.topic'
    ):
        if row["topic"] == topic:
            found.outcomes[row["outcome"]] += int(row["_value"])
    return found


def _ask(url: str, org: str, token: str, bucket: str, condition: str) -> list[dict[str, Any]]:
    flux = (
        f'from(bucket: "{bucket}") |> range(start: 0, stop: 2100-01-01T00:00:00Z)'
        f" |> filter(fn: (r) => {condition})"
    )
    request = urllib.request.Request(  # noqa: S310 (the tests' own server)
        f"{url}/api/v2/query?org={org}",
        data=json.dumps({"query": flux, "dialect": {"annotations": []}}).encode(),
        headers={"Authorization": f"Token {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        text = answer.read().decode()
    rows: list[dict[str, Any]] = []
    # A table with other columns comes after an empty line, with a header of its own.
    for table in text.replace("\r\n", "\n").split("\n\n"):
        rows += [row for row in csv.DictReader(io.StringIO(table)) if row.get("_field")]
    return rows
