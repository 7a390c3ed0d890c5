"""What a device sends, made an attempt: one scan, or a queue of scans that it made while it was offline."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import InterfaceError, OperationalError
from pydantic import ValidationError

from analytics.counters import Tally
from analytics.queries import record_conflicts
from core import db
from core.errors import QrsiteError, error_body, unexpected
from tickets import admission, lifecycle, queries
from tickets.judging import Scan
from tickets.rules import EventRules
from tickets.scan_schemas import OfflineScanIn, ScanIn, scan_out

log = logging.getLogger(__name__)

Outcome = admission.Answer | Exception


class ForceForbidden(QrsiteError):
    """Only a supervisor's device may admit in spite of a refusal."""

    code = "force_forbidden"
    status = 403


def scan_of(sent: ScanIn, device: queries.DeviceAtGate, now: datetime) -> Scan:
    """Return what a device sent as an attempt at its gate.

    Raises:
        ForceForbidden
    """
    if sent.force_reason is not None and not device.is_supervisor:
        raise ForceForbidden("This device may not force an admission: it is no supervisor's.")
    return Scan(
        code=sent.code,
        nonce=sent.nonce,
        scanned_at=sent.scanned_at or now,
        direction=sent.direction,
        gate_id=device.gate_id,
        device_id=device.device_id,
        force_reason=sent.force_reason,
    )


def offline_scan_of(
    sent: OfflineScanIn, device: queries.DeviceAtGate, now: datetime, offset: timedelta
) -> Scan:
    """Return an attempt that was made offline, at the moment that it was by our clock, and never later than now.

    Raises:
        ForceForbidden
    """
    happened_at = min(sent.scanned_at - offset, now) if sent.scanned_at else now
    return scan_of(sent, device, now)._replace(happened_at=happened_at, refused_offline=sent.reason)


def judge_queue(
    sent: Sequence[Any],
    *,
    device: queries.DeviceAtGate,
    rules: EventRules,
    sent_at: datetime | None,
    now: datetime,
) -> tuple[list[dict[str, Any]], timedelta | None]:
    """Judge scans made offline in the order given; return a result for each, and how far the device's clock is ahead.

    One bad item never fails the others: its result is an error with its place in the queue.

    Raises:
        django.db.OperationalError: the database did not answer; the same queue again tells.
    """
    offset = None if sent_at is None else sent_at - now
    results: list[dict[str, Any]] = []
    places, scans = [], []
    for place, item in enumerate(sent):
        nonce = item.get("nonce") if isinstance(item, dict) else None
        results.append({"nonce": nonce if isinstance(nonce, str) else None})
        try:
            scan = offline_scan_of(OfflineScanIn.model_validate(item), device, now, offset or timedelta())
        except ValidationError as error:
            results[place] |= _invalid(error)
        except QrsiteError as error:
            results[place] |= error_body(error.code, str(error))
        else:
            places.append(place)
            scans.append(scan)
    outcomes = admission.admit_apart(rules=rules, scans=scans, now=now) if scans else []
    for place, outcome in zip(places, _settle(scans, outcomes, device.event_id, now), strict=True):
        results[place] |= _result(outcome)
    if offset is not None:
        with db.begin() as conn:
            offset_ms = round(offset / timedelta(milliseconds=1))
            queries.note_clock(conn, device_id=device.device_id, offset_ms=offset_ms, measured_at=now)
    return results, offset


def _settle(
    scans: Sequence[Scan], outcomes: Sequence[Outcome], event_id: int, now: datetime
) -> list[Outcome]:
    """Bring the log in line with the gate, where a scan was judged online but its answer got lost.

    The device decided by itself then. Whom it let in against the verdict is a conflict; whom it turned away the server
    has admitted in vain, and takes that back.
    """
    settled, let_in = list(outcomes), []
    for place, (scan, outcome) in enumerate(zip(scans, outcomes, strict=True)):
        if not isinstance(outcome, admission.Answer) or not outcome.replayed:
            continue
        if outcome.stored.reason is not None and not scan.refused_offline:
            let_in.append(scan.nonce)
        elif outcome.stored.reason is None and scan.refused_offline:
            settled[place] = _take_back(scan, event_id, now)
    if let_in:
        with db.begin() as conn:
            record_conflicts(conn, event_id=event_id, nonces=let_in, noticed_at=now)
            Tally(event_id).add(conn, now=now)
    return settled


def _take_back(scan: Scan, event_id: int, now: datetime) -> QrsiteError:
    try:
        lifecycle.annul(event_id=event_id, nonce=scan.nonce, device_id=scan.device_id, now=now, within=None)
    except QrsiteError as error:
        return error
    return admission.taken_back()


def _result(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, admission.Answer):
        return scan_out(outcome)
    if isinstance(outcome, QrsiteError):
        return error_body(outcome.code, str(outcome))
    if isinstance(outcome, OperationalError | InterfaceError):
        raise outcome
    log.error("A scan of a queue failed", exc_info=outcome)
    _, code, message = unexpected(outcome)
    return error_body(code, message)


def _invalid(error: ValidationError) -> dict[str, Any]:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "scan"
    return error_body("invalid", f"{field}: {first['msg']}")
