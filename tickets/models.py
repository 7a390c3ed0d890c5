"""Tables of events, gates, devices, tickets and service tokens: constraints, no logic."""

from __future__ import annotations

import secrets
import unicodedata
from datetime import datetime
from zoneinfo import ZoneInfo

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from analytics.buckets import is_place
from core.models import PerEventModel
from tickets.rules import Reentry

# They let a name be shown as another.
_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
SCOPES = ("tickets:write", "tickets:read", "stats:read", "reports:write", "reports:read", "metrics:read")


def validate_time_zone(name: str) -> None:
    """Refuse what is no IANA time zone."""
    if not is_place(name):
        raise ValidationError("Write an IANA time zone, such as Europe/Berlin.")


def validate_line(text: str) -> None:
    """Refuse what is no line of text that a person could read: control characters, hidden direction, nothing."""
    if any(unicodedata.category(char) in {"Cc", "Cs"} or char in _DIRECTIONS for char in text):
        raise ValidationError("Control characters are not allowed.")
    if text and all(unicodedata.category(char)[0] in "CZ" for char in text):
        raise ValidationError("Nothing of this can be seen.")


def random_ticket_id() -> int:
    """Return a ticket number: 63 random bits, so that a number tells nothing about the others."""
    return secrets.randbelow(2**63 - 1) + 1


