"""The table of views: what is aggregated, by which dimensions, in panes of which width.

The first stage folds each event once into the finest pane (``requests``, one minute) and derives the other rows
from it at every flush. The second stage merges the source partitions' snapshots of a pane and writes it to the
store as one point of each measurement of the row. A new metric is a new row here, or a new field in one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import msgspec

from .aggregate import Aggregate

FieldValue = int | float | str
OTHER: Final = "__other__"
"""Stands for every value past the cardinality cap; totals stay exact."""

BASE_DIMENSIONS: Final = ("service", "environment", "team", "provider", "model", "prompt", "prompt_version")

REQUEST_COUNTERS: Final = (
    "requests",
    "errors",
    "retries",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_1h_input_tokens",
    "reasoning_output_tokens",
    "cost_nano_usd",
    "input_cost_nano_usd",
    "output_cost_nano_usd",
    "cache_read_cost_nano_usd",
    "cache_creation_cost_nano_usd",
    "provider_reported_requests",
    "priced_requests",
    "estimated_requests",
    "unpriced_requests",
)

_PERCENTILES: Final = ((50, 0.50), (90, 0.90), (95, 0.95), (99, 0.99))
_QUANTILES: Final = [quantile for _, quantile in _PERCENTILES]


@dataclass(frozen=True)
class Distribution:
    """A field kept as a sketch.

    ``scale`` sketch units make one unit of the field: 1e9 where values are kept in nanoseconds and shown in
    seconds. ``name`` gives the stored fields ``{name}_p50`` … ``{name}_max``, ``{name}_sum``, ``{name}_count``.
    """

    name: str
    unit: str
    scale: int

    def render(self, aggregate: Aggregate, position: int) -> dict[str, FieldValue]:
        """The stored fields, in the field's unit; an empty sketch stores none but its count."""
        sketch = aggregate.sketches[position]
        fields: dict[str, FieldValue] = {f"{self.name}_count": sketch.count}
        if sketch.count == 0:
            return fields
        for (percent, _), value in zip(_PERCENTILES, sketch.quantiles(_QUANTILES), strict=True):
            assert value is not None
            fields[f"{self.name}_p{percent}"] = value / self.scale
        fields[f"{self.name}_min"] = sketch.minimum / self.scale
        fields[f"{self.name}_max"] = sketch.maximum / self.scale
        fields[f"{self.name}_sum"] = sketch.total / self.scale
        return fields


LATENCY: Final = Distribution("latency", "s", 1_000_000_000)
TIME_TO_FIRST_CHUNK: Final = Distribution("time_to_first_chunk", "s", 1_000_000_000)
OUTPUT_RATE: Final = Distribution("output_tokens_per_second", "1/s", 1_000)
REQUEST_DISTRIBUTIONS: Final = (LATENCY, TIME_TO_FIRST_CHUNK, OUTPUT_RATE)

Derive = Callable[[Mapping[str, FieldValue], float], dict[str, FieldValue]]


def _latency_rates(fields: Mapping[str, FieldValue], seconds: float) -> dict[str, FieldValue]:
    requests, errors = fields["requests"], fields["errors"]
    assert isinstance(requests, int)
    assert isinstance(errors, int)
    return {
        "requests_per_second": requests / seconds,
        "error_rate": errors / requests if requests else 0.0,
    }


def _cost_per_request(fields: Mapping[str, FieldValue], seconds: float) -> dict[str, FieldValue]:
    requests, unpriced, cost = fields["requests"], fields["unpriced_requests"], fields["cost_nano_usd"]
    assert isinstance(requests, int)
    assert isinstance(unpriced, int)
    assert isinstance(cost, int)
    # Unpriced is not free: the mean is over the requests whose cost is known, and absent without any.
    known = requests - unpriced
    return {"cost_per_request_nano_usd": cost / known} if known else {}


