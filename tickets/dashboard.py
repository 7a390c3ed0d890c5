"""The statistics as pages of the admin: of one event, and of all; every number of a page is out of one snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from sqlalchemy import Connection

from analytics import buckets, pictures, statistics
from analytics.buckets import Bucket
from analytics.queries import EventRow
from core import db
from tickets.models import Event

MAY_READ = "analytics.view_scan"
BARS_MAX = 200
SILENT_MIN = 10
LISTED_MAX = 20
EVENTS_PER_PAGE = 100
LENGTHS = {
    Bucket.MINUTE: "a minute",
    Bucket.QUARTER: "15 minutes",
    Bucket.HOUR: "an hour",
    Bucket.DAY: "a day",
}


class Row(NamedTuple):
    """Something that was counted, with its bar among the others, and the page that says more."""

    name: str
    number: int
    bar: SafeString
    url: str


class Dashboard(admin.ModelAdmin):
    """The pages of statistics beside the events' own."""

    def get_urls(self) -> list[URLPattern]:
        """Add the pages."""
        pages: dict[str, tuple[str, Callable[..., HttpResponse]]] = {
            "tickets_event_statistics": ("<int:event_id>/statistics/", self.statistics_view),
            "tickets_all_statistics": ("statistics/", self.all_statistics_view),
        }
        return [
            path(route, self.admin_site.admin_view(view), name=name) for name, (route, view) in pages.items()
        ] + super().get_urls()

    def statistics_view(self, request: HttpRequest, event_id: int) -> HttpResponse:
        """Show one event in numbers and pictures."""
        _check(request)
        with db.in_one_snapshot() as conn:
            now = timezone.now()
            event = self.get_queryset(request).filter(id=event_id).first()
            if event is None:
                raise Http404
            context = {
                **_counted(conn, event, now, names=request.user.has_perm("tickets.view_ticket")),
                **_timeline(conn, event, request.GET.get("bucket", ""), request.GET.get("until", "")),
            }
        return self._page(request, "one", now.astimezone(event.zone), {"event": event, **context})

    def all_statistics_view(self, request: HttpRequest) -> HttpResponse:
        """Show all events, the newest first, and those that people enter now."""
        _check(request)
        with db.in_one_snapshot() as conn:
            now = timezone.now()
            page = Paginator(
                Event.objects.order_by("-id").values_list("id", flat=True), EVENTS_PER_PAGE
            ).get_page(request.GET.get("page"))
            newest = max(page.object_list, default=0)
            lines = statistics.all_totals(conn, before_id=newest + 1, page=len(page))
            totals = statistics.sums(conn)
            trends = statistics.trends(conn, now=now, page=LISTED_MAX)
        context = {
            "totals": totals,
            "lines": lines,
            "events": page,
            "trends": _rows(
                (trend.name, trend.entries, reverse("admin:tickets_event_statistics", args=[trend.id]))
                for trend in trends
            ),
            "trend_hours": int(statistics.TREND_WITHIN / timedelta(hours=1)),
        }
        return self._page(request, "all", now, context)

    def _page(
        self, request: HttpRequest, which: str, as_of: datetime, context: dict[str, Any]
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": "Statistics",
            "subtitle": context.get("event", "All events"),
            "opts": self.opts,
            "may_view": self.has_view_permission(request),
            "as_of": f"{as_of:%a %d %b %Y, %H:%M:%S}",
            "zone": getattr(as_of.tzinfo, "key", as_of.tzinfo),
            **context,
        }
        return TemplateResponse(request, f"admin/tickets/event/statistics_{which}.html", context)


def _check(request: HttpRequest) -> None:
    if not request.user.has_perm(MAY_READ):
        raise PermissionDenied


