"""What every store must do; a third store is added to ``STORES``."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.servers import InfluxDB
from tidegauge.processors.core.views import MEASUREMENTS
from tidegauge.sinks.base import FieldValue, Point, Store
from tidegauge.sinks.influx import MAX_POINTS, InfluxStore
from tidegauge.sinks.local import LocalStore

STORES = ["sqlite", pytest.param("influxdb", marks=pytest.mark.influxdb)]
NOON = 1_700_049_600
DIMENSIONS = MEASUREMENTS["latency"].view.dimensions
_minutes = itertools.count(NOON, 60)

NASTY = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            " a ",
            "a b",
            "a,b",
            "a=b",
            "\\",
            "a\\",
            "a\\\\",
            "a\\,b",
            "\n",
            "a\nb",
            "a\r\nb",
            "\t",
            '"',
            "'",
            'a"b',
            "#",
            "#a",
            "%",
            "%0A",
            "100%",
            "${x}",
            "größe",
            "日本",
            "😀",
            "\u2028",
            "\x00",
            "\x85",
            "\ufeff",
        ]
    ),
    st.text(st.characters(exclude_categories=()), max_size=20),
)
VALUES = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), NASTY)
nasty = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example has a minute of its own
)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened: Store
    if request.param == "sqlite":
        opened = LocalStore(tmp_path / "points.db")
    else:
        server: InfluxDB = request.getfixturevalue("influxdb")
        opened = InfluxStore(server.settings(request.getfixturevalue("influx_bucket")))
    yield opened
    opened.close()


def point(
    time: int = NOON,
    tags: Mapping[str, str] | None = None,
    measurement: str = "latency",
    **fields: FieldValue,
) -> Point:
    everything = dict.fromkeys(MEASUREMENTS[measurement].view.dimensions, "-") | dict(tags or {})
    return Point(measurement, everything, time, fields or {"requests": 1})


def canonical(tags: Mapping[str, str]) -> str:
    return json.dumps(tags, sort_keys=True, separators=(",", ":"))


def types(points: list[Point]) -> list[dict[str, type]]:
    return [{name: type(value) for name, value in p.fields.items()} for p in points]


def test_a_new_store_is_ready_and_empty(store: Store) -> None:
    store.check()
    assert list(store.read("latency")) == []


def test_nothing_to_write_is_no_error(store: Store) -> None:
    assert store.write([]) == []


def test_points_come_back_with_their_types(store: Store) -> None:
    written = [point(requests=3, share=1.0, latency_p50=0.1, latency_sketch='{"a":[1,"x\\\\y"]}', note="")]
    assert store.write(written) == []
    found = list(store.read("latency"))
    assert found == written
    assert types(found) == types(written)


def test_integers_are_exact_to_64_bits(store: Store) -> None:
    written = [point(lowest=-(2**63), highest=2**63 - 1, odd=2**53 + 1)]
    assert store.write(written) == []
    assert list(store.read("latency")) == written


def test_writing_again_changes_nothing(store: Store) -> None:
    written = [point(NOON + 60 * n, requests=n) for n in range(10)]
    for _ in range(2):
        assert store.write(written) == []
        assert list(store.read("latency")) == written


def test_a_point_written_again_replaces_the_fields_it_names_and_keeps_the_others(store: Store) -> None:
    assert store.write([point(requests=1, errors=1)]) == []
    assert store.write([point(requests=2)]) == []
    assert list(store.read("latency")) == [point(requests=2, errors=1)]


def test_of_two_writes_in_one_batch_the_later_stands(store: Store) -> None:
    assert store.write([point(requests=1), point(requests=2)]) == []
    assert list(store.read("latency")) == [point(requests=2)]


def test_points_come_in_order_of_time_then_tags(store: Store) -> None:
    services = ["b", "a", "", "ä", "B", "a b", "a,", "%", "a\n", "Z\\"]
    written = [point(NOON + 60 * n, {"service": name}) for n in (2, 0, 1) for name in services]
    assert store.write(written) == []
    assert list(store.read("latency")) == sorted(written, key=lambda p: (p.time, canonical(p.tags)))


def test_a_range_includes_its_start_and_not_its_end(store: Store) -> None:
    assert store.write([point(NOON + second) for second in range(5)]) == []
    for start, end in ((1, 3), (0, 5), (None, 2), (3, None), (None, None), (2, 2), (3, 1)):
        bounds = [None if bound is None else NOON + bound for bound in (start, end)]
        expected = [NOON + s for s in range(5) if (start is None or s >= start) and (end is None or s < end)]
        assert [p.time for p in store.read("latency", *bounds)] == expected


def test_times_before_1970_and_far_ahead_are_times_like_any_other(store: Store) -> None:
    written = [point(time) for time in (-9_000_000_000, -1, 0, 9_000_000_000)]
    assert store.write(written) == []
    assert list(store.read("latency")) == written


def test_bounds_beyond_all_time_mean_no_bound(store: Store) -> None:
    assert store.write([point()]) == []
    assert list(store.read("latency", -(2**62), 2**62)) == [point()]


def test_measurements_are_apart(store: Store) -> None:
    written = [point(), point(measurement="cost")]
    assert store.write(written) == []
    assert list(store.read("latency")) == written[:1]
    assert list(store.read("cost")) == written[1:]
    assert list(store.read("feedback")) == []


def test_where_needs_all_its_tags_to_match(store: Store) -> None:
    kinds = [{"service": s, "model": m} for s in ("chat", "") for m in ("a", "b")]
    assert store.write([point(tags=tags) for tags in kinds]) == []
    for tags in kinds:
        assert list(store.read("latency", where=tags)) == [point(tags=tags)]
    assert len(list(store.read("latency", where={"service": ""}))) == 2
    assert list(store.read("latency", where={"service": "other"})) == []
    assert list(store.read("latency", where={"service": '" or true or "'})) == []


@nasty
@given(tags=st.dictionaries(st.sampled_from(DIMENSIONS), NASTY), fields=st.data())
def test_any_text_survives_in_tags_and_finds_its_point(
    store: Store, tags: dict[str, str], fields: st.DataObject
) -> None:
    time = next(_minutes)
    # One name for each type: a store may hold a field to the type of its first value.
    value = fields.draw(VALUES)
    written = point(time, tags, **{f"of_{type(value).__name__}": value})
    assert store.write([written]) == []
    found = list(store.read("latency", time, time + 1))
    assert found == [written]
    assert types(found) == types([written])
    assert list(store.read("latency", time, time + 1, tags)) == [written]


@nasty
@given(st.sets(NASTY, min_size=2, max_size=10))
def test_different_texts_are_different_series(store: Store, texts: set[str]) -> None:
    time = next(_minutes)
    written = [point(time, {"prompt": text}, requests=n) for n, text in enumerate(texts)]
    assert store.write(written) == []
    assert list(store.read("latency", time, time + 1)) == sorted(written, key=lambda p: canonical(p.tags))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2**63, -(2**63) - 1], ids=str)
def test_a_point_that_no_store_can_hold_is_refused_alone(store: Store, value: FieldValue) -> None:
    good = [point(NOON + 60 * n) for n in range(3)]
    bad = point(NOON + 600, requests=1, broken=value)
    (rejection,) = store.write([good[0], bad, *good[1:]])
    assert rejection.point is bad
    assert "broken" in rejection.reason
    assert list(store.read("latency")) == good


def test_a_point_without_fields_is_refused(store: Store) -> None:
    empty = Point("latency", dict.fromkeys(DIMENSIONS, "-"), NOON, {})
    assert [r.point for r in store.write([empty, point()])] == [empty]
    assert list(store.read("latency")) == [point()]


def test_a_large_batch_is_stored_whole(store: Store) -> None:
    written = [point(NOON + 60 * n, requests=n) for n in range(2 * MAX_POINTS + 1)]
    assert store.write(written) == []
    assert list(store.read("latency")) == written


def test_closing_twice_is_safe(store: Store) -> None:
    store.close()
    store.close()
