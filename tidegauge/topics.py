"""The topics: which there are, what they must be like, and whether they are.

What is checked is what would cost events or exactness:

- Kafka's record timestamp decides about retention. Were it the producer's, replayed events that carry their own old
  time would be deleted within a minute; so it is the broker's (``LogAppendTime``), and event time is in the payload.
- The stages' state is kept by source partition, so the topics of both stages have the same number of partitions.
- Events must outlive the settings' retention, for restarts and rebuilds read them again.
- Compacting a topic of events would keep one event a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, NoError, UnknownTopicOrPartitionError, for_code

from tidegauge.schemas.codec import MAX_MESSAGE_BYTES

from .broker import admin_client
from .settings import Settings

MAX_BATCH_BYTES: Final = MAX_MESSAGE_BYTES + 1024 * 1024
"""Largest record batch of a topic in bytes: the largest message, and room for key, headers and framing."""

DEADLETTER_RETENTION_HOURS: Final = 30 * 24.0
STATE_COMPACTION_LAG_MS: Final = 3_600_000
"""A frozen worker that wakes up within this time finds the newer state still there to compare its own with."""

_TOPIC_ALREADY_EXISTS: Final = 36
_AT_LEAST: Final = frozenset({"retention.ms", "max.message.bytes", "min.compaction.lag.ms"})
_FATAL: Final = frozenset({"cleanup.policy", "message.timestamp.type"})
_UNLIMITED: Final = "-1"


@dataclass(frozen=True)
class TopicSpec:
    """What a topic must be like.

    Attributes:
        name: the topic.
        partitions: how many; ``fixed_partitions`` says whether another number does harm.
        replication: copies of each partition.
        config: Kafka's topic settings. Sizes and times are lower bounds, everything else must be equal.
    """

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]
    fixed_partitions: bool = True


@dataclass(frozen=True)
class Problem:
    """One thing about one topic that is not as it must be, and what to do about it."""

    topic: str
    what: str
    mend: str
    fatal: bool = False
    """Whether figures would be wrong, so that a worker had better not start."""

    def __str__(self) -> str:
        return f"{self.topic}: {self.what}; {self.mend}"


@dataclass(frozen=True)
class TopicReport:
    """What ``ensure_topics`` found or did: ``created``, ``altered``, ``ok``, or ``differs`` with the problems."""

    name: str
    state: Literal["created", "altered", "ok", "differs"]
    problems: Sequence[Problem] = field(default_factory=tuple)


def topic_specs(settings: Settings) -> list[TopicSpec]:
    """What the settings ask for."""
    topics = settings.topics
    events = {
        "cleanup.policy": "delete",
        "retention.ms": _milliseconds(topics.retention_hours),
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(MAX_BATCH_BYTES),
    }
    letters = events | {
        "retention.ms": _milliseconds(max(DEADLETTER_RETENTION_HOURS, 2 * topics.retention_hours))
    }
    state = {
        "cleanup.policy": "compact",
        "min.compaction.lag.ms": str(STATE_COMPACTION_LAG_MS),
        "max.message.bytes": str(MAX_BATCH_BYTES),
    }
    many, copies = topics.partitions, topics.replication_factor
    return [
        TopicSpec(topics.requests, many, copies, events),
        TopicSpec(topics.feedback, many, copies, events),
        TopicSpec(topics.judgements, many, copies, events),
        TopicSpec(topics.panes, many, copies, events),
        TopicSpec(topics.state, many, copies, state),
        TopicSpec(topics.alerts, 1, copies, {"cleanup.policy": "compact"}, fixed_partitions=False),
        TopicSpec(topics.deadletter, 1, copies, letters, fixed_partitions=False),
    ]


def _milliseconds(hours: float) -> str:
    return str(int(hours * 3_600_000))


def check_topics(settings: Settings) -> list[Problem]:
    """Everything about the topics that is not as the settings ask; empty where all is well.

    Raises:
        BrokerUnavailableError: Kafka does not answer within some seconds, or refuses us.
    """
    with admin_client(settings.kafka) as admin:
        return [
            problem for spec in topic_specs(settings) for problem in _problems(spec, *_state(admin, spec))
        ]


def ensure_topics(settings: Settings, *, alter: bool = False) -> list[TopicReport]:
    """Create the topics that are missing, and say how the others are; doing it again changes nothing.

    Args:
        settings: names, sizes, and the Kafka to do it on.
        alter: also set the topic settings that differ. Partitions and copies are never changed: more partitions
            would part repeated events from their first copies.

    Raises:
        BrokerUnavailableError: Kafka does not answer within some seconds, or refuses us.
    """
    with admin_client(settings.kafka) as admin:
        return [_ensure(admin, spec, alter=alter) for spec in topic_specs(settings)]


def _ensure(admin: KafkaAdminClient, spec: TopicSpec, *, alter: bool) -> TopicReport:
    partitions, config = _state(admin, spec)
    if not partitions and (refusal := _create(admin, spec)):
        return TopicReport(spec.name, "differs", (refusal,))
    if not partitions:
        return TopicReport(spec.name, "created")
    altered = False
    if alter and (wrong := _wrong_config(spec, config)):
        if refusal := _alter(admin, spec, wrong):
            return TopicReport(spec.name, "differs", (refusal,))
        partitions, config = _state(admin, spec)
        altered = True
    problems = _problems(spec, partitions, config)
    return TopicReport(spec.name, "differs" if problems else "altered" if altered else "ok", tuple(problems))


def _create(admin: KafkaAdminClient, spec: TopicSpec) -> Problem | None:
    asked = {
        "num_partitions": spec.partitions,
        "replication_factor": spec.replication,
        "configs": dict(spec.config),
    }
    answer = admin.create_topics({spec.name: asked}, raise_errors=False)["topics"][0]
    if answer["error_code"] not in (0, _TOPIC_ALREADY_EXISTS):  # another worker may have been quicker
        return Problem(spec.name, f"cannot be created: {_reason(answer)}", "mend that and run it again")
    admin.wait_for_topics([spec.name])
    return None


def _alter(admin: KafkaAdminClient, spec: TopicSpec, names: Sequence[str]) -> Problem | None:
    wanted = {name: spec.config[name] for name in names}
    resource = ConfigResource(ConfigResourceType.TOPIC, spec.name, wanted)
    answer = admin.alter_configs([resource], raise_on_unknown=False)["topic"][spec.name]
    return None if answer == "OK" else Problem(spec.name, f"cannot be altered: {answer}", "ask who may")


def _state(admin: KafkaAdminClient, spec: TopicSpec) -> tuple[list[Mapping[str, Any]], dict[str, str]]:
    """The topic's partitions (none: it does not exist) and its settings, as far as the broker tells them."""
    described = admin.describe_topics([spec.name])[0]
    error = for_code(described["error_code"])
    if error is UnknownTopicOrPartitionError:
        return [], {}
    if error is not NoError:
        raise error(f"topic {spec.name}")
    # Without a list of names: brokers differ in how they take one.
    resource = ConfigResource(ConfigResourceType.TOPIC, spec.name)
    configs = admin.describe_configs([resource], config_filter="all").get("topic", {}).get(spec.name, {})
    return described["partitions"], {name: entry["value"] for name, entry in configs.items()}


