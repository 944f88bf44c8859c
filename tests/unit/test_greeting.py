"""What is said of those that are no Kafka, or none that would have us; real ones are in ``tests/e2e``."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from tidegauge.broker import knock
from tidegauge.errors import BrokerUnavailableError
from tidegauge.settings import Kafka, Secret

VERSIONS = b"\0\0\0\0\0\0"


def answer(body: bytes) -> bytes:
    return struct.pack(">ii", len(body) + 4, 0) + body


def serve(listener: socket.socket, answers: list[bytes]) -> None:
    connection, _ = listener.accept()
    with connection:
        for data in answers:
            size = connection.recv(4)
            connection.recv(struct.unpack(">i", size)[0])
            connection.sendall(data)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "does not answer as Kafka"),
        ([], "hung up"),
        ([answer(VERSIONS)], "hung up"),
        ([answer(VERSIONS), answer(b"\0")], "cut short"),
        (
            [answer(VERSIONS), answer(b"\0\x21\0\0\0\2\0\6GSSAPI\0\5OTHER")],
            "does not take PLAIN, but GSSAPI, OTHER (setting kafka.sasl_mechanism)",
        ),
        (
            [answer(VERSIONS), answer(b"\0\0\0\0\0\0"), answer(b"\0\x3a\0\5Gone.\0\0\0\0")],
            "Gone (settings kafka.sasl_username, kafka.sasl_password)",
        ),
        (
            [answer(VERSIONS), answer(b"\0\0\0\0\0\0"), answer(b"\0\x3a\xff\xff\0\0\0\0")],
            "error 58 (settings kafka.sasl_username",
        ),
    ],
)
def test_why_we_may_not_in_is_told_in_a_line(
    listener: socket.socket, answers: list[bytes], told: str
) -> None:
    server = threading.Thread(target=serve, args=(listener, answers))
    server.start()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    try:
        with pytest.raises(BrokerUnavailableError) as error:
            knock(Kafka(address, "SASL_PLAINTEXT", "PLAIN", "user", Secret("secret-word")))
    finally:
        server.join(10)
    assert str(error.value).startswith(f"Kafka at {address}: ")
    assert told in str(error.value)
    assert "secret-word" not in str(error.value)


def test_a_scram_broker_must_prove_that_it_knows_the_password_too(listener: socket.socket) -> None:
    imposter = b"\0\0\xff\xff" + struct.pack(">i", 17) + b"r=guess,s=c2FsdA="
    answers = [answer(VERSIONS), answer(b"\0\0\0\0\0\0"), answer(imposter)]
    server = threading.Thread(target=serve, args=(listener, answers))
    server.start()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    try:
        with pytest.raises(BrokerUnavailableError, match="answers are not those of SCRAM-SHA-256"):
            knock(Kafka(address, "SASL_PLAINTEXT", "SCRAM-SHA-256", "user", Secret("word")))
    finally:
        server.join(10)


def test_silence_has_an_end(listener: socket.socket) -> None:
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(BrokerUnavailableError, match="no answer"):
        knock(Kafka(address, "SASL_PLAINTEXT", "PLAIN", "user", Secret("word")), timeout=0.2)


def test_one_address_of_several_that_lets_us_in_will_do(listener: socket.socket) -> None:
    nobody = socket.create_server(("127.0.0.1", 0))
    closed = nobody.getsockname()[1]
    nobody.close()
    good = [answer(VERSIONS), answer(b"\0\0\0\0\0\0"), answer(b"\0\0\xff\xff\0\0\0\0")]
    server = threading.Thread(target=serve, args=(listener, good))
    server.start()
    servers = f"127.0.0.1:{closed},127.0.0.1:{listener.getsockname()[1]}"
    try:
        knock(Kafka(servers, "SASL_PLAINTEXT", "PLAIN", "user", Secret("word")))
    finally:
        server.join(10)
