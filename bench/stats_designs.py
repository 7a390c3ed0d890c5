"""Ways to keep counters exact, on the same batches: what docs/adr/0017 decided by.

`python -m bench.stats_designs <design> <worker> <begin at, Unix seconds> <seconds>` is one process on one connection; worker
0 reads, and folds where the design needs that, the others record batches. It prints one object.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, NamedTuple

SCANS, REFUSED_SHARE = 32, 0.08
FOLDS_EVERY_S, FOLDED_AT_ONCE = 0.2, 20_000
NOTHING, SLOTS, QUEUE = "no counting", "slots", "delta queue"
DESIGNS = (NOTHING, SLOTS, QUEUE)
TABLE = """
    CREATE TABLE bench_delta (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id integer NOT NULL, what text NOT NULL,
        gate_id integer, device_id integer, since timestamptz, ticket_id bigint, code text, reason text,
        a bigint, b bigint, c bigint, d bigint)"""
_APPEND = """
    INSERT INTO bench_delta (event_id, what, gate_id, device_id, since, ticket_id, code, reason, a, b, c, d)
         SELECT %(event_id)s, * FROM unnest(%(what)s::text[], %(gate)s::int[], %(device)s::int[], %(since)s::timestamptz[], %(ticket)s::bigint[],
                                            %(code)s::text[], %(reason)s::text[], %(a)s::bigint[], %(b)s::bigint[],
                                            %(c)s::bigint[], %(d)s::bigint[])"""
_COLUMNS = ("what", "gate", "device", "since", "ticket", "code", "reason", "a", "b", "c", "d")
# One folder, so it needs no slots, and nobody waits for it; still in key order, as everybody.
_FOLD = """
WITH taken AS (
       DELETE FROM bench_delta
             WHERE id = ANY(ARRAY(SELECT id FROM bench_delta ORDER BY id LIMIT %(rows)s))
         RETURNING *
     ),
     counts AS (
       INSERT INTO event_counts AS kept
            SELECT event_id, gate, span_min, began, 0, count(*), %(now)s, sum(entries), sum(exits), sum(admitted), sum(refused),
                   0, 0, 0, sum(missing), sum(inside), sum(scanned), sum(annulled)
              FROM (SELECT event_id, place.gate_id AS gate, span_min,
                           CASE span_min WHEN 0 THEN TIMESTAMPTZ '1970-01-01 00:00Z'
                                         ELSE date_bin(make_interval(mins => span_min), since, TIMESTAMPTZ '1970-01-01 00:00Z')
                                         END AS began,
                           a AS entries, b AS exits, c AS admitted, d AS refused, 0 AS missing, 0 AS inside, 0 AS scanned,
                           0 AS annulled
                      FROM taken, (VALUES (0), (1), (15)) AS length (span_min), LATERAL (VALUES (0), (taken.gate_id)) AS place (gate_id)
                     WHERE what = 'scans'
                   UNION ALL
                    SELECT event_id, 0, 0, TIMESTAMPTZ '1970-01-01 00:00Z', 0, 0, 0, 0, a, b, c, d
                      FROM taken
                     WHERE what = 'event') AS delta
          GROUP BY event_id, gate, span_min, began
          ORDER BY event_id, gate, span_min, began
       ON CONFLICT (event_id, gate_id, span_min, since, slot) DO UPDATE
               SET changes = kept.changes + EXCLUDED.changes, changed_at = EXCLUDED.changed_at,
                   entries = kept.entries + EXCLUDED.entries, exits = kept.exits + EXCLUDED.exits,
                   admitted = kept.admitted + EXCLUDED.admitted, refused = kept.refused + EXCLUDED.refused,
                   missing = kept.missing + EXCLUDED.missing, inside = kept.inside + EXCLUDED.inside,
                   scanned = kept.scanned + EXCLUDED.scanned, annulled = kept.annulled + EXCLUDED.annulled
     ),
     refusals AS (
       INSERT INTO refusal_counts AS kept (event_id, gate_id, device_id, reason, slot, refused)
            SELECT event_id, gate_id, device_id, reason, 0, sum(a) FROM taken
             WHERE what = 'refused' GROUP BY event_id, gate_id, device_id, reason ORDER BY event_id, gate_id, device_id, reason
       ON CONFLICT (event_id, gate_id, device_id, reason, slot) DO UPDATE SET refused = kept.refused + EXCLUDED.refused
     ),
     codes AS (
       INSERT INTO refused_codes AS kept (event_id, ticket_id, code, refused, last_at, reason)
            SELECT event_id, ticket_id, code, sum(a), max(since), (array_agg(reason ORDER BY since DESC, id DESC))[1] FROM taken
             WHERE what = 'refused' GROUP BY event_id, ticket_id, code ORDER BY event_id, ticket_id, code
       ON CONFLICT (event_id, ticket_id, code) DO UPDATE
               SET refused = kept.refused + EXCLUDED.refused, last_at = greatest(kept.last_at, EXCLUDED.last_at),
                   reason = CASE WHEN EXCLUDED.last_at >= kept.last_at THEN EXCLUDED.reason ELSE kept.reason END
     )
