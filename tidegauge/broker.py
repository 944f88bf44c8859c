"""kafka-python's clients for short jobs at the command line: one clear error, and soon, where Kafka is not there."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

from .connection import addresses, kafka_python_options
from .errors import BrokerUnavailableError
from .greeting import GreetingError, greet
from .settings import Kafka

TIMEOUT_MS: Final = 8_000


@contextmanager
def admin_client(kafka: Kafka) -> Iterator[KafkaAdminClient]:
    """A connected admin client; a failure of Kafka's inside the block raises ``BrokerUnavailableError``."""
    with _client(KafkaAdminClient, kafka, {"request_timeout_ms": TIMEOUT_MS}) as client:
        yield client


@contextmanager
def consumer(kafka: Kafka, **options: Any) -> Iterator[KafkaConsumer]:
    """A connected consumer of no group and no topic yet; errors as ``admin_client``."""
    defaults = {"enable_auto_commit": False, "auto_offset_reset": "earliest"}
    with _client(KafkaConsumer, kafka, defaults | options) as client:
        yield client


@contextmanager
def producer(kafka: Kafka, **options: Any) -> Iterator[KafkaProducer]:
    """A connected producer that waits for all in-sync replicas; errors as ``admin_client``."""
    defaults = {"acks": "all", "max_block_ms": TIMEOUT_MS}
    with _client(KafkaProducer, kafka, defaults | options) as client:
        yield client


@contextmanager
def _client(kind: Any, kafka: Kafka, options: dict[str, Any]) -> Iterator[Any]:
    options = {"bootstrap_timeout_ms": TIMEOUT_MS} | kafka_python_options(kafka) | options
    knock(kafka)
    with _quiet():
        try:
            client = kind(**options)
            try:
                yield client
            finally:
                client.close()
        except KafkaError as error:
            raise BrokerUnavailableError(f"Kafka at {kafka.bootstrap_servers}: {_say(error)}") from None


def knock(kafka: Kafka, timeout: float = TIMEOUT_MS / 2000) -> None:
    """Raise ``BrokerUnavailableError`` unless Kafka listens at one of the addresses and lets us in.

    The libraries try again until their time is up, refused or not; a person at a command line wants to know at once.

    Args:
        kafka: where and how.
        timeout: seconds for each step at each of the addresses.
    """
    reason = ""
    for address in addresses(kafka):
        try:
            with socket.create_connection(address, timeout=timeout) as connection:
                greet(connection, address[0], kafka)
        except GreetingError as error:
            reason = str(error)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", "") or str(error) or type(error).__name__
        else:
            return
    raise BrokerUnavailableError(f"Kafka at {kafka.bootstrap_servers}: {reason}")


@contextmanager
def _quiet() -> Iterator[None]:
    # The library logs each failed attempt; the error raised at the end says it once.
    logger = logging.getLogger("kafka")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _say(error: KafkaError) -> str:
    text = " ".join(str(error).split())
    if "bootstrap" in text:
        return "something listens there but does not answer as Kafka; do the security settings fit?"
    return text[:300] or type(error).__name__
