"""/health/live, /health/ready and /health/db: they answer whoever asks, whatever the host, and never redirect."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, OperationalError, connections
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase

from core import db, probe
from core.errors import RETRY_AFTER_S, error_response
from core.purpose import HEALTH, entering
from health.fleet import probe as probe_fleet
from tickets.keys import key_ring

log = logging.getLogger(__name__)


def live(request: HttpRequest) -> JsonResponse:
    """Tell that this process answers; no I/O."""
    return JsonResponse({"status": "pass"})


def database(request: HttpRequest) -> JsonResponse:
    """Tell whether PostgreSQL answers through the pool, and the pool's numbers either way."""
    answers = probe.database.answer()
    numbers = db.pool_stats()._asdict()
    if answers:
        return JsonResponse(numbers)
    return _retry(JsonResponse({**numbers, "error": "The database does not answer."}, status=503))


def ready(request: HttpRequest) -> JsonResponse:
    """Tell whether to send traffic here, check by check."""
    checks: dict[str, Callable[[], str | None]] = {
        "database": _check_database,
        "migrations": _check_migrations,
        "connections": _check_connections,
        "signing_keys": _check_signing_keys,
    }
    probe_fleet.ask()  # beside the first question, not after it
    words: dict[str, str] = {}
    for name, check in checks.items():
        # Nothing more is asked of a database that hangs.
        is_asked = name not in {"migrations", "connections"} or words["database"] == "pass"
        words[name] = _verdict(check) if is_asked else "fail"
    status = next(word for word in ("fail", "warn", "pass") if word in words.values())
    if status == "fail":
        return _retry(JsonResponse({"status": status, "checks": words}, status=503))
    return JsonResponse({"status": status, "checks": words})


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
            with entering(HEALTH, request.path_info):
                response = view(request)
        response["Cache-Control"] = "no-store"
        return response


_is_migrated = False


def _check_database() -> None:
    if not probe.database.answer():
        raise OperationalError("The database does not answer.")


def _check_migrations() -> None:
    """Make sure that the schema is as this code wants it; once it is, it stays."""
    global _is_migrated
    if not _is_migrated:
        executor = MigrationExecutor(connections["default"])
        if plan := executor.migration_plan(executor.loader.graph.leaf_nodes()):
            raise ImproperlyConfigured(f"{len(plan)} migrations are missing: run manage.py migrate.")
        _is_migrated = True


def _check_connections() -> str:
    """Compare what all processes may hold with what PostgreSQL allows; busy is no verdict on that."""
    fleet = None if settings.PGBOUNCER else probe_fleet.answer()
    if fleet is None:
        return "pass"
    if (verdict := fleet.verdict()) != "pass":
        log.warning("Connections: %s. %s", verdict, fleet.advice(fleet.processes))
    return verdict


def _check_signing_keys() -> None:
    key_ring()


def _verdict(check: Callable[[], str | None]) -> str:
    """Run a check that raises where it fails; why is for the log, not for whoever asks."""
    try:
        return check() or "pass"
    except (Error, ImproperlyConfigured) as error:
        log.warning("Not ready: %s", " ".join(str(error).split()))
        return "fail"


def _retry(response: Any) -> JsonResponse:
    response["Retry-After"] = str(RETRY_AFTER_S)
    answer: JsonResponse = response
    return answer
