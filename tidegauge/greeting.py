"""The first words with a Kafka that asks for TLS or a password, so that a refusal can be told in one line.

The libraries try again until their time is up, whatever the reason; and kafka-python loses the reason, for Kafka
hangs up as soon as it has refused, and what comes with the hang-up is thrown away (3.0.12). Here are the same steps,
once: TLS with the broker's name checked, ApiVersions, SaslHandshake, SaslAuthenticate.
https://kafka.apache.org/protocol.html
"""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Any, Final

from kafka.errors import KafkaError
from kafka.net.sasl import get_sasl_mechanism

from .connection import kafka_python_options, ssl_context
from .settings import Kafka

_SASL_HANDSHAKE, _API_VERSIONS, _SASL_AUTHENTICATE = 17, 18, 36
_MAX_ANSWER: Final = 1 << 20


class GreetingError(Exception):
    """The broker, or we, would not go on; the text says why, in words that fit after its address."""


def greet(connection: socket.socket, host: str, kafka: Kafka) -> None:
    """Go through the first steps on a fresh connection, which its timeout bounds and the caller closes.

    Args:
        connection: to the broker.
        host: the name that its certificate must bear.
        kafka: the security settings.

    Raises:
        GreetingError: one of the steps failed.
        SettingsError: the settings do not fit together.
    """
    context = ssl_context(kafka)
    options = kafka_python_options(kafka)
    try:
        if context is not None:
            # Detaches the connection: its file goes with the wrapped one, which this block closes.
            with context.wrap_socket(connection, server_hostname=host) as secured:
                _introduce(secured, host, kafka, options)
        elif kafka.security_protocol.startswith("SASL"):
            _introduce(connection, host, kafka, options)
    except ssl.SSLCertVerificationError as error:
        raise GreetingError(
            f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
            " (settings kafka.ssl_cafile, kafka.bootstrap_servers)"
        ) from None
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        raise GreetingError(
            f"TLS failed: {reason} (settings kafka.security_protocol, kafka.ssl_certfile)"
        ) from None
    except TimeoutError:
        raise GreetingError("no answer (does the setting kafka.security_protocol fit?)") from None
    except (OSError, EOFError):
        raise GreetingError("it hung up (does the setting kafka.security_protocol fit?)") from None


def _introduce(connection: socket.socket, host: str, kafka: Kafka, options: dict[str, Any]) -> None:
    # In TLS 1.3 a broker that misses our certificate says so only now.
    _ask(connection, _API_VERSIONS, 0, b"")
    if not kafka.security_protocol.startswith("SASL"):
        return
    name = kafka.sasl_mechanism
    answer = _Answer(_ask(connection, _SASL_HANDSHAKE, 1, _string(name)))
    if answer.short():
        offered = ", ".join(answer.string() for _ in range(answer.long()))
        raise GreetingError(f"it does not take {name}, but {offered} (setting kafka.sasl_mechanism)")
    try:
        _authenticate(connection, get_sasl_mechanism(name)(host=host, **options))
    except (ValueError, KeyError, KafkaError):
        # The broker has to prove that it knows the password, too.
        raise GreetingError(f"its answers are not those of {name}") from None


def _authenticate(connection: socket.socket, mechanism: Any) -> None:
    while not mechanism.is_done():
        token = mechanism.auth_bytes()
        answer = _Answer(_ask(connection, _SASL_AUTHENTICATE, 0, struct.pack(">i", len(token)) + token))
        error, message = answer.short(), answer.string()
        if error:
            told = message.rstrip(".") or f"error {error}"
            raise GreetingError(f"{told} (settings kafka.sasl_username, kafka.sasl_password)")
        mechanism.receive(answer.bytes())


def _ask(connection: socket.socket, api: int, version: int, body: bytes) -> bytes:
    request = struct.pack(">hhi", api, version, 0) + _string("tidegauge") + body
    connection.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _receive(connection, 4))
    if not 4 <= size <= _MAX_ANSWER:
        raise GreetingError("it does not answer as Kafka (does the setting kafka.security_protocol fit?)")
    return _receive(connection, size)[4:]


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise EOFError
        received += part
    return received


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">h", len(data)) + data


class _Answer:
    """Reads the fields of an answer one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def _take(self, size: int) -> bytes:
        if len(self._data) < size:
            raise GreetingError("its answer is cut short")
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def short(self) -> int:
        return int(struct.unpack(">h", self._take(2))[0])

    def long(self) -> int:
        return int(struct.unpack(">i", self._take(4))[0])

    def string(self) -> str:
        return self._take(max(0, self.short())).decode(errors="replace")

    def bytes(self) -> bytes:
        return self._take(max(0, self.long()))
