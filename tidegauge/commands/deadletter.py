"""``tidegauge deadletter list|resend``."""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from kafka import TopicPartition

from tidegauge.broker import TIMEOUT_MS, consumer
from tidegauge.errors import UnavailableError, UsageError
from tidegauge.producers.publisher import ReliablePublisher
from tidegauge.schemas.codec import Codec
from tidegauge.schemas.deadletter import DeadLetter
from tidegauge.settings import Settings
from tidegauge.sinks.deadletter import why_not_resend

from .options import add_settings, parse_time, settings_from, whole
from .terminal import printable

_LIST_LIMIT: Final = 50
_NOTE: Final = (
    "Events are de-duplicated by id: one that was counted before is not counted again. The dead letters stay where"
    " they are, and what is refused again makes a new one."
)


@dataclass(frozen=True)
class Stored:
    """A dead letter and where it lies in the dead letter topic; ``letter`` is ``None`` where it cannot be read."""

    partition: int
    offset: int
    letter: DeadLetter | None


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="list|resend", required=True)
    listing = actions.add_parser(
        "list",
        help="show dead letters, oldest first",
        description="Show what could not be processed, where it came from and why. Payloads may be private: they"
        " are shown on request only.",
        epilog="example: tidegauge deadletter list --reason time_out_of_range --from 2026-01-31",
    )
    _add_selection(listing)
    listing.add_argument(
        "--limit",
        type=whole(1),
        default=_LIST_LIMIT,
        metavar="N",
        help=f"the newest N (default {_LIST_LIMIT})",
    )
    listing.add_argument("--output", choices=["table", "json"], default="table")
    listing.add_argument("--show-payload", action="store_true", help="also the event as it came")
    resend = actions.add_parser(
        "resend",
        help="publish dead letters again to where they came from",
        description=f"Publish dead letters again to where they came from, once the cause is mended. {_NOTE}",
        epilog="example: tidegauge deadletter resend --reason schema_version --dry-run",
    )
    _add_selection(resend)
    resend.add_argument("--limit", type=whole(1), metavar="N", help="the oldest N (default: all)")
    resend.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", metavar="R", help="only letters refused for this reason")
    parser.add_argument(
        "--from", dest="start", metavar="T", help="only letters written at or after this time"
    )
    parser.add_argument("--offset", metavar="P:O", help="only the letter at this partition and offset")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """List or resend."""
    settings = settings_from(args)
    start = parse_time(args.start, "--from") if args.start else None
    place = _place(args.offset) if args.offset else None
    letters = (
        stored
        for stored in read_letters(settings, start, place)
        if not args.reason or (stored.letter is not None and stored.letter.reason == args.reason)
    )
    return _list(args, letters) if args.action == "list" else _resend(args, settings, letters)


def read_letters(
    settings: Settings, start: float | None = None, place: tuple[int, int] | None = None
) -> Iterator[Stored]:
    """The dead letters that there are now, oldest first within a partition.

    Args:
        settings: which Kafka and topic.
        start: Unix seconds; letters written before are left out.
        place: partition and offset of the only letter wanted.

    Raises:
        BrokerUnavailableError: Kafka does not answer.
        UnavailableError: the topic does not exist.
    """
    topic = settings.topics.deadletter
    codec = Codec(DeadLetter)
    with consumer(settings.kafka, allow_auto_create_topics=False) as client:
        # Asking for this one topic would hang where it does not exist.
        if topic not in client.topics():
            raise UnavailableError(f"no topic {topic}; make it with: tidegauge topics create")
        partitions = [TopicPartition(topic, number) for number in sorted(client.partitions_for_topic(topic))]
        if place is not None:
            partitions = [partition for partition in partitions if partition.partition == place[0]]
        left = {p: end for p, end in client.end_offsets(partitions).items() if end > 0} if partitions else {}
        client.assign(list(left))
        _seek(client, left, start, place)
        for record in _records(client, left):
            if place is not None and record.offset != place[1]:
                return
            letters, _ = codec.decode(record.value)
            letter = letters[0] if len(letters) == 1 else None
            if start is None or letter is None or letter.time >= start:
                yield Stored(record.partition, record.offset, letter)
            if place is not None:
                return


def _seek(
    client: Any, ends: dict[TopicPartition, int], start: float | None, place: tuple[int, int] | None
) -> None:
    if place is not None:
        for partition in ends:
            client.seek(partition, place[1])
    elif start is not None and ends:
        found = client.offsets_for_times({partition: int(start * 1000) for partition in ends})
        for partition, end in ends.items():
            client.seek(partition, found[partition].offset if found.get(partition) else end)
    elif ends:
        client.seek_to_beginning()


