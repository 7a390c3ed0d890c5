"""Who may call the API: devices to scan, services within their scopes, staff to read."""

from __future__ import annotations

import time
from typing import Any, NoReturn, cast

from django.contrib.auth.models import AbstractBaseUser, PermissionsMixin
from django.http import HttpRequest
from django.utils import timezone
from ninja.security import APIKeyCookie, HttpBearer

from core import db
from core.errors import QrsiteError
from tickets import queries, rate
from tickets.models import ServiceToken
from tickets.tokens import DEVICE_PREFIX, SERVICE_PREFIX, token_hash


class Unauthorized(QrsiteError):
    """The call shows no token that is valid now."""

    code = "unauthorized"
    status = 401


class Forbidden(QrsiteError):
    """The token is valid, but not for this."""

    code = "forbidden"
    status = 403


class DeviceToken(HttpBearer):
    """Admit devices that are not revoked and don't call too often, with their gate and event."""

    def __init__(self, *, cost: int = 1) -> None:
        super().__init__()
        self.cost = cost

    def authenticate(self, request: HttpRequest, token: str) -> queries.DeviceAtGate:
        """Return the device; no cache: revoking takes effect at once."""
        if token.startswith(SERVICE_PREFIX):
            raise Forbidden("A service token can't scan: use the token of a device.")
        digest = token_hash(token)
        with db.begin() as conn:
            device = queries.devices_by_token(conn, token_hashes=[digest]).get(digest) or _unknown()
            queries.devices_seen(conn, device_ids=[device.device_id], seen_at=timezone.now())
        check_rate(device, cost=self.cost)
        return device


def check_rate(device: queries.DeviceAtGate, *, cost: int = 1) -> None:
    """Refuse a device that calls more often than it may.

    Raises:
        TooManyCalls
    """
    if device.rate_per_s is not None and not rate.DEVICES.allow(
        device.device_id, rate_per_s=device.rate_per_s, now_s=time.monotonic(), cost=cost
    ):
        raise rate.TooManyCalls("This device calls too often. Please wait a second.")


class ServiceScope(HttpBearer):
    """Admit services whose token has the scope."""

    def __init__(self, scope: str) -> None:
        super().__init__()
        self.scope = scope

    def authenticate(self, request: HttpRequest, token: str) -> ServiceToken:
        """Return the token's row; one query, and no cache: revoking takes effect at once."""
        if token.startswith(DEVICE_PREFIX):
            raise Forbidden("A device token may only scan.")
        service = (
            ServiceToken.objects.filter(token_hash=token_hash(token), revoked_at=None).first() or _unknown()
        )
        if self.scope not in service.scopes:
            raise Forbidden(f"This token lacks the scope {self.scope}.")
        return service


class StaffSession(APIKeyCookie):
    """Admit people who are signed in to the admin and have the permission; reading only."""

    param_name = "sessionid"

    def __init__(self, permission: str) -> None:
        super().__init__(csrf=True)
        self.permission = permission

    def authenticate(self, request: HttpRequest, key: str | None) -> Any:
        """Return the user, or None where nobody is signed in."""
        user = cast("AbstractBaseUser | PermissionsMixin", request.user)
        if not getattr(user, "is_staff", False) or not user.is_active:  # type: ignore[union-attr]
            return None
        if not user.has_perm(self.permission):  # type: ignore[union-attr]
            raise Forbidden("Your account lacks the permission for this.")
        return user


def _unknown() -> NoReturn:
    raise Unauthorized("This token is unknown or revoked.")
