"""The same questions, asked as they are asked where nothing was counted: of the rows, by a live COUNT."""

from __future__ import annotations

_PASSED = "verdict = 'admitted' AND direction = '{}' AND annulled_at IS NULL"
_COUNTED = (
    f"count(*) FILTER (WHERE {_PASSED.format('entry')}) AS entries,"
    f" count(*) FILTER (WHERE {_PASSED.format('exit')}) AS exits,"
    " count(*) FILTER (WHERE verdict = 'refused') AS refused"
)
_TICKETS = (
    "count(*) AS issued, count(voided_at) AS void, count(transferred_at) AS transferred, count(admitted_at) AS admitted,"
    " count(*) FILTER (WHERE coalesce(voided_at, transferred_at, admitted_at) IS NULL) AS no_shows,"
    " count(*) FILTER (WHERE inside) AS inside"
)
_SCANS = f"{_COUNTED}, count(DISTINCT ticket_id) AS unique_tickets, count(annulled_at) AS annulled"
_LOG = "FROM ticket_scans WHERE event_id = %(event_id)s"
_REFUSED = f"{_LOG} AND verdict = 'refused'"
_REASONS = f"SELECT reason, count(*) {_REFUSED} GROUP BY reason"


def _by(span: str) -> tuple[str, ...]:
    return (f"SELECT {span} AS since, {_COUNTED} {_LOG} GROUP BY since",)


_LOCAL = "happened_at AT TIME ZONE 'Europe/Berlin'"

RAW: dict[str, tuple[str, ...]] = {
    "all events": (
        f"SELECT event_id, {_TICKETS} FROM ticket GROUP BY event_id",  # noqa: S608
        f"SELECT event_id, {_SCANS} FROM ticket_scans GROUP BY event_id",  # noqa: S608
    ),
    "event": (
        f"SELECT {_TICKETS} FROM ticket WHERE event_id = %(event_id)s",  # noqa: S608
        f"SELECT {_SCANS} {_LOG}",
        _REASONS,
    ),
    "timeline minute": _by("date_trunc('minute', happened_at)"),
    "timeline 15min": _by("date_bin('15 minutes', happened_at, '1970-01-01 00:00Z')"),
    "timeline hour": _by("date_trunc('hour', happened_at, 'Europe/Berlin')"),
    "timeline day": _by("date_trunc('day', happened_at, 'Europe/Berlin')"),
    "heatmap": (
        f"SELECT extract(isodow FROM {_LOCAL}) AS weekday, extract(hour FROM {_LOCAL}) AS hour, {_COUNTED}"  # noqa: S608
        f" {_LOG} GROUP BY weekday, hour",
    ),
    "gates": (
        f"SELECT gate_id, {_COUNTED}, max(happened_at) {_LOG} GROUP BY gate_id",
        "SELECT admitted_gate_id, count(*) FROM ticket WHERE event_id = %(event_id)s GROUP BY admitted_gate_id",
    ),
    "invalid attempts": (
        _REASONS,
        f"SELECT gate_id, count(*) {_REFUSED} GROUP BY gate_id",
        f"SELECT device_id, count(*) {_REFUSED} GROUP BY device_id",
        f"SELECT ticket_id, code, count(*), max(happened_at) {_REFUSED} GROUP BY ticket_id, code"
        " HAVING count(*) > 1 ORDER BY count(*) DESC LIMIT 20",
    ),
}
