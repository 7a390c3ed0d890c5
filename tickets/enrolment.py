"""Devices get their token by a secret that a person shows them as a QR: valid for ten minutes, for one exchange."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, NoReturn

from django.db import transaction

from core.errors import QrsiteError
from tickets.models import Device, Enrolment
from tickets.tokens import DEVICE_PREFIX, ENROLMENT_PREFIX, new_token, token_hash

VALID_FOR = timedelta(minutes=10)


class EnrolmentUnknown(QrsiteError):
    """Nobody made this secret here."""

    code = "enrolment_unknown"
    status = 404


class EnrolmentUsed(QrsiteError):
    """The secret was exchanged before."""

    code = "enrolment_used"
    status = 410


class EnrolmentExpired(QrsiteError):
    """The secret is too old, or a newer one was made for its device."""

    code = "enrolment_expired"
    status = 410


class DeviceRevoked(QrsiteError):
    """The device was revoked, which is for good."""

    code = "device_revoked"
    status = 410


class Enrolled(NamedTuple):
    """A device and the token that it has from now on."""

    device: Device
    token: str


def invite(*, devices: Sequence[Device], now: datetime) -> list[str]:
    """Make a secret for each device and return them in that order; older ones of the same devices end here.

    The devices' tokens go on working until a secret is exchanged.

    Raises:
        DeviceRevoked: one of them is; no secret was made.
    """
    ids = [device.id for device in devices]
    secrets = [new_token(ENROLMENT_PREFIX) for _ in devices]
    with transaction.atomic():
        locked = Device.objects.filter(id__in=ids).order_by("id").select_for_update()
        if revoked := [device.name for device in locked if device.revoked_at is not None]:
            raise DeviceRevoked(f"Revoked for good, so add anew: {', '.join(revoked)}.")
        Enrolment.objects.filter(device_id__in=ids, used_at=None, expires_at__gt=now).update(expires_at=now)
        Enrolment.objects.bulk_create(
            Enrolment(
                device_id=device_id,
                secret_hash=token_hash(secret),
                created_at=now,
                expires_at=now + VALID_FOR,
            )
            for device_id, secret in zip(ids, secrets, strict=True)
        )
    return secrets


def enrol(*, secret: str, now: datetime) -> Enrolled:
    """Exchange a secret for a new token of its device, once; the device's old token stops.

    Two at once: the row of the secret is written by one, and the other waits for it and then finds it used.

    Raises:
        EnrolmentUnknown, EnrolmentUsed, EnrolmentExpired, DeviceRevoked: nothing was changed.
    """
    if not secret.startswith(ENROLMENT_PREFIX):
        raise EnrolmentUnknown("This is not the secret of an enrolment.")
    token = new_token(DEVICE_PREFIX)
    with transaction.atomic():
        rows = Enrolment.objects.filter(secret_hash=token_hash(secret))
        if not rows.filter(used_at=None, expires_at__gt=now).update(used_at=now):
            _refuse(rows.first())
        device = Device.objects.select_related("gate__event").get(enrolment=rows.get())
        fields = {"token_hash": token_hash(token), "enrolled_at": now}
        if not Device.objects.filter(id=device.id, revoked_at=None).update(**fields):
            raise DeviceRevoked("This device was revoked: ask for another one.")
    return Enrolled(device, token)


def _refuse(row: Enrolment | None) -> NoReturn:
    if row is None:
        raise EnrolmentUnknown("This is not the secret of an enrolment.")
    if row.used_at is not None:
        raise EnrolmentUsed("This QR was used already: ask for a new one.")
    raise EnrolmentExpired("This QR is too old, or there is a newer one: ask for a new one.")