def _counted(conn: Connection, event: Event, now: datetime, *, names: bool) -> dict[str, Any]:
    """Read all of an event but its timeline; who passed tickets on only for whoever may see names of holders."""
    row = EventRow(
        event.id, event.slug, event.name, event.time_zone, event.capacity, event.doors_at, event.ends_at
    )
    refusals = statistics.refusals(conn, event_id=event.id)
    gates = statistics.gates(conn, event_id=event.id, now=now)
    entries = [gate.entries for gate in gates]
    throughput = statistics.throughput(conn, event=row, now=now)
    scans = reverse("admin:analytics_scan_changelist")
    return {
        "totals": statistics.event_totals(conn, event_id=event.id),
        "throughput": throughput,
        "share": throughput.capacity_share and f"{throughput.capacity_share:.0%}",
        "peak": throughput.peak_minute and event.local(throughput.peak_minute),
        "gates": [
            (
                gate,
                pictures.bar(gate.entries, most=max(entries), of=sum(entries)),
                event.local(gate.last_minute) if gate.last_minute else "never",
            )
            for gate in gates
        ],
        # Before the doors and after the end, silence says nothing.
        "silent": _silent(conn, event, now) if event.doors_at <= now <= event.ends_at else [],
        "reasons": _rows(
            (reason, number, f"{scans}?event={event.id}&reason={reason}")
            for reason, number in refusals.by_reason.items()
        ),
        "refused_at": _rows(
            (gate.name or "a gate that is gone", gate.refused, "") for gate in refusals.by_gate
        ),
        "refused_by": _rows(
            (
                device.name or ("a device that is gone" if device.id else "no device: by hand"),
                device.refused,
                "",
            )
            for device in refusals.by_device[:LISTED_MAX]
        ),
        "repeated": [
            (code, event.local(code.last_at))
            for code in statistics.repeated_codes(conn, event_id=event.id, page=LISTED_MAX)
        ],
        "transfers": [
            (transfer, event.local(transfer.transferred_at))
            for transfer in (
                statistics.transfer_page(conn, event_id=event.id, page=LISTED_MAX) if names else ()
            )
        ],
    }


def _silent(conn: Connection, event: Event, now: datetime) -> list[tuple[str, list[str], int]]:
    """Name what has been silent: what is said of them, some of them, and how many others there are."""
    found = statistics.silent(conn, event_id=event.id, now=now, for_min=SILENT_MIN)
    gates = [gate.gate for gate in found.gates]
    devices = [f"{device.device} ({device.gate})" for device in found.devices]
    told = (
        (f"Nothing was scanned for {SILENT_MIN} minutes at", gates),
        (f"Not seen for {SILENT_MIN} minutes", devices),
    )
    return [(words, names[:LISTED_MAX], max(len(names) - LISTED_MAX, 0)) for words, names in told if names]


def _timeline(conn: Connection, event: Event, bucket_asked: str, until_asked: str) -> dict[str, Any]:
    """Read the timeline, in spans that are asked for or of which there are not too many, and the hours of the week."""
    active, zone = statistics.active_range(conn, event_id=event.id), event.zone
    if active is None:
        return {}
    first, last = active
    bucket = Bucket(bucket_asked) if bucket_asked in set(Bucket) else _fitting(first, last, zone)
    end = _moment(until_asked)
    end = end if end and first < end < last else last
    begin = max(first, buckets.first_of(end - timedelta(microseconds=1), bucket, zone, BARS_MAX))
    starts = list(buckets.starts(begin, end, bucket, zone))[-BARS_MAX:]
    spans = statistics.timeline(
        conn,
        event_id=event.id,
        starts=starts,
        until=buckets.end_of(starts[-1], bucket, zone),
        span_min=statistics.span_of(bucket),
    )
    names = pictures.span_names(starts, bucket, zone)
    cells = statistics.heatmap(conn, event_id=event.id, zone=zone, since=first, until=last)
    return {
        "timeline": pictures.timeline(spans, names, bucket),
        "spans": [pair for pair in zip(names, spans, strict=True) if any(pair[1][1:])],
        "bucket": bucket,
        "lengths": LENGTHS.items(),
        "length": LENGTHS[bucket],
        "earlier": f"{starts[0]:%Y-%m-%dT%H:%MZ}" if starts[0] > first else "",
        "is_latest": end == last,
        "heatmap": pictures.heatmap(cells),
        "days": pictures.DAYS,
        "hours": [(hour, cells[hour::24]) for hour in range(24)],
    }


def _fitting(since: datetime, until: datetime, zone: ZoneInfo) -> Bucket:
    """Return the shortest spans, from a quarter of an hour on, in which all of a range can be drawn; or else days."""
    fitting = (
        bucket
        for bucket in (Bucket.QUARTER, Bucket.HOUR)
        if buckets.at_most(since, until, bucket, zone, BARS_MAX) is not None
    )
    return next(fitting, Bucket.DAY)


def _moment(text: str) -> datetime | None:
    """Read what an "Earlier" link says; anything else is nothing."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _rows(counted: Iterable[tuple[str, int, str]]) -> list[Row]:
    found = list(counted)
    numbers = [number for _, number, _ in found]
    return [
        Row(name, number, pictures.bar(number, most=max(numbers), of=sum(numbers)), url)
        for name, number, url in found
    ]
