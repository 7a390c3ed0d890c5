"""HTTP: statistics. Who may read them is decided where they are mounted (qrsite.api)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.utils.http import parse_etags
from ninja import Router
from ninja.params.functions import Query as Param
from pydantic import AfterValidator, Field
from sqlalchemy import Connection

from analytics import buckets, queries, statistics
from analytics.buckets import Bucket
from analytics.queries import EventRow
from analytics.schemas import (
    AllStats,
    Comparison,
    EventStats,
    Gates,
    Heatmap,
    InvalidAttempts,
    SilentOut,
    ThroughputOut,
    Timeline,
    Transfers,
    Trending,
)
from core import db
from core.errors import NotFound, QrsiteError, raises
from core.paging import PAGE_MAX, After, Limit, Name, page_of

router = Router(tags=["statistics"])
# These name tickets and holders.
scans_router = Router(tags=["statistics"])
tickets_router = Router(tags=["statistics"])
MINUTES_MAX = 1440
EARLIEST, LATEST = datetime(1973, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
UNCHANGED = {"responses": {304: {"description": "Nothing changed since the ETag that If-None-Match names."}}}

Minutes = Annotated[int, Field(ge=1, le=MINUTES_MAX)]


def _known(zone: str) -> str:
    if not buckets.is_place(zone):
        raise ValueError("is no time zone of the IANA database, such as Europe/Berlin")
    return zone


Zone = Annotated[str, Field(max_length=60), AfterValidator(_known)]
Moment = Annotated[
    datetime,
    Field(
        description="without an offset: by the clock of the venue, or of `zone`",
        examples=["2026-06-12T19:30"],
    ),
]


FROM: Any = Param(None, alias="from")
TO: Any = Param(None, alias="to")


class InvalidRange(QrsiteError):
    """The range is empty, too long, or beyond the years that are counted."""

    code = "invalid"
    status = 422


def _wrong(field: str, message: str) -> InvalidRange:
    return InvalidRange(f"{field}: {message}", fields=[{"field": field, "message": message}])


def _answer(request: HttpRequest, build: Callable[..., dict[str, Any]], *slugs: str) -> HttpResponse:
    """Answer out of one snapshot, or with 304 where the numbers are those that the client has.

    The tag holds how often anything was counted, the events' rows, and the minute: names of gates, what is recent, and when
    devices were seen are up to a minute old for who asks with a tag, and never where anything was counted since.
    """
    with db.in_one_snapshot() as conn:
        # Not before: the connection may have been waited for.
        now = timezone.now()
        events = [queries.event_named(conn, slug) for slug in slugs]
        versions = [statistics.changes(conn, event.id) for event in events] or [statistics.changes(conn)]
        minute = buckets.start_of(now, Bucket.MINUTE, ZoneInfo("UTC"))
        words = repr((request.get_full_path(), events, versions, minute)).encode()
        tag = f'"{hashlib.blake2b(words, digest_size=16).hexdigest()}"'
        known = parse_etags(request.headers.get("If-None-Match", ""))
        response: HttpResponse
        if tag in {each.removeprefix("W/") for each in known}:
            response = HttpResponse(status=304)
        else:
            told = build(conn, *events, now)
            if events:
                told = {"event": events[0].slug, "time_zone": events[0].time_zone, **told}
            response = JsonResponse({"as_of": now, **told})
    response["ETag"] = tag
    response["Cache-Control"] = "private, no-cache"
    return response


def _rows(rows: list[Any]) -> list[dict[str, Any]]:
    return [row._asdict() for row in rows]


@router.get("/stats", response=AllStats, openapi_extra=UNCHANGED)
def all_stats(request: HttpRequest, after: After = None, limit: Limit = 100) -> HttpResponse:
    """Count every event, the newest first; `totals` are of all events, not only of this page."""

    def build(conn: Connection, now: datetime) -> dict[str, Any]:
        found = statistics.all_totals(conn, before_id=after, page=limit + 1)
        events, following = page_of(found, limit, "id")
        return {"totals": statistics.sums(conn)._asdict(), "events": _rows(events), "next": following}

    return _answer(request, build)


@router.get("/stats/trending", response=Trending, openapi_extra=UNCHANGED)
def trending(request: HttpRequest, limit: Limit = 20) -> HttpResponse:
    """List the events that people are entering: an entry counts half as much an hour later."""
    return _answer(request, lambda conn, now: {"events": _rows(statistics.trends(conn, now=now, page=limit))})


@router.get("/events/{slug:slug}/stats", response=EventStats, openapi_extra=UNCHANGED)
def event_stats(request: HttpRequest, slug: str) -> HttpResponse:
    """Count one event's tickets and scans as they are now."""

    def build(conn: Connection, event: EventRow, now: datetime) -> dict[str, Any]:
        totals = statistics.event_totals(conn, event_id=event.id)
        return {"name": event.name, "capacity": event.capacity, **totals._asdict()}

    return _answer(request, build, slug)


