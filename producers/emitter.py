"""The emitter: takes events over without waiting, and gets them to Kafka in a thread of its own.

    emit ──▶ mailbox (bounded) ──▶ shipper's thread ──▶ kafka-python ──▶ acknowledged
                                   groups per partition, bounded in flight

Promises to the application: ``emit`` neither blocks nor raises, whatever Kafka does; memory is bounded; each
event is accounted for (``stats``); the exit of the process is delayed by ``emitter.close_timeout`` at most; a
forked child starts afresh and never sends its parent's events. A process that ends by ``os._exit`` or an
unhandled signal loses what is queued: call ``close`` there.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from tidegauge import connection
from tidegauge.settings import Settings, load

from . import diagnostics, lifecycle
from .ledger import Ledger
from .mailbox import Mailbox
from .shipper import Shipper
from .stats import CLOSE_TIMEOUT, CLOSED, INTERNAL_ERROR, QUEUE_FULL, EmitterStats
from .transport import ProducerFactory

DELIVERY_TIMEOUT: Final = 120.0
MAX_IN_FLIGHT_BYTES: Final = 16 * 1024 * 1024


class Emitter:
    """A bounded, non-blocking way to Kafka. Thread-safe.

    Nothing is connected, and no thread started, before the first event.

    Args:
        settings: ``None`` reads the settings file and the environment. ``emitter.queue_size`` bounds the
            events that
            wait, and once more those in flight; ``emitter.linger`` is how long to let events come together.
        producer_factory: makes the Kafka producer, in the background thread; ``None`` is kafka-python's.
        delivery_timeout: seconds until a message that Kafka has not acknowledged is dropped as
            ``send_failed``. It
            runs from when the message was handed to Kafka's client; without any broker, events wait in the
            queue.
        max_in_flight_bytes: bound of what has been sent and is not acknowledged.

    Raises:
        SettingsError: a setting is wrong.
        UnavailableError: the settings file cannot be read.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        producer_factory: ProducerFactory | None = None,
        delivery_timeout: float = DELIVERY_TIMEOUT,
        max_in_flight_bytes: int = MAX_IN_FLIGHT_BYTES,
    ) -> None:
        self._settings = load() if settings is None else settings
        if producer_factory is None:
            connection.check(self._settings.kafka)
            # Imported here and not in the thread: a fork in the middle of an import leaves the child waiting
            # for an import lock whose owner does not exist there.
            from .kafka_client import make_producer

            producer_factory = make_producer
        self._factory = producer_factory
        self._delivery_timeout = delivery_timeout
        self._max_in_flight_bytes = max_in_flight_bytes
        self._closed = False
        self._fresh()
        lifecycle.register(self)

    def _fresh(self) -> None:
        """Begin with empty books, and no thread."""
        self._start_lock = threading.RLock()
        self._shipper: Shipper | None = None
        self._mailbox = Mailbox(self._settings.emitter.queue_size, self._start)
        self._ledger = Ledger(self._mailbox)
        self._put = self._mailbox.put
        if self._closed:
            self._mailbox.limit = 0

    def emit(self, event: Any, topic: str | None = None) -> bool:
        """Take an event over: it must not be changed any more. Never blocks, never raises.

        Args:
            event: a ``RequestEvent``, ``FeedbackEvent`` or ``Judgement``; or a mapping of wire names, with a
                topic.
            topic: ``None`` means the topic of the event's type.

        Returns:
            True: accepted, and followed in ``stats`` until it is delivered or dropped. False: dropped and
                counted.
        """
        if self._put(event if topic is None else (topic, event)):
            return True
        self.refuse(CLOSED if self._closed else QUEUE_FULL)
        return False

    def refuse(self, reason: str) -> None:
        """Count an event that was dropped before it was accepted."""
        self._ledger.refused.add(reason)
        if self._closed:  # no thread is left to tell of it
            diagnostics.warn("closed", "events are dropped: the emitter has been closed")

    def note(self, what: str) -> None:
        """Count a value that was changed or left out, or an incident; see ``EmitterStats.adjusted``."""
        self._ledger.notes.add(what)

    def stats(self) -> EmitterStats:
        """Where all events are."""
        return self._ledger.stats()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until every event accepted before this call is delivered or dropped.

        Args:
            timeout: seconds; ``None`` means ``emitter.close_timeout``.

        Returns:
            False if some were still waiting at the deadline. What was dropped is in ``stats``.
        """
        deadline = time.monotonic() + self._timeout(timeout)
        ledger, shipper = self._ledger, self._shipper
        mark = ledger.mark()
        if shipper is None:
            return mark == 0
        shipper.hurry(1)
        try:
            if not ledger.wait(lambda: ledger.handed_on(mark), deadline - time.monotonic()):
                return False
            sending = ledger.last_sending()
            return ledger.wait(lambda: ledger.settled_up_to(sending), max(0.0, deadline - time.monotonic()))
        finally:
            shipper.hurry(-1)

    def close(self, timeout: float | None = None) -> bool:
        """Refuse events from now on, send what is there, and end; further calls do nothing.

        Args:
            timeout: seconds; ``None`` means ``emitter.close_timeout``. What Kafka has not acknowledged by
                then is
                dropped as ``close_timeout``.

        Returns:
            Whether nothing was dropped for lack of time.
        """
        with self._start_lock:
            first, self._closed = not self._closed, True
        if not first:
            return True
        lifecycle.unregister(self)
        self._mailbox.limit = 0
        patience = self._timeout(timeout)
        shipper = self._shipper
        if shipper is not None and shipper.thread is not threading.current_thread():
            shipper.close(time.monotonic() + patience)
            shipper.thread.join(patience + 0.05)
        # An emit that got past the limit before it was lowered may append even now.
        self._mailbox.call_on_put(self._seal)
        self._seal()
        lost = self.stats().dropped.get(CLOSE_TIMEOUT, 0)
        if lost:
            diagnostics.logger.warning(
                "tidegauge: closed with %d events not acknowledged by Kafka in time", lost
            )
        return not lost

    def __enter__(self) -> Emitter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _seal(self) -> None:
        self._ledger.seal()

    def _timeout(self, timeout: float | None) -> float:
        return self._settings.emitter.close_timeout if timeout is None else timeout

    def _start(self) -> None:
        try:
            with self._start_lock:
                if self._shipper is not None or self._closed:
                    return
                shipper = Shipper(
                    self._settings,
                    self._ledger,
                    self._factory,
                    self._delivery_timeout,
                    self._settings.emitter.queue_size,
                    self._max_in_flight_bytes,
                )
                shipper.thread.start()
                self._shipper = shipper
                self._mailbox.reader_started()
        except Exception as error:
            # No thread can be started, as while the interpreter shuts down. The next event tries again.
            self._ledger.notes.add(INTERNAL_ERROR)
            diagnostics.internal_error(error)

    def at_exit(self, spent: float, *, last: bool) -> None:
        """Flush, or at the very last close, when the process ends; see ``lifecycle``."""
        left = max(0.0, self._timeout(None) - spent)
        if last:
            self.close(left)
        else:
            self.flush(left)

    def after_fork(self) -> object:
        """Start afresh in a forked child; returns the parent's things, which must not be destroyed there."""
        parents = (self._ledger, self._shipper, self._mailbox)
        # Events that wait are the parent's to send.
        self._mailbox.clear()
        self._fresh()
        return parents
