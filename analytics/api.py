"""HTTP: statistics. Who may read them is decided where they are mounted (qrsite.api)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Router, Schema

from analytics import queries
from core import db
from core.errors import NotFound

router = Router(tags=["statistics"])


class EventStats(Schema):
    """One event in numbers. People: issued to inside; attempts: scans to refused_by_reason."""

    event: str
    name: str
    time_zone: str
    capacity: int | None
    as_of: datetime
    issued: int
    void: int
    transferred: int
    admitted: int
    inside: int
    scans: int
    entries: int
    exits: int
    refused: int
    refused_by_reason: dict[str, int]


@router.get("/{slug:slug}/stats", response=EventStats)
def event_stats(request: HttpRequest, slug: str) -> dict[str, Any]:
    """Count one event's tickets and scans as they are now."""
    with db.begin() as conn:
        event = queries.event_by_slug(conn, slug=slug)
        if event is None:
            raise NotFound(f"There is no event {slug}.")
        as_of = timezone.now()
        totals = queries.event_totals(conn, event_id=event.id)
    return {"event": event.slug, **event._asdict(), "as_of": as_of, **totals._asdict()}
