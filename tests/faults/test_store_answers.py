"""Whatever InfluxDB answers, or where its answer is lost: what is stored in the end is exact."""

from __future__ import annotations

import threading
import time
import urllib.request
from base64 import b64decode
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.faults.matrix import Note
from tests.faults.oracle.events import MIDNIGHT, make
from tests.faults.scene import Scene, dead_letters
from tests.support.servers import InfluxDB, Kafka
from tests.support.store_proxy import Answer, Request, Silent, StoreProxy, passes

pytestmark = pytest.mark.slow

Make = Callable[..., Scene]


@pytest.fixture
def proxy(influxdb: InfluxDB) -> Iterator[StoreProxy]:
    with StoreProxy(influxdb.url) as proxy:
        yield proxy


@pytest.fixture
def proxied(influx_scene: Make, proxy: StoreProxy) -> Scene:
    """A deployment whose workers see InfluxDB through the proxy; the oracle sees it directly."""
    return influx_scene(settings={"TIDEGAUGE_INFLUXDB_URL": proxy.url, "TIDEGAUGE_INFLUXDB_TIMEOUT": "2"})


def refusals(scene: Scene) -> list[dict[str, str]]:
    """The dead letters of points."""
    return [letter for letter in dead_letters(scene) if letter["reason"] == "store_refused"]


@pytest.mark.parametrize("status", [503, pytest.param(429, marks=pytest.mark.long_fault)])
@pytest.mark.fault(16, "InfluxDB answers 503 or 429 with Retry-After, then as before")
def test_the_time_that_an_overloaded_store_asks_for_is_kept(
    proxied: Scene, proxy: StoreProxy, status: int
) -> None:
    proxy.rule = lambda request: Answer(status, headers={"Retry-After": "4"}) if request.writes else request
    with proxied.pipeline.worker() as worker, proxied.load(rate=100):
        proxy.wait(3)
        proxy.rule = passes
        # A worker asks with the panes and, every ten seconds, with its own figures; the panes alone are retried.
        panes = [at for at, request in proxy.seen[:3] if not request.body.startswith(b"pipeline,")]
        assert all(later - earlier >= 3.9 for earlier, later in pairwise(panes))
        assert f"[HTTP {status}]; trying again in 4.0 s" in worker.log.read_text()
        proxied.goes_on(worker, 200)
    with proxied.pipeline.worker("after") as worker:
        proxied.finish(worker)


@pytest.mark.fault(17, "one line among hundreds that InfluxDB cannot parse (400)")
def test_of_a_batch_with_one_bad_line_that_point_alone_is_refused(proxied: Scene, proxy: StoreProxy) -> None:
    def spoil(request: Request) -> Request:
        lines = [
            b"cost,broken" if line.startswith(b"cost,") and b"guilty" in line else line
            for line in request.body.split(b"\n")
        ]
        return Request(request.method, request.path, b"\n".join(lines)) if request.writes else request

    proxy.rule = spoil
    good = [
        make(f"good-{n}", MIDNIGHT + n % 600, "small", n + 1, 1, **{"service.name": f"service {n}"})
        for n in range(500)
    ]
    guilty = make("guilty", MIDNIGHT, "odd", 3, 4, **{"service.name": "guilty"})
    with proxied.publisher() as publisher:  # all there before the worker, so that it comes to large batches
        publisher.send([*good, guilty])
    with proxied.pipeline.worker() as worker:
        worker.wait("every event", lambda: proxied.handled() >= 501)
        worker.end()
    assert max(request.body.count(b"\n") for _, request in proxy.seen) >= 499
    sums, day = proxied.stored().sums, MIDNIGHT // 86_400
    assert set(sums["cost"]) == {("small", day)}
    for view in sums:
        assert sums[view]["small", day].requests == 500, view
        assert sums[view]["small", day].cost_nano == sum(event.cost_nano for event in good), view
    assert sums["cost_1h"]["odd", day].cost_nano == guilty.cost_nano
    refused = refusals(proxied)
    assert {letter["topic"] for letter in refused} == {"cost"}
    assert all(b"guilty" in b64decode(letter["payload"]) for letter in refused)
    proxied.note.events = 501  # no difference told: the refused points are not in the store


def ask_influxdb(server: InfluxDB, path: str, body: bytes, kind: str) -> None:
    request = urllib.request.Request(  # noqa: S310 (the tests' own server)
        f"{server.url}{path}",
        data=body,
        headers={"Authorization": f"Token {server.token}", "Content-Type": kind},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30):
        pass


