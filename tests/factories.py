"""The few things that tests are made of."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, NamedTuple

from django.contrib.auth.models import Permission, User
from django.test import Client

from analytics.models import Direction
from tickets import admission, issuing, judging
from tickets.models import Device, Event, Gate, ServiceToken
from tickets.rules import EventRules
from tickets.tokens import DEVICE_PREFIX, SERVICE_PREFIX, new_token, token_hash

NOW = datetime(2026, 6, 12, 19, 30, tzinfo=UTC)
_numbers = count(1)


class Issued(NamedTuple):
    id: int
    code: str


def make_event(**fields) -> Event:
    number = next(_numbers)
    return Event.objects.create(
        **{
            "name": f"Event {number}",
            "slug": f"event-{number}",
            "time_zone": "Europe/Berlin",
            "doors_at": NOW - timedelta(hours=1),
            "starts_at": NOW,
            "ends_at": NOW + timedelta(hours=4),
            **fields,
        }
    )


def make_open_event(**fields) -> Event:
    """An event whose doors are open by the clock on the wall, for tests that go through HTTP."""
    now = datetime.now(UTC)
    return make_event(
        doors_at=now - timedelta(hours=1), starts_at=now, ends_at=now + timedelta(hours=4), **fields
    )


def make_device(event: Event, *, gate: str = "Main gate", **fields: Any) -> tuple[Device, str]:
    token = new_token(DEVICE_PREFIX)
    place, _ = Gate.objects.get_or_create(event=event, name=gate)
    fields = {"name": "Scanner", "rate_per_s": None, "token_hash": token_hash(token), **fields}
    return Device.objects.create(gate=place, **fields), token


def make_service(*scopes: str) -> str:
    token = new_token(SERVICE_PREFIX)
    ServiceToken.objects.create(name="Shop", scopes=list(scopes), token_hash=token_hash(token))
    return token


def client_who_may(*permissions: str) -> Client:
    """Somebody at the desk, logged in, with the permissions that are named."""
    user = User.objects.create(username=f"desk-{next(_numbers)}", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def issue(event: Event, number: int = 1, *, kind: str = "standard") -> list[Issued]:
    wishes = [issuing.Wish(f"Holder {index}", "", kind, None) for index in range(number)]
    tickets = issuing.issue(event_id=event.id, wishes=wishes, now=NOW)
    return [
        Issued(ticket.ticket_id, issuing.code_of(event_id=event.id, ticket_id=ticket.ticket_id))
        for ticket in tickets
    ]


def attempt(
    device: Device, code: str, nonce: str, direction: Direction = Direction.ENTRY, **more: Any
) -> judging.Scan:
    return judging.Scan(code, nonce, NOW, direction, device.gate_id, device.id, **more)


def rules_of(event: Event) -> EventRules:
    return admission.rules_of(event.id)


def admit(device: Device, *scans: judging.Scan, now: datetime = NOW) -> list[Any]:
    return admission.admit(rules=rules_of(device.gate.event), scans=scans, now=now)


def verdicts(answers: list[admission.Answer]) -> list[tuple[str, str | None, bool]]:
    return [(answer.stored.verdict, answer.stored.reason, answer.replayed) for answer in answers]
