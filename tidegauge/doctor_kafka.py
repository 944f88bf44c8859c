"""What ``tidegauge doctor`` looks at in Kafka: topics, what we may do, whether anybody reads, and the clock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import (
    CoordinatorNotAvailableError,
    GroupAuthorizationFailedError,
    GroupIdNotFoundError,
    TopicAuthorizationFailedError,
    UnsupportedVersionError,
)

from .broker import TIMEOUT_MS, admin_client, knock
from .finding import Finding, State
from .settings import Settings
from .topics import TopicSpec, check_topics, topic_specs

CLOCK_TOLERANCE: Final = 2.0
"""Seconds that clocks may be apart without a word."""
_OPERATIONS: Final = {"READ": 3, "WRITE": 4, "DESCRIBE": 8}
"""Bits of Kafka's AclOperation, as in its answers to describe."""
_OF_GROUP: Final = frozenset({"READ", "DESCRIBE"})
_UNLIMITED: Final = "-1"
_ASK_AGAIN: Final = 0.2


def broker(settings: Settings) -> Iterator[Finding]:
    """Whether Kafka answers."""
    knock(settings.kafka)
    with admin_client(settings.kafka):
        yield Finding("broker", "OK", f"Kafka answers at {settings.kafka.bootstrap_servers}")


def topics(settings: Settings) -> Iterator[Finding]:
    """Whether they are as they must be, and whether what they take will stay."""
    found = [_finding(one.fatal, f"{one.topic}: {one.what}", one.mend) for one in check_topics(settings)]
    with admin_client(settings.kafka) as admin:
        for spec in topic_specs(settings):
            found += _durability(admin, spec)
    found += _horizons(settings)
    yield from found
    if not found:
        yield Finding("topics", "OK", f"{len(topic_specs(settings))} topics are as they must be")


def _finding(fatal: bool, what: str, mend: str) -> Finding:  # noqa: FBT001
    return Finding("topics", "FAIL" if fatal else "WARN", what, mend)


def _durability(admin: KafkaAdminClient, spec: TopicSpec) -> Iterator[Finding]:
    (described,) = admin.describe_topics([spec.name])
    if described["error_code"]:
        return  # is missing, which is said already
    resource = ConfigResource(ConfigResourceType.TOPIC, spec.name)
    told = admin.describe_configs([resource], config_filter="all").get("topic", {}).get(spec.name, {})
    config = {name: entry["value"] for name, entry in told.items()}
    least = int(config.get("min.insync.replicas", 1))
    copies = min(len(partition["replica_nodes"]) for partition in described["partitions"])
    name = spec.name
    if least > copies:
        what = f"min.insync.replicas is {least}, but a partition has {copies} copies: nothing can be written"
        yield _finding(True, f"{name}: {what}", "reassign its partitions, or lower min.insync.replicas")
    elif copies > 1 and least < 2:
        what = "min.insync.replicas is 1: what one broker acknowledged alone goes with that broker"
        yield _finding(False, f"{name}: {what}", "set min.insync.replicas to 2")
    for partition in described["partitions"]:
        where = f"{name}/{partition['partition_index']}"
        if partition["leader_id"] < 0:
            yield _finding(True, f"{where}: has no leader", "start the brokers that hold it")
        elif least <= copies and len(partition["isr_nodes"]) < least:
            what = f"{len(partition['isr_nodes'])} copies in sync, min.insync.replicas is {least}"
            yield _finding(True, f"{where}: {what}: nothing can be written", "start the brokers that hold it")
    limit = config.get("retention.bytes", _UNLIMITED)
    if config.get("cleanup.policy") == "delete" and limit != _UNLIMITED:
        what = f"retention.bytes is {limit}: it may delete records before their time"
        yield _finding(
            False, f"{name}: {what}", "clear retention.bytes, or see that it holds all of the retention"
        )


def _horizons(settings: Settings) -> Iterator[Finding]:
    retention, worker = settings.topics.retention_hours * 3_600, settings.worker
    repeats = 2 * worker.epoch_seconds
    if retention < repeats:
        what = f"topics.retention_hours keeps events for {retention:g} s, and repeats are known over {repeats:g} s"
        mend = (
            "raise topics.retention_hours, or lower worker.epoch_seconds: a restart reads that stretch again"
        )
        yield _finding(True, what, mend)
    if retention < worker.allowed_lateness:
        what = f"topics.retention_hours keeps events for {retention:g} s, less than worker.allowed_lateness"
        mend = "raise topics.retention_hours: a rebuild recounts only what Kafka holds"
        yield _finding(True, f"{what} of {worker.allowed_lateness:g} s", mend)


