"""Who may call the API: devices to scan, services within their scopes, staff to read."""

from __future__ import annotations

from typing import Any, NoReturn, cast

from django.contrib.auth.models import AbstractBaseUser, PermissionsMixin
from django.http import HttpRequest
from ninja.security import APIKeyCookie, HttpBearer

from core.errors import QrsiteError
from tickets.models import Device, ServiceToken
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
    """Admit devices that are not revoked, with their gate and event."""

    def authenticate(self, request: HttpRequest, token: str) -> Device:
        """Return the device; one query, and no cache: revoking takes effect at once."""
        if token.startswith(SERVICE_PREFIX):
            raise Forbidden("A service token can't scan: use the token of a device.")
        found = Device.objects.select_related("gate__event").filter(
            token_hash=token_hash(token), revoked_at=None
        )
        return found.first() or _unknown()


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
