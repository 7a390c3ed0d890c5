"""/health/live, /health/ready and /health/db: they answer whoever asks, whatever the host, and never redirect."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.db import Error, connections
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase

from core import db
from core.errors import RETRY_AFTER_S, error_response
from tickets.keys import key_ring

log = logging.getLogger(__name__)


def live(request: HttpRequest) -> JsonResponse:
    """Tell that this process answers; no I/O."""
    return JsonResponse({"status": "pass"})


def database(request: HttpRequest) -> JsonResponse:
    """Tell whether PostgreSQL answers through the pool, and the pool's numbers either way."""
    answers = _answers()
    numbers = db.pool_stats()._asdict()
    if answers:
        return JsonResponse(numbers)
    return _retry(JsonResponse({**numbers, "error": "The database does not answer."}, status=503))


def ready(request: HttpRequest) -> JsonResponse:
    """Tell whether to send traffic here, check by check."""
    checks = {"database": _answers(), "migrations": False, "signing_keys": bool(key_ring().verify_keys)}
    if checks["database"]:
        checks["migrations"] = _migrated()
    words = {name: "pass" if passed else "fail" for name, passed in checks.items()}
    if all(checks.values()):
        return JsonResponse({"status": "pass", "checks": words})
    return _retry(JsonResponse({"status": "fail", "checks": words}, status=503))


VIEWS: dict[str, Callable[[HttpRequest], JsonResponse]] = {
    "/health/live": live,
    "/health/ready": ready,
    "/health/db": database,
}


class HealthMiddleware:
    """Answer probes before hosts, TLS, sessions and slashes are looked at.

    Load balancers ask by address, so the Host header is none of ours, and they take a redirect for good health.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        view = VIEWS.get(request.path_info.removesuffix("/"))
        if view is None:
            return self.get_response(request)
        if request.method not in {"GET", "HEAD"}:
            response = error_response(405, "method_not_allowed", "Ask with GET or HEAD.")
            response["Allow"] = "GET, HEAD"
        else:
            response = view(request)
        response["Cache-Control"] = "no-store"
        return response


_is_migrated = False


def _migrated() -> bool:
    """Tell whether the schema is as this code wants it; once it is, it stays."""
    global _is_migrated
    if not _is_migrated:
        executor = MigrationExecutor(connections["default"])
        _is_migrated = not executor.migration_plan(executor.loader.graph.leaf_nodes())
    return _is_migrated


def _answers() -> bool:
    try:
        db.ping()
    except Error:
        log.warning("The database does not answer", exc_info=True)
        return False
    return True


def _retry(response: Any) -> JsonResponse:
    response["Retry-After"] = str(RETRY_AFTER_S)
    answer: JsonResponse = response
    return answer
