"""A recorded hour of a real service through Kafka and a worker that is killed on the way, against pandas."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from zlib import crc32

import pandas as pd
import pytest
from kafka import KafkaProducer

from tests.support.deployment import Pipeline
from tests.support.servers import Kafka
from tidegauge.schemas.codec import encode
from tidegauge.schemas.request import RequestEvent

TRACE = Path(__file__).parents[3] / "shared" / "data" / "traces" / "AzureLLMInferenceTrace_conv.csv"
PARTITIONS = 3
SLICES = 20
ARRAY = 10
INPUT_NANO, OUTPUT_NANO = 2_500, 10_000
PRICES = '[[price]]\nprovider = "openai"\nmodel = "gpt-4"\ninput = "2.5"\noutput = "10"\n'

pytestmark = pytest.mark.kafka


@pytest.fixture
def trace() -> pd.DataFrame:
    if not TRACE.is_file():
        pytest.skip(f"needs the recorded trace ../shared/data/traces/{TRACE.name}")
    return pd.read_csv(TRACE, parse_dates=["TIMESTAMP"])


def messages(trace: pd.DataFrame) -> dict[int, list[bytes]]:
    """Messages by partition: single events and arrays in turn, ids to partitions as the SDK's are: for good."""
    events: dict[int, list[RequestEvent]] = {}
    for row in trace.itertuples():
        event = RequestEvent(
            id=f"azure-{row.Index}",
            time=row.TIMESTAMP.value / 1e9,
            service="conversation",
            provider="openai",
            model="gpt-4",
            input_tokens=int(row.ContextTokens),
            output_tokens=int(row.GeneratedTokens),
        )
        events.setdefault(crc32(event.id.encode()) % PARTITIONS, []).append(event)
    result: dict[int, list[bytes]] = {}
    for partition, mine in events.items():
        half = len(mine) // 2
        singles = [encode(event) for event in mine[:half]]
        result[partition] = singles + [encode(mine[i : i + ARRAY]) for i in range(half, len(mine), ARRAY)]
    return result


class Traffic:
    """Publishes slices of the trace, each acknowledged by Kafka before the next."""

    def __init__(self, servers: str, topic: str, trace: pd.DataFrame) -> None:
        self._producer = KafkaProducer(bootstrap_servers=servers, acks="all")
        self._topic = topic
        bounds = [len(trace) * n // SLICES for n in range(SLICES + 1)]
        self.slices = [trace.iloc[a:b] for a, b in pairwise(bounds)]

    def publish(self, *numbers: int) -> None:
        futures = [
            self._producer.send(self._topic, value, partition=partition)
            for number in numbers
            for partition, values in messages(self.slices[number]).items()
            for value in values
        ]
        for future in futures:
            future.get(timeout=30)

    def close(self) -> None:
        self._producer.close()


def measured(pipeline: Pipeline, view: str, every: int) -> pd.DataFrame:
    frame = pd.DataFrame(pipeline.rows(view, every=every))
    fields = ["requests", "input_tokens", "output_tokens", "cost_nano_usd", "priced_requests"]
    return frame.set_index("time")[fields] if len(frame) else frame


def recomputed(trace: pd.DataFrame, every: int) -> pd.DataFrame:
    seconds = trace["TIMESTAMP"].astype("datetime64[ns]").astype("int64") // 10**9
    sums = (
        trace.assign(requests=1, input_tokens=trace["ContextTokens"], output_tokens=trace["GeneratedTokens"])
        .groupby((seconds // every * every).rename("time"))[["requests", "input_tokens", "output_tokens"]]
        .sum()
    )
    cost = sums["input_tokens"] * INPUT_NANO + sums["output_tokens"] * OUTPUT_NANO
    return sums.assign(cost_nano_usd=cost, priced_requests=sums["requests"])


@pytest.mark.slow
def test_a_killed_worker_counts_a_recorded_hour_exactly(
    kafka: Kafka, topic_prefix: str, trace: pd.DataFrame, tmp_path: Path
) -> None:
    pipeline = Pipeline(
        tmp_path,
        kafka.bootstrap_servers,
        topic_prefix,
        partitions=PARTITIONS,
        settings={"TIDEGAUGE_PRICES_OVERRIDE_FILE": "prices.toml"},
    )
    pipeline.create_topics()
    (tmp_path / "prices.toml").write_text(PRICES, encoding="utf-8")
    traffic = Traffic(kafka.bootstrap_servers, f"{topic_prefix}requests", trace)
    try:
        traffic.publish(*range(10))
        with pipeline.worker() as worker:
            worker.wait("a quarter", lambda: pipeline.intake().get("applied", 0) >= len(trace) // 4)
            traffic.publish(*range(10, 15))
            worker.kill()
        before = pipeline.intake()
        assert before["applied"] < len(trace)
        traffic.publish(*range(15, SLICES))
        traffic.publish(SLICES - 1)  # a producer that did not hear its acknowledgement
    finally:
        traffic.close()

    repeats = len(traffic.slices[-1])
    expected = {"applied": len(trace), "duplicate": repeats}
    with pipeline.worker() as worker:
        worker.wait("all applied", lambda: pipeline.intake() == expected)
        whole = recomputed(trace, 86_400)
        worker.wait("the day", lambda: measured(pipeline, "cost_1d", 86_400).equals(whole))
        worker.end()

    assert pipeline.intake() == expected
    for view, every in (("cost", 60), ("cost_1h", 3_600), ("cost_1d", 86_400)):
        pd.testing.assert_frame_equal(measured(pipeline, view, every), recomputed(trace, every))
