"""A stand-in API, an instrumented client on it, and what the instrumentation recorded."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import pytest

from tests.support.instrumented import Recorder, sync_client
from tests.support.messages_api import MessagesAPI


@pytest.fixture
def api() -> Iterator[MessagesAPI]:
    with MessagesAPI() as server:
        yield server


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def client(api: MessagesAPI, recorder: Recorder) -> Iterator[anthropic.Anthropic]:
    with sync_client(api, recorder) as instrumented:
        yield instrumented