class Event(models.Model):
    """Something that people are admitted to."""

    id = models.AutoField(primary_key=True)  # the event number in the code: 4 bytes
    name = models.CharField(max_length=200)
    slug = models.SlugField(max_length=80, db_index=False, help_text="its name in addresses")
    time_zone = models.CharField(
        max_length=64, validators=[validate_time_zone], help_text="of the venue, e.g. Europe/Berlin"
    )
    doors_at = models.DateTimeField("doors open", help_text="venue time; tickets are admitted from here on")
    starts_at = models.DateTimeField("starts", help_text="venue time")
    ends_at = models.DateTimeField("ends", help_text="venue time; nobody is admitted after this")
    capacity = models.PositiveIntegerField(
        null=True, blank=True, help_text="how many valid tickets there may be; empty = no limit"
    )

    reentry = models.CharField(
        "re-entry",
        max_length=20,
        choices=Reentry,
        default=Reentry.NEVER,
        db_default=Reentry.NEVER,
        help_text="whether a ticket that was admitted is admitted again",
    )

    class Meta:
        db_table = "event"
        ordering = ("-starts_at",)
        constraints = (
            models.UniqueConstraint(fields=["slug"], name="event_slug_once"),
            models.CheckConstraint(
                condition=Q(doors_at__lte=F("starts_at"), starts_at__lt=F("ends_at")),
                name="event_doors_start_end_in_order",
                violation_error_message="Doors open first, then it starts, then it ends.",
            ),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def zone(self) -> ZoneInfo:
        """The venue's time zone."""
        return ZoneInfo(self.time_zone)

    def local(self, when: datetime) -> str:
        """Write a moment as the venue's clocks show it."""
        return f"{when.astimezone(self.zone):%a %d %b %Y, %H:%M}"


class Kind(models.Model):
    """A kind of ticket. An event without kinds takes any word for one, and makes no difference between them."""

    id = models.AutoField(primary_key=True)
    event = models.ForeignKey(Event, models.CASCADE, db_constraint=False)
    name = models.CharField(
        max_length=100, validators=[validate_line], help_text="as the tickets say it; it stays"
    )
    capacity = models.PositiveIntegerField(
        null=True, blank=True, help_text="how many valid tickets of it there may be; empty = no limit"
    )
    admits_from = models.DateTimeField(
        null=True, blank=True, help_text="venue time; empty: when the doors open"
    )
    admits_until = models.DateTimeField(
        null=True, blank=True, help_text="venue time; empty: when the event ends"
    )

    class Meta:
        db_table = "ticket_kind"
        ordering = ("name",)
        verbose_name = "ticket kind"
        constraints = (
            models.UniqueConstraint(fields=["event", "name"], name="kind_name_once_per_event"),
            models.CheckConstraint(
                condition=Q(admits_from=None) | Q(admits_until=None) | Q(admits_from__lt=F("admits_until")),
                name="kind_window_in_order",
                violation_error_message="Admission begins before it ends.",
            ),
        )

    def __str__(self) -> str:
        return self.name


class Gate(models.Model):
    """A place where tickets are scanned."""

    id = models.AutoField(primary_key=True)
    event = models.ForeignKey(Event, models.PROTECT, db_constraint=False)
    name = models.CharField(max_length=100)
    kinds = models.ManyToManyField(
        Kind,
        db_table="gate_kind",
        blank=True,
        help_text="the only kinds that it admits; none chosen = all tickets",
    )

    class Meta:
        db_table = "gate"
        ordering = ("name",)
        constraints = (models.UniqueConstraint(fields=["event", "name"], name="gate_name_once_per_event"),)

    def __str__(self) -> str:
        return self.name


class Device(models.Model):
    """Something that scans, at one gate. Its token is shown once; only the hash is kept."""

    id = models.AutoField(primary_key=True)
    gate = models.ForeignKey(Gate, models.PROTECT, db_constraint=False)
    name = models.CharField(max_length=100)
    is_supervisor = models.BooleanField(
        "supervisor's",
        default=False,
        db_default=False,
        help_text="may admit in spite of a refusal, with a reason",
    )
    rate_per_s = models.PositiveIntegerField(
        "calls a second",
        null=True,
        blank=True,
        default=50,
        db_default=50,
        validators=[MinValueValidator(1)],
        help_text="what it may do in the long run; more is refused with 429; empty = no limit",
    )
    token_hash = models.BinaryField(max_length=32, unique=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    enrolled_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_seen_at = models.DateTimeField(
        "last seen", null=True, blank=True, editable=False, help_text="to the minute"
    )
    clock_offset_ms = models.BigIntegerField(
        "clock is off by (ms)",
        null=True,
        blank=True,
        editable=False,
        help_text="how far ahead of ours its clock was when it last sent its offline scans",
    )
    clock_measured_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        db_table = "device"
        ordering = ("name",)
        constraints = (models.CheckConstraint(condition=Q(rate_per_s__gte=1), name="device_rate_positive"),)
        permissions = (("grant_supervisor", "Can make a device a supervisor's"),)

    def __str__(self) -> str:
        return self.name


class ServiceToken(models.Model):
    """What a service shows to use the API, within its scopes. Shown once; only the hash is kept."""

    id = models.AutoField(primary_key=True)
    name = models.CharField(max_length=100)
    scopes = ArrayField(models.TextField(choices=[(scope, scope) for scope in SCOPES]))
    token_hash = models.BinaryField(max_length=32, unique=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        db_table = "service_token"
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Ticket(PerEventModel):
    """The right of one holder to enter. `admitted_at`, `admitted_gate_id`, `inside` and `passed_at` follow the scan log."""

    id = models.BigIntegerField(primary_key=True, default=random_ticket_id, editable=False)
    event = models.ForeignKey(Event, models.PROTECT, db_constraint=False, db_index=False)
    holder = models.CharField(max_length=200, validators=[validate_line])
    email = models.EmailField(blank=True)
    kind = models.CharField(max_length=100, blank=True, validators=[validate_line])
    reference = models.CharField(
        validators=[validate_line],
        max_length=200,
        null=True,
        blank=True,
        help_text="the seller's key; issuing it again returns this ticket",
    )
    issued_at = models.DateTimeField(default=timezone.now, editable=False)
    voided_at = models.DateTimeField(null=True, blank=True, editable=False)
    transferred_at = models.DateTimeField(null=True, blank=True, editable=False)
    admitted_at = models.DateTimeField(null=True, editable=False)
    admitted_gate_id = models.IntegerField(null=True, editable=False)
    inside = models.BooleanField(default=False, editable=False)
    passed_at = models.DateTimeField(
        null=True, editable=False, help_text="when somebody last went in or out with it"
    )
    scanned = models.BooleanField(
        # Processes of the version before this column go on issuing while a new one is rolled out.
        default=False,
        db_default=False,
        editable=False,
        help_text="presented at a gate, whatever the verdict",
    )

    class Meta:
        db_table = "ticket"
        ordering = ("-issued_at",)
        indexes = (models.Index(fields=["id"], name="ticket_id_idx"),)
        constraints = (
            models.UniqueConstraint(fields=["event", "reference"], name="ticket_reference_once_per_event"),
        )
        permissions = (
            ("check_in_ticket", "Can check in by hand"),
            ("force_admission", "Can admit by hand in spite of a refusal"),
        )

    def __str__(self) -> str:
        return f"{self.holder} ({self.id})"


class Transfer(PerEventModel):
    """A ticket that was passed on: the holder's code is refused from then on, the new holder has a new ticket."""

    id = models.BigAutoField(primary_key=True)
    event = models.ForeignKey(Event, models.PROTECT, db_constraint=False, db_index=False)
    from_ticket_id = models.BigIntegerField()
    to_ticket_id = models.BigIntegerField()
    transferred_at = models.DateTimeField()
    transferred_by = models.TextField(help_text="the service or the person")

    class Meta:
        db_table = "ticket_transfers"
        indexes = (models.Index(fields=["id"], name="ticket_transfers_id_idx"),)
        constraints = (
            models.UniqueConstraint(fields=["event", "from_ticket_id"], name="ticket_transfers_from_once"),
            models.UniqueConstraint(fields=["event", "to_ticket_id"], name="ticket_transfers_to_once"),
        )

    def __str__(self) -> str:
        return f"{self.from_ticket_id} to {self.to_ticket_id}"


class Enrolment(models.Model):
    """A secret, shown once as a QR, that a device may exchange once for its token. Only the hash is kept."""

    id = models.AutoField(primary_key=True)
    device = models.ForeignKey(Device, models.CASCADE, db_constraint=False)
    secret_hash = models.BinaryField(max_length=32, unique=True, editable=False)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "device_enrolment"
        ordering = ("-created_at",)

    def __str__(self) -> str:
        return f"{self.device_id} until {self.expires_at:%H:%M}"
