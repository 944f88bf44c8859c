"""Receipts: what ties feedback to its call without a join.

An application hands a call's receipt to its front end and gets it back with the thumb or rating. It holds the
event's id and time and the dimensions that feedback is aggregated by: MessagePack in URL-safe base64 behind a
version, such as ``tg1.l9k…``. It is neither secret nor signed: a forged one can only misplace its own
feedback.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import msgspec

from tidegauge.errors import InvalidEventError
from tidegauge.schemas.common import MAX_LABEL_LENGTH, EventId, Label, UnixSeconds
from tidegauge.schemas.request import RequestEvent

PREFIX: Final = "tg1."
MAX_RECEIPT_LENGTH: Final = 16_384
"""Characters: above what five labels of 256 four-byte characters can take."""

_ALPHABET: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


class Receipt(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a receipt says of its call."""

    request_id: EventId
    request_time: UnixSeconds
    service: Label = ""
    provider: Label = ""
    model: Label = ""
    prompt: Label = ""
    prompt_version: Label = ""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Receipt)


def encode_receipt(event: RequestEvent) -> str:
    """The receipt of a call: URL-safe text, about 150 characters. Labels are cut as on the wire."""
    labels = (event.service, event.provider, event.model, event.prompt, event.prompt_version)
    receipt = Receipt(event.id, event.time, *(_label(text) for text in labels))
    return PREFIX + base64.urlsafe_b64encode(_encoder.encode(receipt)).rstrip(b"=").decode("ascii")


def decode_receipt(text: str) -> Receipt:
    """What ``encode_receipt`` put in.

    Raises:
        InvalidEventError: reason ``invalid_receipt``; the text is no receipt, is cut off, or is of a later
            version.
    """
    if not text.startswith(PREFIX):
        raise _invalid(f"a receipt, which starts with '{PREFIX}'")
    if len(text) > MAX_RECEIPT_LENGTH:
        raise _invalid(f"at most {MAX_RECEIPT_LENGTH} characters")
    body = text[len(PREFIX) :]
    # Python's decoder skips foreign characters; a receipt with any has been tampered with by some transport.
    if not _ALPHABET.issuperset(body):
        raise _invalid("URL-safe base64 after the prefix")
    try:
        return _decoder.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (binascii.Error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _invalid("a whole receipt; this one is cut off or altered") from None


def is_receipt(text: str) -> bool:
    """Whether a text means to be a receipt of any version, rather than a bare event id."""
    return text.startswith("tg") and text[2:3].isdigit() and "." in text[:8]


def _label(text: str) -> str:
    return text[:MAX_LABEL_LENGTH].encode("utf-8", "replace").decode("utf-8")


def _invalid(expected: str) -> InvalidEventError:
    return InvalidEventError("invalid_receipt", "receipt", expected)
