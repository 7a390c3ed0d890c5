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
from itertools import groupby
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.core.serializers.json import DjangoJSONEncoder
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from core import db
from core.errors import OVERLOADED, error_body, unexpected
from core.purpose import SCAN, entering
from tickets import admission, queries
from tickets.rules import EventWindow
from tickets.schemas import ScanIn, scan_out

log = logging.getLogger(__name__)

BATCH_MAX = 256
WAITING_MAX = 4_000
DEADLINE_S = 1.0
DEVICE_TRUSTED_S = 5.0  # how long a token is not looked up again: revoking takes effect within 5 s
LABEL = "POST /api/v1/scans"


class Reply(NamedTuple):
    """What the client is told."""

    status: int
    body: bytes


class Attempt:
    """A scan on its way: as it came, with the hash of the token that it came with."""

    __slots__ = ("answer", "deadline", "scan", "token_hash")

    def __init__(self, token_hash: bytes, scan: ScanIn, loop: asyncio.AbstractEventLoop) -> None:
        self.token_hash = token_hash
        self.scan = scan
        self.answer: asyncio.Future[Reply | None] = loop.create_future()
        self.deadline = loop.call_later(DEADLINE_S, self.settle, _error(*OVERLOADED))

    def settle(self, reply: Reply | None) -> None:
        """Answer, unless that was done before."""
        self.deadline.cancel()
        if not self.answer.done():
            self.answer.set_result(reply)


Batch = list[Attempt]
# Where the token is not valid the lane has no answer: the view tells what is wrong with it.
Replies = Sequence[Reply | None]


class Lane:
    """Collect attempts on the event loop; judge them, a batch at a time, on a thread."""

    def __init__(self) -> None:
        self._waiting: deque[Attempt] = deque()
        self._is_judging = False
        self._devices: dict[bytes, tuple[queries.DeviceAtGate, float]] = {}
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
        if not self._is_judging:
            self._start(loop)
        return await attempt.answer

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
        devices = self._look_up({attempt.token_hash for attempt in batch})
        known = [
            (index, devices[attempt.token_hash])
            for index, attempt in enumerate(batch)
            if attempt.token_hash in devices
        ]
        replies: list[Reply | None] = [None] * len(batch)
        by_event = sorted(known, key=lambda item: item[1].event_id)
        for _, group in groupby(by_event, key=lambda item: item[1].event_id):
            places = list(group)
            found = _judge_for_event([(batch[index].scan, device) for index, device in places])
            for (index, _), reply in zip(places, found, strict=True):
                replies[index] = reply
        return replies

    def _look_up(self, hashes: set[bytes]) -> dict[bytes, queries.DeviceAtGate]:
        """Return the devices that these tokens belong to; whom it saw lately it knows."""
        now_s = time.monotonic()
        self._devices = {token: known for token, known in self._devices.items() if known[1] > now_s}
        if unknown := hashes - self._devices.keys():
            with db.begin() as conn:
                found = queries.devices_by_token(conn, token_hashes=unknown)
                ids = [device.device_id for device in found.values()]
                queries.devices_seen(conn, device_ids=ids, seen_at=timezone.now())
            self._devices |= {token: (device, now_s + DEVICE_TRUSTED_S) for token, device in found.items()}
        return {token: self._devices[token][0] for token in hashes & self._devices.keys()}


def _judge_for_event(wanted: list[tuple[ScanIn, queries.DeviceAtGate]]) -> list[Reply]:
    """Judge scans of one event in one transaction; one that can't be recorded never spoils the others."""
    now = timezone.now()
    event = wanted[0][1]
    scans = [
        admission.Scan(
            scan.code, scan.nonce, scan.scanned_at or now, scan.direction, device.gate_id, device.device_id
        )
        for scan, device in wanted
    ]
    window = EventWindow(event.doors_at, event.ends_at, ZoneInfo(event.time_zone))
    try:
        answers = admission.admit(event_id=event.event_id, window=window, scans=scans, now=now)
    except (OperationalError, InterfaceError) as error:
        return [_failed(error)] * len(wanted)
    except Exception as error:
        if len(wanted) == 1:
            return [_failed(error)]
        log.warning("%s scans are judged one by one, for together they failed: %s", len(wanted), error)
        return [reply for each in wanted for reply in _judge_for_event([each])]
    return [_reply(answer) for answer in answers]


def _reply(answer: admission.Answer | admission.NonceReused) -> Reply:
    if isinstance(answer, admission.NonceReused):
        return _error(answer.status, answer.code, str(answer))
    return Reply(200, json.dumps(scan_out(answer), cls=DjangoJSONEncoder).encode())


def _failed(error: Exception) -> Reply:
    reply = _error(*unexpected(error))
    if reply.status == 503:
        log.warning("%s: %s", LABEL, " ".join(str(error).split()))
    else:
        log.error("%s failed", LABEL, exc_info=error)
    return reply


def _error(status: int, code: str, message: str) -> Reply:
    return Reply(status, json.dumps(error_body(code, message)).encode())
