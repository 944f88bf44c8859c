"""Everything tidegauge raises on purpose.

TidegaugeError
├── UsageError              wrong flags or arguments: exit code 2
├── SettingsError           a setting is wrong: names the setting and what was expected
├── InvalidEventError       a message on the wire is refused: ``reason`` and ``field`` say why
├── UnavailableError        a server, file or optional package is missing: exit code 1
│   ├── BrokerUnavailableError
│   └── SinkUnavailableError    worth a retry: down, overloaded, or refusing our credentials
├── StalledError            a worker does not get on, and nobody knows why; it had better start again
└── StateError              stored state cannot be trusted; the worker must stop
"""

from __future__ import annotations


class TidegaugeError(Exception):
    """Base of all errors raised on purpose; its text is one clear line for a person."""


class UsageError(TidegaugeError):
    """The command line or a call was put together wrongly."""


class SettingsError(TidegaugeError):
    """A setting is missing or wrong; the text names it."""


class InvalidEventError(TidegaugeError):
    """A message is refused.

    Args:
        reason: a short stable word for counters, such as ``invalid_json`` or ``out_of_range``.
        field: the wire name of the guilty field, or ``""`` where the whole message is at fault.
        expected: what would have been right, in words. Never the offending value: it may be private.
    """

    def __init__(self, reason: str, field: str, expected: str) -> None:
        super().__init__(f"{field or 'message'}: {expected}")
        self.reason = reason
        self.field = field
        self.expected = expected


class UnavailableError(TidegaugeError):
    """Something outside this process is missing or does not answer."""


class BrokerUnavailableError(UnavailableError):
    """Kafka cannot be reached, or refuses us."""


class SinkUnavailableError(UnavailableError):
    """A store did not take a write for a reason that may pass.

    Args:
        message: what happened, without secrets.
        retry_after: seconds the store asked us to wait, or ``None``.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StateError(TidegaugeError):
    """Checkpointed state is missing, from the future or contradictory."""


class StalledError(TidegaugeError):
    """A worker has something to read, does not get on, and no server is known to be away."""
