"""The scan log: every attempt at a gate, the refused and the unreadable too."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from core.models import PerEventModel


class Verdict(models.TextChoices):
    """What a gate was told."""

    ADMITTED = "admitted"
    REFUSED = "refused"


class Direction(models.TextChoices):
    """Which way the holder was going."""

    ENTRY = "entry"
    EXIT = "exit"


class Scan(PerEventModel):
    """One answered attempt. Rows are added and annulled, never changed or deleted."""

    id = models.BigAutoField(primary_key=True)
    # Plain numbers: hot tables carry no foreign keys, and events belong to a layer above.
    event_id = models.IntegerField()
    ticket_id = models.BigIntegerField(
        null=True, help_text="the ticket, where the code names one of this event"
    )
    gate_id = models.IntegerField()
    device_id = models.IntegerField()
    nonce = models.TextField(
        help_text="the client's name for this attempt; the same again gets the same verdict"
    )
    direction = models.TextField(choices=Direction)
    verdict = models.TextField(choices=Verdict)
    reason = models.TextField(null=True, help_text="why it was refused")
    code = models.TextField(null=True, help_text="what was read, where it names no ticket of this event; cut")
    scanned_at = models.DateTimeField(help_text="by the client's clock")
    recorded_at = models.DateTimeField(help_text="by the server's clock")
    offline = models.BooleanField(default=False)
    annulled_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "ticket_scans"
        indexes = (models.Index(fields=["id"], name="ticket_scans_id_idx"),)
        constraints = (
            models.UniqueConstraint(fields=["event_id", "nonce"], name="ticket_scans_nonce_once"),
            # The last word on "once": whatever the code does, PostgreSQL keeps no second admission.
            models.UniqueConstraint(
                fields=["event_id", "ticket_id"],
                condition=Q(verdict="admitted", direction="entry", annulled_at=None),
                name="ticket_scans_admitted_once",
            ),
            models.CheckConstraint(
                condition=Q(verdict="admitted", reason=None, ticket_id__isnull=False)
                | Q(verdict="refused", reason__isnull=False, annulled_at=None),
                name="ticket_scans_verdict_has_reason",
            ),
            models.CheckConstraint(
                condition=Q(direction__in=["entry", "exit"]), name="ticket_scans_direction_known"
            ),
        )

    def __str__(self) -> str:
        return f"{self.direction} {self.verdict} {self.reason or ''}".strip()
