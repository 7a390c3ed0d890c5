"""The signed code in a ticket's QR. docs/code-format.md has the byte layout and test vectors.

Pure: no database, no clock. The keys come from tickets.keys.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

import base45
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

VERSION = 1
# Signed together with the payload, so that a signature made for anything else is none of ours.
DOMAIN = b"qrsite-ticket-v1\x00"
_PAYLOAD = struct.Struct(">BBIQ")  # version, key id, event number, ticket number
SIGNATURE_BYTES = 64
CODE_CHARS = 117
# The value of each character; what is no character of Base45 is none.
_NONE = 0xFF
_VALUES = bytes(
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:".find(chr(byte)) & _NONE for byte in range(256)
)
_PAIRS = struct.Struct(">39H")


class CodeRefused(ValueError):
    """The text is no code that we signed; `reason` is the stable word for why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TicketRef(NamedTuple):
    """What a genuine code names."""

    event_id: int
    ticket_id: int


def make(ref: TicketRef, *, key_id: int, key: SigningKey) -> str:
    """Return the ticket's code: 117 characters of Base45, always the same for the same key."""
    payload = _PAYLOAD.pack(VERSION, key_id, ref.event_id, ref.ticket_id)
    code: bytes = base45.b45encode(payload + key.sign(DOMAIN + payload).signature)
    return code.decode("ascii")


def read(text: str, keys: Mapping[int, VerifyKey]) -> TicketRef:
    """Return the ticket that a scanned text names, if one of `keys` signed it.

    Every ticket has exactly one valid text: Base45 maps one to one at a fixed length, and libsodium refuses
    the second encodings that Ed25519 signatures have.

    Raises:
        CodeRefused: `unreadable`, `unknown_key` or `bad_signature`.
    """
    raw, key_id, ref = _unpack(text)
    if key_id not in keys:
        raise CodeRefused("unknown_key")
    try:
        keys[key_id].verify(DOMAIN + raw[: _PAYLOAD.size], raw[_PAYLOAD.size :])
    except BadSignatureError:
        raise CodeRefused("bad_signature") from None
    return ref


def claimed(text: str) -> TicketRef | None:
    """Return the ticket that a text says it is of, whoever signed that: to compare with, never to admit."""
    try:
        return _unpack(text)[2]
    except CodeRefused:
        return None


def _unpack(text: str) -> tuple[bytes, int, TicketRef]:
    # Scanners type a line end after the code. A space may be part of Base45, so spaces stay.
    raw = _decode(text.strip("\r\n\t"))
    version, key_id, event_id, ticket_id = _PAYLOAD.unpack_from(raw)
    if version != VERSION:
        raise CodeRefused("unreadable")
    return raw, key_id, TicketRef(event_id, ticket_id)


def _decode(text: str) -> bytes:
    """Decode Base45 of the one length that codes have: 4 µs, where the library takes 10 while no other thread runs."""
    try:
        values = text.encode("ascii").translate(_VALUES)
        if len(values) != CODE_CHARS or _NONE in values:
            raise CodeRefused("unreadable")
        threes = zip(values[::3], values[1::3], values[2::3], strict=True)
        return _PAIRS.pack(*[low + 45 * middle + 2025 * high for low, middle, high in threes])
    except (UnicodeEncodeError, struct.error):
        raise CodeRefused("unreadable") from None