def permissions(settings: Settings) -> Iterator[Finding]:
    """Whether topics and group may be read and written, as far as the broker tells."""
    silent, missing = [], []
    with admin_client(settings.kafka) as admin:
        described = admin.describe_topics([spec.name for spec in topic_specs(settings)])
        group, refusal = _group(admin, settings)
    for topic in described:
        name = topic.get("name") or topic.get("topic")
        if topic["error_code"] == TopicAuthorizationFailedError.errno:
            missing.append(f"{name}: may not DESCRIBE")
        if topic["error_code"]:
            continue  # is missing, which is said above
        allowed = _allowed(topic.get("topic_authorized_operations", topic.get("authorized_operations")))
        if not allowed:
            silent.append(str(name))
        elif lacking := sorted(set(_OPERATIONS) - allowed):
            missing.append(f"{name}: may not {', '.join(lacking)}")
    allowed = _allowed(group.get("authorized_operations"))
    who = f"the group {settings.worker.group}"
    if refusal:
        missing.append(f"{who}: {refusal}")
    elif group and not allowed:  # of one that does not exist yet, it tells nothing
        silent.append(who)
    elif group and (lacking := sorted(_OF_GROUP - allowed)):
        missing.append(f"{who}: may not {', '.join(lacking)}")
    for found in missing:
        yield Finding("permissions", "FAIL", found, "have Kafka's ACLs allow it")
    if silent:
        yield Finding(
            "permissions",
            "WARN",
            f"the broker does not tell what we may do with {', '.join(silent)}",
            "ask who may",
        )
    if not missing and not silent:
        joined = f", and {who} joined" if group else ""
        number = sum(not topic["error_code"] for topic in described)
        yield Finding("permissions", "OK", f"{number} topics may be read and written{joined}")


def _allowed(told: Any) -> set[str]:
    if isinstance(told, int):
        return {name for name, bit in _OPERATIONS.items() if told >= 0 and told & 1 << bit}
    return {str(name) for name in told or ()} & set(_OPERATIONS)


def _group(admin: KafkaAdminClient, settings: Settings) -> tuple[Mapping[str, Any], str]:
    """What the broker tells of the group, or why it does not."""
    name = settings.worker.group
    # A broker that was never asked for a group makes the topic that groups are kept in first.
    deadline = time.monotonic() + TIMEOUT_MS / 1_000
    while True:
        try:
            told = admin.describe_groups([name], include_authorized_operations=True)[name]
        except GroupAuthorizationFailedError as refused:
            told = {"error": str(refused)}
        except CoordinatorNotAvailableError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_ASK_AGAIN)
            continue
        break
    error = str(told.get("error") or "")
    if GroupIdNotFoundError.__name__ in error:  # no worker has ever been
        return {}, ""
    return told, "may not DESCRIBE" if GroupAuthorizationFailedError.__name__ in error else error


def reading(settings: Settings) -> Iterator[Finding]:
    """Whether anybody reads, and how far behind."""
    group = settings.worker.group
    with admin_client(settings.kafka) as admin:
        told, refusal = _group(admin, settings)
        if refusal:
            return  # said under permissions
        behind = _lag(admin, settings)
    members = len(told.get("members") or ())
    waiting = f"{behind:,} records wait"
    state: State
    if not members:
        state = "FAIL" if behind else "WARN"
        yield Finding(
            "reading", state, f"no worker of the group {group} runs, {waiting}", "run: tidegauge worker"
        )
    elif behind > settings.worker.ready_lag:
        what = f"{waiting}, more than worker.ready_lag of {settings.worker.ready_lag:,}"
        yield Finding("reading", "WARN", what, "start another worker, up to one a partition")
    else:
        yield Finding("reading", "OK", f"{members} workers of the group {group}, {waiting}")


def _lag(admin: KafkaAdminClient, settings: Settings) -> int:
    partitions = _partitions(admin, settings)
    ends = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
    begins = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
    read = admin.list_group_offsets({settings.worker.group: partitions})[settings.worker.group]
    lag = 0
    for partition in partitions:
        done = read[partition].offset if partition in read else -1
        lag += max(0, ends[partition].offset - max(done, begins[partition].offset))
    return lag


def _partitions(admin: KafkaAdminClient, settings: Settings) -> list[TopicPartition]:
    """Those of the events' topics that are there and have a leader."""
    topics = settings.topics
    described = admin.describe_topics([topics.requests, topics.feedback, topics.judgements])
    return [
        TopicPartition(topic.get("name") or topic.get("topic"), partition["partition_index"])
        for topic in described
        if not topic["error_code"]
        for partition in topic["partitions"]
        if partition["leader_id"] >= 0
    ]


def clock(settings: Settings) -> Iterator[Finding]:
    """Our clock against Kafka's, as far as its newest record tells: from that it can only be seen to be ahead."""
    with admin_client(settings.kafka) as admin:
        partitions = _partitions(admin, settings)
        try:
            newest = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.MAX_TIMESTAMP))
        except (UnsupportedVersionError, TopicAuthorizationFailedError):
            return  # said under permissions, if that is it
    stamps = [found.timestamp for found in newest.values() if found.timestamp >= 0]
    if not stamps:
        yield Finding("clock", "OK", "Kafka has no event yet whose time would tell")
        return
    yield apart("Kafka", max(stamps) / 1_000 - time.time(), both=False)


def apart(other: str, ahead: float, *, both: bool = True) -> Finding:
    """What a difference of clocks means.

    Args:
        other: whose clock.
        ahead: seconds that it is ahead of ours.
        both: whether it would be seen to be behind, too.
    """
    mend = "let NTP set the clocks of all machines"
    if ahead > CLOCK_TOLERANCE or (both and ahead < -CLOCK_TOLERANCE):
        side = "ahead of" if ahead > 0 else "behind"
        return Finding("clock", "FAIL", f"{other}'s is {abs(ahead):.0f} s {side} ours", mend)
    bound = "within" if both else "not ahead by more than"
    return Finding("clock", "OK", f"{other}'s is {bound} {CLOCK_TOLERANCE:g} s")