@router.get(
    "/events/{slug:slug}/stats/timeline", response=Timeline, openapi_extra=UNCHANGED | raises(InvalidRange)
)
def timeline(
    request: HttpRequest,
    slug: str,
    bucket: Bucket = Bucket.QUARTER,
    since: Moment | None = FROM,
    until: Moment | None = TO,
    gate: Name | None = None,
    zone: Zone | None = None,
    limit: Limit = PAGE_MAX,
) -> HttpResponse:
    """Count what happened in each minute, quarter of an hour, hour or day, the empty ones too.

    Without a range, it is all that there is, or the last `limit` spans of that.
    """

    def build(conn: Connection, event: EventRow, now: datetime) -> dict[str, Any]:
        gate_id = _gate_id(conn, event, gate)
        local = ZoneInfo(zone or event.time_zone)
        active = statistics.active_range(conn, event_id=event.id, gate_id=gate_id)
        begin, end = _range(since, until, active, local)
        starts: list[datetime] = []
        if begin is None and active and end:
            begin = max(active[0], buckets.first_of(end - timedelta(microseconds=1), bucket, local, limit))
        if begin and end:
            found = buckets.at_most(begin, end, bucket, local, limit)
            if found is None:
                raise _wrong("to", f"the range has more than {limit} spans: ask for longer ones, or for less")
            starts = found
        stop = buckets.end_of(starts[-1], bucket, local) if starts else end
        spans = (
            statistics.timeline(
                conn,
                event_id=event.id,
                gate_id=gate_id,
                starts=starts,
                until=stop,
                span_min=statistics.span_of(bucket),
            )
            if stop
            else []
        )
        rows = [span._asdict() | {"since": span.since.astimezone(local)} for span in spans]
        return {
            "zone": local.key,
            "bucket": bucket,
            "gate": gate,
            "until": stop and stop.astimezone(local),
            "spans": rows,
        }

    return _answer(request, build, slug)


@router.get(
    "/events/{slug:slug}/stats/heatmap", response=Heatmap, openapi_extra=UNCHANGED | raises(InvalidRange)
)
def heatmap(
    request: HttpRequest,
    slug: str,
    since: Moment | None = FROM,
    until: Moment | None = TO,
    zone: Zone | None = None,
) -> HttpResponse:
    """Count by hour of the week: 7 times 24 cells, Monday's first, by the clock of the venue; all time, or a range of it.

    A range is widened to whole quarters of an hour; the answer says to which.
    """

    def build(conn: Connection, event: EventRow, now: datetime) -> dict[str, Any]:
        local = ZoneInfo(zone or event.time_zone)
        begin, end = _range(since, until, None, local)
        if begin:
            begin = buckets.start_of(begin, Bucket.QUARTER, local)
        if end and (start := buckets.start_of(end, Bucket.QUARTER, local)) < end:
            end = buckets.end_of(start, Bucket.QUARTER, local)
        cells = statistics.heatmap(
            conn,
            event_id=event.id,
            zone=local,
            since=begin or statistics.BEFORE_ALL,
            until=end or LATEST,
        )
        return {
            "zone": local.key,
            "since": begin and begin.astimezone(local),
            "until": end and end.astimezone(local),
            "cells": _rows(cells),
        }

    return _answer(request, build, slug)


@router.get("/events/{slug:slug}/stats/gates", response=Gates, openapi_extra=UNCHANGED)
def gates(request: HttpRequest, slug: str) -> HttpResponse:
    """Count what happened at each gate: ever, and in the last 15 minutes."""
    return _answer(
        request,
        lambda conn, event, now: {"gates": _rows(statistics.gates(conn, event_id=event.id, now=now))},
        slug,
    )


@router.get("/events/{slug:slug}/stats/throughput", response=ThroughputOut, openapi_extra=UNCHANGED)
def throughput(request: HttpRequest, slug: str) -> HttpResponse:
    """Tell how fast people come in, how full it is, and how many minutes the rest would take at that rate."""
    return _answer(
        request, lambda conn, event, now: statistics.throughput(conn, event=event, now=now)._asdict(), slug
    )


