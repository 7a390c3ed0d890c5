"""HTTP: issue tickets, show them and their QR, void them, pass them on; scans are in tickets.scan_api."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import segno
from django.http import FileResponse, HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.cache import cache_control
from django.views.decorators.http import condition
from ninja import Router, Status
from ninja.decorators import decorate_view

from core.errors import NotFound, raises
from tickets import enrolment, issuing, keys, lifecycle, printing
from tickets.auth import ServiceScope, StaffSession
from tickets.models import Event, Ticket
from tickets.schemas import (
    EnrolIn,
    EnrolOut,
    Jwks,
    NewHolder,
    TicketDetail,
    TicketsIn,
    TicketsOut,
    TransferIn,
)

router = Router(tags=["tickets"])
may_read = [ServiceScope("tickets:read"), StaffSession("tickets.view_ticket")]
KEYS_MAX_AGE_S = 60


def _file(content_type: str) -> dict[str, Any]:
    return {"responses": {200: {"content": {content_type: {}}}}}


@router.post(
    "/devices/enrol",
    response={201: EnrolOut},
    auth=None,
    tags=["devices"],
    openapi_extra=raises(
        enrolment.EnrolmentUnknown,
        enrolment.EnrolmentUsed,
        enrolment.EnrolmentExpired,
        enrolment.DeviceRevoked,
    ),
)
def enrol_device(request: HttpRequest, body: EnrolIn) -> Status[dict[str, Any]]:
    """Exchange the one-time secret of an enrolment QR for the device's token. The secret is the credential."""
    device, token = enrolment.enrol(secret=body.secret, now=timezone.now())
    event = device.gate.event
    answer = {
        "token": token,
        "device": device.name,
        "gate": device.gate.name,
        "event": event.slug,
        "event_name": event.name,
        "time_zone": event.time_zone,
    }
    return Status(201, answer)


def _keys_etag(request: HttpRequest) -> str:
    shown = repr(keys.jwks(keys.key_ring())).encode()
    return f'"{hashlib.sha256(shown).hexdigest()[:32]}"'


@router.get(
    "/keys",
    response=Jwks,
    auth=None,
    tags=["keys"],
    openapi_extra={"responses": {304: {"description": "Not Modified"}}},
)
@decorate_view(
    condition(etag_func=_keys_etag), cache_control(public=True, max_age=KEYS_MAX_AGE_S)
)  # last is outermost
def public_keys(request: HttpRequest) -> dict[str, Any]:
    """Return the public keys that verify codes, for verifiers that work offline. Needs no credentials."""
    return {"keys": keys.jwks(keys.key_ring())}


@router.post(
    "/events/{slug:slug}/tickets",
    response={201: TicketsOut},
    auth=ServiceScope("tickets:write"),
    openapi_extra=raises(issuing.CapacityExceeded, issuing.UnknownKind),
)
def issue_tickets(request: HttpRequest, slug: str, body: TicketsIn) -> Status[dict[str, Any]]:
    """Issue up to 1,000 tickets, all or none."""
    event = Event.objects.filter(slug=slug).first()
    if event is None:
        raise NotFound(f"There is no event {slug}.")
    wishes = [issuing.Wish(item.holder, item.email or "", item.kind, item.reference) for item in body.tickets]
    issued = issuing.issue(event_id=event.id, wishes=wishes, now=timezone.now())
    return Status(201, {"tickets": [_ticket(event.id, *ticket) for ticket in issued]})


@router.get("/tickets/{int:ticket_id}", response=TicketDetail, auth=may_read)
def show_ticket(request: HttpRequest, ticket_id: int) -> dict[str, Any]:
    """Show one ticket."""
    return _detail(_find(ticket_id))


@router.get("/tickets/{int:ticket_id}/qr.svg", auth=may_read, openapi_extra=_file("image/svg+xml"))
def ticket_qr_svg(request: HttpRequest, ticket_id: int) -> HttpResponse:
    """Draw the ticket's QR as SVG."""
    return _qr(ticket_id, "svg", "image/svg+xml")


@router.get("/tickets/{int:ticket_id}/qr.png", auth=may_read, openapi_extra=_file("image/png"))
def ticket_qr_png(request: HttpRequest, ticket_id: int) -> HttpResponse:
    """Draw the ticket's QR as PNG."""
    return _qr(ticket_id, "png", "image/png")


@router.get(
    "/tickets/{int:ticket_id}/ticket.pdf",
    auth=may_read,
    openapi_extra=_file("application/pdf") | raises(printing.TicketNotValid, printing.PrinterBusy),
)
def ticket_pdf(request: HttpRequest, ticket_id: int) -> FileResponse:
    """Print the ticket: an A4 page with its QR. A void or transferred ticket is refused."""
    return printing.answer([_find(ticket_id)], "pages")


@router.post(
    "/tickets/{int:ticket_id}/void",
    response=TicketDetail,
    auth=ServiceScope("tickets:write"),
    openapi_extra=raises(lifecycle.TicketTransferred),
)
def void_ticket(request: HttpRequest, ticket_id: int) -> dict[str, Any]:
    """Refuse a ticket from now on."""
    return _detail(lifecycle.void(ticket_id=ticket_id, now=timezone.now()))


@router.post(
    "/tickets/{int:ticket_id}/transfer",
    response={201: TicketDetail},
    auth=ServiceScope("tickets:write"),
    openapi_extra=raises(
        lifecycle.TicketVoid, lifecycle.TicketUsed, lifecycle.TicketTransferred, lifecycle.ReferenceTaken
    ),
)
def transfer_ticket(request: HttpRequest, ticket_id: int, body: TransferIn) -> Status[dict[str, Any]]:
    """Pass a ticket on: its code is refused from now on, the new holder gets a new one."""
    to = NewHolder(holder=body.to) if isinstance(body.to, str) else body.to
    service = request.auth  # type: ignore[attr-defined]
    new = lifecycle.transfer(
        ticket_id=ticket_id,
        holder=to.holder,
        email=to.email or "",
        reference=body.reference,
        by=f"service {service.name}",
        now=timezone.now(),
    )
    return Status(201, _detail(new))


def _find(ticket_id: int) -> Ticket:
    ticket = Ticket.objects.select_related("event").filter(id=ticket_id).first()
    if ticket is None:
        raise NotFound("There is no such ticket.")
    return ticket


def _detail(ticket: Ticket) -> dict[str, Any]:
    return {
        **_ticket(ticket.event_id, ticket.id, ticket.holder, ticket.email, ticket.kind, ticket.reference),
        "event": ticket.event.slug,
        "issued_at": ticket.issued_at,
        "voided_at": ticket.voided_at,
        "transferred_at": ticket.transferred_at,
        "admitted_at": ticket.admitted_at,
        "inside": ticket.inside,
    }


def _ticket(
    event_id: int, ticket_id: int, holder: str, email: str, kind: str, reference: str | None
) -> dict[str, Any]:
    return {
        "id": str(ticket_id),
        "code": issuing.code_of(event_id=event_id, ticket_id=ticket_id),
        "holder": holder,
        "email": email,
        "kind": kind,
        "reference": reference,
    }


def _qr(ticket_id: int, kind: str, content_type: str) -> HttpResponse:
    ticket = _find(ticket_id)
    code = issuing.code_of(event_id=ticket.event_id, ticket_id=ticket.id)
    picture = io.BytesIO()
    segno.make(code, error="m", micro=False, boost_error=False).save(picture, kind=kind, scale=8, border=4)
    return HttpResponse(picture.getvalue(), content_type=content_type)
