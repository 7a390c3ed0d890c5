"""What the API takes and gives for tickets, devices and keys; scans are in tickets.scan_schemas."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from ninja import Schema
from pydantic import AfterValidator, BaseModel, Field

from tickets.models import validate_line

MAX_TICKETS = 1000


def _printable(text: str) -> str:
    try:
        validate_line(text)
    except ValidationError as error:
        raise ValueError(error.message) from None
    return text.strip()


def _email(text: str) -> str:
    try:
        validate_email(text)
    except ValidationError:
        raise ValueError("not an email address") from None
    return text


def text(max_length: int, *, min_length: int = 0) -> Any:
    """Return the type of a line of text that a person could have typed."""
    return Annotated[
        str, Field(max_length=max_length), AfterValidator(_printable), Field(min_length=min_length)
    ]


class TicketIn(Schema):
    """A ticket to issue. The same `reference` again returns the same ticket."""

    holder: text(200, min_length=1)  # type: ignore[valid-type]
    email: Annotated[text(254), AfterValidator(_email)] | None = None  # type: ignore[valid-type]
    kind: text(100) = ""  # type: ignore[valid-type]
    reference: text(200, min_length=1) | None = None  # type: ignore[valid-type]


class TicketsIn(Schema):
    """The tickets of one call: all are issued, or none."""

    tickets: Annotated[list[TicketIn], Field(min_length=1, max_length=MAX_TICKETS)]


class TicketOut(Schema):
    """An issued ticket. `id` is text, for it has more digits than a JavaScript number holds."""

    id: str
    code: str
    holder: str
    email: str
    kind: str
    reference: str | None


class TicketsOut(Schema):
    """The tickets in the order asked for."""

    tickets: list[TicketOut]


class TicketDetail(TicketOut):
    """A ticket and what became of it."""

    event: str
    issued_at: datetime
    voided_at: datetime | None
    transferred_at: datetime | None
    admitted_at: datetime | None
    inside: bool


class NewHolder(Schema):
    """Whom a ticket is passed on to."""

    holder: text(200, min_length=1)  # type: ignore[valid-type]
    email: Annotated[text(254), AfterValidator(_email)] | None = None  # type: ignore[valid-type]


class TransferIn(Schema):
    """Pass a ticket on, to a name or to a holder with an address; the same `reference` again returns the same ticket."""

    to: NewHolder | text(200, min_length=1)  # type: ignore[valid-type]
    reference: text(200, min_length=1) | None = None  # type: ignore[valid-type]


class EnrolIn(Schema):
    """What the QR in the admin holds after `#enrol=`."""

    secret: Annotated[str, Field(max_length=200)]


class EnrolOut(Schema):
    """The device's token, this once, and where it scans."""

    token: str
    device: str
    gate: str
    event: str
    event_name: str
    time_zone: str


class Jwk(Schema):
    """A public key as RFC 8037 writes it; `kid` is byte 1 of the codes that it verifies."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    use: Literal["sig"]
    kid: str
    x: str


class Jwks(Schema):
    """The keys that verify; the first one signs now."""

    keys: list[Jwk]


class Problem(BaseModel):
    """An error: a stable code for machines, a sentence for people."""

    code: str
    message: str
