"""The page "Connections": who holds what, who waits, and a button that cancels a statement."""

from __future__ import annotations

import logging
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import Error
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.views.decorators.http import require_POST

from core import control, db
from core.purpose import process_name
from health.fleet import snapshots
from health.models import PoolConnection

log = logging.getLogger(__name__)


@admin.register(PoolConnection)
class PoolConnectionAdmin(admin.ModelAdmin):
    """Connections as they are at this moment, of all processes of this machine; there is no table behind it."""

    def get_urls(self) -> list[URLPattern]:
        """Serve the list and the button, nothing else of an ordinary admin."""
        opts = self.opts
        name = f"{opts.app_label}_{opts.model_name}"
        return [
            path("", self.admin_site.admin_view(self.changelist_view), name=f"{name}_changelist"),
            path(
                "cancel/", self.admin_site.admin_view(require_POST(self.cancel_view)), name=f"{name}_cancel"
            ),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Connections make themselves."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Show all pools, their holders and who waits."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "title": "Connections",
            "opts": self.opts,
            "pools": snapshots(),
            "may_cancel": self._may_cancel(request),
        }
        return TemplateResponse(request, "admin/health/connections.html", context)

    def cancel_view(self, request: HttpRequest) -> HttpResponse:
        """Cancel the statement that one holder runs; its transaction fails, its connection stays."""
        if not self._may_cancel(request):
            raise PermissionDenied
        process, lease = request.POST.get("process", ""), request.POST.get("lease", "")
        try:
            held = _cancel(process, int(lease), by=str(request.user))
        except (OSError, RuntimeError, ValueError, Error):
            held = None
        if held is None:
            self.message_user(request, "That connection was given back meanwhile.", level="warning")
        else:
            log.warning("%s cancelled the statement of %s in %s", request.user, held, process)
            self.message_user(request, f"Cancelled: {held}.")
        return redirect(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist")

    def _may_cancel(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request) and request.user.has_perm("health.cancel_poolconnection")


def _cancel(process: str, lease: int, *, by: str) -> str | None:
    if process == process_name():
        return db.cancel(lease)
    if process not in control.processes():  # a name from a form never becomes a path
        return None
    held: str | None = control.ask(process, "cancel", lease=lease, by=by)
    return held
