"""The front door: reads each request whole, then hands it to Django on a bounded set of threads (docs/adr/0006)."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast
from urllib.parse import quote_from_bytes

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "qrsite.settings")

from a2wsgi import WSGIMiddleware
from django.conf import settings
from django.http import HttpResponse, JsonResponse

from core import control
from core.errors import OVERLOADED, PAGE, error_response
from health.faults import ACTIONS
from qrsite.scan_door import ScanDoor
from qrsite.wsgi import application as django_application

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Fewer threads than connections: no request waits for the pool, and a third of it is left for the scan lane.
THREADS = max(1, (settings.POOL_SIZE + settings.POOL_MAX_OVERFLOW) * 2 // 3)
MAX_WAITING = 2_000
MAX_BODY_BYTES = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
MAX_HELD_BYTES = 64 * 1024 * 1024
BODY_TIMEOUT_S = 20.0
# One path takes files, of 100,000 tickets. Who sends it is not known here: so only few large bodies at once, and never
# the memory that scans need.
IMPORT_PATH = "/admin/tickets/ticket/import/"
MAX_IMPORT_BYTES = 16 * 1024 * 1024
MAX_IMPORTS = 2
IMPORT_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 2.0
_QUERY_SAFE = "".join(map(chr, range(0x21, 0x7F)))


class _Refused(Exception):
    """The request is answered here and costs no thread."""


class FrontDoor:
    """Bound what clients can make this process hold: requests, their bytes, and threads."""

    def __init__(self) -> None:
        # Without a bound on what is queued to send: a client that reads slowly holds its answer, not a thread.
        self._django: Any = WSGIMiddleware(
            cast("Any", django_application), workers=THREADS, send_queue_size=0
        )
        # Probes have threads of their own: they are asked for just when all others hang.
        self._probes: Any = WSGIMiddleware(cast("Any", django_application), workers=4, send_queue_size=0)
        self._watchers: Any = WSGIMiddleware(cast("Any", django_application), workers=4, send_queue_size=0)
        self._scans = ScanDoor()
        self._inside = 0
        self._held_bytes = 0
        self._imports: set[int] = set()  # ids of the large bodies that are held

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it before it costs a thread."""
        if scope["type"] != "http":
            return
        if scope["path"].removesuffix("/") == "/health/live" and scope["method"] in {"GET", "HEAD"}:
            # Also while every thread is busy: this process lives.
            return await _send(send, 200, JsonResponse({"status": "pass"}))
        body = bytearray()
        is_import = scope["path"] == IMPORT_PATH
        self._inside += 1
        try:
            if self._inside > THREADS + MAX_WAITING:
                raise _Refused(*OVERLOADED)
            async with asyncio.timeout(IMPORT_TIMEOUT_S if is_import else BODY_TIMEOUT_S):
                is_whole = await self._read(receive, body, is_import=is_import)
            if is_whole and not await self._scans.answer(scope, body, send):
                await self._threads_for(scope["path"])(_plain(scope, body), _whole(bytes(body)), send)
        except TimeoutError:
            await _answer(
                send, 408, "timeout", "The request took too long to arrive.", is_for_person=is_import
            )
        except _Refused as refused:
            await _answer(send, *refused.args, is_for_person=is_import)
        finally:
            self._inside -= 1
            self._held_bytes -= len(body)
            self._imports.discard(id(body))

    def _threads_for(self, path: str) -> Any:
        if path.startswith("/health/db"):
            return self._probes
        return self._watchers if path.startswith(("/health/", "/metrics")) else self._django

    async def _read(self, receive: Receive, body: bytearray, *, is_import: bool) -> bool:
        """Collect the body; return False where the client went away."""
        has_more = True
        while has_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            has_more = message.get("more_body", False)
            body += message.get("body", b"")
            self._held_bytes += len(message.get("body", b""))
            if self._held_bytes > MAX_HELD_BYTES:
                raise _Refused(503, "overloaded", "Too much is being sent at once. Please try again.")
            if refused := self._refuse_large(body, is_import=is_import):
                await _drain(receive, has_more)
                raise refused
        return True

    def _refuse_large(self, body: bytearray, *, is_import: bool) -> _Refused | None:
        if len(body) <= MAX_BODY_BYTES:
            return None
        if not is_import:
            return _Refused(413, "too_large", "The body is too large; send fewer items per call.")
        if len(body) > MAX_IMPORT_BYTES:
            return _Refused(413, "too_large", "The file is too large: split it.")
        if len(self._imports | {id(body)}) > MAX_IMPORTS:
            return _Refused(503, "overloaded", "Other files are being read. Please try again in a minute.")
        self._imports.add(id(body))
        return None


async def _drain(receive: Receive, has_more: bool) -> None:
    """Read on for a moment and keep nothing: a client that is busy sending hears no answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            while has_more:
                message = await receive()
                has_more = message["type"] != "http.disconnect" and message.get("more_body", False)


def _plain(scope: dict[str, Any], body: bytearray) -> dict[str, Any]:
    """Return the scope as WSGI can say it: an ASCII query, and a length where the body came in chunks."""
    headers = [
        (name, value)
        for name, value in scope["headers"]
        if name not in {b"content-length", b"transfer-encoding"}
    ]
    return {
        **scope,
        "query_string": quote_from_bytes(scope["query_string"], _QUERY_SAFE).encode(),
        "headers": [*headers, (b"content-length", str(len(body)).encode())],
    }


def _whole(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _answer(send: Send, status: int, code: str, message: str, *, is_for_person: bool) -> None:
    response: HttpResponse = error_response(status, code, message)
    if is_for_person:
        response.content = PAGE.format(message)
        response["Content-Type"] = "text/html; charset=utf-8"
    await _send(send, status, response)


async def _send(send: Send, status: int, response: HttpResponse) -> None:
    response.headers.setdefault("Cache-Control", "no-store")
    headers = [(name.lower().encode(), value.encode()) for name, value in response.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})


def _leave_with(parent: Any) -> None:
    """End this process when the one that watches over it is gone: nobody else would."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


if watcher := multiprocessing.parent_process():
    control.listen(ACTIONS)
    threading.Thread(target=_leave_with, args=(watcher,), daemon=True).start()
application = FrontDoor()