def _trigger_rate(fields: Mapping[str, FieldValue], seconds: float) -> dict[str, FieldValue]:
    checks, triggers = fields["checks"], fields["triggers"]
    assert isinstance(checks, int)
    assert isinstance(triggers, int)
    return {"rate": triggers / checks if checks else 0.0}


def _satisfaction(fields: Mapping[str, FieldValue], seconds: float) -> dict[str, FieldValue]:
    up, down = fields["thumbs_up"], fields["thumbs_down"]
    assert isinstance(up, int)
    assert isinstance(down, int)
    return {"satisfaction": up / (up + down)} if up + down else {}


def _mean_score(fields: Mapping[str, FieldValue], seconds: float) -> dict[str, FieldValue]:
    # Hájek's estimate: every score counts for as many requests as its own was drawn from.
    weight, weighted = fields["weight_micro"], fields["weighted_score_micro"]
    assert isinstance(weight, int)
    assert isinstance(weighted, int)
    return {"mean_score": weighted / weight} if weight else {}


@dataclass(frozen=True)
class Measurement:
    """A part of a view's fields, stored under a name of its own.

    ``derive`` computes further fields from the merged ones and the pane's width in seconds.
    """

    name: str
    counters: tuple[str, ...]
    distributions: tuple[Distribution, ...] = ()
    derive: Derive | None = None


@dataclass(frozen=True)
class View:
    """A row of the table.

    Attributes:
        name: goes over the wire in pane snapshots.
        dimensions: names of the key's parts; tags in the store.
        width: pane width in seconds; panes start at multiples of it since the Unix epoch.
        counters: integer sums, in wire order.
        distributions: sketches, in wire order.
        measurements: what is written to the store.
        flush_every: seconds between snapshots of a changed pane; wide panes can wait.
    """

    name: str
    dimensions: tuple[str, ...]
    width: int
    counters: tuple[str, ...]
    distributions: tuple[Distribution, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    flush_every: float = 1.0

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Where each counter and each distribution stands among its like."""
        names = (self.counters, [distribution.name for distribution in self.distributions])
        return {name: position for row in names for position, name in enumerate(row)}

    def empty(self) -> Aggregate:
        """A pane of this view before its first event."""
        return Aggregate.empty(len(self.counters), len(self.distributions))

    def fields(
        self, measurement: Measurement, aggregate: Aggregate, seconds: float | None = None
    ) -> dict[str, FieldValue]:
        """The measurement's fields of an aggregate that spans ``seconds`` (the pane's width unless told)."""
        at = self.positions
        fields: dict[str, FieldValue] = {name: aggregate.counters[at[name]] for name in measurement.counters}
        for distribution in measurement.distributions:
            fields |= distribution.render(aggregate, at[distribution.name])
        if measurement.derive is not None:
            fields |= measurement.derive(fields, seconds or float(self.width))
        return fields

    def sketch_fields(self, measurement: Measurement, aggregate: Aggregate) -> dict[str, FieldValue]:
        """The sketches as text, so that a query can merge panes and still state its percentiles' error."""
        return {
            f"{d.name}_sketch": msgspec.json.encode(
                aggregate.sketches[self.positions[d.name]].snapshot()
            ).decode()
            for d in measurement.distributions
        }


_COST_COUNTERS: Final = ("requests", *REQUEST_COUNTERS[3:])

REQUESTS: Final = View(
    "requests",
    BASE_DIMENSIONS,
    60,
    REQUEST_COUNTERS,
    REQUEST_DISTRIBUTIONS,
    (
        Measurement(
            "latency", ("requests", "errors", "retries"), REQUEST_DISTRIBUTIONS, derive=_latency_rates
        ),
        Measurement("cost", _COST_COUNTERS, derive=_cost_per_request),
    ),
)
REQUESTS_HOURLY: Final = View(
    "requests_1h",
    BASE_DIMENSIONS,
    3600,
    REQUEST_COUNTERS,
    REQUEST_DISTRIBUTIONS,
    (
        Measurement(
            "latency_1h", ("requests", "errors", "retries"), REQUEST_DISTRIBUTIONS, derive=_latency_rates
        ),
        Measurement("cost_1h", _COST_COUNTERS, derive=_cost_per_request),
    ),
    flush_every=10.0,
)
COST_DAILY: Final = View(
    "cost_1d",
    ("service", "environment", "team", "provider", "model"),
    86_400,
    REQUEST_COUNTERS,
    (),
    (Measurement("cost_1d", _COST_COUNTERS, derive=_cost_per_request),),
    flush_every=10.0,
)
COARSER: Final = (REQUESTS_HOURLY, COST_DAILY)
"""Views whose panes are sums of base panes: of fewer dimensions or more minutes, with the same counters and with all
distributions or none. A row here is all that the first stage needs to feed one."""