def _records(client: Any, ends: dict[TopicPartition, int]) -> Iterator[Any]:
    """Records up to ``ends``, which brokers may state a little too high: silence ends it too."""
    quiet_since = time.monotonic()
    while any(client.position(partition) < end for partition, end in ends.items()):
        batches = client.poll(timeout_ms=500)
        if batches:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > TIMEOUT_MS / 1000:
            return
        for partition, records in batches.items():
            yield from (record for record in records if record.offset < ends[partition])


def _list(args: argparse.Namespace, letters: Iterator[Stored]) -> int:
    shown: deque[Stored] = deque(maxlen=args.limit)
    total = 0
    for stored in letters:
        shown.append(stored)
        total += 1
    rows = [_row(stored, payload=args.show_payload) for stored in shown]
    if args.output == "json":
        print(json.dumps(rows, indent=1))
        return 0
    _print_table(rows)
    print(f"{total} dead letters" + (f", the newest {len(rows)} shown" if total > len(rows) else ""))
    return 0


def _row(stored: Stored, *, payload: bool) -> dict[str, Any]:
    letter = stored.letter
    row: dict[str, Any] = {"offset": f"{stored.partition}:{stored.offset}"}
    if letter is None:
        return row | {"reason": "unreadable", "detail": "not a dead letter of a version known here"}
    row |= {
        "time": datetime.fromtimestamp(letter.time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "origin_topic": letter.topic,
        "origin_partition": letter.partition,
        "origin_offset": letter.offset,
        "origin_index": letter.index,
        "reason": letter.reason,
        "field": letter.field,
        "detail": letter.detail,
        "size": letter.payload_size,
        "truncated": letter.truncated,
    }
    if payload:
        try:
            row["payload"] = letter.payload.decode()
        except UnicodeDecodeError:
            row["payload_base64"] = base64.b64encode(letter.payload).decode()
    return row


def _print_table(rows: list[dict[str, Any]]) -> None:
    heads = ("offset", "time", "origin", "reason", "field", "size", "detail")
    lines: list[tuple[str, ...]] = [heads]
    for row in rows:
        origin = (
            f"{row.get('origin_topic', '')}/{row.get('origin_partition', '')}@{row.get('origin_offset', '')}"
        )
        origin += f"[{row['origin_index']}]" if row.get("origin_index") is not None else ""
        size = f"{row.get('size', '')}{'+' if row.get('truncated') else ''}"
        cells = {**row, "origin": origin if "origin_topic" in row else "", "size": size}
        lines.append(tuple(printable(str(cells.get(head, ""))) for head in heads))
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for number, line in enumerate(lines):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        payload = rows[number - 1].get("payload", rows[number - 1].get("payload_base64")) if number else None
        if payload is not None:
            print(f"    {printable(payload)}")


def _resend(args: argparse.Namespace, settings: Settings, letters: Iterator[Stored]) -> int:
    sendable: list[DeadLetter] = []
    kept_back = 0
    for number, stored in enumerate(letters):
        if number == args.limit:
            break
        why = why_not_resend(stored.letter, settings.topics) if stored.letter else "cannot be read"
        if why or stored.letter is None:
            kept_back += 1
            print(f"{stored.partition}:{stored.offset} not sent: {why}", file=sys.stderr)
        else:
            sendable.append(stored.letter)
    sent = len(sendable) if args.dry_run else _publish(settings, sendable)
    verb = "would be sent" if args.dry_run else "sent"
    print(f"{sent} dead letters {verb}, {len(sendable) - sent} failed, {kept_back} kept back")
    if sent:
        print(_NOTE)
    return 0 if sent == len(sendable) and not kept_back else 1


def _publish(settings: Settings, letters: list[DeadLetter]) -> int:
    if not letters:
        return 0
    with ReliablePublisher(settings) as publisher:
        for letter in letters:
            if letter.partition >= publisher.partitions(letter.topic):
                print(f"{letter.topic} has no partition {letter.partition} any more", file=sys.stderr)
                continue
            # The partition it came from: there it meets the first copy of itself, if there was one.
            publisher.publish_raw(letter.topic, letter.partition, letter.payload)
        publisher.flush()
        return publisher.stats.acknowledged


def _place(text: str) -> tuple[int, int]:
    partition, colon, offset = text.partition(":")
    if not (colon and partition.isdecimal() and offset.isdecimal()):
        raise UsageError(f"--offset {text}: expected partition:offset, such as 0:17")
    return int(partition), int(offset)
