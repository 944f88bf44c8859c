"""Traffic by ``tidegauge replay`` into InfluxDB: exact, and the same in whatever order and through whichever workers.

What is compared are exports of whole buckets, but for the measurement ``intake``: it counts what became of the events
by the time at which Kafka took them, so it is another one for every replay. Its sums are compared instead.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from kafka import KafkaAdminClient

from tests.support.deployment import Pipeline, Worker
from tests.support.servers import InfluxDB, Kafka
from tidegauge.producers.simulator import Simulator
from tidegauge.schemas.codec import encode

TRACE = Path(__file__).parents[3] / "shared" / "data" / "traces" / "AzureLLMInferenceTrace_conv.csv"
PARTITIONS = 2
EVENTS = 3_000
PARTS = 3  # of the made-up traffic, as files
EPOCHS = {"TIDEGAUGE_WORKER_EPOCH_EVENTS": "1000"}  # so that there are some in each partition
REQUEST_VIEWS = ("cost_1d", "cost_1h", "latency_1h", "cost", "latency")  # the quickest to read first

pytestmark = pytest.mark.slow


def replay_trace(pipeline: Pipeline) -> None:
    pipeline.do("replay", str(TRACE), "--format", "azure")


def recomputed(trace: pd.DataFrame, every: int) -> list[dict[str, int | str]]:
    """By pandas, from the file: what ``tidegauge query cost --every`` must answer."""
    sums = (
        trace.assign(time=trace["TIMESTAMP"].dt.floor(f"{every}s").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
        .groupby("time")
        .agg(
            requests=("TIMESTAMP", "size"),
            input_tokens=("ContextTokens", "sum"),
            output_tokens=("GeneratedTokens", "sum"),
        )
        .reset_index()
    )
    # The trace names no model, so nothing of it is priced.
    return list(sums.assign(cost_nano_usd=0, unpriced_requests=sums["requests"]).to_dict("records"))


def test_a_replayed_hour_is_exact_in_influxdb_and_replaying_it_again_changes_nothing(
    kafka: Kafka, topic_prefix: str, influxdb: InfluxDB, influx_bucket: str, tmp_path: Path
) -> None:
    if not TRACE.is_file():
        pytest.skip(f"needs the recorded trace ../shared/data/traces/{TRACE.name}")
    trace = pd.read_csv(TRACE, parse_dates=["TIMESTAMP"])
    store = influxdb.settings(influx_bucket)
    pipeline = Pipeline(
        tmp_path,
        kafka.bootstrap_servers,
        topic_prefix,
        partitions=PARTITIONS,
        influxdb=store,
        settings={"TIDEGAUGE_WORKER_EPOCH_EVENTS": "131072"},  # ids are remembered for an epoch at least
    )
    pipeline.create_topics()
    totals = dict.fromkeys(REQUEST_VIEWS, ("requests", len(trace)))
    with pipeline.worker() as worker:
        replay_trace(pipeline)
        worker.wait("all stored", lambda: pipeline.holds({"intake": ("events", len(trace))} | totals))

        for view, every in (("cost", 60), ("cost_1h", 3_600), ("cost_1d", 86_400)):
            expected = recomputed(trace, every)
            answer = pipeline.query(view, "--every", f"{every}s")
            assert [{name: row[name] for name in expected[0]} for row in answer] == expected
        assert pipeline.intake() == {"applied": len(trace)}
        before = influxdb.export(influx_bucket)

        replay_trace(pipeline)
        twice = {"applied": len(trace), "duplicate": len(trace)}
        worker.wait("the repeats", lambda: pipeline.intake() == twice)
        worker.end()
    # Its points of views by minute alone have more fields than these.
    assert len(before) > len(recomputed(trace, 60)) * len(recomputed(trace, 60)[0])
    assert influxdb.export(influx_bucket) == before


class Traffic:
    """Made-up requests as files of events, and what their sums must be in the store."""

    def __init__(self, directory: Path) -> None:
        # Fourteen minutes around midnight: panes of every view begin and end in it.
        events = list(Simulator(7, rate=5.0).events(1_700_006_000.0, count=EVENTS))
        assert len({int(event.time) // 86_400 for event in events}) == 2
        lines = [encode(event) + b"\n" for event in events]
        self.whole = directory / "whole.jsonl"
        self.whole.write_bytes(b"".join(lines))
        self.parts = [directory / f"part-{n}.jsonl" for n in range(PARTS)]
        for n, part in enumerate(self.parts):
            part.write_bytes(b"".join(lines[EVENTS * n // PARTS : EVENTS * (n + 1) // PARTS]))
        checks = sum(len(event.guardrails) for event in events)
        self.totals = {"intake": ("events", EVENTS), "guardrails": ("checks", checks)}
        self.totals |= dict.fromkeys(("users", *REQUEST_VIEWS), ("requests", EVENTS))


class Deployments:
    """Makes deployments that differ in their topics and buckets alone."""

    def __init__(self, kafka: Kafka, influxdb: InfluxDB, directory: Path) -> None:
        self._kafka = kafka
        self._influxdb = influxdb
        self._directory = directory
        self.traffic = Traffic(directory)

    def store(self, publish: Callable[[Pipeline], None]) -> list[str]:
        """The bucket's export after the traffic went through one worker."""

        def run(pipeline: Pipeline) -> None:
            with pipeline.worker() as worker:
                publish(pipeline)
                self.wait(pipeline, worker)
                worker.end()

        return self.export(run)

    def export(self, run: Callable[[Pipeline], None]) -> list[str]:
        """The bucket's export after ``run`` with a deployment of its own."""
        name = f"replay-{uuid.uuid4().hex[:8]}"
        self._influxdb.create_bucket(name)
        store = self._influxdb.settings(name)
        pipeline = Pipeline(
            self._directory / name,
            self._kafka.bootstrap_servers,
            f"{name}.",
            partitions=PARTITIONS,
            influxdb=store,
            settings=EPOCHS,
        )
        pipeline.create_topics()
        run(pipeline)
        assert pipeline.intake() == {"applied": EVENTS}
        return self._influxdb.export(name)

    def wait(self, pipeline: Pipeline, worker: Worker) -> None:
        """Wait until the store has all of the traffic."""
        worker.wait("all stored", lambda: pipeline.holds(self.traffic.totals))


