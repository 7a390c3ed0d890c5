"""What the app checks before any command runs."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks


class TicketsConfig(AppConfig):
    """Events, gates, devices, tickets."""

    name = "tickets"

    def ready(self) -> None:
        """Have QR_SIGNING_KEYS looked at before the first code has to be signed."""
        checks.register(_signing_keys_are_readable)


def _signing_keys_are_readable(**_: Any) -> list[checks.CheckMessage]:
    from tickets.keys import parse

    if settings.QR_SIGNING_KEYS:
        parse(settings.QR_SIGNING_KEYS)
    return []
