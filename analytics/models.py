"""The scan log: every attempt at a gate, the refused and the unreadable too."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

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
    device_id = models.IntegerField(null=True)
    user_id = models.IntegerField(null=True, help_text="who checked in by hand, where no device did")
    nonce = models.TextField(
        help_text="the client's name for this attempt; the same again gets the same verdict"
    )
    direction = models.TextField(choices=Direction)
    verdict = models.TextField(choices=Verdict)
    reason = models.TextField(null=True, help_text="why it was refused")
    code = models.TextField(null=True, help_text="what was read, where it names no ticket of this event; cut")
    scanned_at = models.DateTimeField(help_text="by the client's clock")
    recorded_at = models.DateTimeField(help_text="by the server's clock")
    happened_at = models.DateTimeField(
        # Processes of the version before this column go on recording while a new one is rolled out.
        db_default=Now(),
        help_text="the moment that was judged: the server's; offline the client's, put right by its clock's offset",
    )
    offline = models.BooleanField(default=False)
    reentry = models.BooleanField(
        default=False, db_default=False, help_text="the ticket had been admitted before"
    )
    forced_over = models.TextField(null=True, help_text="the refusal that a supervisor overrode")
    force_reason = models.TextField(null=True, help_text="the supervisor's words")
    annulled_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "ticket_scans"
        indexes = (
            models.Index(fields=["id"], name="ticket_scans_id_idx"),
            models.Index(
                fields=["event_id", "ticket_id"],
                condition=Q(ticket_id__isnull=False),
                name="ticket_scans_ticket_idx",
            ),
            models.Index(
                fields=["event_id", "id"],
                condition=Q(verdict="refused"),
                name="ticket_scans_refused_idx",
            ),
        )
        constraints = (
            models.UniqueConstraint(fields=["event_id", "nonce"], name="ticket_scans_nonce_once"),
            # The last word on "once": whatever the code does, PostgreSQL keeps no second admission.
            models.UniqueConstraint(
                fields=["event_id", "ticket_id"],
                condition=Q(verdict="admitted", direction="entry", reentry=False, annulled_at=None),
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
            models.CheckConstraint(
                condition=Q(device_id__isnull=False, user_id=None) | Q(device_id=None, user_id__isnull=False),
                name="ticket_scans_by_a_device_or_a_person",
            ),
            models.CheckConstraint(
                condition=Q(forced_over=None) | Q(verdict="admitted", force_reason__isnull=False),
                name="ticket_scans_forced_says_why",
            ),
        )

    def __str__(self) -> str:
        return f"{self.direction} {self.verdict} {self.reason or ''}".strip()


# Counters (analytics.counters). Every one has slots: what it says is the sum of its rows.
SLOTS = 16
REPAIRS_SLOT = SLOTS  # of what a recount found missing (analytics.recount)
ALL_GATES = 0
MINUTE, QUARTER, ALL_TIME = 1, 15, 0  # lengths of the spans that are counted, in minutes


class EventCount(models.Model):
    """What happened at an event in a span of time, at a gate or at all of them.

    What becomes of tickets is counted only in the row of all gates and all time.
    """

    pk = models.CompositePrimaryKey("event_id", "gate_id", "span_min", "since", "slot")
    event_id = models.IntegerField()
    gate_id = models.IntegerField(help_text="0: all gates")
    span_min = models.SmallIntegerField(help_text="1, 15, or 0: all time")
    since = models.DateTimeField()
    slot = models.SmallIntegerField()
    changes = models.BigIntegerField(help_text="how often anything was added")
    changed_at = models.DateTimeField()
    entries = models.BigIntegerField()
    exits = models.BigIntegerField()
    admitted = models.BigIntegerField(help_text="tickets that came in for the first time")
    refused = models.BigIntegerField()
    issued = models.BigIntegerField()
    void = models.BigIntegerField()
    transferred = models.BigIntegerField()
    missing = models.BigIntegerField(help_text="valid and not admitted")
    inside = models.BigIntegerField()
    scanned = models.BigIntegerField(help_text="were presented at a gate, whatever the verdict")
    annulled = models.BigIntegerField(help_text="scans, not tickets")

    class Meta:
        db_table = "event_counts"

    def __str__(self) -> str:
        return f"event {self.event_id}, gate {self.gate_id}, {self.since:%F %R} + {self.span_min} min"


class RefusalCount(models.Model):
    """The refusals of one reason at a gate, by one device."""

    pk = models.CompositePrimaryKey("event_id", "gate_id", "device_id", "reason", "slot")
    event_id = models.IntegerField()
    gate_id = models.IntegerField()
    device_id = models.IntegerField(help_text="0: by hand")
    reason = models.TextField()
    slot = models.SmallIntegerField()
    refused = models.BigIntegerField()

    class Meta:
        db_table = "refusal_counts"

    def __str__(self) -> str:
        return f"event {self.event_id}, gate {self.gate_id}, {self.reason}"


class RefusedCode(models.Model):
    """How often one ticket, or one text that names none, was refused. It has no slots: it is looked up by its count."""

    pk = models.CompositePrimaryKey("event_id", "ticket_id", "code")
    event_id = models.IntegerField()
    ticket_id = models.BigIntegerField(help_text="0: the code names no ticket of the event")
    code = models.TextField()
    refused = models.BigIntegerField()
    last_at = models.DateTimeField()
    reason = models.TextField(help_text="the last one")

    class Meta:
        db_table = "refused_codes"
        indexes = (models.Index(fields=["event_id", "refused"], name="refused_codes_most_idx"),)

    def __str__(self) -> str:
        return f"event {self.event_id}, {self.ticket_id or 'a text'}"


class Conflict(PerEventModel):
    """An entry that a device let in while it was offline, and that the server refused when it heard of it."""

    id = models.BigAutoField(primary_key=True)
    event_id = models.IntegerField()
    scan_id = models.BigIntegerField(help_text="the offline entry")
    ticket_id = models.BigIntegerField()
    reason = models.TextField(help_text="why it should have been refused")
    earlier_scan_id = models.BigIntegerField(
        null=True, help_text="another entry with the ticket, if there is one"
    )
    noticed_at = models.DateTimeField()
    signed_off_at = models.DateTimeField(null=True, blank=True)
    signed_off_by = models.TextField(blank=True, default="")
    note = models.TextField(blank=True, default="", help_text="what the person who signed it off says of it")

    class Meta:
        db_table = "scan_conflicts"
        indexes = (models.Index(fields=["id"], name="scan_conflicts_id_idx"),)
        constraints = (
            models.UniqueConstraint(fields=["event_id", "scan_id"], name="scan_conflicts_once_per_scan"),
        )
        permissions = (("sign_off_conflict", "Can sign off conflicts"),)

    def __str__(self) -> str:
        return f"{self.reason}, ticket {self.ticket_id}"
