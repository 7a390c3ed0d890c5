"""The stage of bench.scan: a database with an event whose doors are open, copied afresh for every contestant.

`python -m bench.scan_stage <folder> <tickets>` fills the database of DATABASE_URL, by the site's own functions, and
writes codes.txt and tokens.txt for wrk. pgbench finds the same in bench_code.
"""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
import sys
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.environments import ROOT, VAR
from bench.server import Server
from core.environment import socket_url

SEED, GATE = "scan_seed", "scan_gate"
MAX_CONNECTIONS = 100  # PostgreSQL's default, which the site is made for
DEVICES, GATES = 20, 5
RATE_PER_S = 100_000  # twenty devices stand for a crowd of them; their rate is looked at all the same
# Half of yesterday's event, half by people who came early tonight: indexes have a depth, and the planner knows both
# events. Of one that it never saw it expects no rows, and may look nonces up in the wrong index.
LOGGED_BEFORE = 100_000
PER_CALL = 1000


class Stage:
    """A PostgreSQL that is filled once."""

    def __init__(self, server: Server, tickets: int) -> None:
        self.server = server
        self.tickets = tickets
        self.folder = VAR / "scan"
        self.keys = f"1:{base64.b64encode(secrets.token_bytes(32)).decode()}"

    def fill(self) -> None:
        """Make the database that is copied."""
        self.folder.mkdir(exist_ok=True)
        with self.server.asking("postgres") as cursor:
            cursor.execute(f"ALTER SYSTEM SET max_connections = {MAX_CONNECTIONS}")
            cursor.execute(f"CREATE DATABASE {SEED}")
        self.server.stop()
        self.server.start_again()
        command = [sys.executable, "-m", "bench.scan_stage", str(self.folder), str(self.tickets)]
        subprocess.run(command, cwd=ROOT, env=self.environment(SEED), check=True)

    def renew(self) -> None:
        """Copy it for the next contestant."""
        with self.server.asking("postgres") as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {GATE} WITH (FORCE)")
            cursor.execute(f"CREATE DATABASE {GATE} TEMPLATE {SEED} STRATEGY file_copy")
            cursor.execute("CHECKPOINT")

    def environment(self, database: str = GATE) -> dict[str, str]:
        """Return the environment of a process that works on the database."""
        variables = self.server.environment
        url = socket_url(Path(variables["PGHOST"]), user=variables["PGUSER"], name=database)
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PG", "POOL_"))},
            **variables,
            "PGDATABASE": database,
            "DATABASE_URL": url,
            "DJANGO_SETTINGS_MODULE": "qrsite.settings",
            "QR_SIGNING_KEYS": self.keys,
            "VAR_DIR": str(VAR / "site"),
        }

    def admissions(self) -> tuple[int, int, int]:
        """Count what the log admitted, the tickets that it admitted more than once, and those whose row disagrees."""
        with self.server.asking(GATE) as cursor:
            cursor.execute("""
                WITH log AS (
                  SELECT event_id, ticket_id, count(*) AS times
                    FROM ticket_scans
                   WHERE verdict = 'admitted' AND direction = 'entry' AND annulled_at IS NULL AND event_id = (SELECT max(id) FROM event)
                GROUP BY event_id, ticket_id
                )
                SELECT coalesce(sum(times), 0), count(*) FILTER (WHERE times > 1),
                       count(*) FILTER (WHERE (times IS NULL) <> (ticket.admitted_at IS NULL))
                  FROM ticket LEFT JOIN log ON log.event_id = ticket.event_id AND log.ticket_id = ticket.id""")
            admitted, twice, torn = cursor.fetchone()
        return int(admitted), twice, torn


def _fill(folder: Path, tickets: int) -> None:
    import_module("django").setup()
    connection: Any = import_module("django.db").connection
    models, tokens = import_module("tickets.models"), import_module("tickets.tokens")
    issuing, timezone = import_module("tickets.issuing"), import_module("django.utils.timezone")
    import_module("django.core.management").call_command("migrate", interactive=False, verbosity=0)
    now = timezone.now()
    for name, doors_at in (("Yesterday", now - timedelta(days=1)), ("Tonight", now - timedelta(hours=1))):
        times = {"doors_at": doors_at, "starts_at": doors_at, "ends_at": doors_at + timedelta(hours=12)}
        event = models.Event.objects.create(
            name=name, slug=name.lower(), time_zone="Europe/Berlin", capacity=None, **times
        )
    kinds = [models.Kind.objects.create(event=event, name=name) for name in ("standard", "VIP")]
    gates = [models.Gate.objects.create(event=event, name=f"Gate {number + 1}") for number in range(GATES)]
    gates[0].kinds.set(kinds)  # one whose tickets' kinds are looked at
    secret = [tokens.new_token(tokens.DEVICE_PREFIX) for _ in range(DEVICES)]
    for number, token in enumerate(secret):
        models.Device.objects.create(
            gate=gates[number % GATES],
            name=f"Scanner {number + 1}",
            token_hash=tokens.token_hash(token),
            rate_per_s=RATE_PER_S,
        )
    ids: list[int] = []
    for start in range(0, tickets, PER_CALL):
        wishes = [
            issuing.Wish(f"Guest {number}", f"guest-{number}@example.org", "standard", f"order-{number}")
            for number in range(start, min(start + PER_CALL, tickets))
        ]
        issued = issuing.issue(event_id=event.id, wishes=wishes, now=now)
        ids += [ticket.ticket_id for ticket in issued]
    codes = [issuing.code_of(event_id=event.id, ticket_id=ticket_id) for ticket_id in ids]
    (folder / "codes.txt").write_text("".join(f"{code}\n" for code in codes))
    (folder / "tokens.txt").write_text("".join(f"{token}\n" for token in secret))
    hashes = [tokens.token_hash(token) for token in secret]
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO ticket_scans (event_id, nonce, ticket_id, gate_id, device_id, direction, verdict, reason,"
            "                          code, scanned_at, recorded_at, happened_at, offline)"
            " SELECT %s - n %% 2, 'before-' || n, (random() * 9e18)::bigint, 1, 1, 'entry', 'refused', 'too_early', NULL,"
            "        %s, %s, %s, FALSE"
            "   FROM generate_series(1, %s) AS n",
            [event.id, *[now - timedelta(hours=1)] * 3, LOGGED_BEFORE],
        )
        cursor.execute(
            "CREATE TABLE bench_code (n integer PRIMARY KEY, ticket_id bigint NOT NULL, token_hash bytea NOT NULL)"
        )
        cursor.execute(
            "INSERT INTO bench_code SELECT n - 1, id, (%s::bytea[])[1 + n %% %s]"
            "  FROM unnest(%s::bigint[]) WITH ORDINALITY AS ticket (id, n)",
            [hashes, DEVICES, ids],
        )
        cursor.execute("VACUUM (ANALYZE)")


if __name__ == "__main__":
    _fill(Path(sys.argv[1]), int(sys.argv[2]))
