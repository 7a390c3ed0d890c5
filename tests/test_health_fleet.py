"""How many connections all processes may hold, and what operators are told about it."""

import os
import subprocess
import sys

import pytest
from django.core.checks import run_checks
from django.db import connection

from core import db
from core.purpose import process_name
from health import fleet
from health.fleet import Fleet


def checked():
    return run_checks(tags=["database"], include_deployment_checks=True, databases=["default"])


@pytest.fixture
def measured(monkeypatch):
    """Let the server allow a hundred connections and hold what a test says."""

    def measured(**numbers):
        found = Fleet(**{"allowed": 100, "processes": 1, "place": 1, "others": 0} | numbers)
        monkeypatch.setattr(fleet, "measure", lambda: found)
        fleet.probe.forget()
        monkeypatch.setattr(fleet.probe, "_question", lambda: found)
        return found

    yield measured
    fleet.probe.forget()


@pytest.mark.django_db(transaction=True)
def test_the_server_is_asked_who_is_connected():
    connection.close()
    db.engine.dispose()
    as_a_command = fleet.measure()
    connection.close()
    db.engine.dispose()
    db.pool.reserve_shares()
    serving = fleet.measure()

    assert (serving.allowed, serving.processes, serving.place) == (97, 1, 1)
    assert (as_a_command.processes, as_a_command.place, as_a_command.others) == (0, 0, serving.others + 1)


@pytest.mark.django_db(transaction=True)
def test_a_process_that_holds_no_connection_has_no_place_among_the_others(monkeypatch):
    monkeypatch.setattr(fleet, "process_name", lambda: "elsewhere-1")

    assert fleet.measure().place == 0


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ({"processes": 2, "place": 2}, "pass"),
        ({"processes": 5, "place": 5, "others": 5}, "pass"),
        ({"processes": 5, "place": 5, "others": 6}, "warn"),
        ({"processes": 7, "place": 6}, "warn"),
        ({"processes": 7, "place": 7}, "fail"),
        ({"processes": 2, "place": 1, "others": 90}, "fail"),
    ],
)
def test_only_the_youngest_processes_that_do_not_fit_fail(numbers, verdict, measured, client, db):
    measured(**numbers)

    response = client.get("/health/ready")

    assert response.json()["checks"]["connections"] == verdict
    assert response.status_code == (503 if verdict == "fail" else 200)


def test_the_deployment_check_counts_every_process_and_names_the_settings(measured, settings):
    settings.WEB_CONCURRENCY = 7
    measured(others=3)

    [problem] = checked()

    assert (problem.id, problem.level) == ("qrsite.E001", 40)
    assert problem.msg == (
        "7 processes of up to 15 connections need 105 beside 3 of others, and PostgreSQL allows 100: lower "
        "WEB_CONCURRENCY, POOL_SIZE or POOL_MAX_OVERFLOW, or raise max_connections."
    )


def test_the_deployment_check_warns_at_four_fifths_and_is_silent_below(measured, settings):
    settings.WEB_CONCURRENCY = 5
    measured(others=5)
    quiet = checked()
    measured(others=6)
    tight = checked()

    assert (quiet, [problem.id for problem in tight]) == ([], ["qrsite.W001"])


def test_processes_that_run_already_count_more_than_the_setting(measured, settings):
    settings.WEB_CONCURRENCY = 2
    measured(processes=7)

    assert [problem.id for problem in checked()] == ["qrsite.E001"]


SETTINGS = """
from qrsite.settings import *
DATABASES["default"] |= {extra}
"""


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ({"CONN_MAX_AGE": 60}, "CONN_MAX_AGE must be 0"),
        ({"CONN_MAX_AGE": None}, "CONN_MAX_AGE must be 0"),
        ({"ATOMIC_REQUESTS": True}, "ATOMIC_REQUESTS must be off"),
    ],
)
def test_settings_that_would_keep_connections_are_refused_at_start(extra, why, tmp_path):
    (tmp_path / "careless.py").write_text(SETTINGS.format(extra=extra))
    path = os.pathsep.join([str(tmp_path), os.getcwd()])
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "careless", "PYTHONPATH": path}

    command = [sys.executable, "manage.py", "check"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    assert process.returncode == 2
    assert process.stderr.startswith(f"error: {why}")
    assert process.stderr.count("\n") == 1


@pytest.mark.django_db(transaction=True)
def test_what_connects_outside_the_pool_is_counted_and_named():
    before = db.snapshot()["outside"]
    outside = db.connect_outside(**db.orm().get_connection_params())
    with outside.cursor() as cursor:
        cursor.execute("SHOW application_name")
        name = cursor.fetchone()[0]
    during = db.snapshot()["outside"]
    outside.close()

    assert (during - before, db.snapshot()["outside"]) == (1, before)
    assert name == f"qrsite:{process_name()}:outside"
