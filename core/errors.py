"""Errors as clients see them: a stable code for machines, a sentence for people, never a stack."""

from __future__ import annotations

import sys
from typing import Any

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views import defaults

RETRY_AFTER_S = 1


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


def error_response(status: int, code: str, message: str, **details: Any) -> JsonResponse:
    """Return the one shape that errors have: `{"error": {"code", "message", …}}`."""
    response = JsonResponse({"error": {"code": code, "message": message, **details}}, status=status)
    if status == 503:
        response["Retry-After"] = str(RETRY_AFTER_S)
    return response


def unexpected(error: BaseException | None) -> JsonResponse:
    """Return what a client learns of an error that nobody anticipated; its stack is for the log."""
    if isinstance(error, PoolExhausted):
        return error_response(503, "overloaded", "Too many requests at once. Please try again.")
    if isinstance(error, OperationalError | InterfaceError):
        return error_response(503, "database_unavailable", "The database does not answer. Please try again.")
    return error_response(500, "internal", "Something went wrong on our side. It has been logged.")


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
    return unexpected(sys.exc_info()[1])
