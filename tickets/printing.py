"""Print tickets as PDF: only valid ones, boundedly many, and never in the way of a gate."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from tempfile import TemporaryFile
from typing import IO

from django.conf import settings
from django.http import FileResponse

from core import db
from core.errors import QrsiteError
from tickets import issuing
from tickets.models import Kind, Ticket
from tickets.paper import Layout, Printed

TICKETS_MAX = 1000
WAIT_S = 20
DRAW_S = 60
NAMED_MAX = 3


class TicketNotValid(QrsiteError):
    """A ticket is void or transferred: its print would be refused at the gate."""

    code = "ticket_not_valid"
    status = 409


class TooManyTickets(QrsiteError):
    """These are more than one PDF holds."""

    code = "too_many_tickets"
    status = 422


class PrinterBusy(QrsiteError):
    """Others are printing, or the machine has no time for it."""

    code = "overloaded"
    status = 503


_printer = threading.Lock()


def answer(tickets: Sequence[Ticket], layout: Layout) -> FileResponse:
    """Answer with the tickets as a PDF, from a file that ends with the answer. Nobody holds a connection meanwhile.

    Raises:
        TicketNotValid, TooManyTickets, PrinterBusy: nothing was printed.
    """
    _check(tickets)
    printed = _printed(tickets)
    db.orm().give_back_if_idle()
    with ExitStack() as on_failure:
        file = on_failure.enter_context(TemporaryFile())
        _draw(file, printed, layout)
        on_failure.pop_all()
    file.seek(0)
    name = f"ticket-{tickets[0].id}.pdf" if len(tickets) == 1 else "tickets.pdf"
    return FileResponse(file, filename=name, content_type="application/pdf")


def is_printable(ticket: Ticket) -> bool:
    """Tell whether the gate would take it for valid."""
    return not (ticket.voided_at or ticket.transferred_at)


def _check(tickets: Sequence[Ticket]) -> None:
    if len(tickets) > TICKETS_MAX:
        raise TooManyTickets(f"One PDF holds at most {TICKETS_MAX:,} tickets. Choose fewer at a time.")
    refused = [ticket for ticket in tickets if not is_printable(ticket)]
    if refused:
        names = ", ".join(f"{ticket.holder} ({ticket.id})" for ticket in refused[:NAMED_MAX])
        more = f" and {len(refused) - NAMED_MAX} more" if len(refused) > NAMED_MAX else ""
        how = " Choose among those of the state “valid”, which leaves them out." if len(tickets) > 1 else ""
        raise TicketNotValid(
            f"Nothing was printed, because a void or transferred ticket is refused at the gate: {names}{more}.{how}"
        )


def _printed(tickets: Sequence[Ticket]) -> list[Printed]:
    """Return what is printed of each; some kinds are admitted at times of their own."""
    found = Kind.objects.filter(event_id__in={ticket.event_id for ticket in tickets})
    kinds = {(kind.event_id, kind.name): kind for kind in found}
    return [_texts(ticket, kinds.get((ticket.event_id, ticket.kind))) for ticket in tickets]


def _texts(ticket: Ticket, kind: Kind | None) -> Printed:
    event = ticket.event
    opens = event.local((kind and kind.admits_from) or event.doors_at)
    if kind and kind.admits_until:
        opens += f" until {event.local(kind.admits_until)}"
    return Printed(
        event=event.name,
        starts=event.local(event.starts_at),
        doors=opens,
        holder=ticket.holder,
        kind=ticket.kind,
        reference=ticket.reference or "",
        number=str(ticket.id),
        code=issuing.code_of(event_id=ticket.event_id, ticket_id=ticket.id),
    )


def _draw(file: IO[bytes], tickets: Sequence[Printed], layout: Layout) -> None:
    """Draw in a process of its own, one at a time.

    Drawing is Python from end to end: on a thread of the server it took the interpreter from every scan for
    seconds (beside a print of 900 tickets their p99 was 182 ms instead of 14).
    """
    if not _printer.acquire(timeout=WAIT_S):
        raise PrinterBusy("Others are printing. Please try again in a minute.")
    try:
        subprocess.run(
            [sys.executable, "-m", "tickets.paper"],
            input=json.dumps([layout, tickets]).encode(),
            stdout=file,
            cwd=settings.BASE_DIR,
            timeout=DRAW_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise PrinterBusy(
            "The machine is too busy to print. Please choose fewer tickets or try later."
        ) from error
    finally:
        _printer.release()
