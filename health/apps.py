"""What the app checks before the site is deployed."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks


class HealthConfig(AppConfig):
    """Probes, metrics, connections."""

    name = "health"
    verbose_name = "Operations"

    def ready(self) -> None:
        """Have `check --deploy --database default` look at the server."""
        checks.register(_connections_fit, checks.Tags.database, deploy=True)


def _connections_fit(databases: Any = None, **_: Any) -> list[checks.CheckMessage]:
    from health.fleet import WARN_SHARE, measure, problem

    if "default" not in (databases or []):
        return []
    fleet = measure()
    processes = max(fleet.processes, settings.WEB_CONCURRENCY)
    if words := problem(fleet, processes):
        return [checks.Error(words, id="qrsite.E001")]
    if not settings.PGBOUNCER and fleet.needed(processes) > WARN_SHARE * fleet.allowed:
        return [checks.Warning(f"Over 80 %: {fleet.advice(processes)}", id="qrsite.W001")]
    return []
