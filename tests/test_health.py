"""Probes answer whoever asks, and the truth."""

import json
import logging
import os
import subprocess
import sys
import threading
import time

import pytest
from django.db import OperationalError, connection
from django.test import Client

from core import db, probe
from core.errors import NotRefusals, OncePerSecond, unexpected
from core.purpose import ADMIN, WEB
from health import fleet
from tests.test_core_db import in_thread


@pytest.fixture(autouse=True)
def afresh():
    probe.database.forget()


PROBES = ["/health/live", "/health/ready", "/health/db"]


@pytest.mark.django_db(transaction=True)
def test_the_database_probe_gives_exactly_the_four_numbers(client):
    connection.close()
    db.engine.dispose()

    response = client.get("/health/db")

    assert response.status_code == 200
    assert response.json() == {"pool_size": 5, "checked_in": 1, "checked_out": 0, "overflow": 0}


@pytest.mark.django_db(transaction=True)
def test_the_numbers_show_what_others_hold(client):
    connection.close()
    db.engine.dispose()
    held = [db.engine.connect() for _ in range(7)]
    try:
        numbers = client.get("/health/db").json()
    finally:
        for conn in held:
            conn.close()

    assert numbers == {"pool_size": 5, "checked_in": 1, "checked_out": 7, "overflow": 3}


@pytest.mark.django_db
def test_a_ready_process_passes_every_check(client):
    response = client.get("/health/ready")

    assert (response.status_code, response.json()) == (
        200,
        {
            "status": "pass",
            "checks": {
                "database": "pass",
                "migrations": "pass",
                "connections": "pass",
                "signing_keys": "pass",
            },
        },
    )


@pytest.mark.django_db
@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("method", ["get", "head"])
def test_a_probe_needs_nothing_and_leaves_nothing(probe, slash, method, settings):
    settings.SECURE_SSL_REDIRECT = True
    client = Client(headers={"host": "10.0.0.7:81, nonsense"})

    response = getattr(client, method)(probe + slash)

    assert (response.status_code, response["Cache-Control"]) == (200, "no-store")
    assert not response.cookies
    assert bool(response.content) == (method == "get")


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_refuses_other_methods(client, probe):
    response = client.post(probe)

    assert (response.status_code, response["Allow"]) == (405, "GET, HEAD")


def test_the_live_probe_does_no_io(client):
    before = db.pool_stats()

    assert client.get("/health/live").json() == {"status": "pass"}
    assert db.pool_stats() == before


ASK_ALL = """
import django, json
django.setup()
from django.test import Client
client = Client(raise_request_exception=False, headers={"Authorization": "Bearer qrs_x", "Host": "localhost"})
for path in PATHS:
    answer = client.get(path)
    print(json.dumps([answer.status_code, answer.json(), answer.get("Retry-After")]))
"""