SELECT count(*) FROM taken"""
_KEPT = (
    "SELECT entries, refused FROM event_counts WHERE event_id = %(event_id)s AND gate_id = 0 AND span_min = 0"
)
_PENDING = "SELECT a, d FROM bench_delta WHERE event_id = %(event_id)s AND what = 'scans'"
READ = {
    SLOTS: f"SELECT sum(entries), sum(refused) FROM ({_KEPT}) AS kept",  # noqa: S608
    QUEUE: f"SELECT sum(entries), sum(refused) FROM ({_KEPT} UNION ALL {_PENDING}) AS kept",  # noqa: S608
}


class _Ticket(NamedTuple):
    """What counts of a ticket."""

    voided_at: datetime | None = None
    transferred_at: datetime | None = None
    admitted_at: datetime | None = None
    admitted_gate_id: int | None = None
    inside: bool = False
    scanned: bool = False


def record(design: str, worker: int, until_s: float) -> dict[str, Any]:
    """Record batches of one event, each in a transaction with what it changes in the counters."""
    db, queries = import_module("core.db"), import_module("analytics.queries")
    tally_of = {NOTHING: _Nothing, SLOTS: import_module("analytics.counters").Tally, QUEUE: _queued}[design]
    chance = random.Random(worker)
    event_id, devices = _where(db)
    batches = 0
    with db.within(3600):  # holds its one connection
        while time.time() < until_s:
            now = datetime.now(UTC)
            records = [
                _record(queries, chance, f"{worker}-{batches}-{place}", *chance.choice(devices), now)
                for place in range(SCANS)
            ]
            tally = tally_of(event_id)
            with db.begin() as conn:
                queries.record_scans(conn, event_id=event_id, scans=records, recorded_at=now)
                tally.scanned(records)
                for one in records:
                    if one.verdict == "admitted":
                        came_in = _Ticket(
                            admitted_at=now, admitted_gate_id=one.gate_id, inside=True, scanned=True
                        )
                        tally.changed(_Ticket(), came_in)
                tally.add(conn, now=now)
            batches += 1
    return {"batches": batches}


def read(design: str, until_s: float) -> dict[str, Any]:
    """Ask for an event's totals again and again where they are counted; before that, fold what is pending."""
    db = import_module("core.db")
    event_id, _ = _where(db)
    reads_ms, folds_ms = [], []
    with db.within(3600):
        while time.time() < until_s:
            began_s = time.monotonic()
            if design == QUEUE:
                with db.begin() as conn:
                    conn.exec_driver_sql(_FOLD, {"rows": FOLDED_AT_ONCE, "now": datetime.now(UTC)})
                folds_ms.append((time.monotonic() - began_s) * 1000)
            if design in READ:
                asked_s = time.monotonic()
                with db.begin() as conn:
                    conn.exec_driver_sql(READ[design], {"event_id": event_id}).one()
                reads_ms.append((time.monotonic() - asked_s) * 1000)
            with suppress(ValueError):
                time.sleep(FOLDS_EVERY_S - (time.monotonic() - began_s))
    return {"read_ms": _median(reads_ms), "fold_ms": _median(folds_ms)}


