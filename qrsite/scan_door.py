"""The door of the scan lane: scans that are as they should be go past Django, all others to it.

What Django's middleware would say of such a request is asked once for each host and scheme: it may refuse or redirect
it, and its headers belong on the answer.
"""

from __future__ import annotations

import io
from contextlib import suppress
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.core.handlers.wsgi import WSGIRequest
from django.http import JsonResponse
from django.utils.module_loading import import_string
from pydantic import ValidationError

from core.errors import RETRY_AFTER_S, TRY_AGAIN
from tickets.lane import Lane
from tickets.schemas import ScanIn
from tickets.tokens import DEVICE_PREFIX, token_hash

PATH = "/api/v1/scans"
Headers = list[tuple[bytes, bytes]]


class ScanDoor:
    """Answer scans by the lane."""

    def __init__(self) -> None:
        self._lane = Lane()

    async def answer(self, scope: dict[str, Any], body: bytearray, send: Any) -> bool:
        """Answer a scan; return False, with nothing sent, for whatever Django has to look at."""
        if scope["path"] != PATH or scope["method"] != "POST" or scope["query_string"]:
            return False
        sent: dict[bytes, bytes] = dict(scope["headers"])
        scheme, _, token = sent.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not token.startswith(DEVICE_PREFIX.encode()):
            return False
        headers = _headers(
            sent.get(b"host", b"").decode("latin-1"),
            scope.get("scheme", "http"),
            sent.get(b"x-forwarded-proto", b"").decode("latin-1"),
        )
        if headers is None:
            return False
        try:
            scan = ScanIn.model_validate_json(bytes(body))
        except ValidationError:
            return False
        reply = await self._lane.judge(token_hash(token.decode("latin-1")), scan)
        if reply is None:
            return False
        more = [(b"content-length", b"%d" % len(reply.body))]
        if reply.status in TRY_AGAIN:
            more.append((b"retry-after", b"%d" % RETRY_AFTER_S))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers + more})
        await send({"type": "http.response.body", "body": reply.body})
        return True


@lru_cache(maxsize=64)
def _headers(host: str, scheme: str, forwarded_proto: str) -> Headers | None:
    """Return what Django's middleware puts on an answer; None where it would not let the request through."""
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": PATH,
        "HTTP_HOST": host,
        "HTTP_X_FORWARDED_PROTO": forwarded_proto,
        "SERVER_NAME": "",
        "SERVER_PORT": "",
        "wsgi.url_scheme": scheme,
        "wsgi.input": io.BytesIO(),
    }
    answer = JsonResponse({})
    answered: list[Any] = []

    def view(request: Any) -> JsonResponse:
        answered.append(request)
        return answer

    handler: Any = view
    for path in reversed(settings.MIDDLEWARE):
        handler = import_string(path)(handler)
    with suppress(SuspiciousOperation):  # an unknown host
        handler(WSGIRequest(environ))
    if not answered:
        return None
    return [
        (name.lower().encode(), value.encode()) for name, value in answer.items() if name != "Content-Length"
    ]