@pytest.mark.fault(18, "a field that InfluxDB has with another type (422)")
def test_a_conflict_of_types_stops_the_points_of_that_measurement_alone(
    influx_scene: Make, influxdb: InfluxDB, influx_bucket: str
) -> None:
    scene = influx_scene()
    ask_influxdb(
        influxdb,
        f"/api/v2/write?org={influxdb.org}&bucket={influx_bucket}&precision=s",
        b'cost_1h,model=before requests="0" %d' % (MIDNIGHT + 30),
        "text/plain",
    )
    events = [make(f"e{n}", MIDNIGHT + n % 600, "small", n + 1, 1) for n in range(300)]
    with scene.pipeline.worker() as worker:
        with scene.publisher() as publisher:
            publisher.send(events[:200])
        worker.wait("refusals", lambda: bool(refusals(scene)))
        with scene.publisher() as publisher:
            publisher.send(events[200:])
        worker.wait("every event", lambda: scene.handled() >= 300)
        worker.end()
    refused = refusals(scene)
    assert {letter["topic"] for letter in refused} == {"cost_1h"}
    assert all("type conflict" in letter["detail"] for letter in refused)
    for view in ("cost", "cost_1d"):
        sums = scene.pipeline.rows(view)
        assert sum(int(row["requests"] or 0) for row in sums) == 300, view
        assert sum(int(row["cost_nano_usd"] or 0) for row in sums) == sum(e.cost_nano for e in events), view
    scene.note.events = 300  # no difference told: the refused points are not in the store


@pytest.mark.fault(18, "points older than the bucket's retention (422)")
def test_points_beyond_retention_become_dead_letters_and_newer_ones_are_stored(
    kafka: Kafka, influxdb: InfluxDB, topic_prefix: str, tmp_path: Path, note: Note
) -> None:
    now = int(time.time())
    bucket = f"{topic_prefix}short"
    identity = influxdb.create_bucket(bucket, retention=7 * 86_400)
    try:
        scene = Scene(kafka, topic_prefix, tmp_path, note, influxdb=(influxdb, bucket))
        fresh = [make(f"fresh-{n}", now - 60 - n % 60, "small", 3, 4) for n in range(200)]
        old = [make(f"old-{n}", now - 30 * 86_400 + n % 60, "large", 3, 4) for n in range(100)]
        with scene.ledger, scene.publisher() as publisher:
            publisher.send(old)
            publisher.send(fresh)
        with scene.pipeline.worker() as worker:
            worker.wait("every event", lambda: scene.handled() >= 300)
            worker.end()
        stored = scene.stored()
    finally:
        influxdb.delete_bucket(identity)
    for view, sums in stored.sums.items():
        assert {model for model, _ in sums} == {"small"}, view
        assert sum(each.requests for each in sums.values()) == 200, view
        assert sum(each.cost_nano for each in sums.values()) == sum(e.cost_nano for e in fresh), view
    refused = refusals(scene)
    assert {"cost", "cost_1h", "cost_1d"} <= {letter["topic"] for letter in refused}
    assert all("retention" in letter["detail"] for letter in refused)
    note.events = 300


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, "influxdb.token"),
        pytest.param(403, "influxdb.token", marks=pytest.mark.long_fault),
        pytest.param(404, "influxdb.bucket", marks=pytest.mark.long_fault),
    ],
)
@pytest.mark.fault(19, "InfluxDB answers 401, 403 or 404, then as before")
def test_a_refused_token_or_bucket_is_told_and_nothing_is_given_up(
    proxied: Scene, proxy: StoreProxy, status: int, hint: str
) -> None:
    with proxied.pipeline.worker() as worker:
        with proxied.load(rate=100):
            proxied.goes_on(worker, 100)
            proxy.rule = lambda request: Answer(status) if request.writes else request
            worker.says(f"[HTTP {status}]; trying again")
            proxy.rule = passes
            proxied.goes_on(worker, 200)
        proxied.finish(worker)
    assert hint in worker.log.read_text()
    assert not dead_letters(proxied)


@pytest.mark.parametrize("crashes", [2, pytest.param(10, marks=pytest.mark.long_fault)])
@pytest.mark.fault(21, "worker killed after InfluxDB stored, before it was told, again and again")
def test_a_crash_between_a_write_and_its_checkpoint_counts_nothing_twice(
    proxied: Scene, proxy: StoreProxy, crashes: int
) -> None:
    stored = threading.Event()

    def lose_answer(request: Request) -> Request | Silent:
        return (
            Silent(forward=True, then=stored.set) if request.writes and b"cost," in request.body else request
        )

    with proxied.load(rate=200):
        for crash in range(crashes):
            stored.clear()
            proxy.rule = passes
            with proxied.pipeline.worker(f"crash-{crash}") as worker:
                proxied.goes_on(worker, 100)
                proxy.rule = lose_answer
                worker.wait("a write", stored.is_set)
                worker.kill()
    proxy.rule = passes
    with proxied.pipeline.worker("last") as worker:
        proxied.finish(worker)
