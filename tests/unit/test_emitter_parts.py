"""What the emitter is made of: tallies, partitions, messages, ids."""

from __future__ import annotations

import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from tidegauge.producers.ids import new_event_id, partition_for
from tidegauge.producers.shipper import MAX_EVENTS_PER_MESSAGE, MAX_MESSAGE_BYTES, messages
from tidegauge.producers.stats import Tally


def test_a_tally_counts_exactly_from_many_threads() -> None:
    tally = Tally()
    threads = [threading.Thread(target=lambda: [tally.add("x") for _ in range(5000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.counts() == {"x": 20_000}


@given(st.text(min_size=1), st.integers(1, 1000))
def test_a_partition_is_stable_and_in_range(event_id: str, partitions: int) -> None:
    partition = partition_for(event_id, partitions)
    assert 0 <= partition < partitions
    assert partition == partition_for(event_id, partitions)


def test_partitions_are_those_of_crc_32() -> None:
    # The check value of CRC-32/ISO-HDLC for "123456789": every producer must agree on it for ever.
    assert partition_for("123456789", 1 << 40) == 0xCBF43926


@given(st.lists(st.integers(1, MAX_MESSAGE_BYTES - 2), max_size=60))
def test_messages_keep_every_event_in_order_and_within_the_caps(sizes: list[int]) -> None:
    parts = [bytes(size) for size in sizes]
    cut = list(messages(parts))
    assert [len(p) for batch in cut for p in batch] == sizes
    for batch in cut:
        assert batch
        assert len(b"[" + b",".join(batch) + b"]") <= MAX_MESSAGE_BYTES
        assert len(batch) <= MAX_EVENTS_PER_MESSAGE


def test_messages_are_cut_at_a_thousand_events() -> None:
    assert [len(batch) for batch in messages([b"{}"] * 2500)] == [1000, 1000, 500]


def test_ids_are_unique_sortable_version_7_uuids() -> None:
    import uuid

    ids = [new_event_id() for _ in range(20_000)]
    assert len(set(ids)) == len(ids)
    parsed = uuid.UUID(ids[0])
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122
    assert abs((parsed.int >> 80) / 1000 - time.time()) < 60
    assert ids[0][:12] <= ids[-1][:12]
