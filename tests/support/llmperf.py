"""The llmperf leaderboard's runs against hosted Llama 2 70B: each request as measured, and the authors' summaries.

Their percentiles (p25 … p99) are over the completed requests and interpolate linearly between ranks, as pandas does
by default and as our sketches do: recomputed from the raw files by pandas they are the authors' to the last digit.

A request's ``number_output_tokens`` is counted anew by one tokenizer for all providers, while its throughput is of
the tokens that were counted as they streamed: of those there were throughput × latency, a whole number.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidegauge.schemas.request import RequestEvent

ARCHIVE = Path(__file__).parents[3] / "shared" / "data" / "traces" / "llmperf_70b_raw_and_summary.tar.gz"
RUNS = ("anyscale", "bedrock", "fireworks", "groq", "lepton", "perplexity", "replicate", "together")
PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Run:
    """One provider's run."""

    name: str
    requests: list[Mapping[str, Any]]
    summary: Mapping[str, Any]

    def authors(self, metric: str) -> dict[int, float]:
        """The authors' own percentiles of a metric."""
        return {p: self.summary[f"results_{metric}_quantiles_p{p}"] for p in PERCENTILES}

    @property
    def completed(self) -> list[Mapping[str, Any]]:
        """The requests that the authors' percentiles are of."""
        return [request for request in self.requests if request["error_code"] is None]

    def events(self, *, streamed: bool) -> list[RequestEvent]:
        """The run as events of one call a second.

        Args:
            streamed: with the time to first chunk. Our output rate is then that of generating, after the first
                chunk; without it, over the whole call, which is what the authors call request output throughput.
        """
        start = float(self.summary["timestamp"])
        return [
            self._event(start + n, request, f"{self.name}-{streamed}-{n}", streamed=streamed)
            for n, request in enumerate(self.requests)
        ]

    def _event(
        self, time: float, request: Mapping[str, Any], identity: str, *, streamed: bool
    ) -> RequestEvent:
        event = RequestEvent(
            id=identity,
            time=time,
            service="streamed" if streamed else "whole",
            provider=self.name,
            model="llama-2-70b",
            stream=streamed,
            input_tokens=request["number_input_tokens"],
        )
        if request["error_code"] is not None:
            # Refused, or answered too briefly for the authors: what it took is no latency of theirs.
            event.error = str(request["error_code"])
            return event
        event.duration = request["end_to_end_latency_s"]
        event.output_tokens = tokens(request)
        if streamed:
            event.time_to_first_chunk = request["ttft_s"]
        return event


def tokens(request: Mapping[str, Any]) -> int:
    """The output tokens that a completed request's throughput is of."""
    counted = request["request_output_throughput_token_per_s"] * request["end_to_end_latency_s"]
    assert abs(counted - round(counted)) < 1e-6
    return round(counted)


@cache
def run(name: str) -> Run:
    """A run by its provider; skips the test where the archive is not there."""
    if not ARCHIVE.is_file():
        pytest.skip(f"needs the recorded runs ../shared/data/traces/{ARCHIVE.name}")
    with tarfile.open(ARCHIVE) as archive:
        files = [
            archive.extractfile(f"raw_data/{kind}/{name}_70b.json") for kind in ("individual", "summary")
        ]
        raw, summary = (json.load(file) for file in files if file is not None)
    return Run(name, raw, summary)


def check(run: Run, streamed: Mapping[str, Any], whole: Mapping[str, Any]) -> None:
    """Compare what was stored of a run, as streamed calls and as whole ones, with the authors' own figures."""
    latency = run.authors("end_to_end_latency_s")
    for stored in (streamed, whole):
        assert stored["requests"] == len(run.requests)
        assert stored["errors"] == len(run.requests) - len(run.completed)
        assert stored["latency_count"] == len(run.completed)
        _close(stored, "latency", latency)
        assert stored["latency_max"] == pytest.approx(
            run.summary["results_end_to_end_latency_s_max"], abs=1e-9
        )
    _close(streamed, "time_to_first_chunk", run.authors("ttft_s"))
    _close(whole, "output_tokens_per_second", run.authors("request_output_throughput_token_per_s"))
    # The authors have no figure for the speed of generating alone.
    speeds = [tokens(r) / (r["end_to_end_latency_s"] - r["ttft_s"]) for r in run.completed]
    expected = dict(zip(PERCENTILES, np.percentile(speeds, PERCENTILES), strict=True))
    _close(streamed, "output_tokens_per_second", expected)


def _close(stored: Mapping[str, Any], field: str, expected: Mapping[int, float]) -> None:
    found = {p: stored[f"{field}_p{p}"] for p in PERCENTILES}
    assert found == pytest.approx(expected, rel=0.01), field