def _problems(
    spec: TopicSpec, partitions: Sequence[Mapping[str, Any]], config: Mapping[str, str]
) -> list[Problem]:
    if not partitions:
        return [Problem(spec.name, "does not exist", "run: tidegauge topics create", fatal=True)]
    found = []
    if spec.fixed_partitions and len(partitions) != spec.partitions:
        what = f"has {len(partitions)} partitions, the settings ask for {spec.partitions}"
        mend = f"set topics.partitions to {len(partitions)} if all topics have that many, else choose a new prefix"
        found.append(Problem(spec.name, what, mend, fatal=True))
    copies = min(len(partition["replica_nodes"]) for partition in partitions)
    if copies < spec.replication:
        what = f"has {copies} copies of a partition, the settings ask for {spec.replication}"
        found.append(Problem(spec.name, what, "reassign its partitions, or lower topics.replication_factor"))
    for name in _wrong_config(spec, config):
        bound = "at least " if name in _AT_LEAST else ""
        what = f"{name} is {config.get(name, 'not told by the broker')}, must be {bound}{spec.config[name]}"
        fatal = name in _FATAL
        found.append(Problem(spec.name, what, "run: tidegauge topics create --alter", fatal))
    return found


def _wrong_config(spec: TopicSpec, config: Mapping[str, str]) -> list[str]:
    return [name for name, wanted in spec.config.items() if not _fits(name, wanted, config.get(name))]


def _fits(name: str, wanted: str, found: str | None) -> bool:
    if found is None or name not in _AT_LEAST:
        return found == wanted
    return (name == "retention.ms" and found == _UNLIMITED) or int(found) >= int(wanted)


def _reason(answer: Mapping[str, Any]) -> str:
    error: type[KafkaError] = for_code(answer["error_code"])
    return answer["error_message"] or error.__name__