@scans_router.get(
    "/events/{slug:slug}/stats/invalid-attempts", response=InvalidAttempts, openapi_extra=UNCHANGED
)
def invalid_attempts(
    request: HttpRequest, slug: str, after: After = None, limit: Limit = 100
) -> HttpResponse:
    """Count what was refused by reason, gate and device; list the codes that were tried most, and the scans, newest first."""

    def build(conn: Connection, event: EventRow, now: datetime) -> dict[str, Any]:
        found = statistics.refusals(conn, event_id=event.id)
        scans = statistics.refused_page(conn, event_id=event.id, before_id=after, page=limit + 1)
        page, following = page_of(scans, limit, "scan_id")
        return {
            "refused": found.refused,
            "by_reason": found.by_reason,
            "by_gate": _rows(found.by_gate),
            "by_device": _rows(found.by_device[:limit]),
            "repeated": _tickets(statistics.repeated_codes(conn, event_id=event.id)),
            "scans": _tickets(page),
            "next": following,
        }

    return _answer(request, build, slug)


@tickets_router.get("/events/{slug:slug}/stats/transfers", response=Transfers, openapi_extra=UNCHANGED)
def transfers(
    request: HttpRequest, slug: str, ticket: After = None, after: After = None, limit: Limit = 100
) -> HttpResponse:
    """List who passed tickets on, newest first; with `ticket`, the whole chain that it is in, the oldest first."""

    def build(conn: Connection, event: EventRow, now: datetime) -> dict[str, Any]:
        if ticket is not None:
            found, following = statistics.transfer_chain(conn, event_id=event.id, ticket_id=ticket), None
        else:
            rows = statistics.transfer_page(conn, event_id=event.id, before_id=after, page=limit + 1)
            found, following = page_of(rows, limit, "id")
        told = [
            row._asdict() | {"from_ticket_id": str(row.from_ticket_id), "to_ticket_id": str(row.to_ticket_id)}
            for row in found
        ]
        return {"transfers": told, "next": following}

    return _answer(request, build, slug)


@router.get(
    "/events/{slug:slug}/stats/compare", response=Comparison, openapi_extra=UNCHANGED | raises(InvalidRange)
)
def compare(
    request: HttpRequest,
    slug: str,
    other: Annotated[Name, Field(description="the other event's slug")],
    bucket_min: Minutes = 15,
    spans: Annotated[int, Field(ge=1, le=PAGE_MAX)] = 32,
) -> HttpResponse:
    """Lay the entries of two events over each other, each from the minute in which its doors opened."""

    def build(conn: Connection, first: EventRow, second: EventRow, now: datetime) -> dict[str, Any]:
        told = []
        for event in (first, second):
            if event.doors_at > LATEST:
                raise _wrong("other", "the doors of one open too late to be compared")
            found = statistics.since_doors(conn, event=event, bucket_min=bucket_min, spans=spans)
            told.append({"event": event.slug, "doors_at": event.doors_at, "spans": _rows(found)})
        return {"bucket_min": bucket_min, "events": told}

    return _answer(request, build, slug, other)


@router.get("/events/{slug:slug}/stats/silent", response=SilentOut, openapi_extra=UNCHANGED)
def silent(request: HttpRequest, slug: str, minutes: Minutes = 10) -> HttpResponse:
    """List the gates at which nothing was scanned for so long, and the devices that were not seen."""

    def build(conn: Connection, event: EventRow, now: datetime) -> dict[str, Any]:
        found = statistics.silent(conn, event_id=event.id, now=now, for_min=minutes)
        gates = [{"gate": gate.gate, "last_minute": gate.last_minute} for gate in found.gates]
        return {"minutes": minutes, "gates": gates, "devices": _rows(found.devices)}

    return _answer(request, build, slug)


def _tickets(rows: list[Any]) -> list[dict[str, Any]]:
    """Write ticket numbers as text, as everywhere in the API: JavaScript's numbers end before them."""
    return [row._asdict() | {"ticket_id": row.ticket_id and str(row.ticket_id)} for row in rows]


def _gate_id(conn: Connection, event: EventRow, gate: str | None) -> int:
    if gate is None:
        return 0
    found = statistics.gate_id(conn, event_id=event.id, name=gate)
    if found is None:
        raise NotFound(f"The event has no gate {gate}.")
    return found


def _range(
    since: datetime | None, until: datetime | None, active: tuple[datetime, datetime] | None, zone: ZoneInfo
) -> tuple[datetime | None, datetime | None]:
    """Return from when to when, where that is said or known; what has no offset is by the clock of the zone."""
    begin = since and (since if since.tzinfo else since.replace(tzinfo=zone))
    end = until and (until if until.tzinfo else until.replace(tzinfo=zone))
    for field, moment in (("from", begin), ("to", end)):
        if moment and not EARLIEST <= moment <= LATEST:
            raise _wrong(field, "only the years from 1973 to 2199 are counted")
    if end is None and active:
        end = active[1]
    if begin and end and begin >= end and until is not None:
        raise _wrong("to", "must be later than from")
    return begin, end
