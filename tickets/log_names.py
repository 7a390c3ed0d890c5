"""What the numbers in rows of the scan log stand for, read once for many rows."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from django.contrib.auth import get_user_model

from analytics.models import Scan
from tickets.models import Device, Event, Gate

GONE = "a gate that is gone"


class Names:
    """The gates, devices, people and events of some scans."""

    def __init__(self, scans: Collection[Scan]) -> None:
        self._events = Event.objects.in_bulk({scan.event_id for scan in scans})
        self._gates = Gate.objects.in_bulk({scan.gate_id for scan in scans})
        self._devices = Device.objects.in_bulk({scan.device_id for scan in scans if scan.device_id})
        self._people = get_user_model().objects.in_bulk({scan.user_id for scan in scans if scan.user_id})

    def event(self, scan: Scan) -> str:
        """Name the event."""
        return str(self._events.get(scan.event_id, scan.event_id))

    def gate(self, scan: Scan) -> str:
        """Name the gate."""
        return str(self._gates.get(scan.gate_id, GONE))

    def who(self, scan: Scan) -> str:
        """Name the device, or the person who checked in by hand."""
        return str(self._devices.get(scan.device_id or 0) or self._people.get(scan.user_id or 0) or "")

    def local(self, scan: Scan, when: datetime) -> str:
        """Write a moment as the clocks of the scan's venue show it."""
        return local(self._events.get(scan.event_id), when)


def local(event: Event | None, when: datetime) -> str:
    """Write a moment as the venue's clocks show it; where its event is gone, in UTC."""
    return event.local(when) if event else f"{when:%a %d %b %Y, %H:%M} UTC"
