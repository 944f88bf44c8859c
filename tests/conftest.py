"""Fixtures that every test may ask for.

A test that asks for ``kafka`` or ``influxdb`` gets the marker of that name by itself. Where the server cannot
run, it is skipped with what is missing, or fails with ``CI=true`` or ``TIDEGAUGE_REQUIRE_SERVERS=1``: there a
skipped test would be a check that nobody made.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from kafka import KafkaAdminClient

from tests.faults.report import (
    note,
    pytest_collection_finish,
    pytest_runtest_makereport,
    pytest_sessionfinish,
)
from tests.support.secure import SecureKafka
from tests.support.servers import InfluxDB, Kafka, Server, ServerError, missing

__all__ = ["note", "pytest_collection_finish", "pytest_runtest_makereport", "pytest_sessionfinish"]

SERVERS = ("kafka", "influxdb")
MARKERS = {"kafka": "kafka", "influxdb": "influxdb", "secure_kafka": "kafka"}
S = TypeVar("S", bound=Server)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name, marker in MARKERS.items():
            if name in getattr(item, "fixturenames", ()):
                item.add_marker(marker)


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """A real Apache Kafka: ``bootstrap_servers``, ``kill``, ``stop``, ``start``, ``pause``, ``resume``."""
    yield from _serve(Kafka, "kafka.sh")


@pytest.fixture(scope="session")
def influxdb() -> Iterator[InfluxDB]:
    """A real InfluxDB 2: ``url``, ``org``, ``bucket``, ``token``, and the same controls as ``kafka``."""
    yield from _serve(InfluxDB, "influxdb.sh")


@pytest.fixture(scope="module")
def secure_kafka() -> Iterator[SecureKafka]:
    """A real Apache Kafka of the module's own that asks for TLS, and for a password or a certificate."""
    yield from _serve(SecureKafka, "kafka.sh", "openssl")


@pytest.fixture(autouse=True)
def _heal_servers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Gives the next test a running server, whatever this one did to it."""
    yield
    for name in SERVERS:
        if name in request.fixturenames:
            server: Server = request.getfixturevalue(name)
            server.heal()


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest, kafka: Kafka) -> Iterator[str]:
    """A prefix for topics and groups that no other test uses; its topics are deleted afterwards."""
    prefix = f"{_slug(request.node.name)}-{uuid.uuid4().hex[:8]}."
    yield prefix
    kafka.heal()
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    try:
        if topics := [topic for topic in admin.list_topics() if topic.startswith(prefix)]:
            admin.delete_topics(topics)
    finally:
        admin.close()


@pytest.fixture
def influx_bucket(request: pytest.FixtureRequest, influxdb: InfluxDB) -> Iterator[str]:
    """The name of an empty bucket of this test alone."""
    name = f"{_slug(request.node.name)}-{uuid.uuid4().hex[:8]}"
    identity = influxdb.create_bucket(name)
    yield name
    influxdb.heal()
    influxdb.delete_bucket(identity)


def _serve(create: Callable[[], S], script: str, *tools: str) -> Iterator[S]:
    if lack := missing(script, *tools):
        if os.environ.get("CI") == "true" or os.environ.get("TIDEGAUGE_REQUIRE_SERVERS") == "1":
            pytest.fail(lack, pytrace=False)
        pytest.skip(lack)
    server = _started(create)
    try:
        yield server
    finally:
        server.close()


def _started(create: Callable[[], S]) -> S:
    # Between the choice of a free port and its use somebody else may take it: choose again.
    for left in (2, 1, 0):
        server = create()
        try:
            server.start()
        except ServerError:
            server.close()
            if not left:
                raise
        except BaseException:
            server.close()
            raise
        else:
            return server
    raise AssertionError


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:60]
