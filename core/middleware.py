"""What every response has in common."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from urllib.parse import quote

from django.http import HttpRequest, HttpResponseNotAllowed, StreamingHttpResponse
from django.http.response import HttpResponseBase

from core import db, purpose
from core.errors import error_response, is_for_api
from core.purpose import ADMIN, HEALTH, SCAN, WEB, Purpose, entering

log = logging.getLogger(__name__)

GetResponse = Callable[[HttpRequest], HttpResponseBase]

POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

# By method ("" is any) and beginning of the path; everything else, reading the log of scans too, is WEB.
PURPOSE_OF = (("POST", "/api/v1/scans", SCAN), ("", "/admin/", ADMIN), ("", "/metrics", HEALTH))


class ResponseHeaders:
    """Let pages load nothing from other hosts and run no inline script; let nobody keep what the API said."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        if is_for_api(request):
            # Whoever has a code has the ticket.
            response.headers.setdefault("Cache-Control", "private, no-store")
        return response


class EnterPurpose:
    """Say what a request is for, so that the pool knows whose turn it is and whom to name."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        path = request.path_info
        label = f"{request.method} {quote(path[:80])}"
        item = next(
            (
                item
                for method, prefix, item in PURPOSE_OF
                if label.startswith(method) and path.startswith(prefix)
            ),
            WEB,
        )
        with entering(item, label):
            return self.get_response(request)


class StreamsHoldNothing:
    """Let a streamed answer hold a connection only while it reads from it, not for as long as its client takes."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if isinstance(response, StreamingHttpResponse) and not response.is_async:
            db.orm().give_back_if_idle()
            if getattr(response, "file_to_stream", None) is None:
                response.streaming_content = _giving_back(iter(response), purpose.current(), purpose.label())
        return response


def _giving_back(chunks: Iterator[bytes], item: Purpose, label: str) -> Iterator[bytes]:
    """Yield the chunks; between two of them, and at the end of whatever kind, give back what nobody reads from."""
    wrapper, thread = db.orm(), threading.get_ident()
    try:
        while True:
            with entering(item, label):
                chunk = next(chunks, None)
            wrapper.give_back_if_idle()
            if chunk is None:
                return
            yield chunk
    finally:
        del chunks  # forgotten half-read, it closes its cursors here
        if wrapper.connection is not None and thread == threading.get_ident():
            log.info("%s was not read to its end; its connection is given back", label)
            wrapper.close_if_unusable_or_obsolete()


class MethodNotAllowed:
    """Give 405 the shape that all errors have; Django and ninja answer it in plain text."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if not isinstance(response, HttpResponseNotAllowed):
            return response
        allowed = response["Allow"]
        answer = error_response(405, "method_not_allowed", f"This address answers to {allowed}.")
        answer["Allow"] = allowed
        return answer
