"""Errors as clients see them: a stable code for machines, a sentence for people, never a stack."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views import defaults

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1
TRY_AGAIN = {429, 503}  # these say after how many seconds
REASON_CHARS = 30
RAISES = "x-raises"
PAGE = (
    '<!doctype html><html lang="en"><title>qrsite</title><meta name="viewport" content="width=device-width">'
    "<h1>{}</h1></html>"
)
# lock_not_available, query_canceled: PostgreSQL is well, and somebody stood in the way.
_BUSY_SQLSTATES = {"55P03", "57014"}


class QrsiteError(Exception):
    """The base of every error that a caller may meet; subclasses live beside the code that raises them."""

    code = "error"
    status = 400

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


class PoolExhausted(OperationalError):
    """No connection came free within the deadline of the purpose: this process is busy, the database may be well."""


class NotFound(QrsiteError):
    """There is no such thing, or none that the caller may see."""

    code = "not_found"
    status = 404


def raises(*errors: type[QrsiteError]) -> dict[str, Any]:
    """Return what an operation's `openapi_extra` has to hold, so that OpenAPI lists these errors (qrsite.openapi)."""
    return {RAISES: errors}


def error_body(code: str, message: str, **details: Any) -> dict[str, Any]:
    """Return the one shape that errors have: `{"error": {"code", "message", …}}`."""
    return {"error": {"code": code, "message": message, **details}}


def error_response(status: int, code: str, message: str, **details: Any) -> JsonResponse:
    """Return an error as a response."""
    response = JsonResponse(error_body(code, message, **details), status=status)
    if status in TRY_AGAIN:
        response["Retry-After"] = str(RETRY_AFTER_S)
    return response


OVERLOADED = 503, "overloaded", "Too many requests at once. Please try again."


def unexpected(error: BaseException | None) -> tuple[int, str, str]:
    """Return status, code and message of an error that nobody anticipated; its stack is for the log."""
    is_busy = getattr(getattr(error, "__cause__", None), "pgcode", None) in _BUSY_SQLSTATES
    if is_busy or isinstance(error, PoolExhausted):
        return OVERLOADED
    if isinstance(error, OperationalError | InterfaceError):
        return 503, "database_unavailable", "The database does not answer. Please try again."
    return 500, "internal", "Something went wrong on our side. It has been logged."


class OncePerSecond(logging.Filter):
    """Let one record a second through for each reason: in an outage every request would say the same."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether this was not said within the last second, of whichever request."""
        now_s = time.monotonic()
        reason = record.name + record.getMessage().partition(": ")[2][:REASON_CHARS]
        self._said_at_s = {said: at_s for said, at_s in self._said_at_s.items() if now_s - at_s < 1}
        is_new = reason not in self._said_at_s
        self._said_at_s.setdefault(reason, now_s)
        return is_new


class NotRefusals(logging.Filter):
    """Drop what Django says of a request that was refused because we are busy: that was said, and is no bug of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether it is about anything else than a 503."""
        error = record.exc_info[1] if record.exc_info else None
        return getattr(record, "status_code", None) != 503 and not isinstance(
            error, OperationalError | InterfaceError
        )


def is_for_api(request: HttpRequest) -> bool:
    """Tell a machine's request from a person's, who gets a page."""
    return request.path_info.startswith("/api/")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer a request that Django itself refused (its handler400): an unknown host, say."""
    if not is_for_api(request):
        return defaults.bad_request(request, exception)
    return error_response(400, "malformed", "This request is malformed, or its Host is none of ours.")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer an address that doesn't exist (Django's handler404)."""
    if not is_for_api(request):
        return defaults.page_not_found(request, exception)
    return error_response(404, "not_found", "There is nothing at this address.")


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer whatever a view or a middleware let through (Django's handler500, which has logged it)."""
    error = sys.exc_info()[1]
    status, code, words = unexpected(error)
    if status == 503:
        log.warning("%s %s: %s", request.method, request.path, " ".join(str(error).split()))
    if is_for_api(request):
        return error_response(status, code, words)
    page = HttpResponse(PAGE.format(words), status=status)
    if status == 503:
        page["Retry-After"] = str(RETRY_AFTER_S)
    return page
