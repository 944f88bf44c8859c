"""The engine stands on methods that Faust keeps private: notice when they move."""

from __future__ import annotations

import inspect
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer import AIOKafkaConsumer, fetcher
from faust.app import App
from faust.tables import recovery
from faust.tables.base import Collection
from faust.transport.consumer import Consumer as BaseConsumer
from faust.transport.consumer import ThreadDelegateConsumer
from faust.transport.drivers import aiokafka as driver
from faust.types import ConsumerMessage

from tidegauge.processors.engine import transport
from tidegauge.processors.engine.state import StateTable

ROOT = Path(__file__).parents[2]


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_installed_faust_is_the_one_that_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = project["project"]["optional-dependencies"]["worker"]
    assert "faust-streaming==0.15.3" in pins
    assert version("faust-streaming") == "0.15.3"


@pytest.mark.parametrize(
    ("owner", "name", "expected"),
    [
        # Overridden.
        (driver.Consumer, "getmany", ["self", "timeout"]),
        (driver.Consumer, "perform_seek", ["self"]),
        (Collection, "apply_changelog_batch", ["self", "batch"]),
        (driver.Consumer, "_new_consumer_thread", ["self"]),
        (
            driver.AIOKafkaConsumerThread,
            "_fetch_records",
            ["self", "consumer", "active_partitions", "timeout", "max_records"],
        ),
        (fetcher.PartitionRecords, "_consumer_record", ["self", "tp", "record"]),
        (Collection, "persisted_offset", ["self", "tp"]),
        # Used.
        (fetcher.Fetcher, "_create_fetch_waiter", ["self"]),
        (fetcher.FetchResult, "has_more", ["self"]),
        (driver.Consumer, "_wait_next_records", ["self", "timeout"]),
        (driver.Consumer, "_to_message", ["self", "tp", "record"]),
        (driver.Consumer, "seek_wait", ["self", "partitions"]),
        (driver.Consumer, "earliest_offsets", ["self", "partitions"]),
        (driver.Consumer, "assignment", ["self"]),
        (driver.Consumer, "highwaters", ["self", "partitions"]),
        (driver.Consumer, "highwater", ["self", "tp"]),
        (
            driver.Producer,
            "send",
            ["self", "topic", "key", "value", "partition", "timestamp", "headers", "transactional_id"],
        ),
        (App, "crash", ["self", "reason"]),
        (App, "on_stop", ["self"]),
        (App, "_create_directories", ["self"]),
    ],
)
def test_a_private_method_has_the_signature_we_count_on(owner: Any, name: str, expected: list[str]) -> None:
    assert parameters(getattr(owner, name))[: len(expected)] == expected


@pytest.mark.parametrize("name", ["getmany", "perform_seek"])
def test_what_the_consumer_overrides_is_still_called_by_faust(name: str) -> None:
    assert name in vars(transport.Consumer)
    callers = [
        method
        for base in (BaseConsumer, *driver.Consumer.__mro__)
        for method in vars(base).values()
        if inspect.isfunction(method) and f".{name}(" in inspect.getsource(method)
    ]
    assert callers
    assert parameters(getattr(transport.Consumer, name)) == parameters(getattr(driver.Consumer, name))


def test_the_fetcher_makes_records_by_the_method_that_we_replace_on_its_objects() -> None:
    assert "self._consumer_record(tp, record)" in inspect.getsource(fetcher.PartitionRecords._unpack_records)
    assert "self._partition_records" in inspect.getsource(fetcher.FetchResult.getall)
    assert "self._records[tp] = FetchResult" in inspect.getsource(fetcher.Fetcher).replace("\n", "")
    assert not hasattr(fetcher.PartitionRecords, "__slots__")


def test_the_fetcher_asks_with_the_wait_that_we_set_on_it() -> None:
    assert "self._fetch_max_wait_ms," in inspect.getsource(fetcher.Fetcher._get_actions_per_node)


def test_a_connection_to_kafka_can_be_seen_from_the_consumer() -> None:
    assert "_consumer = self._create_" in inspect.getsource(driver.AIOKafkaConsumerThread)
    assert "self._thread = " in inspect.getsource(ThreadDelegateConsumer)
    assert "self._client = AIOKafkaClient(" in inspect.getsource(AIOKafkaConsumer)
    assert "self._conns = {}" in inspect.getsource(AIOKafkaClient)
    assert parameters(AIOKafkaConnection.connected) == ["self"]


def test_getmany_is_an_asynchronous_generator_there_and_here() -> None:
    assert inspect.isasyncgenfunction(driver.Consumer.getmany)
    assert inspect.isasyncgenfunction(transport.Consumer.getmany)


def test_the_changelog_override_takes_what_recovery_gives() -> None:
    given, taken = parameters(Collection.apply_changelog_batch), parameters(StateTable.apply_changelog_batch)
    assert taken[: len(given)] == given
    assert "table.apply_changelog_batch(buf)" in inspect.getsource(recovery)


@pytest.mark.parametrize("name", ["_read_offset", "_acked", "_acked_index", "_gap", "_buffered_partitions"])
def test_the_consumers_bookkeeping_that_a_seek_resets_is_still_there(name: str) -> None:
    sources = "".join(inspect.getsource(base) for base in driver.Consumer.__mro__ if base is not object)
    assert f"self.{name}" in sources


def test_a_consumer_message_takes_its_parts_in_our_order() -> None:
    assert parameters(ConsumerMessage.__init__)[1:] == [
        "topic",
        "partition",
        "offset",
        "timestamp",
        "timestamp_type",
        "headers",
        "key",
        "value",
        "checksum",
        "serialized_key_size",
        "serialized_value_size",
        "tp",
        "time_in",
        "time_out",
        "time_total",
        "generation_id",
    ]


def test_faust_finds_the_transport_by_its_url_scheme() -> None:
    (entry,) = entry_points(group="faust.transports", name="tidegauge")
    assert entry.load() is transport.Transport
    assert transport.Transport.Consumer is transport.Consumer
    assert issubclass(transport.Consumer, driver.Consumer)
