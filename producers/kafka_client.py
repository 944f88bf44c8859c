"""kafka-python's producer, made safe to live inside someone else's application."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from typing import Any, Final

from kafka import KafkaProducer
from kafka.errors import KafkaTimeoutError
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket

from tidegauge.broker import knock
from tidegauge.connection import kafka_python_options
from tidegauge.settings import Settings

from .diagnostics import Throttle
from .transport import THREAD_PREFIX, Producer

BOOTSTRAP_TIMEOUT: Final = 2.0
METADATA_TIMEOUT: Final = 1.0


class _Socket(KafkaNetSocket):  # type: ignore[misc]
    """A direct connection that is closed where it fails.

    kafka-python leaves a failed one to the garbage collector (3.0.12): one open file for each try, so that a broker
    which stays away could use up those of an application that collects rarely. Ways to connect are registered by
    the scheme of a proxy; this one goes to no proxy.
    """

    SCHEMES = ("tidegauge-direct",)

    async def sock_connect(self, net: Any, sock: Any, sockaddr: Any, timeout_at: Any = None) -> Any:
        try:
            return await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise


class _Producer(KafkaProducer):  # type: ignore[misc]
    """kafka-python's producer, but closing it means it."""

    def __init__(self, **options: Any) -> None:
        self._owner = os.getpid()
        super().__init__(**options)

    def close(self, timeout: float | None = None, null_logger: bool = False) -> None:  # noqa: FBT001
        """Close. What kafka-python's own atexit function and ``__del__`` ask for is left undone."""
        # They pass null_logger. At exit they would come before the emitter's last flush; in a forked child
        # they would wait for a thread that does not exist there. The emitter closes each producer it has
        # made.
        if not null_logger and os.getpid() == self._owner:
            super().close(timeout)

    def flush(self, timeout: float | None = None) -> None:
        """Flush; a timeout must not keep ``close`` from ending the thread."""
        with suppress(KafkaTimeoutError):
            super().flush(timeout)


def make_producer(settings: Settings, delivery_timeout: float) -> Producer:
    """Connect a producer; blocks for some times ``BOOTSTRAP_TIMEOUT`` seconds at most.

    Raises:
        SettingsError: the settings do not fit together.
        BrokerUnavailableError: the broker refuses us, or we its certificate.
        KafkaError: no broker answers.
    """
    _quieten()
    if settings.kafka.security_protocol != "PLAINTEXT":
        # Refused, the library would only say that its time was up; and of each try whose certificate it refuses it
        # leaves a file open (3.0.12).
        knock(settings.kafka, BOOTSTRAP_TIMEOUT)
    clients: list[Any] = []

    def make_client(**options: Any) -> Any:
        client = KafkaNetClient(**options)
        clients.append(client)
        # A topic made by accident has the wrong number of partitions and the wrong kind of timestamp. The
        # producer has an option of this name, and does not pass it on (kafka-python 3.0.12).
        client.cluster.config["allow_auto_create_topics"] = False
        return client

    try:
        return _Producer(
            **kafka_python_options(settings.kafka),
            client_id=f"{THREAD_PREFIX}{os.getpid()}",
            acks="all",
            # Repeats are recognised by their event id further on. Idempotence would need a right on the
            # cluster, and loses what is in flight whenever its epoch changes.
            enable_idempotence=False,
            delivery_timeout_ms=int(delivery_timeout * 1000),
            request_timeout_ms=min(30_000, int(delivery_timeout * 1000)),
            # The emitter lingers and groups by itself.
            linger_ms=0,
            max_block_ms=int(METADATA_TIMEOUT * 1000),
            bootstrap_timeout_ms=int(BOOTSTRAP_TIMEOUT * 1000),
            reconnect_backoff_max_ms=2_000,
            allow_auto_create_topics=False,
            metrics_enabled=False,
            proxy_url=f"{_Socket.SCHEMES[0]}://",
            kafka_client=make_client,
        )
    except BaseException:
        # A constructor that raises leaves its sockets open.
        for client in clients:
            client.close()
        raise


class _Filter(logging.Filter):
    """Keeps kafka-python's words about our own producer out of the application's log.

    At DEBUG it prints payloads; without a broker it warns several times a second. Warnings pass once a
    minute.
    """

    def __init__(self) -> None:
        super().__init__()
        self._throttle = Throttle()

    def filter(self, record: logging.LogRecord) -> bool:
        name = threading.current_thread().name
        if not name.startswith(THREAD_PREFIX):
            return True
        if record.levelno < logging.INFO:
            return False
        return record.levelno < logging.WARNING or self._throttle.allows(record.name)


_filter = _Filter()


def _quieten() -> None:
    # A filter works on the one logger it is added to, and not on its children; adding twice changes nothing.
    for name in list(logging.root.manager.loggerDict):
        if name == "kafka" or name.startswith("kafka."):
            logging.getLogger(name).addFilter(_filter)
