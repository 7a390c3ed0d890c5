"""manage.py tickets import: the tickets of a CSV, all or none."""

from __future__ import annotations

import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError
from django.utils import timezone

from core import terminal
from tickets import importing
from tickets.models import Event

IMPORT_HELP = """Import the tickets of a CSV, all or none: an error in one row, or more than the event admits, and nothing is imported.

The first line names the columns: holder, and if you like email, kind, reference, in any order, with commas, semicolons or
tabs between. UTF-8, up to 100,000 rows. A row whose reference the event has is left out, so the same file can be imported
again; rows without a reference are new tickets each time.

  manage.py tickets import guests.csv --event summer-night --dry-run    say what would be done
  manage.py tickets import guests.csv --event summer-night              do it

Exit codes: 0 done, 1 nothing was imported, 2 misuse.
"""


class Command(BaseCommand):
    """Do what the admin's import page does, for a file of this machine."""

    help = "Import tickets from a CSV. Exit codes: 0 done, 1 nothing was imported, 2 misuse."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the subcommand."""
        commands = parser.add_subparsers(dest="do", required=True, metavar="import")
        reading = commands.add_parser(
            "import",
            help="all tickets of a CSV, or none",
            description=IMPORT_HELP,
            formatter_class=RawDescriptionHelpFormatter,
        )
        reading.add_argument("file", metavar="FILE", type=Path, help="the CSV")
        reading.add_argument("--event", metavar="SLUG", required=True, help="the event, by its slug")
        reading.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")

    def handle(self, *args: Any, file: Path, event: str, dry_run: bool, **options: Any) -> None:
        """Check the file, then issue what is in it."""
        found = Event.objects.filter(slug=event).first()
        if found is None:
            raise CommandError(f"There is no event {event}.", returncode=2)
        start_s = time.monotonic()
        try:
            csv = file.open("rb")
        except OSError as error:
            raise CommandError(f"{error.strerror}: {file}", returncode=2) from error
        with csv, tempfile.TemporaryFile("w+") as spool:
            checked = importing.check(
                csv,
                spool,
                kinds=importing.kinds_of(found),
                tell=lambda rows: terminal.show(self.stderr, f"Checking: {rows:,} rows"),
            )
            for problem in checked.first_errors:
                where = f"line {problem.line}" + (f", {problem.column}" if problem.column else "")
                self.stderr.write(f"{where}: {problem.message}")
            outcome = importing.issue(
                event_id=found.id,
                spool=spool,
                now=timezone.now(),
                is_dry=dry_run or checked.errors > 0,
                tell=lambda rows: terminal.show(self.stderr, f"Issuing: {terminal.bar(rows / checked.rows)}"),
            )
        terminal.show(self.stderr, "")
        numbers = (
            f"{checked.rows:,} rows: {outcome.new:,} new, {outcome.already:,} already issued, "
            f"{checked.same:,} repeated, {checked.errors:,} errors"
        )
        if checked.errors or outcome.refused:
            raise CommandError(f"Nothing imported. {numbers}. {outcome.refused}".rstrip())
        done = "Would import" if dry_run else "Imported"
        self.stdout.write(f"{done} {outcome.new:,} tickets. {numbers}; {time.monotonic() - start_s:.1f} s.")
