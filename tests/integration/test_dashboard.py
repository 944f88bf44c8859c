"""The dashboard's queries run on a real InfluxDB and show what is stored there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from influxdb_client import InfluxDBClient

from tests.support.dashboard import fill_in, panel_queries, variable_queries
from tests.support.servers import InfluxDB
from tidegauge.processors.core import figures
from tidegauge.processors.core.views import MEASUREMENTS
from tidegauge.sinks.base import Point
from tidegauge.sinks.influx import InfluxStore

DAY = 1_700_006_400  # the start of a UTC day
MINUTES = 10


def _points() -> list[Point]:
    """Three series a measurement, ten panes each; every counter counts 4 of the first, 2 and 1 of the others."""
    points = []
    for name, stored in MEASUREMENTS.items():
        panes = MINUTES if stored.view.width == 60 else 1
        for series, value in (("a", 4), ("b", 2), ("c", 1)):
            # An event need not say what its service is, or its model; InfluxDB does not store an empty tag.
            said = {
                "a": stored.view.dimensions,
                "b": ("model", "outcome", "guardrail", "user"),
                "c": ("outcome",),
            }[series]
            tags = {dimension: series if dimension in said else "" for dimension in stored.view.dimensions}
            aggregate = stored.view.empty()
            aggregate.counters = [value] * len(aggregate.counters)
            for sketch in aggregate.sketches:
                sketch.add(value * 1_000_000_000)
            fields = stored.view.fields(stored.measurement, aggregate)
            points += [Point(name, tags, DAY + pane * 60, fields) for pane in range(panes)]
    for figure in figures.FIGURES.values():
        tags = {name: "a" if name in ("worker", figure.of) else "" for name in figures.DIMENSIONS}
        points += [
            Point(figures.MEASUREMENT, tags, DAY + at * 10, {figure.name: 20 * at}) for at in range(12)
        ]
    return points


@pytest.fixture
def client(influxdb: InfluxDB, influx_bucket: str) -> Iterator[InfluxDBClient]:
    store = InfluxStore(influxdb.settings(influx_bucket))
    assert store.write(_points()) == []
    store.close()
    with InfluxDBClient(influxdb.url, influxdb.token, org=influxdb.org) as client:
        yield client


def _ask(client: InfluxDBClient, bucket: str, query: str, **chosen: str) -> list[dict[str, Any]]:
    filled = fill_in(query, bucket, DAY, DAY + 86_400, "1m", **chosen)
    return [record.values for table in client.query_api().query(filled) for record in table.records]


def test_every_panel_and_variable_gets_an_answer(client: InfluxDBClient, influx_bucket: str) -> None:
    for title, query in panel_queries() + variable_queries():
        assert _ask(client, influx_bucket, query), title


def _values(rows: list[dict[str, Any]]) -> list[float]:
    return sorted({row["_value"] for row in rows})


def test_panels_show_the_stored_figures(client: InfluxDBClient, influx_bucket: str) -> None:
    queries = dict(panel_queries())

    def ask(title: str, **chosen: str) -> list[dict[str, Any]]:
        return _ask(client, influx_bucket, queries[title], **chosen)

    assert _values(ask("Requests")) == [(4 + 2 + 1) * MINUTES]
    assert _values(ask("Requests", model="b")) == [2 * MINUTES]
    assert _values(ask("Requests", service="a")) == [4 * MINUTES]
    assert _values(ask("Error rate")) == [1.0]
    assert _values(ask("Cost")) == [pytest.approx(70 / 1e9)]
    by_model = ask("Requests per minute, by model")
    assert len(by_model) == 3 * MINUTES
    assert {(row.get("model"), row["_value"]) for row in by_model} == {("a", 4.0), ("b", 2.0), (None, 1.0)}
    errors = ask("Error rate, by model")
    assert {(row.get("model"), row["_value"]) for row in errors} == {("a", 1.0), ("b", 1.0), (None, 1.0)}
    assert len(errors) == 3 * MINUTES
    hourly = [pytest.approx(count * 60 / 1e9) for count in (1, 2, 4)]
    assert _values(ask("Cost per hour, by model")) == hourly
    rates = ask("Guardrail trigger rate")
    assert {(row.get("guardrail"), row["_value"]) for row in rates} == {("a", 1.0), ("b", 1.0), (None, 1.0)}
    seconds = [pytest.approx(value, rel=0.01) for value in (1, 2, 4)]
    assert _values(ask("Latency, 99th percentile")) == seconds
    assert {(row.get("user"), row["USD"]) for row in ask("Users by cost")} == {
        ("a", 4e-9),
        ("b", 2e-9),
        (None, 1e-9),
    }
    assert _values(ask("Events read per second, by worker")) == [2.0]
    assert _values(ask("Records to read, by partition")) == [100, 220]
    assert _values(ask("Intake: what became of the events")) == [1, 2, 4]
