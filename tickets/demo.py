"""A demo event to try everything on: seeded once, its secrets in a file that only the owner can read."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.db import transaction

from tickets import issuing
from tickets.models import Device, Event, Gate, ServiceToken, Ticket
from tickets.tokens import DEVICE_PREFIX, SERVICE_PREFIX, new_token, token_hash

SLUG = "demo"
TICKETS = 200
FRESH_CODES = 50
SCOPES = ["tickets:write", "tickets:read", "stats:read", "metrics:read"]


@transaction.atomic
def seed(*, path: Path, base_url: str, database_url: str, now: datetime) -> dict[str, Any]:
    """Make what the demo lacks and return the contents of `path` (mode 0600), written anew.

    What the file holds and the database still knows is kept: tokens, password, the event and its scans. Fresh
    tickets are added only where fewer than 50 are left to scan.
    """
    old = _read(path)
    event, _ = Event.objects.get_or_create(
        slug=SLUG,
        defaults={
            "name": "Demo night",
            "time_zone": "Europe/Berlin",
            "doors_at": now - timedelta(hours=1),
            "starts_at": now + timedelta(hours=1),
            "ends_at": now + timedelta(days=365),
        },
    )
    gate, _ = Gate.objects.get_or_create(event=event, name="Main gate")
    demo = {
        "base_url": base_url,
        "database_url": database_url,
        "event": event.slug,
        "admin_url": f"{base_url}/admin/",
        "admin_user": "admin",
        "admin_password": _admin_password("admin", old.get("admin_password", "")),
        "device_token": _device_token(gate, old.get("device_token", "")),
        "service_token": _service_token(old.get("service_token", "")),
        "sample_codes": _fresh_codes(event, now),
    }
    _write(path, demo)
    return demo


def _admin_password(username: str, known: str) -> str | None:
    """Return the password, None where somebody else chose it: that one stays."""
    user, is_new = get_user_model().objects.get_or_create(
        username=username, defaults={"is_staff": True, "is_superuser": True}
    )
    if known and user.check_password(known):
        return known
    if not is_new:
        return None
    password = secrets.token_urlsafe(12)
    user.set_password(password)
    user.save()
    return password


def _device_token(gate: Gate, known: str) -> str:
    if known and Device.objects.filter(token_hash=token_hash(known), revoked_at=None).exists():
        return known
    token = new_token(DEVICE_PREFIX)
    # One token for whatever a newcomer tries, a load test too.
    Device.objects.create(gate=gate, name="Demo scanner", token_hash=token_hash(token), rate_per_s=None)
    return token


def _service_token(known: str) -> str:
    if known and ServiceToken.objects.filter(token_hash=token_hash(known), revoked_at=None).exists():
        return known
    token = new_token(SERVICE_PREFIX)
    ServiceToken.objects.create(name="Demo service", scopes=SCOPES, token_hash=token_hash(token))
    return token


def _fresh_codes(event: Event, now: datetime) -> list[str]:
    fresh = Ticket.objects.filter(
        event=event, admitted_at=None, voided_at=None, transferred_at=None
    ).order_by("id")
    if fresh.count() < FRESH_CODES:
        count = Ticket.objects.filter(event=event).count()
        wishes = [
            issuing.Wish(f"Guest {number}", "", "standard", f"demo-{number}")
            for number in range(count + 1, count + TICKETS + 1)
        ]
        with suppress(issuing.CapacityExceeded):
            issuing.issue(event_id=event.id, wishes=wishes, now=now)
    return [
        issuing.code_of(event_id=event.id, ticket_id=ticket_id)
        for ticket_id in fresh.values_list("id", flat=True)[:FRESH_CODES]
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        contents = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return contents if isinstance(contents, dict) else {}


def _write(path: Path, contents: dict[str, Any]) -> None:
    """Replace the file in one step; nobody but its owner ever could read it."""
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(contents, file, indent=2)
        file.write("\n")
    os.replace(temporary, path)
