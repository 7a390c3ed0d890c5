"""The front door: reads each request whole, then hands it to Django on a bounded set of threads.

Django's WSGI handler behind a2wsgi answers several times as fast as its ASGI handler does (shared/research in
the design; docs/adr/0006), and a thread a request is what the pool's bookkeeping is made for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, cast
from urllib.parse import quote_from_bytes

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "qrsite.settings")

from a2wsgi import WSGIMiddleware
from django.conf import settings

from core.errors import error_response
from qrsite.wsgi import application as django_application

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Fewer threads than connections: no request waits for the pool, and a third of it is left for whoever comes
# from elsewhere (probes, the scan lane).
THREADS = max(1, (settings.POOL_SIZE + settings.POOL_MAX_OVERFLOW) * 2 // 3)
MAX_WAITING = 2_000
BODY_TIMEOUT_S = 20.0
_QUERY_SAFE = "".join(map(chr, range(0x21, 0x7F)))


class FrontDoor:
    """Bound what clients can make this process hold: bodies, and requests that wait for a thread."""

    def __init__(self) -> None:
        self._django: Any = WSGIMiddleware(cast("Any", django_application), workers=THREADS)
        self._inside = 0

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it before it costs a thread."""
        if scope["type"] != "http":
            return
        if self._inside >= THREADS + MAX_WAITING:
            return await _refuse(send, 503, "overloaded", "Too many requests at once. Please try again.")
        self._inside += 1
        try:
            # A client that sends slowly costs memory here, not one of few threads.
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await _read(receive)
        except TimeoutError:
            return await _refuse(send, 408, "timeout", "The request took too long to arrive.")
        else:
            if body is None:
                return None
            if len(body) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
                return await _refuse(
                    send, 413, "too_large", "The body is too large; send fewer items per call."
                )
            # a2wsgi reads the query as ASCII; what a client did not escape, we do.
            scope = {**scope, "query_string": quote_from_bytes(scope["query_string"], _QUERY_SAFE).encode()}
            await self._django(scope, _whole(body), send)
        finally:
            self._inside -= 1


async def _read(receive: Receive) -> bytes | None:
    """Return the body, cut soon after the limit; None where the client went away."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if not message.get("more_body", False) or size > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
            return b"".join(chunks)


def _whole(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _refuse(send: Send, status: int, code: str, message: str) -> None:
    response = error_response(status, code, message)
    headers = [(name.lower().encode(), value.encode()) for name, value in response.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})


application = FrontDoor()
