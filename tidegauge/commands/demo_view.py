"""The live view of the demo."""

from __future__ import annotations

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tidegauge.sinks.base import Store
from tidegauge.sinks.query import Row, rows

from .terminal import printable

_MINUTES = 12
_BARS = " ▁▂▃▄▅▆▇█"


def dashboard(store: Store) -> Group:
    """Latency and cost by model, guardrails, and the last minutes' p95 as a sparkline."""
    cost = {str(row["model"]): row for row in rows(store, "cost", by=["model"])}
    minutes: dict[str, list[float]] = {}
    for row in rows(store, "latency", every=60, by=["model"]):
        minutes.setdefault(str(row["model"]), []).append(float(row.get("latency_p95") or 0.0))
    models = Table("model", expand=True)
    for name in (
        "requests",
        "errors",
        "p50",
        "p95",
        "p99",
        "tokens in",
        "tokens out",
        "cost",
        "p95 by minute",
    ):
        models.add_column(name, justify="right")
    for row in rows(store, "latency", by=["model"]):
        model = str(row["model"])
        spent = cost.get(model, {})
        models.add_row(
            _name(model),
            f"{row['requests']:,}",
            f"{row['errors']:,}",
            *(_seconds(row.get(f"latency_p{p}")) for p in (50, 95, 99)),
            f"{spent.get('input_tokens') or 0:,}",
            f"{spent.get('output_tokens') or 0:,}",
            _dollars(spent),
            _sparkline(minutes.get(model, [])[-_MINUTES:]),
        )
    guardrails = Table("guardrail", "stage", "action", expand=True)
    for name in ("checks", "triggers", "rate"):
        guardrails.add_column(name, justify="right")
    for row in rows(store, "guardrails", by=["guardrail", "stage", "action"]):
        guardrails.add_row(
            *(_name(row[dimension]) for dimension in ("guardrail", "stage", "action")),
            f"{row['checks']:,}",
            f"{row['triggers']:,}",
            f"{float(row.get('rate') or 0):.2%}",
        )
    return Group(
        Panel(models, title="tidegauge: requests by model", subtitle="Ctrl-C ends it"),
        Panel(guardrails, title="guardrails"),
    )


def _name(value: object) -> Text:
    # Text, since rich would take a name with brackets for markup, and fail on some.
    return Text(printable(str(value)) or "–")


def _seconds(value: object) -> str:
    return "–" if value is None else f"{float(str(value)):.2f} s"


def _dollars(row: Row) -> str:
    if not row or row.get("unpriced_requests") == row.get("requests"):
        return "unpriced"
    return f"${int(row.get('cost_nano_usd') or 0) / 1e9:,.4f}"


def _sparkline(values: list[float]) -> str:
    top = max(values, default=0.0)
    return "".join(_BARS[round(v / top * (len(_BARS) - 1))] if top else _BARS[0] for v in values)
