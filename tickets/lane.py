"""The scan lane: scans that come at once share a transaction.

While one batch is judged, the next collects; a lone scan starts one at once. So a spike makes batches larger, and never
connections or threads more: one of each works here. An answer leaves when its batch is on disk (tickets.admission).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from django.core.serializers.json import DjangoJSONEncoder
from django.utils import timezone

from core import db
from core.errors import OVERLOADED, QrsiteError, error_body, unexpected
from core.purpose import SCAN, entering
from tickets import admission, queries
from tickets.auth import check_rate
from tickets.judging import Scan
from tickets.rules import EventRules
from tickets.scan_schemas import ScanIn, scan_out
from tickets.scanning import scan_of

log = logging.getLogger(__name__)

BATCH_MAX = 256
WAITING_MAX = 4_000
DEADLINE_S = 1.0
# How long a token and its event's rules are not looked up again: revoking takes effect within 5 s.
TRUSTED_S = 5.0
LABEL = "POST /api/v1/scans"
_encode = DjangoJSONEncoder().encode


class Reply(NamedTuple):
    """What the client is told."""

    status: int
    body: bytes


class Attempt:
    """A scan on its way: as it came, with the hash of the token that it came with."""

    __slots__ = ("answer", "late_at_s", "scan", "token_hash")

    def __init__(self, token_hash: bytes, scan: ScanIn, loop: asyncio.AbstractEventLoop) -> None:
        self.token_hash = token_hash
        self.scan = scan
        self.answer: asyncio.Future[Reply | None] = loop.create_future()
        self.late_at_s = loop.time() + DEADLINE_S

    def settle(self, reply: Reply | None) -> None:
        """Answer, unless that was done before."""
        if not self.answer.done():
            self.answer.set_result(reply)


class Known(NamedTuple):
    """A device and its event's rules, as they were a moment ago."""

    device: queries.DeviceAtGate
    rules: EventRules
    until_s: float


Batch = list[Attempt]
# Where the token is not valid the lane has no answer: the view tells what is wrong with it.
Replies = Sequence[Reply | None]


class Lane:
    """Collect attempts on the event loop; judge them, a batch at a time, on a thread."""

    def __init__(self) -> None:
        self._waiting: deque[Attempt] = deque()
        # In the order of their deadlines, since all have as long: one timer for the first, none for each.
        self._unanswered: deque[Attempt] = deque()
        self._is_judging = False
        self._known: dict[bytes, Known] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scan-lane")

    async def judge(self, token_hash: bytes, scan: ScanIn) -> Reply | None:
        """Return the verdict once it is on disk, or after a second that it is too busy here.

        Then the scan may be recorded or not: the same nonce again tells.
        """
        if len(self._waiting) >= WAITING_MAX:
            return _error(*OVERLOADED)
        loop = asyncio.get_running_loop()
        attempt = Attempt(token_hash, scan, loop)
        self._waiting.append(attempt)
        if not self._unanswered:
            loop.call_at(attempt.late_at_s, self._give_up, loop)
        self._unanswered.append(attempt)
        if not self._is_judging:
            self._start(loop)
        return await attempt.answer

    def _give_up(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell those who have waited too long; come again when the next may have."""
        while self._unanswered and (first := self._unanswered[0]):
            if not first.answer.done() and first.late_at_s > loop.time():
                loop.call_at(first.late_at_s, self._give_up, loop)
                return
            first.settle(_error(*OVERLOADED))
            self._unanswered.popleft()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send the next batch to the thread, if anybody waits."""
        batch: Batch = []
        while self._waiting and len(batch) < BATCH_MAX:
            attempt = self._waiting.popleft()
            if not attempt.answer.done():  # too late for it, or its client is gone
                batch.append(attempt)
        self._is_judging = bool(batch)
        if batch:
            self._thread.submit(self._judge, loop, batch)

    def _judge(self, loop: asyncio.AbstractEventLoop, batch: Batch) -> None:
        replies: Replies = []
        try:
            with entering(SCAN, LABEL):
                replies = self._replies(batch)
        except Exception as error:
            replies = [_failed(error)] * len(batch)
        finally:
            loop.call_soon_threadsafe(self._finish, loop, batch, replies)

    def _finish(self, loop: asyncio.AbstractEventLoop, batch: Batch, replies: Replies) -> None:
        self._start(loop)  # first: the thread works on while the loop answers
        for attempt, reply in zip(batch, replies, strict=False):
            attempt.settle(reply)

    def _replies(self, batch: Batch) -> Replies:
        """Judge a batch, each event's scans in a transaction of their own."""
        self._look_up({attempt.token_hash for attempt in batch})
        now = timezone.now()
        replies: list[Reply | None] = [None] * len(batch)
        wanted: dict[int, list[tuple[int, Scan]]] = {}
        rules: dict[int, EventRules] = {}
        for place, attempt in enumerate(batch):
            if known := self._known.get(attempt.token_hash):
                try:
                    check_rate(known.device)
                    scan = scan_of(attempt.scan, known.device, now)
                except Exception as error:  # whatever it is: of this one alone
                    replies[place] = _reply(error)
                    continue
                wanted.setdefault(known.device.event_id, []).append((place, scan))
                rules[known.device.event_id] = known.rules
        for event_id in sorted(wanted):
            places, scans = zip(*wanted[event_id], strict=True)
            found = admission.admit_apart(rules=rules[event_id], scans=scans, now=now)
            for place, outcome in zip(places, found, strict=True):
                replies[place] = _reply(outcome)
        return replies

    def _look_up(self, hashes: set[bytes]) -> None:
        """Get to know the devices that these tokens belong to."""
        now_s = time.monotonic()
        self._known = {token: known for token, known in self._known.items() if known.until_s > now_s}
        if unknown := hashes - self._known.keys():
            with db.begin() as conn:
                found = queries.devices_by_token(conn, token_hashes=unknown)
                ids = [device.device_id for device in found.values()]
                queries.devices_seen(conn, device_ids=ids, seen_at=timezone.now())
                rules = {
                    event_id: queries.event_rules(conn, event_id=event_id)
                    for event_id in sorted({device.event_id for device in found.values()})
                }
            for token, device in found.items():
                self._known[token] = Known(device, rules[device.event_id], now_s + TRUSTED_S)


def _reply(outcome: admission.Answer | Exception) -> Reply:
    if isinstance(outcome, admission.Answer):
        return Reply(200, _encode(scan_out(outcome)).encode())
    if isinstance(outcome, QrsiteError):
        return _error(outcome.status, outcome.code, str(outcome))
    return _failed(outcome)


def _failed(error: Exception) -> Reply:
    reply = _error(*unexpected(error))
    if reply.status == 503:
        log.warning("%s: %s", LABEL, " ".join(str(error).split()))
    else:
        log.error("%s failed", LABEL, exc_info=error)
    return reply


def _error(status: int, code: str, message: str) -> Reply:
    return Reply(status, json.dumps(error_body(code, message)).encode())
