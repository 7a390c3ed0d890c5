"""Every named statement runs, by its index, and keeps the rules of the hot tables."""

import re
from importlib.resources import files

import pytest
from django.db import connection

from analytics import queries
from core import db, sql
from tests.conftest import HOT_TABLES
from tests.factories import NOW

APPS = ["health", "tickets", "analytics"]
STATEMENTS = {f"{app}.{name}": text for app in APPS for name, text in sql.load(app).items()}
HOT = set(HOT_TABLES)
# Of all events: read by people, never at the gate.
OF_ALL_EVENTS = {f"analytics.all_{name}" for name in ("changes", "sums", "totals", "trends")}
BINDS = {
    "event_id": 1,
    "slug": "x",
    "process": "none",
    "recorded_at": NOW,
    "issued_at": NOW,
    "seen_at": NOW,
    "token_hashes": [b"x" * 32],
    "ticket_ids": [1, 2],
    "nonces": ["a", "b"],
    "gate_ids": [1, 1],
    "device_ids": [1, 1],
    "directions": ["entry", "entry"],
    "verdicts": ["refused", "refused"],
    "reasons": ["void", "void"],
    "codes": [None, None],
    "scanned_ats": [NOW, NOW],
    "admitted_ats": [NOW, NOW],
    "admitted_gate_ids": [1, 1],
    "insides": [True, True],
    "passed_ats": [NOW, NOW],
    "holders": ["a", "b"],
    "emails": ["", ""],
    "kinds": ["", ""],
    "references": [None, None],
    "user_ids": [None, None],
    "happened_ats": [NOW, NOW],
    "offlines": [True, True],
    "reentrys": [False, False],
    "forced_overs": [None, None],
    "force_reasons": [None, None],
    "noticed_at": NOW,
    "device_id": 1,
    "offset_ms": 5,
    "measured_at": NOW,
    "before_id": None,
    "verdict": None,
    "gate": None,
    "page": 10,
    "open_only": True,
    "conflict_id": 1,
    "signed_off_at": NOW,
    "signed_off_by": "a",
    "note": "b",
    "slot": 1,
    "now": NOW,
    "counted_at": NOW,
    "span_mins": [1, 15],
    "sinces": [NOW, NOW],
    **{number: [1, 1] for number in queries.NUMBERS},
    "last_ats": [NOW, NOW],
    "scanneds": [True, True],
    "after_id": 0,
    "name": "Gate",
    "recent_from": NOW,
    "gate_id": 0,
    "span_min": 15,
    "starts": [NOW],
    "until": NOW,
    "since": NOW,
    "zone": "Asia/Kathmandu",
    "peak_from": NOW,
    "half_life_s": 3600,
    "ticket_id": 1,
}


def header(name):
    app, _, statement = name.partition(".")
    text = sql._HEADER.split(files(app).joinpath("queries.sql").read_text())
    return dict(zip(text[1::3], text[2::3], strict=True))[statement]


def indexes_named(name):
    return set(re.findall(r"\b(\w+_(?:pkey|key|idx|once\w*))\b", header(name).partition("-- Index:")[2]))


def hot_tables(text):
    return set(re.findall(r"\b(?:FROM|JOIN|UPDATE|INTO)\s+(\w+)", text)) & HOT


