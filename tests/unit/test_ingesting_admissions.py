"""Admissions too many for one message are stored in parts, and survive a worker that ended between them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from tidegauge.processors.core import messages
from tidegauge.processors.core.kinds import KINDS
from tidegauge.processors.core.pricing import PriceTable
from tidegauge.processors.engine.ingesting import Ingesting
from tidegauge.processors.engine.transport import Chunk, Extent
from tidegauge.schemas.codec import encode
from tidegauge.schemas.request import RequestEvent
from tidegauge.settings import Settings, load

START = 1_700_010_000
DAY = 86_400


class State:
    """What is kept of a partition; ``accepts`` decides what arrives before the worker dies."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.refuses: set[bytes] = set()

    async def write(self, partition: int, entries: Iterable[tuple[bytes, int, bytes | None]]) -> list[Any]:
        loop = asyncio.get_running_loop()
        futures = []
        for key, _, value in entries:
            future: asyncio.Future[None] = loop.create_future()
            futures.append(future)
            if key in self.refuses:
                future.set_exception(ConnectionError("the worker died"))
                continue
            future.set_result(None)
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value
        return futures

    def admitted(self) -> dict[bytes, bytes]:
        return {key: value for key, value in self.values.items() if key.startswith(b"admitted/")}


class Producer:
    """Takes everything."""

    async def send(self, *message: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        future.set_result(SimpleNamespace(offset=0))
        return future


@pytest.fixture(autouse=True)
def _small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    # The real limit asks for megabytes of names; the fault matrix has them.
    monkeypatch.setattr(messages.admitted_messages, "__defaults__", (800,))


def settings() -> Settings:
    return load(environ={"TIDEGAUGE_WORKER_EPOCH_EVENTS": "1000", "TIDEGAUGE_WORKER_ALLOWED_LATENESS": "60"})


def chunk(first: int, count: int, time: float = START) -> Chunk:
    records = [
        SimpleNamespace(
            offset=n,
            timestamp=int(time * 1000),
            key=None,
            value=encode(RequestEvent(f"e{n}", time, f"service-{n % 100:03}")),
        )
        for n in range(first, first + count)
    ]
    return Chunk("requests", 0, records, 0)


async def start_over() -> None:
    raise AssertionError("nothing here raises")


def worker(state: State) -> Ingesting:
    made = Ingesting(
        KINDS["requests"],
        settings(),
        PriceTable(),
        state,  # type: ignore[arg-type]
        Producer,
        start_over,
    )
    made.restore(0, dict(state.values), Extent(0, 10_000))
    return made


async def test_what_is_stored_in_parts_is_whole_after_a_death_between_them() -> None:
    whole = State()
    await worker(whole).apply(chunk(0, 1_001))
    parts = whole.admitted()
    assert len(parts) > 2

    for lost in parts:
        state = State()
        state.refuses = {lost}
        with pytest.raises(ConnectionError):
            await worker(state).apply(chunk(0, 1_001))
        assert state.admitted().keys() == parts.keys() - {lost}
        state.refuses = set()
        await worker(state).apply(chunk(0, 1_001))
        assert state.admitted() == parts


async def test_all_parts_are_deleted_once_their_day_is_over_even_by_another_worker() -> None:
    state = State()
    await worker(state).apply(chunk(0, 1_001))
    assert len(state.admitted()) > 2
    old = set(state.admitted())
    later = worker(state)
    await later.apply(chunk(0, 1_001))
    await later.apply(chunk(1_001, 2_100, START + 2 * DAY))
    await later.flush(0)
    assert state.admitted()
    assert not old & set(state.admitted())
