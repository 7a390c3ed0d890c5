"""The door of the scan lane: scans that are as they should be go past Django, all others to it.

What Django's middleware would say of such a request is asked once, with TLS and without: it may refuse or redirect it,
and its headers belong on the answer. Which host was asked for makes no difference to it, once that is one of ours.
"""

from __future__ import annotations

import io
from typing import Any

from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.core.handlers.wsgi import WSGIRequest
from django.http import JsonResponse
from django.utils.module_loading import import_string
from pydantic import ValidationError

from core.errors import RETRY_AFTER_S, TRY_AGAIN
from tickets.lane import Lane
from tickets.scan_schemas import ScanIn
from tickets.tokens import DEVICE_PREFIX, token_hash

PATH = "/api/v1/scans"
KNOWN_MAX = 1_000
_PREFIX = DEVICE_PREFIX.encode()
Headers = list[tuple[bytes, bytes]]
Asked = tuple[bytes, str, bytes]  # host, scheme, X-Forwarded-Proto: as clients like


class ScanDoor:
    """Answer scans by the lane."""

    def __init__(self) -> None:
        self._lane = Lane()
        self._headers: dict[bool, Headers | None] = {}
        self._known: dict[Asked, Headers | None] = {}

    async def answer(self, scope: dict[str, Any], body: bytearray, send: Any) -> bool:
        """Answer a scan; return False, with nothing sent, for whatever Django has to look at."""
        if scope["path"] != PATH or scope["method"] != "POST" or scope["query_string"]:
            return False
        sent: dict[bytes, bytes] = dict(scope["headers"])
        scheme, _, token = sent.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not token.startswith(_PREFIX):
            return False
        asked = sent.get(b"host", b""), scope.get("scheme", "http"), sent.get(b"x-forwarded-proto", b"")
        headers = self._known[asked] if asked in self._known else self._look_at(asked)
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

    def _look_at(self, asked: Asked) -> Headers | None:
        """Return what the middleware puts on an answer; None where it would not let the request through.

        The chain is built here, which takes milliseconds of the event loop: never once for each thing that clients say.
        """
        request = _request(*asked)
        try:
            request.get_host()
        except SuspiciousOperation:
            return None
        is_secure = bool(request.is_secure())
        if is_secure not in self._headers:
            self._headers[is_secure] = _headers(request)
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[asked] = self._headers[is_secure]
        return self._headers[is_secure]


def _request(host: bytes, scheme: str, forwarded_proto: bytes) -> WSGIRequest:
    return WSGIRequest(
        {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": PATH,
            "HTTP_HOST": host.decode("latin-1"),
            "HTTP_X_FORWARDED_PROTO": forwarded_proto.decode("latin-1"),
            "SERVER_NAME": "",
            "SERVER_PORT": "",
            "wsgi.url_scheme": scheme,
            "wsgi.input": io.BytesIO(),
        }
    )


def _headers(request: WSGIRequest) -> Headers | None:
    answer = JsonResponse({})
    answered: list[Any] = []

    def view(request: Any) -> JsonResponse:
        answered.append(request)
        return answer

    handler: Any = view
    for path in reversed(settings.MIDDLEWARE):
        handler = import_string(path)(handler)
    handler(request)
    if not answered:
        return None
    return [
        (name.lower().encode(), value.encode()) for name, value in answer.items() if name != "Content-Length"
    ]