@pytest.fixture
def plenty(db):
    """Enough rows that the planner would notice a missing index: on empty tables it takes any."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO event (id, name, slug, time_zone, doors_at, starts_at, ends_at)
                 SELECT e, 'Event', 'e' || e, 'UTC', now(), now(), now() + interval '1 hour'
                   FROM generate_series(1, 1000) AS e;
            INSERT INTO auth_user (id, username, password, first_name, last_name, email, is_superuser, is_staff,
                                   is_active, date_joined)
                 SELECT u, 'user' || u, '', '', '', '', FALSE, TRUE, TRUE, now() FROM generate_series(1, 1000) AS u;
            INSERT INTO gate (id, event_id, name) SELECT e, e, 'Gate' FROM generate_series(1, 1000) AS e;
            INSERT INTO device (id, gate_id, name, token_hash, created_at)
                 SELECT d, d % 1000 + 1, 'Scanner', sha256(CAST('t' || d AS bytea)), now()
                   FROM generate_series(1, 3000) AS d;
            INSERT INTO ticket (event_id, id, holder, email, kind, reference, issued_at, inside)
                 SELECT n % 80 + 1, n, 'Ada', '', '', 'r' || n, now(), FALSE FROM generate_series(1, 8000) AS n;
            INSERT INTO ticket_scans (event_id, ticket_id, gate_id, device_id, nonce, direction, verdict, reason,
                                      scanned_at, recorded_at, happened_at, offline)
                 SELECT event_id, id, event_id, 1, 'n' || id, 'entry', CASE WHEN id % 8 = 0 THEN 'refused' ELSE 'admitted' END,
                        CASE WHEN id % 8 = 0 THEN 'void' END, now(), now(), now(), FALSE
                   FROM ticket;
            INSERT INTO ticket_kind (id, event_id, name) SELECT e, e, 'VIP' FROM generate_series(1, 1000) AS e;
            INSERT INTO gate_kind (gate_id, kind_id) SELECT e, e FROM generate_series(1, 1000) AS e;
            INSERT INTO scan_conflicts (event_id, scan_id, ticket_id, reason, noticed_at, signed_off_by, note)
                 SELECT event_id, id, ticket_id, 'void', now(), '', '' FROM ticket_scans;
            INSERT INTO event_counts
                 SELECT e % 100 + 1, e % 3, 15 * (e % 2), now() - e * interval '1 minute', 1, 1, now(), 1, 1, 1, 1, 1, 1, 1, 1,
                        1, 1, 1
                   FROM generate_series(1, 20000) AS e;
            INSERT INTO refusal_counts
                 SELECT e % 100 + 1, e, 1, 'void', 1, 1 FROM generate_series(1, 10000) AS e;
            INSERT INTO refused_codes
                 SELECT e % 100 + 1, e, '', e % 9, now(), 'void' FROM generate_series(1, 10000) AS e;
            INSERT INTO ticket_transfers (event_id, from_ticket_id, to_ticket_id, transferred_at, transferred_by)
                 SELECT e % 100 + 1, e, e + 1, now(), '' FROM generate_series(1, 10000) AS e;
            -- What other tests rolled back has left their pages half empty, which decides between two that cost the same.
            REINDEX TABLE scan_conflicts;
            ANALYZE event_counts, refusal_counts, refused_codes, ticket_transfers;
            ANALYZE event, auth_user, gate, device, ticket, ticket_scans, ticket_kind, gate_kind, scan_conflicts
            """
        )


def plan_of(conn, statement):
    binds = {bind: BINDS[bind] for bind in re.findall(r"%\((\w+)\)s", statement)}
    return "\n".join(row[0] for row in conn.exec_driver_sql(f"EXPLAIN {statement}", binds))


def is_by_index(name, plan):
    used = set(re.findall(r"(?:using|Index Scan on|Arbiter Indexes:) (\w+)", plan))
    may_read_all = "-- Index: none" in header(name)
    return indexes_named(name) <= used and (may_read_all or "Seq Scan" not in plan)


@pytest.mark.uncounted
def test_every_statement_is_planned_with_the_index_that_its_header_names(plenty):
    with db.begin() as conn:
        plans = {name: plan_of(conn, statement) for name, statement in STATEMENTS.items()}

    others = [f"{name}\n{plan}" for name, plan in plans.items() if not is_by_index(name, plan)]
    assert not others, "\n\n".join(others)


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_header_says_what_a_caller_needs(name):
    assert re.match(
        r"-- (One row|No rows).*?^-- Binds: .*?^-- Index: ", header(name), re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize(
    "name", [name for name, text in STATEMENTS.items() if hot_tables(text) and name not in OF_ALL_EVENTS]
)
def test_a_statement_on_hot_tables_is_about_one_event_and_portable(name):
    text = re.sub(r"%\((\w+)\)s", r":\1", STATEMENTS[name])

    named = len(re.findall(r"event_id = :event_id|(SELECT CAST|VALUES )\(:event_id", text))
    assert named >= len(hot_tables(text))
    clocks = r"\b(now|clock_timestamp|current_\w+|local\w+|random|nextval|xmax)\b"
    assert not re.search(clocks, text, re.IGNORECASE)
    if "FOR UPDATE" in text:
        assert re.search(r"id = ANY\(CAST\(:ticket_ids AS bigint\[\]\)\)\s+ORDER BY id\s+FOR UPDATE", text)


def test_the_loader_refuses_two_statements_of_one_name(tmp_path, monkeypatch):
    (tmp_path / "queries.sql").write_text("-- name: a\nSELECT 1;\n\n-- name: a\nSELECT 2;\n")
    monkeypatch.setattr(sql, "files", lambda _app: tmp_path)

    with pytest.raises(ValueError, match="a name of its own"):
        sql.load("any")
