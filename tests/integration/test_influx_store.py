"""What only a real InfluxDB can refuse, and what the store makes of servers that answer badly or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest

from tests.support.servers import InfluxDB
from tidegauge.errors import SinkUnavailableError
from tidegauge.processors.core.views import MEASUREMENTS
from tidegauge.settings import InfluxDB as InfluxDBSettings
from tidegauge.settings import Secret
from tidegauge.sinks import influx_read
from tidegauge.sinks.base import FieldValue, Point
from tidegauge.sinks.influx import InfluxStore

NOON = 1_700_049_600
TOKEN = "a-secret-token"


def point(time: int, value: FieldValue = 1) -> Point:
    return Point(
        "latency", dict.fromkeys(MEASUREMENTS["latency"].view.dimensions, "-"), time, {"requests": value}
    )


def test_only_the_points_of_a_wrong_type_are_refused(influxdb: InfluxDB, influx_bucket: str) -> None:
    store = InfluxStore(influxdb.settings(influx_bucket))
    assert store.write([point(NOON)]) == []
    batch = [point(NOON + n, 0.5 if n in (3, 4, 77) else n) for n in range(1, 100)]
    rejections = store.write(batch)
    assert [r.point.time - NOON for r in rejections] == [3, 4, 77]
    assert all("field type conflict" in r.reason for r in rejections)
    assert [p.time - NOON for p in store.read("latency")] == [n for n in range(100) if n not in (3, 4, 77)]
    store.close()


def test_points_beyond_retention_are_refused_and_the_others_kept(influxdb: InfluxDB) -> None:
    identity = influxdb.create_bucket("short", retention=3600)
    store = InfluxStore(influxdb.settings("short"))
    old = [point(n) for n in range(20)]
    try:
        assert [r.point for r in store.write(old)] == old
        # 2100: retention has no opinion on the future.
        rejections = store.write([*old[:2], point(4_102_444_800), *old[2:4]])
        assert [r.point for r in rejections] == old[:4]
        assert all("retention" in r.reason for r in rejections)
        assert [p.time for p in store.read("latency")] == [4_102_444_800]
    finally:
        store.close()
        influxdb.delete_bucket(identity)


def test_pages_join_without_a_gap_or_a_repeat(
    influxdb: InfluxDB, influx_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(influx_read, "PAGE", 4)
    store = InfluxStore(influxdb.settings(influx_bucket))
    series = [3, 1, 4, 4, 9, 1, 30, 2, 2, 4]  # at each time; some more than a page
    written = [
        Point("latency", dict(point(0).tags) | {"model": f"{n:02}"}, NOON + 60 * minute, {"requests": n})
        for minute, models in enumerate(series)
        for n in range(models)
    ]
    assert store.write(written[::-1]) == []
    assert list(store.read("latency")) == written
    assert list(store.read("latency", NOON + 120, NOON + 240)) == written[4:12]
    assert list(store.read("latency", where={"model": "03"})) == [
        p for p in written if p.tags["model"] == "03"
    ]
    store.close()


def test_a_bucket_may_have_any_name(influxdb: InfluxDB) -> None:
    name = "a b/c/d'ü%"
    identity = influxdb.create_bucket(name)
    store = InfluxStore(influxdb.settings(name))
    try:
        store.check()
        assert store.write([point(NOON)]) == []
        assert list(store.read("latency")) == [point(NOON)]
    finally:
        store.close()
        influxdb.delete_bucket(identity)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"token": Secret("made-up")}, "token is missing or wrong"),
        ({"token": Secret("")}, "token is missing or wrong"),
        ({"token": Secret("two\nlines")}, "not valid HTTP"),
        ({"bucket": "nowhere"}, "no such bucket"),
        ({"org": "nobody"}, "no such bucket or organisation"),
        ({"org": ""}, "org"),
        ({"url": "http://127.0.0.1:1"}, "cannot be reached"),
    ],
)
def test_wrong_settings_are_named_and_refuse_no_point(
    influxdb: InfluxDB, influx_bucket: str, change: dict[str, object], words: str
) -> None:
    settings = msgspec.structs.replace(influxdb.settings(influx_bucket), **change)
    store = InfluxStore(settings)
    for call in (store.check, lambda: store.write([point(NOON)])):
        with pytest.raises(SinkUnavailableError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert not settings.token or settings.token.reveal() not in str(caught.value)
    with pytest.raises(SinkUnavailableError):
        list(store.read("latency"))
    store.close()


def test_a_frozen_server_is_waited_for_no_longer_than_the_timeout(
    influxdb: InfluxDB, influx_bucket: str
) -> None:
    store = InfluxStore(msgspec.structs.replace(influxdb.settings(influx_bucket), timeout=0.3))
    with influxdb.paused():
        for call in (store.check, lambda: store.write([point(NOON)]), lambda: list(store.read("latency"))):
            with pytest.raises(SinkUnavailableError, match=r"no answer within 0\.3 s"):
                call()
    store.close()


class Answers(ThreadingHTTPServer):
    """Gives every request the same answer, which repeats the token as a careless proxy might."""

    status = 503
    retry_after = ""
    requests = 0


class Handler(BaseHTTPRequestHandler):
    server: Answers

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.requests += 1
        body = f'{{"message": "no: {self.headers["Authorization"]}"}}'.encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        if self.server.retry_after:
            self.send_header("Retry-After", self.server.retry_after)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def answers() -> Iterator[Answers]:
    server = Answers(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def store(answers: Answers) -> Iterator[InfluxStore]:
    opened = InfluxStore(InfluxDBSettings(f"http://127.0.0.1:{answers.server_port}", token=Secret(TOKEN)))
    yield opened
    opened.close()


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 405, 413, 422, 429, 500, 502, 503, 504])
def test_an_answer_that_blames_no_point_loses_no_point_and_shows_no_token(
    answers: Answers, store: InfluxStore, status: int
) -> None:
    answers.status = status
    for call in (store.check, lambda: list(store.read("latency"))):
        with pytest.raises(SinkUnavailableError) as caught:
            call()
        assert TOKEN not in str(caught.value)
    if status not in (413, 422):
        answers.requests = 0
        with pytest.raises(SinkUnavailableError) as caught:
            store.write([point(NOON + n) for n in range(8)])
        assert TOKEN not in str(caught.value)
        assert answers.requests <= 2, "nothing is halved or retried here"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("86400", 60.0),
        ("-1", 0.0),
        ("Wed, 21 Oct 2999 07:28:00 GMT", 60.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("", None),
    ],
)
def test_the_wait_that_the_server_asks_for_is_passed_on_up_to_a_minute(
    answers: Answers, store: InfluxStore, header: str, seconds: float | None
) -> None:
    answers.retry_after = header
    with pytest.raises(SinkUnavailableError) as caught:
        store.write([point(NOON)])
    assert caught.value.retry_after == seconds
