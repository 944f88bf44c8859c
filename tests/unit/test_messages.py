"""What is too much for one message goes into several, in order and complete."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.processors.core.cardinality import Admitted
from tidegauge.processors.core.messages import PANES_PER_MESSAGE, admitted_messages, pane_messages
from tidegauge.schemas.codec import MAX_MESSAGE_BYTES
from tidegauge.schemas.pane import PaneBatch, PaneSnapshot

BATCH = PaneBatch("requests", 1, 10, 20, 1_700_000_000.0, [])


def pane(n: int, name: str = "") -> PaneSnapshot:
    return PaneSnapshot("requests", (f"{n}{name}",), 0, [n], [])


def read(messages: list[bytes]) -> list[PaneBatch]:
    return [msgspec.json.decode(message, type=PaneBatch) for message in messages]


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(300, 2_000))
def test_panes_arrive_in_order_within_the_limit_and_the_watermark_with_the_last(
    lengths: list[int], limit: int
) -> None:
    panes = [pane(n, "x" * length) for n, length in enumerate(lengths)]
    messages = pane_messages(BATCH, panes, limit)
    batches = read(messages)
    assert [pane for batch in batches for pane in batch.panes] == panes
    assert [batch.watermark for batch in batches] == [0.0] * (len(batches) - 1) + [BATCH.watermark]
    for message, batch in zip(messages, batches, strict=True):
        assert len(message) <= limit or len(batch.panes) == 1
        assert (batch.topic, batch.partition, batch.epoch, batch.last) == ("requests", 1, 10, 20)


def test_a_batch_without_panes_is_one_message_that_tells_the_watermark() -> None:
    assert read(pane_messages(BATCH, [])) == [BATCH]


def test_as_many_panes_as_a_message_may_have_are_not_cut() -> None:
    sizes = [len(batch.panes) for batch in read(pane_messages(BATCH, [pane(n) for n in range(2_500)]))]
    assert sizes == [PANES_PER_MESSAGE, PANES_PER_MESSAGE, 500]


def test_a_thousand_panes_with_the_longest_names_take_several_messages() -> None:
    panes = [PaneSnapshot("requests", ("𝄞" * 256,) * 7, n, [n], []) for n in range(PANES_PER_MESSAGE)]
    messages = pane_messages(BATCH, panes)
    assert len(messages) > 1
    assert max(map(len, messages)) <= MAX_MESSAGE_BYTES


@given(
    st.dictionaries(
        st.sampled_from(["requests", "users", "guardrails"]),
        st.lists(st.tuples(st.text(max_size=40), st.text(max_size=40)), max_size=30),
    ),
    st.integers(100, 2_000),
)
def test_admissions_are_the_same_in_parts_as_in_one(
    keys: dict[str, list[tuple[str, ...]]], limit: int
) -> None:
    parts = [
        msgspec.json.decode(message, type=Admitted)
        for message in admitted_messages(Admitted(7, 19_000, keys), limit)
    ]
    together: dict[str, list[tuple[str, ...]]] = {}
    for part in parts:
        assert (part.epoch, part.day) == (7, 19_000)
        for family, some in part.keys.items():
            together.setdefault(family, []).extend(tuple(key) for key in some)
    assert together == {family: some for family, some in keys.items() if some}
