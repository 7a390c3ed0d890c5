"""The archive of bench.stats: two databases that differ in how many scans they hold, and in nothing else.

`python -m bench.stats_stage` makes the tables and the events of both, by the site's own models, and prints a service's
token. Tickets and scans are written past the site, by SQL, without their counters: building those is a case of the bench.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

from bench.environments import ROOT
from bench.scan_stage import Stage

EVENTS, GATES, DEVICES = 50, 10, 20
SEED, SMALL, LARGE = "stats_seed", "stats_small", "stats_large"
SMALL_SCANS = 100_000
WRITERS = 2
HOURS = 8
_HOT = ("ticket", "ticket_scans")
_FILL = (ROOT / "bench" / "stats_fill.sql").read_text()
# Only while it is filled: nobody would miss what a crash took.
_FAST = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "max_wal_size": "'16GB'"}
_SESSION = (
    "SET synchronous_commit = off; SET work_mem = '256MB'; SET maintenance_work_mem = '1GB';"
    " SET max_parallel_maintenance_workers = 2"
)
_CONFLICTS = """
    INSERT INTO scan_conflicts (event_id, scan_id, ticket_id, reason, noticed_at, signed_off_by, note)
         SELECT event.id, scan.id, scan.ticket_id, scan.reason, scan.recorded_at, '', ''
           FROM event
     CROSS JOIN LATERAL (SELECT id, ticket_id, reason, recorded_at
                           FROM ticket_scans
                          WHERE event_id = event.id AND verdict = 'refused' AND ticket_id IS NOT NULL
                       ORDER BY id
                          LIMIT 10) AS scan"""


class Archive:
    """The databases, made when a case first asks for them."""

    def __init__(self, stage: Stage, scans: int) -> None:
        self.stage, self.server = stage, stage.server
        self.sizes = {SMALL: SMALL_SCANS, LARGE: scans}
        self.token = ""
        self.filled_s: dict[str, float] = {}
        self.built: dict[str, Any] = {}  # by database: what came of counting it

    def seed(self) -> None:
        """Make the database that the others are copies of: tables, events, gates and devices."""
        if self.token:
            return
        with self.server.asking("postgres") as cursor:
            cursor.execute(f"CREATE DATABASE {SEED}")
        command = [sys.executable, "-m", "bench.stats_stage"]
        done = subprocess.run(
            command, cwd=ROOT, env=self.stage.environment(SEED), check=True, stdout=subprocess.PIPE, text=True
        )
        self.token = done.stdout.strip()

    def copy(self, name: str) -> None:
        """Make a database without tickets, afresh."""
        self.seed()
        with self.server.asking("postgres") as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            cursor.execute(f"CREATE DATABASE {name} TEMPLATE {SEED}")

    def fill(self, progress: Callable[[str], None]) -> None:
        """Draw both, as fast as PostgreSQL writes; the second time, do nothing."""
        if self.filled_s:
            return
        with self._hasty():
            for name, scans in self.sizes.items():
                began_s = time.monotonic()
                self.copy(name)
                with self._without_indexes(name, progress):
                    self._draw(name, scans // EVENTS, progress)
                progress(f"{name}: VACUUM ANALYZE")
                with self.server.asking(name) as cursor:
                    cursor.execute(_CONFLICTS)
                    cursor.execute("VACUUM (ANALYZE)")
                self.filled_s[name] = round(time.monotonic() - began_s, 1)

    def _draw(self, name: str, scans: int, progress: Callable[[str], None]) -> None:
        with self.server.asking(name) as cursor:
            cursor.execute("SELECT id, doors_at FROM event ORDER BY id")
            events = cursor.fetchall()
        done: list[int] = []

        def draw(writer: int) -> None:
            with self.server.asking(name) as cursor:
                cursor.execute(_SESSION)
                cursor.execute("SELECT setseed(%s)", [0.1 * writer])
                for event_id, doors_at in events[writer::WRITERS]:
                    cursor.execute(_FILL, {"event_id": event_id, "scans": scans, "doors_at": doors_at})
                    done.append(event_id)
                    progress(f"{name}: {len(done) * scans:,} scans drawn")

        with ThreadPoolExecutor(WRITERS) as executor:
            list(executor.map(draw, range(WRITERS)))

    @contextmanager
    def _hasty(self) -> Iterator[None]:
        def configure(*statements: str) -> None:
            with self.server.asking("postgres") as cursor:
                for statement in (*statements, "SELECT pg_reload_conf()"):
                    cursor.execute(statement)

        configure(*(f"ALTER SYSTEM SET {setting} = {value}" for setting, value in _FAST.items()))
        try:
            yield
        finally:
            configure("CHECKPOINT", *(f"ALTER SYSTEM RESET {setting}" for setting in _FAST))

    @contextmanager
    def _without_indexes(self, name: str, progress: Callable[[str], None]) -> Iterator[None]:
        """Drop the hot tables' indexes, and make them again at the end: sorted they take a tenth of the time."""
        with self.server.asking(name) as cursor:
            cursor.execute(
                "SELECT conrelid::regclass, conname, pg_get_constraintdef(oid) FROM pg_constraint"
                " WHERE conrelid = ANY(%s::regclass[]) AND contype IN ('p', 'u')",
                [list(_HOT)],
            )
            constraints = cursor.fetchall()
            for table, constraint, _ in constraints:
                cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}")
            cursor.execute(
                "SELECT indexrelid::regclass, pg_get_indexdef(indexrelid) FROM pg_index"
                " WHERE indrelid = ANY(%s::regclass[])",
                [list(_HOT)],
            )
            indexes = cursor.fetchall()
            for index, _ in indexes:
                cursor.execute(f"DROP INDEX {index}")
            yield
            cursor.execute(_SESSION)
            for table, constraint, words in constraints:
                progress(f"{name}: {constraint}")
                cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT {constraint} {words}")
            for index, words in indexes:
                progress(f"{name}: {index}")
                cursor.execute(words)


def _seed() -> str:
    import_module("django").setup()
    models, tokens = import_module("tickets.models"), import_module("tickets.tokens")
    import_module("django.core.management").call_command("migrate", interactive=False, verbosity=0)
    live_from = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=HOURS - 0.5)
    for number in range(1, EVENTS + 1):
        doors_at = live_from - timedelta(days=EVENTS - number)
        event = models.Event.objects.create(
            name=f"Event {number}",
            slug=f"event-{number}",
            time_zone="Europe/Berlin",
            doors_at=doors_at,
            starts_at=doors_at + timedelta(hours=1),
            ends_at=doors_at + timedelta(hours=HOURS + 4),
            reentry="always",
        )
        gates: list[Any] = [
            models.Gate.objects.create(event=event, name=f"Gate {place + 1:02}") for place in range(GATES)
        ]
        models.Device.objects.bulk_create(
            models.Device(
                gate=gates[place % GATES],
                name=f"Scanner {place + 1:02}",
                token_hash=tokens.token_hash(tokens.new_token(tokens.DEVICE_PREFIX)),
            )
            for place in range(DEVICES)
        )
    token: str = tokens.new_token(tokens.SERVICE_PREFIX)
    models.ServiceToken.objects.create(
        name="bench", scopes=["stats:read", "tickets:read"], token_hash=tokens.token_hash(token)
    )
    return token


if __name__ == "__main__":
    print(_seed())  # noqa: T201
