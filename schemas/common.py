"""Limits and small types that every wire type shares."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

SCHEMA_VERSION: Final = 1

MAX_ID_LENGTH: Final = 128
MAX_LABEL_LENGTH: Final = 256
MAX_TEXT_LENGTH: Final = 65_536
MAX_TOKENS: Final = 1_000_000_000_000
MAX_NANO_USD: Final = 10**18
MAX_DURATION_S: Final = 7 * 86_400.0

# 2001-09-09 … 2096-10-02. Milliseconds, microseconds and nanoseconds of our age all lie above.
MIN_TIME: Final = 1_000_000_000
MAX_TIME: Final = 4_000_000_000

SchemaVersion = Annotated[int, Meta(ge=1, le=1000, description="version of this wire type")]
EventId = Annotated[
    str, Meta(min_length=1, max_length=MAX_ID_LENGTH, description="unique id; repeats are counted once")
]
UnixSeconds = Annotated[
    float, Meta(ge=MIN_TIME, le=MAX_TIME, description="event time in Unix seconds, fractions allowed")
]
Seconds = Annotated[float, Meta(ge=0.0, le=MAX_DURATION_S, description="seconds")]
Label = Annotated[str, Meta(max_length=MAX_LABEL_LENGTH)]
Tokens = Annotated[int, Meta(ge=0, le=MAX_TOKENS, description="tokens")]
NanoUSD = Annotated[int, Meta(ge=0, le=MAX_NANO_USD, description="integer nano-dollars (1e-9 USD)")]
Text = Annotated[str, Meta(max_length=MAX_TEXT_LENGTH)]
Count = Annotated[int, Meta(ge=0, le=10**15)]
