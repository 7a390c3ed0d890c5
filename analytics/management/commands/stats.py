"""manage.py stats verify: what the counters say, proved by a recount of the raw rows."""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Any

from django.core.management import BaseCommand, CommandError
from django.utils import timezone

from analytics import queries, recount
from core import db, terminal

VERIFY_HELP = """Recount tickets and scans from their rows, one event after the other, each in one snapshot, and compare that with the
counters that all statistics are read from. Scans go on meanwhile. What is listed is what a counter lacks (or, below zero,
has too much).

  manage.py stats verify                        all events
  manage.py stats verify --event summer-night   one
  manage.py stats verify --repair               add what is missing: after an upgrade, a restored table, an own UPDATE

Exit codes: 0 nothing differed, 1 something did (with --repair: it is mended, and the next run says 0), 2 misuse.
"""


class Command(BaseCommand):
    """Compare, tell, and mend if wanted."""

    help = "Prove the counters by a recount. Exit codes: 0 nothing differed, 1 something did, 2 misuse."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the subcommand."""
        commands = parser.add_subparsers(dest="do", required=True, metavar="verify")
        verify = commands.add_parser(
            "verify",
            help="recount everything, and compare",
            description=VERIFY_HELP,
            formatter_class=RawDescriptionHelpFormatter,
        )
        verify.add_argument("--event", metavar="SLUG", help="only this one, by its slug")
        verify.add_argument("--repair", action="store_true", help="add what is missing")
        verify.add_argument("--json", action="store_true", help="one object on stdout")

    def handle(self, *args: Any, event: str | None, repair: bool, **options: Any) -> None:
        """Recount the events asked for."""
        events = self._events(event)
        start_s = time.monotonic()
        found: dict[str, recount.Recount] = {}
        for slug, one in recount.recount_all(
            events,
            mends=repair,
            now=timezone.now(),
            tell=lambda done: terminal.show(self.stderr, f"Recounting: {terminal.bar(done / len(events))}"),
        ):
            found[slug] = one
            if not options["json"]:
                terminal.show(self.stderr, "")
                self._print(slug, one)
        terminal.show(self.stderr, "")
        differences = sum(one.differences for one in found.values())
        if options["json"]:
            told = {slug: one._asdict() for slug, one in found.items()}
            numbers = {
                "events": len(events),
                "differences": differences,
                "repaired": repair,
                "by_event": told,
            }
            self.stdout.write(json.dumps(numbers, default=str))
        else:
            self.stdout.write(
                f"{len(events):,} events recounted in {time.monotonic() - start_s:.1f} s: {differences:,} counters differed"
                + (", and are mended." if differences and repair else ".")
            )
        if differences:
            raise CommandError(
                "The counters were off; now they are right."
                if repair
                else "The counters are off: --repair mends them."
            )

    def _events(self, slug: str | None) -> list[tuple[int, str]]:
        with db.begin() as conn:
            if slug is None:
                return queries.event_slugs(conn)
            found = queries.event_by_slug(conn, slug=slug)
        if found is None:
            raise CommandError(f"There is no event {slug}.", returncode=2)
        return [(found.id, found.slug)]

    def _print(self, slug: str, one: recount.Recount) -> None:
        more = f", of which {len(one.examples)}" if one.differences > len(one.examples) else ""
        rows = [("counter", "of", "lacks"), *map(_words, one.examples)]
        widths = [max(len(row[place]) for row in rows) for place in (0, 1)]
        self.stdout.write(f"{slug}: {one.differences:,} differ{more}")
        for counter, place, lacks in rows:
            self.stdout.write(f"  {counter:{widths[0]}}  {place:{widths[1]}}  {lacks}")


def _words(row: dict[str, Any]) -> tuple[str, str, str]:
    """Name a counter for a person, and say what it lacks."""
    lacks = ", ".join(f"{name} {row[name]:+,}" for name in queries.NUMBERS if row.get(name))
    if row["counter"] == "marks":
        return "marks", f"ticket {row['ticket_id']}", "that it was scanned"
    if row["counter"] == "codes":
        return "codes", f"ticket {row['ticket_id']}" if row["ticket_id"] else repr(row["code"][:40]), lacks
    place = f"gate {row['gate_id']}" if row["gate_id"] else "all gates"
    if row["counter"] == "refusals":
        return "refusals", f"{place}, device {row['device_id']}, {row['reason']}", lacks
    span = f"{row['span_min']} min from {row['since']:%F %RZ}" if row["span_min"] else "all time"
    return "counts", f"{place}, {span}", lacks
