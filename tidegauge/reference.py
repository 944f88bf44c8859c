"""Writes the reference pages: the settings and the measurements, from the types and the table of views themselves.

python -m tidegauge.reference            # docs/reference/*.md, in the checkout
python -m tidegauge.reference --check    # exit with 1 where they are not what it would write
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from .processors.core.figures import DIMENSIONS, EVENTS_METRIC, FIGURES, OUTCOME
from .processors.core.views import MEASUREMENTS, Distribution, Stored
from .settings import ENV_PREFIX, Secret, Settings

_GENERATED: Final = "<!-- Written by `make docs` from the code; do not edit. -->"

_SETTINGS: Final = f"""# Settings

{_GENERATED}

A TOML file, then environment variables over it, then the command's flags over both. The file is that of `--config` or
of `TIDEGAUGE_CONFIG`, else `tidegauge.toml` in the working folder where there is one. An unknown name, a wrong type
or a value out of range is refused by name. Secrets belong in the environment, or in a file of their own that the
variable with `_FILE` behind it names (`TIDEGAUGE_INFLUXDB_TOKEN_FILE`); they are never shown.

```toml
[kafka]
bootstrap_servers = "kafka-1:9092,kafka-2:9092"
security_protocol = "SASL_SSL"
sasl_mechanism = "SCRAM-SHA-512"
sasl_username = "tidegauge"        # and TIDEGAUGE_KAFKA_SASL_PASSWORD in the environment

[store]
url = "influxdb"

[influxdb]
url = "https://influxdb.example.com"
bucket = "llm"                     # and TIDEGAUGE_INFLUXDB_TOKEN in the environment
```
"""

_MEASUREMENTS: Final = f"""# Measurements

{_GENERATED}

What `tidegauge query VIEW` can be asked for, and what is stored under these names: one point a series and *pane* (a
stretch of event time, beginning at `time`). The dimensions are what `--by` and `--where` take. Counters and sums are
exact integers; percentiles are off by at most 1 %, and are those of the whole span asked for, not means of minutes.
How to ask: [guides/querying.md](../guides/querying.md).

`_sketch` fields in the store are what percentiles of longer spans are merged from; queries use them and do not show
them.
"""

COUNTERS: Final = {
    "requests": ("", "calls of a model that have ended"),
    "errors": ("", "of those, calls that failed"),
    "retries": ("", "attempts beyond the first"),
    "input_tokens": ("tokens", "all input, cache reads and writes included"),
    "output_tokens": ("tokens", "all output, reasoning included"),
    "cache_read_input_tokens": ("tokens", "input read from a cache"),
    "cache_creation_input_tokens": ("tokens", "input written to a cache"),
    "cache_creation_1h_input_tokens": ("tokens", "of that, written to live for an hour"),
    "reasoning_output_tokens": ("tokens", "output that was reasoning"),
    "cost_nano_usd": ("10⁻⁹ USD", "what is known of the cost; unpriced requests add nothing"),
    "input_cost_nano_usd": (
        "10⁻⁹ USD",
        "of input outside caches; like the next three of priced requests",
    ),
    "output_cost_nano_usd": ("10⁻⁹ USD", "of the output"),
    "cache_read_cost_nano_usd": ("10⁻⁹ USD", "of cache reads"),
    "cache_creation_cost_nano_usd": ("10⁻⁹ USD", "of cache writes"),
    "provider_reported_requests": ("", "requests whose cost the provider stated"),
    "priced_requests": ("", "requests priced by the table, from tokens that the provider stated"),
    "estimated_requests": ("", "requests priced with a guess: counted tokens, or a provider inferred"),
    "unpriced_requests": ("", "requests whose cost is not known; they are not free"),
    "checks": ("", "results of guardrails"),
    "triggers": ("", "of those, results that found something"),
    "failures": ("", "checks that failed"),
    "timeouts": ("", "checks that took too long"),
    "duration_ns": ("10⁻⁹ s", "time spent in checks, summed"),
    "feedback": ("", "thumbs and ratings"),
    "thumbs_up": ("", "thumbs up"),
    "thumbs_down": ("", "thumbs down"),
    "ratings": ("", "ratings"),
    "ratings_sum_micro": ("10⁻⁶", "ratings of 0 to 1, summed"),
    "unattributed": ("", "feedback that names no call's service or model"),
    "judged": ("", "verdicts of the judge"),
    "scored": ("", "of those, with a score"),
    "unknown": ("", "of those, where the judge could not tell"),
    "unscored": ("", "of those, without a usable answer"),
    "unpriced_judgements": ("", "verdicts whose cost is not known"),
    "weight_micro": ("10⁻⁶", "Σ w of the scores, w = 1 / probability of being drawn"),
    "weighted_score_micro": ("10⁻⁶", "Σ w s"),
    "weighted_score_squared_micro": ("10⁻⁶", "Σ w s²"),
    "weight_squared_micro": ("10⁻⁶", "Σ w²"),
    "weight_squared_score_micro": ("10⁻⁶", "Σ w² s"),
    "weight_squared_score_squared_micro": ("10⁻⁶", "Σ w² s²"),
    "events": ("", "events read, by what became of them: applied, duplicate, late, refused_…"),
}
"""Unit and meaning of every counter."""

DISTRIBUTIONS: Final = {
    "latency": "from the call to the end of the answer, retries included",
    "time_to_first_chunk": "from the call to the first chunk of a streamed answer",
    "output_tokens_per_second": "output tokens over the time from the first chunk to the end, or the whole time",
    "score": "the judge's score, 0 to 1, unweighted",
}
_PIPELINE: Final = """
## `pipeline`

