"""The shape of a hot table under the ORM (docs/adr/0005)."""

from __future__ import annotations

from typing import Any

from django.db import models


class PerEventModel(models.Model):
    """A row that belongs to one event for good; its real primary key is (event_id, id).

    Django knows `id` alone as the key, since its admin can't show composite ones. Migrations make the real key.
    Subclasses have an attribute `event_id`.
    """

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row, and never make a twin of it under another event."""
        if not self._state.adding and not kwargs.get("force_insert"):
            kwargs["force_update"] = True
        super().save(*args, **kwargs)

    def _do_update(
        self,
        base_qs: models.QuerySet[Any],
        using: str | None,
        pk_val: Any,
        values: Any,
        update_fields: Any,
        forced_update: bool,
    ) -> bool:
        # A distributed table refuses to change a row's event, and finds the row only if its event is named.
        values = [value for value in values if value[0].attname != "event_id"]
        base_qs = base_qs.filter(event_id=self.event_id)  # type: ignore[attr-defined]
        return super()._do_update(base_qs, using, pk_val, values, update_fields, forced_update)


def move_primary_key_sql(table: str) -> tuple[str, str]:
    """Return the SQL that makes (event_id, id) the key of a freshly created table, and its reverse."""
    change = "ALTER TABLE {0} DROP CONSTRAINT {0}_pkey, ADD CONSTRAINT {0}_pkey PRIMARY KEY ({1})"
    return change.format(table, "event_id, id"), change.format(table, "id")
