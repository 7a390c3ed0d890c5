"""What every admin page of ours does."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import DataError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect


class CarefulAdmin(admin.ModelAdmin):
    """Never fail on an odd address or an odd choice, and never write more than what was changed."""

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Filter by what the page offers, and by nothing else."""
        offered = [field[0] if isinstance(field, tuple) else field for field in self.list_filter]
        names = [str(getattr(field, "parameter_name", field)) for field in offered]
        return any(lookup.startswith(name) for name in names)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Show the list; what PostgreSQL can't read in a filter or a choice leads back to it."""
        try:
            response = super().changelist_view(request, extra_context)
        except (ValueError, DataError):
            self.message_user(request, "That could not be understood.", level="error")
            return redirect(request.path)
        return response

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Write only the changed fields: a gate or a colleague may be changing others at this moment."""
        if not change:
            obj.save()
        elif form.changed_data:
            names = {field.name for field in obj._meta.concrete_fields}
            obj.save(update_fields=[name for name in form.changed_data if name in names])
