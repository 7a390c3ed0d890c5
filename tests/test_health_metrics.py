"""Numbers for Prometheus: right, for those who may, also while the database is away."""

import threading

import pytest
from django.contrib.auth.models import Permission, User
from django.db import OperationalError, connection
from prometheus_client.parser import text_string_to_metric_families

from core import db
from core.purpose import BACKGROUND, SCAN, WEB, entering, process_name
from health import metrics
from tests.factories import make_service
from tests.fake_driver import until


@pytest.fixture(autouse=True)
def nobody_known():
    metrics._known.clear()


@pytest.fixture
def bearer(db):
    return {"Authorization": f"Bearer {make_service('metrics:read')}"}


def samples(response):
    assert response.status_code == 200, response.content
    return {
        (
            sample.name,
            *(value for name, value in sorted(sample.labels.items()) if name != "process"),
        ): sample.value
        for family in text_string_to_metric_families(response.content.decode())
        for sample in family.samples
        if sample.labels["process"] == process_name()
    }


@pytest.mark.django_db(transaction=True)
def test_the_numbers_tell_what_happens_in_the_pool(client, bearer):
    connection.close()
    db.engine.dispose()
    with entering(SCAN, "test"), db.begin():
        before = samples(client.get("/metrics", headers=bearer))
    with entering(SCAN, "test"), db.begin():
        pass
    connection.close()
    after = samples(client.get("/metrics", headers=bearer))

    assert before["qrsite_pool_in_use", "scan"] >= 1
    assert (before["qrsite_pool_size",], before["qrsite_pool_cap",]) == (5, 15)
    assert after["qrsite_pool_in_use", "scan"] == 0
    name = "qrsite_pool_usage_seconds_count", "scan"
    assert after[name] - before[name] == 2
    assert after["qrsite_pool_usage_seconds_bucket", "+Inf", "scan"] == after[name]


@pytest.mark.django_db(transaction=True)
def test_the_numbers_tell_who_waits_and_who_gave_up(client, bearer, monkeypatch):
    client.get("/metrics", headers=bearer)  # known from now on: no connection is needed to look the token up
    connection.close()
    before = db.snapshot()["purposes"]["web"]["timeouts"]
    monkeypatch.setattr(WEB, "timeout_s", 0.3)
    with entering(BACKGROUND, "test"):
        held = [db.engine.raw_connection() for _ in range(15)]

    def wait():
        with entering(WEB, "test"), pytest.raises(OperationalError), db.begin():
            pass

    waiter = threading.Thread(target=wait)
    waiter.start()
    until(lambda: db.snapshot()["waiting"] == 1)
    during = samples(client.get("/metrics", headers=bearer))
    waiter.join()
    for proxy in held:
        proxy.close()
    after = samples(client.get("/metrics", headers=bearer))

    assert (during["qrsite_pool_waiting", "web"], during["qrsite_pool_in_use", "background"]) == (1, 15)
    assert during["qrsite_pool_oldest_wait_seconds",] > 0
    assert after["qrsite_pool_timeouts_total", "web"] - before == 1


@pytest.mark.django_db(transaction=True)
def test_who_was_known_is_answered_while_the_database_is_away_and_nobody_else(client, bearer, monkeypatch):
    client.raise_request_exception = False
    client.get("/metrics", headers=bearer)
    connection.close()
    monkeypatch.setattr(metrics, "REMEMBERED_S", 0.0)

    def away(_timeout_s):
        raise OperationalError("away")

    monkeypatch.setattr(db, "within", away)

    known = client.get("/metrics", headers=bearer).status_code
    unknown = client.get("/metrics", headers={"Authorization": "Bearer qrs_other"}).status_code

    assert (known, unknown) == (200, 503)


@pytest.mark.django_db
def test_nobody_else_sees_them(client):
    lacking = make_service("stats:read")

    answers = [
        client.get("/metrics", headers=headers)
        for headers in ({}, {"Authorization": "Bearer qrs_x"}, {"Authorization": f"Bearer {lacking}"})
    ]

    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
        (401, "unauthorized"),
        (401, "unauthorized"),
        (403, "forbidden"),
    ]


@pytest.mark.django_db
def test_staff_see_them_with_the_permission(client):
    user = User.objects.create_user("operator", password="x", is_staff=True)
    client.force_login(user)
    without = client.get("/metrics").status_code
    user.user_permissions.add(Permission.objects.get(codename="view_poolconnection"))

    assert (without, client.get("/metrics").status_code) == (403, 200)


@pytest.mark.django_db
def test_a_revoked_token_stops_working_within_seconds(client, bearer, monkeypatch):
    from tickets.models import ServiceToken

    client.get("/metrics", headers=bearer)
    ServiceToken.objects.all().delete()
    remembered = client.get("/metrics", headers=bearer).status_code
    monkeypatch.setattr(metrics, "REMEMBERED_S", 0.0)

    assert (remembered, client.get("/metrics", headers=bearer).status_code) == (200, 401)