def _median(millis: list[float]) -> float | None:
    return round(statistics.median(millis), 2) if millis else None


def _where(db: Any) -> tuple[int, list[tuple[int, int]]]:
    """Return the last event, and its devices with their gates."""
    with db.begin() as conn:
        event_id: int = conn.exec_driver_sql("SELECT max(id) FROM event").scalar_one()
        devices = "SELECT device.id, gate_id FROM device JOIN gate ON gate.id = gate_id WHERE event_id = %s"
        return event_id, [tuple(row) for row in conn.exec_driver_sql(devices, (event_id,))]


def _record(queries: Any, chance: random.Random, nonce: str, device: int, gate: int, now: datetime) -> Any:
    ticket, is_refused = chance.randrange(1, 2**63), chance.random() < REFUSED_SHARE
    is_read = not is_refused or chance.random() < 0.7
    made = queries.ScanRecord(
        nonce=nonce,
        ticket_id=ticket if is_read else None,
        gate_id=gate,
        device_id=device,
        user_id=None,
        direction="entry",
        verdict="refused" if is_refused else "admitted",
        reason=("already_admitted" if is_read else "unreadable") if is_refused else None,
        code=None if is_read else f"https://example.org/poster-{chance.randrange(100)}",
        scanned_at=now,
        happened_at=now,
        offline=False,
        reentry=False,
        forced_over=None,
        force_reason=None,
    )
    return made


class _Nothing:
    """What counts nothing."""

    def __init__(self, event_id: int) -> None:
        """Take what a tally takes."""

    def scanned(self, _records: Iterable[Any]) -> None: ...
    def changed(self, _before: Any, _after: Any) -> None: ...
    def add(self, _conn: Any, *, now: datetime) -> None: ...


def _queued(event_id: int) -> Any:
    """Return a tally that appends what it holds, for somebody to fold."""
    tally_class: Any = import_module("analytics.counters").Tally

    class Queued(tally_class):  # type: ignore[misc]
        def scanned(self, records: Iterable[Any]) -> None:
            self.refused = Counter(
                (one.gate_id, one.device_id, one.happened_at, one.ticket_id or 0, one.code or "", one.reason)
                for one in records
                if one.verdict == "refused"
            )
            super().scanned(records)

        def add(self, conn: Any, *, now: datetime) -> None:
            tickets = self._tickets
            rows: list[tuple[Any, ...]] = [
                (
                    "event",
                    *[None] * 6,
                    *[tickets[name] for name in ("missing", "inside", "scanned", "annulled")],
                )
            ]
            for (gate_id, minute), cell in self._minutes.items():
                rows.append(("scans", gate_id, None, minute, *[None] * 3, *cell))
            rows += [("refused", *key, times, None, None, None) for key, times in self.refused.items()]
            columns = dict(zip(_COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
            conn.exec_driver_sql(_APPEND, {"event_id": self.event_id, **columns})

    return Queued(event_id)


if __name__ == "__main__":
    import_module("django").setup()
    _design, _worker, _begin_at_s, _seconds = (
        sys.argv[1],
        int(sys.argv[2]),
        float(sys.argv[3]),
        float(sys.argv[4]),
    )
    time.sleep(max(_begin_at_s - time.time(), 0))
    _until_s = _begin_at_s + _seconds
    _found = record(_design, _worker, _until_s) if _worker else read(_design, _until_s)
    print(json.dumps(_found))  # noqa: T201