What workers tell of themselves every ten seconds, by `worker` (setting `worker.name`), `topic` and `partition`; a tag
that a figure does not have is empty. They are gauges and counters, not panes: a row shows the last, the greatest or
the least of its step, and of a counter what it rose by. Of several workers, topics or partitions they are added up
where that has a meaning. The same figures are at `/metrics`; [guides/health.md](../guides/health.md) says which to
set alerts on.

| field | unit | in a row | at `/metrics` | meaning |
|---|---|---|---|---|"""

DERIVED: Final = {
    "requests_per_second": ("1/s", "requests over the span, as far as it lies within the range"),
    "error_rate": ("0–1", "errors / requests"),
    "cost_per_request_nano_usd": ("10⁻⁹ USD", "cost / requests with a known cost; absent without any"),
    "rate": ("0–1", "triggers / checks"),
    "satisfaction": ("0–1", "thumbs up / all thumbs; absent without any"),
    "mean_score": (
        "0–1",
        "mean score of all requests, estimated from those that were drawn; absent without any",
    ),
}


def settings() -> str:
    """The page of the settings."""
    lines = [_SETTINGS]
    for section in msgspec.structs.fields(Settings):
        lines.append(f"## `[{section.name}]`\n\n{_first_line(section.type.__doc__)}\n")
        lines.append("| setting | environment | default | what it is |\n|---|---|---|---|")
        inspected: Any = msgspec.inspect.type_info(section.type)
        for field, info in zip(msgspec.structs.fields(section.type), inspected.fields, strict=True):
            name = f"{ENV_PREFIX}{section.name}_{field.name}".upper()
            meaning = f"{_meaning(info.type)}{_limits(info.type)}"
            lines.append(f"| `{field.name}` | `{name}` | {_default(field)} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def _first_line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("``", "`")


def _meaning(kind: Any) -> str:
    extra = getattr(kind, "extra_json_schema", None) or {}
    if "description" not in extra:
        raise LookupError(f"a setting has no description: {kind}")
    return str(extra["description"])


def _limits(kind: Any) -> str:
    inner = getattr(kind, "type", kind)
    if isinstance(inner, msgspec.inspect.LiteralType):
        return ": " + ", ".join(f"`{value}`" for value in inner.values)
    low, high = getattr(inner, "ge", None), getattr(inner, "le", None)
    above = getattr(inner, "gt", None)
    if low is None and above is None and high is None:
        return ""
    parts = [f"from {low:g}"] if low is not None else [f"above {above:g}"] if above is not None else []
    return f"; {' '.join([*parts, *([f'to {high:,}'] if high is not None else [])])}"


def _default(field: Any) -> str:
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if isinstance(value, Secret) or value == "":
        return "–"
    return f"`{json.dumps(value)}`"


def measurements() -> str:
    """The page of the measurements."""
    lines = [_MEASUREMENTS, "| name | panes | dimensions |", "|---|---|---|"]
    for name, stored in MEASUREMENTS.items():
        dimensions = ", ".join(f"`{dimension}`" for dimension in stored.view.dimensions)
        lines.append(f"| [`{name}`](#{name}) | {_width(stored.view.width)} | {dimensions} |")
    dimensions = ", ".join(f"`{dimension}`" for dimension in DIMENSIONS)
    lines.append(f"| [`pipeline`](#pipeline) | none | {dimensions} |")
    told: dict[tuple[Any, ...], str] = {}
    for name, stored in MEASUREMENTS.items():
        measurement = stored.measurement
        same = told.setdefault((measurement.counters, measurement.distributions), name)
        lines.append(f"\n## `{name}`\n")
        if same != name:
            lines.append(f"The fields of [`{same}`](#{same}), in panes of {_width(stored.view.width)}.")
            continue
        lines += ["| field | unit | meaning |", "|---|---|---|", *_fields(stored)]
    outcomes = ", ".join(f"`{OUTCOME}{name}`" for name in ("applied", "duplicate", "late", "refused_…"))
    meaning = "of the events read, what became of them; `intake` has the exact count"
    lines += [_PIPELINE, _row(outcomes, "", "rise, sum", f"`{EVENTS_METRIC}`", meaning)]
    for figure in FIGURES.values():
        within = "rise" if figure.within == "counter" else figure.within
        metric = f"`{figure.metric}`" if figure.metric else ""
        lines.append(
            _row(f"`{figure.name}`", figure.unit, f"{within}, {figure.across}", metric, figure.meaning)
        )
    return "\n".join(lines) + "\n"


def _fields(stored: Stored) -> Iterator[str]:
    for counter in stored.measurement.counters:
        yield _row(f"`{counter}`", *COUNTERS[counter])
    for distribution in stored.measurement.distributions:
        yield from _of_distribution(distribution)
    for name in _derived(stored):
        yield _row(f"`{name}`", *DERIVED[name])


def _of_distribution(distribution: Distribution) -> Iterator[str]:
    name, unit = distribution.name, "" if distribution.unit == "1" else distribution.unit
    percentiles = ", ".join(f"`{name}_p{percent}`" for percent in (50, 90, 95, 99))
    yield _row(percentiles, unit, f"percentiles of {name}: {DISTRIBUTIONS[name]}")
    yield _row(f"`{name}_min`, `{name}_max`, `{name}_sum`", unit, "exact")
    yield _row(f"`{name}_count`", "", "requests that told it")


def _derived(stored: Stored) -> Iterator[str]:
    full = stored.view.empty()
    full.counters[:] = [7 - index % 2 for index in range(len(full.counters))]
    for sketch in full.sketches:
        sketch.add(1)
    plain = {*stored.measurement.counters}
    for distribution in stored.measurement.distributions:
        plain |= distribution.render(full, stored.view.distributions.index(distribution)).keys()
    yield from (name for name in stored.view.fields(stored.measurement, full) if name not in plain)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _width(seconds: int) -> str:
    return {60: "a minute", 3_600: "an hour", 86_400: "a day"}.get(seconds, f"{seconds} s")


def pages() -> dict[str, str]:
    """All pages, by their path under ``docs/``."""
    return {"reference/settings.md": settings(), "reference/measurements.md": measurements()}


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the pages; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tidegauge.reference", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where one is not current"
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"), metavar="DIR", help="default: docs")
    args = parser.parse_args(argv)
    code = 0
    for path, content in pages().items():
        file = args.docs / path
        if not args.check:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
            sys.stdout.write(f"{file}\n")
        elif not file.is_file() or file.read_text(encoding="utf-8") != content:
            sys.stderr.write(f"{file} is not current; run: make docs\n")
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
