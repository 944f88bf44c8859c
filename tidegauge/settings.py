"""Settings: a TOML file, then environment variables over it, then command-line flags over both.

``[kafka] bootstrap_servers`` in the file is ``TIDEGAUGE_KAFKA_BOOTSTRAP_SERVERS`` in the environment. The file is
the one named by ``--config`` or ``TIDEGAUGE_CONFIG``, else ``tidegauge.toml`` in the working folder if it exists.
A secret may come from a file that ``TIDEGAUGE_<SECTION>_<KEY>_FILE`` names, as supervisors hand secrets over.
An unknown section or key, a wrong type or a value out of range is refused with the setting's name.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from .errors import SettingsError, UnavailableError

ENV_PREFIX = "TIDEGAUGE_"
DEFAULT_FILE = "tidegauge.toml"
_NOT_SETTINGS = {"TIDEGAUGE_CONFIG", "TIDEGAUGE_CACHE", "TIDEGAUGE_REQUIRE_SERVERS"}


class Secret:
    """A string that never prints itself."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself, for the library that needs it."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret('***')" if self._value else "Secret('')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    __hash__ = None  # type: ignore[assignment]


class Kafka(Struct, frozen=True, forbid_unknown_fields=True):
    """How to reach Kafka."""

    bootstrap_servers: Annotated[str, Meta(min_length=1, description="host:port, comma separated")] = (
        "127.0.0.1:9092"
    )
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], Meta(description="how to connect")
    ] = "PLAINTEXT"
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], Meta(description="with SASL")
    ] = "PLAIN"
    sasl_username: Annotated[str, Meta(description="needed with SASL")] = ""
    sasl_password: Annotated[Secret, Meta(description="needed with SASL")] = msgspec.field(
        default_factory=lambda: Secret("")
    )
    ssl_cafile: Annotated[
        str, Meta(description="PEM file of the authorities to trust; the system's own where empty")
    ] = ""
    ssl_certfile: Annotated[
        str, Meta(description="PEM file of our own certificate, where the broker asks for one")
    ] = ""
    ssl_keyfile: Annotated[str, Meta(description="PEM file of its key")] = ""


class Topics(Struct, frozen=True, forbid_unknown_fields=True):
    """Names and shape of the topics."""

    prefix: Annotated[
        str, Meta(pattern=r"^[a-zA-Z0-9._-]{0,100}$", description="put before each topic's name")
    ] = "tidegauge."
    partitions: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="of each topic but alerts and dead letters; more later part repeats from their first copies",
        ),
    ] = 4
    replication_factor: Annotated[int, Meta(ge=1, le=9, description="copies of each partition")] = 1
    retention_hours: Annotated[
        float,
        Meta(
            ge=1, description="hours that events stay in Kafka; a restart or a rebuild can read as far back"
        ),
    ] = 7 * 24.0

    @property
    def requests(self) -> str:
        """Request events."""
        return f"{self.prefix}requests"

    @property
    def feedback(self) -> str:
        """Feedback events."""
        return f"{self.prefix}feedback"

    @property
    def judgements(self) -> str:
        """Verdicts of the judge."""
        return f"{self.prefix}judgements"

    @property
    def panes(self) -> str:
        """Pane snapshots, from the first stage to the second."""
        return f"{self.prefix}panes"

    @property
    def state(self) -> str:
        """Changelog of the workers' state; compacted."""
        return f"{self.prefix}state"

    @property
    def alerts(self) -> str:
        """Alert changes."""
        return f"{self.prefix}alerts"

    @property
    def deadletter(self) -> str:
        """Messages that could not be processed."""
        return f"{self.prefix}deadletter"