@pytest.fixture(scope="module")
def deployments(
    kafka: Kafka, influxdb: InfluxDB, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployments]:
    # Topics and buckets stay until the servers end with the test run.
    return Deployments(kafka, influxdb, tmp_path_factory.mktemp("deployments"))


@pytest.fixture(scope="module")
def in_order(deployments: Deployments) -> list[str]:
    """What is stored of the traffic in the order of its time, through one worker."""
    return deployments.store(lambda p: p.do("replay", str(deployments.traffic.whole), "--format", "jsonl"))


@pytest.mark.fault(39, "shuffled: the same export, byte for byte")
@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_events_in_any_order_within_the_lateness_give_the_same_points(
    deployments: Deployments, in_order: list[str], seed: str
) -> None:
    # Fourteen minutes are well within the two hours that an event may be late by default.
    shuffled = ("--format", "jsonl", "--shuffle", seed)
    assert deployments.store(lambda p: p.do("replay", str(deployments.traffic.whole), *shuffled)) == in_order


@pytest.mark.fault(39, "a worker joins, one is killed: the same export as a single one's, byte for byte")
def test_a_worker_that_joins_and_one_that_is_killed_store_what_a_single_worker_does(
    deployments: Deployments, in_order: list[str], kafka: Kafka
) -> None:
    parts = deployments.traffic.parts

    def run(pipeline: Pipeline) -> None:
        replay = [("replay", str(part), "--format", "jsonl") for part in parts]
        with pipeline.worker("first") as first:
            pipeline.do(*replay[0])
            first.wait("a third", lambda: pipeline.intake().get("applied") == EVENTS // PARTS)
            with pipeline.worker("second") as second:
                second.wait("its share", lambda: shares(kafka, pipeline.group) == [True, True])
                pipeline.do(*replay[1])
                first.wait("some more", lambda: pipeline.intake()["applied"] > EVENTS // PARTS)
                first.kill()
                pipeline.do(*replay[2])
                deployments.wait(pipeline, second)
                second.end()

    assert deployments.export(run) == in_order


def shares(kafka: Kafka, group: str) -> list[bool]:
    """Of each member of a settled consumer group, whether it has requests to read."""
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    try:
        described = admin.describe_groups([group])[group]
    finally:
        admin.close()
    if described["group_state"] != "Stable":
        return []
    # Faust's way to spell an assignment is not kafka-python's; the topics' names can be read in either.
    return ["requests" in repr(member["member_assignment"]) for member in described["members"]]


@pytest.mark.fault(39, "three workers from the beginning: the same export as a single one's, byte for byte")
def test_three_workers_store_what_a_single_one_does(deployments: Deployments, in_order: list[str]) -> None:
    def run(pipeline: Pipeline) -> None:
        pipeline.do("replay", str(deployments.traffic.whole), "--format", "jsonl", "--shuffle", "4")
        with (
            pipeline.worker("first") as first,
            pipeline.worker("second") as second,
            pipeline.worker("third") as third,
        ):
            deployments.wait(pipeline, first)
            for worker in (first, second, third):
                worker.end()

    assert deployments.export(run) == in_order
