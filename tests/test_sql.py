"""Every named statement runs, by its index, and keeps the rules of the hot tables."""

import re
from importlib.resources import files

import pytest
import sqlalchemy
from sqlalchemy.dialects import postgresql

from core import db, sql
from tests.factories import NOW

APPS = ["core", "tickets", "analytics"]
STATEMENTS = {f"{app}.{name}": text for app in APPS for name, text in sql.load(app).items()}
HOT = {"ticket", "ticket_scans"}
BINDS = {
    "event_id": 1,
    "slug": "x",
    "recorded_at": NOW,
    "issued_at": NOW,
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
    "holders": ["a", "b"],
    "emails": ["", ""],
    "kinds": ["", ""],
    "references": [None, None],
}


def header(name):
    app, _, statement = name.partition(".")
    text = sql._HEADER.split(files(app).joinpath("queries.sql").read_text())
    return dict(zip(text[1::3], text[2::3], strict=True))[statement]


def indexes_named(name):
    return set(re.findall(r"\b(\w+_(?:pkey|key|idx|once\w*))\b", header(name).partition("-- Index:")[2]))


def hot_tables(text):
    return set(re.findall(r"\b(?:FROM|JOIN|UPDATE|INTO)\s+(\w+)", text)) & HOT


@pytest.mark.django_db
@pytest.mark.parametrize("name", STATEMENTS)
def test_every_statement_is_planned_with_the_index_that_its_header_names(name):
    statement = STATEMENTS[name]
    binds = {bind: BINDS[bind] for bind in statement.compile(dialect=postgresql.dialect()).params}

    with db.begin() as conn:
        # Tables are empty here: without this the planner reads them whole.
        conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
        rows = conn.execute(sqlalchemy.text(f"EXPLAIN {statement.text}"), binds)
        plan = "\n".join(row[0] for row in rows)

    used = set(re.findall(r"(?:using|Index Scan on|Arbiter Indexes:) (\w+)", plan))
    assert indexes_named(name) <= used, plan


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_header_says_what_a_caller_needs(name):
    assert re.match(
        r"-- (One row|No rows).*?^-- Binds: .*?^-- Index: ", header(name), re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize("name", [name for name, text in STATEMENTS.items() if hot_tables(text.text)])
def test_a_statement_on_hot_tables_is_about_one_event_and_portable(name):
    text = STATEMENTS[name].text

    writes_event = re.search(r"INTO \w+\s+\(event_id", text)
    assert (
        len(re.findall(r"event_id = :event_id|CAST\(:event_id", text)) >= len(hot_tables(text))
        or writes_event
    )
    assert not re.search(r"\b(now|clock_timestamp|random|nextval|xmax)\b", text, re.IGNORECASE)
    if "FOR UPDATE" in text:
        assert re.search(r"id = ANY\(CAST\(:ticket_ids AS bigint\[\]\)\)\s+ORDER BY id\s+FOR UPDATE", text)


def test_the_loader_refuses_two_statements_of_one_name(tmp_path, monkeypatch):
    (tmp_path / "queries.sql").write_text("-- name: a\nSELECT 1;\n\n-- name: a\nSELECT 2;\n")
    monkeypatch.setattr(sql, "files", lambda _app: tmp_path)

    with pytest.raises(ValueError, match="a name of its own"):
        sql.load("any")
