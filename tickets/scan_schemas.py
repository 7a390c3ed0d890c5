"""What the API takes and gives for scans: one, a queue of them, the log and the conflicts in it.

What is hot is a plain model: ninja's Schema looks at each field as if it were of a row of the ORM.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from ninja import Schema
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from analytics.models import Direction, Verdict
from tickets.admission import Answer
from tickets.judging import CODE_KEPT_CHARS
from tickets.rules import REASONS
from tickets.schemas import Problem, text

MAX_SCANS = 1000


def _plausible(when: datetime) -> datetime:
    # Further out, PostgreSQL and Python disagree about what a date is. A phone that forgot the time says 1970.
    if not datetime(1900, 1, 1, tzinfo=UTC) <= when < datetime(2200, 1, 1, tzinfo=UTC):
        raise ValueError("must lie between the years 1900 and 2200")
    # In UTC, for PostgreSQL knows no offsets of 16 hours and more.
    return when.astimezone(UTC)


def _storable(code: Any) -> Any:
    """Cut what a scanner read and make it storable: a gate may read anything, and all of it is kept.

    PostgreSQL stores no NUL and UTF-8 no lone surrogate. Cut and escaped text is never a code of ours.
    """
    if not isinstance(code, str):
        return code
    # With a last character that no code has: what is left of a genuine one with line ends after it would be one.
    cut = code if len(code) <= CODE_KEPT_CHARS else f"{code[: CODE_KEPT_CHARS - 1]}…"
    kept = cut.encode("utf-8", "backslashreplace").decode("utf-8")
    return kept.replace("\x00", "\\x00")


Moment = Annotated[AwareDatetime, AfterValidator(_plausible)]
Nonce = Annotated[str, Field(pattern=r"^[A-Za-z0-9._~:+=@-]{1,128}$")]
Reason = Literal[REASONS]  # type: ignore[valid-type]
# What the log has is shown, also where a newer version wrote it.
LoggedReason = Annotated[str, WithJsonSchema({"type": "string", "enum": list(REASONS)})]


class ScanIn(BaseModel):
    """One attempt. `nonce` is the client's name for it: sent again, it gets the same verdict again."""

    code: Annotated[str, BeforeValidator(_storable)]
    nonce: Nonce
    scanned_at: Moment | None = None
    direction: Direction = Direction.ENTRY
    force_reason: text(200, min_length=1) | None = None  # type: ignore[valid-type]


class OfflineScanIn(ScanIn):
    """An attempt that was decided by the device; `reason` is why it turned the holder away, null where it admitted."""

    reason: Reason | None = None

    @model_validator(mode="after")
    def _in_or_out(self) -> Self:
        if self.reason is not None and self.force_reason is not None:
            raise ValueError("either a reason why the holder was turned away, or a force_reason why not")
        return self


# Shown as what it should be, taken as it is: a bad item fails none of the others.
AnyScan = Annotated[OfflineScanIn, WrapValidator(lambda item, _validate: item)]


class QueueIn(Schema):
    """Scans made offline, in the order made. `sent_at` is the device's clock as it sends them: it tells how wrong it is."""

    scans: Annotated[list[AnyScan], Field(min_length=1, max_length=MAX_SCANS)]
    sent_at: Moment | None = None


class ScannedTicket(BaseModel):
    """What gate staff may see of a ticket."""

    id: str
    holder: str
    kind: str


class ScanOut(BaseModel):
    """The verdict. `reason` is null where it is `admitted`, `ticket` where the code names none of this event.

    `scan_id` is null where nothing was recorded: in a dry run.
    """

    verdict: Verdict
    reason: LoggedReason | None
    message: str
    replayed: bool
    ticket: ScannedTicket | None
    first_admitted_at: datetime | None
    first_gate: str | None
    scan_id: int | None


class Named(BaseModel):
    """A scan by its nonce, null where it had none."""

    nonce: str | None


class JudgedScan(ScanOut, Named):
    """A scan of a queue that got its verdict."""


class FailedScan(Named):
    """A scan of a queue that got none."""

    error: Problem


class QueueOut(BaseModel):
    """One result for each scan, in order: its `nonce` and a verdict, or its `nonce` and an `error`.

    `clock_offset_ms` is how far ahead of ours the device's clock is, null where it did not send `sent_at`.
    """

    results: list[JudgedScan | FailedScan]
    clock_offset_ms: int | None


class AnnulOut(Schema):
    """An admission that was taken back."""

    scan_id: int
    nonce: str
    annulled_at: datetime


class LoggedScan(Schema):
    """A row of the scan log: by a `device`, or by hand by a `user`, the name of an account in the admin.

    Ids of tickets are text, for they have more digits than a JavaScript number holds.
    """

    scan_id: int
    nonce: str
    ticket_id: str | None
    gate: str | None
    device: str | None
    user: str | None
    direction: Direction
    verdict: Verdict
    reason: LoggedReason | None
    code: str | None
    scanned_at: datetime
    recorded_at: datetime
    happened_at: datetime
    offline: bool
    forced_over: LoggedReason | None
    force_reason: str | None
    annulled_at: datetime | None


class ScanPage(Schema):
    """Scans, newest first; `next` goes into `after` for the page behind it, null on the last."""

    scans: list[LoggedScan]
    next: str | None


class ConflictOut(Schema):
    """An entry that was let in offline and should not have been, and the entry that had used the ticket, if any."""

    id: int
    ticket_id: str
    holder: str
    reason: LoggedReason
    scan_id: int
    gate: str | None
    device: str | None
    happened_at: datetime
    earlier_scan_id: int | None
    earlier_gate: str | None
    earlier_device: str | None
    earlier_user: str | None
    earlier_happened_at: datetime | None
    minutes_apart: float | None
    noticed_at: datetime
    signed_off_at: datetime | None
    signed_off_by: str
    note: str


class ConflictPage(Schema):
    """Conflicts, newest first; `next` goes into `after` for the page behind it, null on the last."""

    conflicts: list[ConflictOut]
    next: str | None


class SignOffIn(Schema):
    """What the person says who signs a conflict off."""

    note: text(500, min_length=1)  # type: ignore[valid-type]


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
