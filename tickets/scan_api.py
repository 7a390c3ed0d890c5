"""HTTP: judge scans, one or a queue of them, take one back, read the log and the conflicts in it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from django.http import HttpRequest, JsonResponse
from django.utils import timezone
from ninja import Path, Router
from pydantic import AfterValidator, Field

from analytics import queries as log
from analytics.models import Verdict
from core import db
from core.errors import NotFound, raises
from core.paging import After, Limit, Name, page_of
from tickets import admission, lifecycle, queries, scanning
from tickets.auth import DeviceToken, ServiceScope, StaffSession
from tickets.scan_schemas import (
    AnnulOut,
    ConflictOut,
    ConflictPage,
    Nonce,
    QueueIn,
    QueueOut,
    ScanIn,
    ScanOut,
    ScanPage,
    SignOffIn,
    scan_out,
)

router = Router(tags=["scans"])
QUEUE_COST = 20  # calls; a queue of a thousand is as much work as that
may_read = [ServiceScope("tickets:read"), StaffSession("analytics.view_scan")]
may_read_conflicts = [ServiceScope("tickets:read"), StaffSession("analytics.view_conflict")]


def _not_dry(is_dry: bool) -> bool:
    if is_dry:
        raise ValueError("a queue has no dry run: ask for one scan at a time")
    return is_dry


NotDry = Annotated[bool, AfterValidator(_not_dry), Field(json_schema_extra={"const": False})]


@router.post(
    "/scans",
    response=ScanOut,
    auth=DeviceToken(),
    openapi_extra=raises(admission.NonceReused, admission.ScanAnnulled, scanning.ForceForbidden),
)
def scan(request: HttpRequest, body: ScanIn, dry_run: bool = False) -> dict[str, Any]:
    """Judge one scan at the device's gate. A refusal is an answer too: HTTP 200. With `dry_run=1` nothing is recorded."""
    now = timezone.now()
    device: queries.DeviceAtGate = request.auth  # type: ignore[attr-defined]
    attempt = scanning.scan_of(body, device, now)
    if dry_run:
        return _answer(admission.rehearse(rules=admission.rules_of(device.event_id), scan=attempt, now=now))
    [outcome] = admission.admit(rules=admission.rules_of(device.event_id), scans=[attempt], now=now)
    return _answer(outcome)


@router.post("/scans/batch", response=QueueOut, auth=DeviceToken(cost=QUEUE_COST))
def scan_queue(request: HttpRequest, body: QueueIn, dry_run: NotDry = False) -> JsonResponse:
    """Judge up to 1,000 scans that the device made offline, in the order given; each gets a result of its own.

    There is no dry run of it. An item may carry the `reason` for which the device turned the holder away; without one the device let the holder in.
    """
    device: queries.DeviceAtGate = request.auth  # type: ignore[attr-defined]
    results, offset = scanning.judge_queue(
        body.scans,
        device=device,
        rules=admission.rules_of(device.event_id),
        sent_at=body.sent_at,
        now=timezone.now(),
    )
    offset_ms = None if offset is None else round(offset / timedelta(milliseconds=1))
    # As it is: to check a thousand results against the schema again takes as long as to judge them.
    return JsonResponse({"results": results, "clock_offset_ms": offset_ms})


@router.post(
    "/scans/{nonce}/annul",
    response=AnnulOut,
    auth=DeviceToken(),
    openapi_extra=raises(lifecycle.NotAnnullable),
)
def annul_scan(request: HttpRequest, nonce: Path[Nonce]) -> dict[str, Any]:
    """Take back an admission: the turnstile did not turn. The device that admitted may, for 15 minutes."""
    device: queries.DeviceAtGate = request.auth  # type: ignore[attr-defined]
    row = lifecycle.annul(
        event_id=device.event_id, nonce=nonce, device_id=device.device_id, now=timezone.now()
    )
    return {"scan_id": row.id, "nonce": row.nonce, "annulled_at": row.annulled_at}


@router.get("/scans", response=ScanPage, auth=may_read, openapi_extra=raises(NotFound))
def scan_history(
    request: HttpRequest,
    event: Name,
    verdict: Verdict | None = None,
    gate: Name | None = None,
    after: After = None,
    limit: Limit = 100,
) -> dict[str, Any]:
    """Return an event's scans, newest first, the refused ones too; a gate by its name."""
    with db.begin() as conn:
        rows = log.scan_page(
            conn,
            event_id=log.event_named(conn, event).id,
            before_id=after,
            verdict=verdict and verdict.value,
            gate=gate,
            page=limit + 1,
        )
    page, following = page_of(rows, limit, "scan_id")
    # What was written together has its ids in no order.
    shown = sorted(page, key=lambda row: (row.recorded_at, row.happened_at), reverse=True)
    scans = [{**row._asdict(), "ticket_id": row.ticket_id and str(row.ticket_id)} for row in shown]
    return {"scans": scans, "next": following}


@router.get("/events/{slug:slug}/conflicts", response=ConflictPage, auth=may_read_conflicts)
def conflicts(
    request: HttpRequest,
    slug: str,
    open: bool = False,
    after: After = None,
    limit: Limit = 100,
) -> dict[str, Any]:
    """Return the entries that were let in offline and should have been refused; with `open=true` those not signed off."""
    with db.begin() as conn:
        event_id = log.event_named(conn, slug).id
        rows = log.conflict_page(conn, event_id=event_id, before_id=after, open_only=open, page=limit + 1)
    page, following = page_of(rows, limit, "id")
    return {"conflicts": [_conflict(row) for row in page], "next": following}


@router.post(
    "/events/{slug:slug}/conflicts/{int:conflict_id}/sign-off",
    response=ConflictOut,
    auth=ServiceScope("tickets:write"),
)
def sign_off_conflict(request: HttpRequest, slug: str, conflict_id: int, body: SignOffIn) -> dict[str, Any]:
    """Sign a conflict off; the first who does stays the one who did."""
    service = request.auth  # type: ignore[attr-defined]
    with db.begin() as conn:
        event_id = log.event_named(conn, slug).id
        signed = conflict_id < 2**63 - 1 and log.sign_off_conflict(
            conn,
            event_id=event_id,
            conflict_id=conflict_id,
            signed_off_at=timezone.now(),
            signed_off_by=f"service {service.name}",
            note=body.note,
        )
        if not signed:
            raise NotFound("There is no such conflict.")
        [row] = log.conflict_page(conn, event_id=event_id, before_id=conflict_id + 1, open_only=False, page=1)
    return _conflict(row)


def _answer(outcome: admission.Outcome) -> dict[str, Any]:
    if not isinstance(outcome, admission.Answer):
        raise outcome
    return scan_out(outcome)


def _conflict(row: log.ConflictRow) -> dict[str, Any]:
    return {**row._asdict(), "ticket_id": str(row.ticket_id)}