class Worker(Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker does; all workers of a group must agree on it. Times are in seconds."""

    group: Annotated[
        str,
        Meta(
            pattern=r"^[a-zA-Z0-9._-]{1,100}$",
            description="consumer group; the workers of one share the work",
        ),
    ] = "tidegauge"
    name: Annotated[
        str,
        Meta(
            pattern=r"^[a-zA-Z0-9._-]{0,80}$",
            description="what this worker is called in its own figures, each its own; the host's name where empty,"
            " and a number behind it where another worker of the host has it",
        ),
    ] = ""
    flush_interval: Annotated[
        float, Meta(ge=0.05, le=60, description="seconds between deliveries of changed panes")
    ] = 0.5
    allowed_lateness: Annotated[
        float,
        Meta(
            ge=0,
            le=30 * 86_400,
            description="seconds that an event may be behind the newest of its partition; beyond, it is late",
        ),
    ] = 7_200.0
    future_tolerance: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="seconds that an event may be ahead of the moment when Kafka took it in",
        ),
    ] = 300.0
    idle_after: Annotated[
        float,
        Meta(
            ge=1,
            le=86_400,
            description="seconds without an event until a partition no longer holds the others up",
        ),
    ] = 30.0
    epoch_events: Annotated[
        int,
        Meta(
            ge=1_000,
            le=10_000_000,
            description="events in an epoch: repeats are recognised over one to two of them",
        ),
    ] = 131_072
    epoch_seconds: Annotated[
        float, Meta(ge=10, le=86_400, description="seconds after which an epoch ends, however few its events")
    ] = 600.0
    max_series: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="series of a view in a day; what is new beyond them counts under __other__",
        ),
    ] = 10_000
    max_dimension_values: Annotated[
        int, Meta(ge=1, le=1_000_000, description="values of one dimension in a day; likewise")
    ] = 2_000
    session_timeout: Annotated[
        float,
        Meta(
            ge=6, le=300, description="seconds of silence after which Kafka gives a worker's share to others"
        ),
    ] = 10.0
    web_port: Annotated[
        int,
        Meta(ge=0, le=65_535, description="of /health, /ready and /metrics; each worker its own; 0 for none"),
    ] = 0
    web_host: Annotated[
        str, Meta(min_length=1, description="address that they listen on, and the name they answer to")
    ] = "127.0.0.1"
    ready_lag: Annotated[
        int, Meta(ge=0, description="records to be read, beyond which a worker is not ready")
    ] = 1_000_000
    stalled_after: Annotated[
        float,
        Meta(
            ge=5,
            le=86_400,
            description="seconds that a partition with something to read may stand until its worker is unhealthy;"
            " after twice as long it ends",
        ),
    ] = 120.0


class StoreSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where aggregates go: ``sqlite:///PATH``, or ``influxdb`` for the one of the ``[influxdb]`` section."""

    url: Annotated[
        str,
        Meta(
            pattern=r"^(sqlite:///.+|influxdb)$",
            description="sqlite:///PATH (a fourth slash begins an absolute path), or influxdb",
        ),
    ] = "sqlite:///tidegauge-data/tidegauge.db"


class InfluxDB(Struct, frozen=True, forbid_unknown_fields=True):
    """An InfluxDB 2."""

    url: Annotated[str, Meta(pattern=r"^https?://", description="where it is")] = "http://127.0.0.1:8086"
    org: Annotated[str, Meta(description="organisation")] = "tidegauge"
    bucket: Annotated[str, Meta(description="bucket for all measurements")] = "tidegauge"
    token: Annotated[Secret, Meta(description="may read and write the bucket")] = msgspec.field(
        default_factory=lambda: Secret("")
    )
    timeout: Annotated[float, Meta(gt=0, le=600, description="seconds to wait for an answer")] = 10.0
    verify_ssl: Annotated[bool, Meta(description="check the certificate of an https server")] = True
    ssl_ca_cert: Annotated[
        str, Meta(description="PEM file of the authorities to trust; the system's own where empty")
    ] = ""


class Prices(Struct, frozen=True, forbid_unknown_fields=True):
    """Where prices come from besides the built-in table."""

    override_file: Annotated[
        str, Meta(description="TOML file of prices that go before the built-in ones")
    ] = ""


class Emitter(Struct, frozen=True, forbid_unknown_fields=True):
    """The producers' SDK. ``queue_size`` bounds memory; the rest are seconds."""

    queue_size: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="events that may wait; beyond them the newest are dropped and counted",
        ),
    ] = 10_000
    linger: Annotated[
        float, Meta(ge=0, le=60, description="seconds to wait for more events of a message")
    ] = 0.05
    close_timeout: Annotated[float, Meta(ge=0, le=600, description="seconds at exit to send what waits")] = (
        5.0
    )
    service: Annotated[str, Meta(description="the application's name")] = ""
    environment: Annotated[str, Meta(description="such as production")] = ""
    team: Annotated[str, Meta(description="who pays")] = ""
    capture_text: Annotated[bool, Meta(description="send prompts and answers, for the judge")] = False
    max_text_length: Annotated[int, Meta(ge=0, le=65_536, description="characters of them that are kept")] = (
        4_096
    )
    user_key: Annotated[Secret, Meta(description="key that turns user ids into pseudonyms")] = msgspec.field(
        default_factory=lambda: Secret("")
    )


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All of it. ``Settings()`` is the defaults; ``load`` reads the file and the environment."""

    kafka: Kafka = Kafka()
    topics: Topics = Topics()
    worker: Worker = Worker()
    store: StoreSettings = StoreSettings()
    influxdb: InfluxDB = InfluxDB()
    prices: Prices = Prices()
    emitter: Emitter = Emitter()


def load(
    file: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the settings.

    Args:
        file: a TOML file; ``None`` means ``TIDEGAUGE_CONFIG`` or ``tidegauge.toml``, where present.
        environ: environment variables; ``None`` means the process's own.
        overrides: flags, as ``{"kafka.bootstrap_servers": "…"}``; ``None`` values are ignored.

    Raises:
        SettingsError: a setting is unknown or wrong; the text names it.
        UnavailableError: the file named does not exist or cannot be read.
    """
    environ = os.environ if environ is None else environ
    values = _read_file(file or environ.get("TIDEGAUGE_CONFIG") or None)
    sections = {f.name for f in msgspec.structs.fields(Settings)}
    for name, text in environ.items():
        if name.startswith(ENV_PREFIX) and name not in _NOT_SETTINGS:
            section, _, key = name.removeprefix(ENV_PREFIX).lower().partition("_")
            if section not in sections:
                raise SettingsError(f"{name}: no such section; sections are {', '.join(sorted(sections))}")
            if secret := _of_file(section, key):
                if f"{ENV_PREFIX}{section}_{secret}".upper() in environ:
                    raise SettingsError(f"{name}: expected either this or {name.removesuffix('_FILE')}")
                key, text = secret, _read_secret(name, text)
            _section(values, section)[key] = text
    for path, value in (overrides or {}).items():
        if value is not None:
            section, _, key = path.partition(".")
            _section(values, section)[key] = value
    try:
        return msgspec.convert(values, Settings, strict=False, dec_hook=_decode_secret)
    except msgspec.ValidationError as error:
        raise SettingsError(_explain(str(error))) from None


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    section = values.setdefault(name, {})
    if not isinstance(section, dict):
        raise SettingsError(f"{name}: expected a section, written [{name}]")
    return section


def _of_file(section: str, key: str) -> str:
    """The secret that a key such as ``token_file`` is about, or nothing."""
    secret = key.removesuffix("_file")
    kinds = msgspec.structs.fields(type(getattr(Settings(), section)))
    found = secret != key and any(
        f.name == secret and isinstance(f.default_factory(), Secret)
        for f in kinds
        if f.default is msgspec.NODEFAULT
    )
    return secret if found else ""


def _read_secret(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise UnavailableError(f"{name}: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{name}: expected a file of UTF-8 text") from None


def _read_file(file: str | os.PathLike[str] | None) -> dict[str, Any]:
    path = Path(file) if file else Path(DEFAULT_FILE)
    if file is None and not path.is_file():
        return {}
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise UnavailableError(f"settings file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"settings file {path}: expected TOML, which is UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"settings file {path}: {error}") from None


def _decode_secret(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise ValueError("Expected `str`")  # msgspec adds where


def _explain(message: str) -> str:
    # msgspec says "Expected `int` >= 1 - at `$.topics.partitions`"; a person wants the setting first.
    what, found, where = message.rpartition(" - at `$")
    return f"{where.rstrip('`').lstrip('.')}: {what}" if found else message
