"""The API as it is mounted: its parts, who may call them, how errors look."""

from __future__ import annotations

import json
import logging
from typing import Any

from django.contrib.admin.views.decorators import staff_member_required
from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse
from ninja.errors import AuthenticationError, HttpError, ValidationError
from ninja.parser import Parser

import analytics.api
import tickets.api
import tickets.scan_api
from core.errors import QrsiteError, error_response, not_found, unexpected
from qrsite.openapi import DocumentedAPI
from tickets.auth import ServiceScope, StaffSession

log = logging.getLogger(__name__)


class JsonParser(Parser):
    """Read bodies that are JSON objects; all of ours are."""

    def parse_body(self, request: HttpRequest) -> Any:
        """Return the parsed body; ninja makes whatever is raised here a 400."""
        body = json.loads(request.body)
        if not isinstance(body, dict):
            raise ValueError("not a JSON object")
        return body


api = DocumentedAPI(
    title="qrsite",
    version="1",
    description="Issues signed QR tickets, judges them at the gate, counts them.",
    parser=JsonParser(),
    docs_decorator=staff_member_required,
    urls_namespace="api",
)
api.add_router("", tickets.api.router)
api.add_router("", tickets.scan_api.router)
api.add_router(
    "",
    analytics.api.router,
    auth=[ServiceScope("stats:read"), StaffSession("analytics.view_scan")],
)
api.add_router(
    "",
    analytics.api.scans_router,
    auth=[ServiceScope("tickets:read"), StaffSession("analytics.view_scan")],
)
api.add_router(
    "",
    analytics.api.tickets_router,
    auth=[ServiceScope("tickets:read"), StaffSession("tickets.view_ticket")],
)


@api.exception_handler(QrsiteError)
def _anticipated(request: HttpRequest, error: QrsiteError) -> HttpResponse:
    return error_response(error.status, error.code, str(error), **error.details)


@api.exception_handler(AuthenticationError)
def _no_credentials(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
    return error_response(401, "unauthorized", "Send a valid token: Authorization: Bearer <token>.")


@api.exception_handler(HttpError)
def _malformed(request: HttpRequest, error: HttpError) -> HttpResponse:
    return error_response(error.status_code, "malformed", "The body is not a JSON object.")


@api.exception_handler(RequestDataTooBig)
def _too_large(request: HttpRequest, error: RequestDataTooBig) -> HttpResponse:
    return error_response(413, "too_large", "The body is too large; send fewer items per call.")


@api.exception_handler(ValidationError)
def _fields_wrong(request: HttpRequest, error: ValidationError) -> HttpResponse:
    fields = [{"field": _field(*item["loc"]), "message": item["msg"]} for item in error.errors]
    first = fields[0]
    return error_response(422, "invalid", f"{first['field']}: {first['message']}", fields=fields)


def _field(place: str, *names: str | int) -> str:
    # In a body the name of our own argument comes first, which tells a caller nothing.
    told = names[1:] if place == "body" else names
    return ".".join(map(str, told)) or place


@api.exception_handler(Http404)
def _not_found(request: HttpRequest, error: Http404) -> HttpResponse:
    return not_found(request, error)


@api.exception_handler(Exception)
def _unexpected(request: HttpRequest, error: Exception) -> HttpResponse:
    response = error_response(*unexpected(error))
    if response.status_code == 503:
        log.warning("%s %s: %s", request.method, request.path, " ".join(str(error).split()))
    else:
        log.error("%s %s failed", request.method, request.path, exc_info=error)
    return response
