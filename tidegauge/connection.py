"""How each Kafka library is told of the same broker."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from .errors import SettingsError
from .settings import Kafka


def addresses(kafka: Kafka) -> list[tuple[str, int]]:
    """Host and port of each bootstrap server; raises ``SettingsError``."""
    found = []
    for server in kafka.bootstrap_servers.split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise SettingsError(f"kafka.bootstrap_servers: expected host:port, got '{server}'")
        found.append((host.strip("[]"), int(port)))
    return found


def check(kafka: Kafka) -> None:
    """Raise ``SettingsError`` where an address is none or the security settings do not fit; needs no broker."""
    addresses(kafka)
    if kafka.security_protocol.startswith("SASL") and not (kafka.sasl_username and kafka.sasl_password):
        raise SettingsError(
            f"kafka.sasl_username, kafka.sasl_password: both are needed with {kafka.security_protocol}"
        )
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        file = getattr(kafka, name)
        if file and not Path(file).is_file():
            raise SettingsError(f"kafka.{name}: no such file: {file}")


def ssl_context(kafka: Kafka) -> ssl.SSLContext | None:
    """A context that verifies the broker's certificate and host name, or ``None`` without TLS."""
    if "SSL" not in kafka.security_protocol:
        return None
    try:
        context = ssl.create_default_context(cafile=kafka.ssl_cafile or None)
        if kafka.ssl_certfile:
            # With a password, be it wrong, OpenSSL does not ask the terminal for that of an encrypted key.
            context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile or None, password="")
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(f"kafka.ssl_cafile, ssl_certfile, ssl_keyfile: {error}") from None
    return context


def kafka_python_options(kafka: Kafka) -> dict[str, Any]:
    """Keyword arguments for kafka-python's clients."""
    check(kafka)
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers.split(","),
        "security_protocol": kafka.security_protocol,
        "ssl_context": ssl_context(kafka),
    }
    return options | _sasl(kafka)


def _sasl(kafka: Kafka) -> dict[str, Any]:
    if not kafka.security_protocol.startswith("SASL"):
        return {}
    return {
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": kafka.sasl_username,
        "sasl_plain_password": kafka.sasl_password.reveal(),
    }