USERS_DAILY: Final = View(
    "users_1d",
    ("service", "user"),
    86_400,
    ("requests", "input_tokens", "output_tokens", "cost_nano_usd", "unpriced_requests"),
    (),
    (
        Measurement(
            "users",
            ("requests", "input_tokens", "output_tokens", "cost_nano_usd", "unpriced_requests"),
            derive=_cost_per_request,
        ),
    ),
    flush_every=10.0,
)
GUARDRAILS: Final = View(
    "guardrails",
    ("service", "guardrail", "stage", "action", "detector_version", "model", "prompt", "prompt_version"),
    60,
    ("checks", "triggers", "failures", "timeouts", "duration_ns"),
    (),
    (
        Measurement(
            "guardrails",
            ("checks", "triggers", "failures", "timeouts", "duration_ns"),
            derive=_trigger_rate,
        ),
    ),
)
FEEDBACK: Final = View(
    "feedback",
    ("service", "provider", "model", "prompt", "prompt_version"),
    60,
    ("feedback", "thumbs_up", "thumbs_down", "ratings", "ratings_sum_micro", "unattributed"),
    (),
    (
        Measurement(
            "feedback",
            ("feedback", "thumbs_up", "thumbs_down", "ratings", "ratings_sum_micro", "unattributed"),
            derive=_satisfaction,
        ),
    ),
)
SCORE: Final = Distribution("score", "1", 1_000_000)
_QUALITY_COUNTERS: Final = (
    "judged",
    "scored",
    "unknown",
    "unscored",
    "cost_nano_usd",
    "unpriced_judgements",
    # Sums over the scores s with weight w = 1 / probability, in millionths: what the weighted mean and the variance
    # that sampling gave it are made of.
    "weight_micro",  # Σ w
    "weighted_score_micro",  # Σ ws
    "weighted_score_squared_micro",  # Σ ws²
    "weight_squared_micro",  # Σ w²
    "weight_squared_score_micro",  # Σ w²s
    "weight_squared_score_squared_micro",  # Σ w²s²
)
QUALITY: Final = View(
    "quality",
    (
        "service",
        "provider",
        "model",
        "prompt",
        "prompt_version",
        "criterion",
        "judge_model",
        "rubric_hash",
    ),
    60,
    _QUALITY_COUNTERS,
    (SCORE,),
    (Measurement("quality", _QUALITY_COUNTERS, (SCORE,), derive=_mean_score),),
)
INTAKE: Final = View(
    # Its panes are of the time that Kafka appended the record: what is refused has no event time to trust.
    "intake",
    ("topic", "outcome"),
    60,
    ("events",),
    (),
    (Measurement("intake", ("events",)),),
)

VIEWS: Final[Mapping[str, View]] = {
    view.name: view for view in (REQUESTS, *COARSER, USERS_DAILY, GUARDRAILS, FEEDBACK, QUALITY, INTAKE)
}


@dataclass(frozen=True)
class Stored:
    """Where a measurement comes from: its view and itself."""

    view: View
    measurement: Measurement


MEASUREMENTS: Final[Mapping[str, Stored]] = {
    m.name: Stored(view, m) for view in VIEWS.values() for m in view.measurements
}
"""Every measurement in the store, by name."""