def ask_without_a_database(*paths):
    environment = {
        **os.environ,
        "DATABASE_URL": "postgres://someone:hunter2@127.0.0.1:1/none",
        "DJANGO_SETTINGS_MODULE": "qrsite.settings",
    }
    process = subprocess.run(
        [sys.executable, "-c", f"PATHS = {paths}{ASK_ALL}"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "hunter2" not in process.stdout + process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


def test_without_a_database_the_probes_say_so_and_no_more():
    assert ask_without_a_database(*PROBES) == [
        [200, {"status": "pass"}, None],
        [
            503,
            {
                "status": "fail",
                "checks": {
                    "database": "fail",
                    "migrations": "fail",
                    "connections": "fail",
                    "signing_keys": "pass",
                },
            },
            "1",
        ],
        [
            503,
            {
                "pool_size": 5,
                "checked_in": 0,
                "checked_out": 0,
                "overflow": 0,
                "error": "The database does not answer.",
            },
            "1",
        ],
    ]


def test_without_a_database_a_request_is_told_when_to_come_back():
    error = {"code": "database_unavailable", "message": "The database does not answer. Please try again."}

    assert ask_without_a_database("/api/v1/events/x/stats") == [[503, {"error": error}, "1"]]


@pytest.mark.django_db(transaction=True)
def test_a_request_that_finds_no_free_connection_is_told_to_come_back(client, monkeypatch):
    connection.close()
    client.raise_request_exception = False
    monkeypatch.setattr(WEB, "timeout_s", 0.05)
    held = [db.engine.connect() for _ in range(15)]

    def ask():
        return client.get("/api/v1/events/x/stats", headers={"Authorization": "Bearer qrs_x"})

    try:
        response = in_thread(ask)
    finally:
        for conn in held:
            conn.close()

    assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
    assert response["Retry-After"] == "1"


@pytest.mark.django_db(transaction=True)
def test_a_person_gets_a_page_and_the_log_one_line_without_a_stack(client, monkeypatch, caplog):
    connection.close()
    client.raise_request_exception = False
    monkeypatch.setattr(ADMIN, "timeout_s", 0.05)
    held = [db.engine.connect() for _ in range(15)]
    try:
        form = {"username": "ada", "password": "x"}
        response = in_thread(lambda: client.post("/admin/login/", form))
    finally:
        for conn in held:
            conn.close()

    assert (response.status_code, response["Retry-After"]) == (503, "1")
    assert "<h1>Too many requests at once. Please try again.</h1>" in response.content.decode()
    [told] = [record for record in caplog.records if record.name == "core.errors"]
    assert "None came free for admin within 0.05 s" in told.getMessage()


def test_what_every_request_would_say_in_an_outage_is_said_once_a_second():
    def record(words, **more):
        made = logging.LogRecord("x", logging.ERROR, "", 0, words, (), None)
        made.__dict__.update(more)
        return made

    once, bugs = OncePerSecond(), NotRefusals()

    said = [once.filter(record(words)) for words in ("GET /a: away", "GET /b: away", "GET /a: busy")]
    assert said == [True, False, True]
    assert [bugs.filter(record("x", status_code=code)) for code in (503, 500)] == [False, True]


@pytest.mark.django_db(transaction=True)
def test_a_statement_that_was_cancelled_or_waited_for_a_lock_is_busy_and_not_broken():
    with pytest.raises(OperationalError) as caught, db.begin() as conn:
        conn.exec_driver_sql("SET LOCAL statement_timeout = 1")
        conn.exec_driver_sql("SELECT pg_sleep(5)")

    assert unexpected(caught.value)[:2] == (503, "overloaded")


@pytest.mark.django_db(transaction=True)
def test_ready_asks_everything_at_once_and_busy_is_ready(client):
    connection.close()
    client.get("/health/ready")
    fleet.probe.forget()
    probe.database.forget()
    held = [db.engine.connect() for _ in range(15)]
    start_s = time.monotonic()
    try:
        response = client.get("/health/ready")
    finally:
        for conn in held:
            conn.close()

    assert (response.status_code, response.json()["checks"]["database"]) == (200, "pass")
    assert time.monotonic() - start_s < 0.8


@pytest.mark.django_db(transaction=True)
def test_a_busy_pool_is_not_a_broken_database(client):
    connection.close()
    held = [db.engine.connect() for _ in range(15)]
    try:
        response = client.get("/health/db")
    finally:
        for conn in held:
            conn.close()

    assert (response.status_code, response.json()) == (
        200,
        {"pool_size": 5, "checked_in": 0, "checked_out": 15, "overflow": 10},
    )


@pytest.mark.django_db(transaction=True)
def test_a_hundred_probes_ask_once(client, monkeypatch):
    asked = []
    monkeypatch.setattr(db, "ping", lambda within_s: asked.append(within_s))

    assert {client.get("/health/db").status_code for _ in range(100)} == {200}
    assert len(asked) == 1


def test_a_database_that_hangs_is_told_within_the_deadline_and_then_at_once(client, monkeypatch):
    hangs, asked = threading.Event(), []

    def hang(within_s):
        asked.append(within_s)
        hangs.wait(10)

    monkeypatch.setattr(db, "ping", hang)
    monkeypatch.setattr(probe, "WITHIN_S", 0.05)

    answers = [client.get("/health/db") for _ in range(3)]
    hangs.set()

    assert [answer.status_code for answer in answers] == [503] * 3
    assert answers[0].json()["error"] == "The database does not answer."
    assert len(asked) == 1
