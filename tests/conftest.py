import pytest
from django.db import connection
from django.test import Client

from analytics import queries, recount
from core import db, pool
from tests import contract
from tests.factories import NOW, issue, make_device, make_event
from tests.fake_driver import Driver


@pytest.fixture(autouse=True)
def whole_pool():
    """Shares are for processes that serve; a test that imported the server's door would go on without its part."""
    db.pool.reserve_shares(in_force=False)


@pytest.fixture(autouse=True)
def openapi_is_right(monkeypatch):
    """Whatever a test gets from the API is what OpenAPI says of it."""
    ask = Client.request

    def request(client, **environ):
        answer = ask(client, **environ)
        kind = answer.headers.get("Content-Type", "").partition(";")[0]
        contract.assert_agrees(
            environ["REQUEST_METHOD"], environ["PATH_INFO"], answer.status_code, kind, answer.json
        )
        return answer

    monkeypatch.setattr(Client, "request", request)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Whatever a test did to tickets and scans is counted, or the test says that it wrote the rows itself."""
    result = yield
    is_about_tickets = item.module.__name__.startswith(
        ("tests.test_tickets", "tests.test_scan", "tests.test_analytics")
    )
    has_database = "db" in item.fixturenames or item.get_closest_marker("django_db")
    if is_about_tickets and has_database and not item.get_closest_marker("uncounted"):
        with db.begin() as conn:
            events = queries.event_slugs(conn)
        assert list(recount.recount_all(events, mends=False, now=NOW, tell=lambda _done: None)) == []
    return result


@pytest.fixture
def empty_pool():
    """A pool without connections, so that whoever borrows next gets what the last one gave back."""
    if not connection.in_atomic_block:
        connection.close()
    db.engine.dispose()
    yield
    db.engine.dispose()


@pytest.fixture
def driver():
    driver = Driver()
    yield driver
    for left in list(driver.open):
        left.close()


@pytest.fixture
def make(driver):
    def make(size=5, overflow=10, timeout=30.0, shares=False, **options):
        made = pool.FairPool(driver.connect, size, overflow, timeout, **options)
        if shares:
            made.reserve_shares()
        return made

    return make


HOT_TABLES = (
    *("ticket", "ticket_scans", "ticket_transfers", "scan_conflicts"),
    *("event_counts", "refusal_counts", "refused_codes"),
)


def partition_hot_tables():
    """Make the hot tables anew, partitioned by event."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_viewdef('invalid_attempts')")
        view = cursor.fetchone()[0]
        for table in HOT_TABLES:
            cursor.execute(f"ALTER TABLE {table} RENAME TO {table}_plain")
            cursor.execute(
                f"CREATE TABLE {table} (LIKE {table}_plain INCLUDING ALL) PARTITION BY HASH (event_id)"
            )
            for part in range(2):
                cursor.execute(
                    f"CREATE TABLE {table}_{part} PARTITION OF {table} "
                    f"FOR VALUES WITH (MODULUS 2, REMAINDER {part})"
                )
        cursor.execute("DROP VIEW invalid_attempts")
        cursor.execute(f"CREATE VIEW invalid_attempts AS {view}")


@pytest.fixture(params=["plain tables", "hash partitions"])
def either_layout(request, db):
    """The hot tables as migrated, and again partitioned by event: what one machine and many have in common."""
    if request.param == "hash partitions":
        partition_hot_tables()
    return request.param


@pytest.fixture
def event(either_layout):
    return make_event()


@pytest.fixture
def device(event):
    return make_device(event)[0]


@pytest.fixture
def ticket(event):
    return issue(event)[0]
