"""What the API takes and gives for tickets and scans."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from ninja import Schema
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

from analytics.models import Direction, Verdict
from tickets.admission import CODE_KEPT_CHARS, Answer
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


def _plausible(when: datetime) -> datetime:
    # Further out, PostgreSQL and Python disagree about what a date is.
    if not datetime(2000, 1, 1, tzinfo=UTC) <= when < datetime(2200, 1, 1, tzinfo=UTC):
        raise ValueError("must lie between the years 2000 and 2200")
    return when


def _storable(code: Any) -> Any:
    """Cut what a scanner read and make it storable: a gate may read anything, and all of it is kept.

    PostgreSQL stores no NUL and UTF-8 no lone surrogate. Cut and escaped text is never a code of ours.
    """
    if not isinstance(code, str):
        return code
    kept = code[:CODE_KEPT_CHARS].encode("utf-8", "backslashreplace").decode("utf-8")
    return kept.replace("\x00", "\\x00")


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


class ScanIn(Schema):
    """One attempt. `nonce` is the client's name for it: sent again, it gets the same verdict again."""

    code: Annotated[str, BeforeValidator(_storable)]
    nonce: Annotated[str, Field(pattern=r"^[A-Za-z0-9._~:+=@-]{1,128}$")]
    scanned_at: Annotated[AwareDatetime, AfterValidator(_plausible)] | None = None
    direction: Direction = Direction.ENTRY


class ScannedTicket(Schema):
    """What gate staff may see of a ticket."""

    id: str
    holder: str
    kind: str


class ScanOut(Schema):
    """The verdict. `reason` is null where it is `admitted`, `ticket` where the code names none of this event."""

    verdict: Verdict
    reason: str | None
    message: str
    replayed: bool
    ticket: ScannedTicket | None
    first_admitted_at: datetime | None
    first_gate: str | None
    scan_id: int


def scan_out(answer: Answer) -> dict[str, Any]:
    """Return what a client learns of an answer, in the order of ScanOut."""
    stored = answer.stored
    return {
        "verdict": stored.verdict,
        "reason": stored.reason,
        "message": answer.message,
        "replayed": answer.replayed,
        "ticket": stored.ticket_id
        and {"id": str(stored.ticket_id), "holder": stored.holder, "kind": stored.kind},
        "first_admitted_at": stored.admitted_at,
        "first_gate": stored.gate,
        "scan_id": stored.scan_id,
    }
