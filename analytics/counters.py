"""Counters that are exact at any moment: each is written in the transaction of what it counts (docs/adr/0017).

A transaction tallies what it changes and adds that last, in key order. Threads write to slots of their own, so that two
batches of one event don't wait for each other; whoever reads sums them.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from itertools import count
from typing import Any, Protocol
from zlib import crc32

from sqlalchemy import Connection

from analytics import queries
from analytics.models import ALL_GATES, ALL_TIME, MINUTE, QUARTER, SLOTS, Direction
from analytics.queries import EPOCH, WHOLE_EVENT, Delta, RefusalDelta, RefusedCode, ScanRecord

NO_GATE = -1
_HOST = crc32(socket.gethostname().encode())
_thread_numbers = count()
_of_thread = threading.local()


class Countable(Protocol):
    """What counts of a ticket."""

    @property
    def voided_at(self) -> datetime | None: ...
    @property
    def transferred_at(self) -> datetime | None: ...
    @property
    def admitted_at(self) -> datetime | None: ...
    @property
    def admitted_gate_id(self) -> int | None: ...
    @property
    def inside(self) -> bool: ...
    @property
    def scanned(self) -> bool: ...


class Tally:
    """What one transaction changes in the counters of one event."""

    def __init__(self, event_id: int) -> None:
        self.event_id = event_id
        self._tickets: Counter[str] = Counter()
        # By gate and minute, numbers as _PLACES has them; longer spans, and all gates together, are sums of these. Lists,
        # and no Counters: a batch of group commit passes here, and those take three times as long.
        self._minutes: dict[tuple[int, datetime], list[int]] = {}
        self._refusals: Counter[tuple[int, int, str]] = Counter()
        self._codes: dict[tuple[int, str], RefusedCode] = {}

    def issued(self, tickets: int) -> None:
        """Count new tickets."""
        self._tickets["issued"] += tickets
        self._tickets["missing"] += tickets

    def scanned(self, records: Iterable[ScanRecord]) -> None:
        """Count rows that are new in the scan log."""
        for record in records:
            cell = self._cell(record.gate_id, record.happened_at)
            if record.reason is None:
                cell[_PLACES[record.direction]] += 1
            else:
                cell[_REFUSED] += 1
                self._refused(record, record.reason)

    def annulled(self, direction: str, gate_id: int, happened_at: datetime) -> None:
        """Count an admission that was taken back: it never happened."""
        self._cell(gate_id, happened_at)[_PLACES[direction]] -= 1
        self._tickets["annulled"] += 1

    def changed(self, before: Countable, after: Countable) -> None:
        """Count what became of a ticket."""
        tickets = self._tickets
        if before.inside != after.inside:
            tickets["inside"] += 1 if after.inside else -1
        if before.scanned != after.scanned:
            tickets["scanned"] += 1 if after.scanned else -1
        if before.voided_at != after.voided_at:
            tickets["void"] += (after.voided_at is not None) - (before.voided_at is not None)
        if before.transferred_at != after.transferred_at:
            tickets["transferred"] += (after.transferred_at is not None) - (before.transferred_at is not None)
        tickets["missing"] += _is_missing(after) - _is_missing(before)
        for sign, ticket in ((-1, before), (1, after)):
            if ticket.admitted_at is not None:
                gate_id = NO_GATE if ticket.admitted_gate_id is None else ticket.admitted_gate_id
                self._cell(gate_id, ticket.admitted_at)[_ADMITTED] += sign

    def add(self, conn: Connection, *, now: datetime) -> None:
        """Add it all to the counters: the last that a transaction writes, so that nobody waits long for it."""
        queries.add_counts(
            conn,
            event_id=self.event_id,
            slot=_slot(),
            counts=self._counts(),
            refusals=[RefusalDelta(*key, times) for key, times in sorted(self._refusals.items())],
            codes=[self._codes[key] for key in sorted(self._codes)],
            now=now,
        )

    def _cell(self, gate_id: int, at: datetime) -> list[int]:
        key = gate_id, at.replace(second=0, microsecond=0)
        cell = self._minutes.get(key)
        if cell is None:
            cell = self._minutes[key] = [0, 0, 0, 0]
        return cell

    def _refused(self, record: ScanRecord, reason: str) -> None:
        self._refusals[record.gate_id, record.device_id or 0, reason] += 1
        key = record.ticket_id or 0, "" if record.ticket_id else record.code or ""
        before = self._codes.get(key)
        if before is None:
            self._codes[key] = RefusedCode(*key, 1, record.happened_at, reason)
        elif record.happened_at >= before.last_at:
            self._codes[key] = RefusedCode(*key, before.refused + 1, record.happened_at, reason)
        else:
            self._codes[key] = before._replace(refused=before.refused + 1)

    def _counts(self) -> list[Delta]:
        """Sum the minutes up, for each gate and for all; in key order, without those to which nothing is added."""
        whole = WHOLE_EVENT[:3]
        sums: dict[tuple[int, int, datetime], list[int]] = {whole: [0, 0, 0, 0]}
        for (gate_id, minute), cell in self._minutes.items():
            quarter = minute.replace(minute=minute.minute - minute.minute % QUARTER)
            for gate in (gate_id, ALL_GATES):
                for key in ((gate, MINUTE, minute), (gate, QUARTER, quarter), (gate, ALL_TIME, EPOCH)):
                    sums[key] = [a + b for a, b in zip(sums[key], cell, strict=True)] if key in sums else cell
        counts = [Delta(*key, *numbers) for key, numbers in sums.items() if key == whole or any(numbers)]
        tickets: dict[str, Any] = dict(self._tickets)
        counts[0] = counts[0]._replace(**tickets)
        return sorted(counts)


def _is_missing(ticket: Countable) -> bool:
    return ticket.voided_at is None and ticket.transferred_at is None and ticket.admitted_at is None


_PLACES: dict[str, int] = {Direction.ENTRY.value: 0, Direction.EXIT.value: 1}
_ADMITTED, _REFUSED = 2, 3


def _slot() -> int:
    """Return the slot of this thread: others of this process, and those of its sister process, mostly have another."""
    slot = getattr(_of_thread, "slot", None)
    if slot is None:
        # In containers every first process has the same number: the host's name tells them apart.
        slot = _of_thread.slot = (_HOST + os.getpid() + next(_thread_numbers)) % SLOTS
    return int(slot)
