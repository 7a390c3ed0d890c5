"""The page "Connections": what is true, for whom it is meant, and a button that does what it says."""

import re
import threading
from contextlib import suppress

import pytest
from django.contrib.auth.models import Permission, User
from django.db import OperationalError, connection
from django.urls import reverse

from core import db
from core.purpose import SCAN, entering, process_name
from tests.fake_driver import until

PAGE = "/admin/health/poolconnection/"


@pytest.fixture
def operator(client, transactional_db):
    def operator(*permissions):
        user = User.objects.create_user("operator", password="x", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client.force_login(user)
        return client

    return operator


@pytest.fixture
def slow_statement():
    """A thread that runs a statement of half a minute, until it is cancelled."""
    errors = []

    def work():
        with suppress(OperationalError), entering(SCAN, "POST /slow"), db.begin() as conn:
            try:
                conn.exec_driver_sql("SELECT pg_sleep(30), %s", ("a secret",))
            except OperationalError as error:
                errors.append(str(error))
                raise
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: any(held.link.session.describe()["state"] == "running" for held in db.pool.leases()))
    yield errors
    for held in db.pool.leases():
        held.link.session.cancel()
    thread.join()


def test_the_page_shows_who_holds_what_with_which_statement_and_no_values(operator, slow_statement):
    page = operator("view_poolconnection").get(PAGE).content.decode()

    assert f"<h2>{process_name()}</h2>" in page
    assert re.search(
        r'<th scope="row">POST /slow</th>\s*<td>scan</td><td>\d+\.\d&nbsp;s</td><td>running</td>', page
    )
    assert "<code>SELECT pg_sleep(…), %s</code>" in page
    assert "a secret" not in page
    assert "Cancel</button>" not in page


def test_a_statement_is_cancelled_by_who_may_and_the_log_says_by_whom(operator, slow_statement, caplog):
    client = operator("view_poolconnection", "cancel_poolconnection")
    page = client.get(PAGE).content.decode()
    row = page[page.index("POST /slow") :]
    lease = re.search(r'name="lease" value="(\d+)"', row)[1]

    answer = client.post(f"{PAGE}cancel/", {"process": process_name(), "lease": lease}, follow=True)
    until(lambda: slow_statement)

    assert "Cancelled: POST /slow on" in answer.content.decode()
    assert "canceling statement due to user request" in slow_statement[0]
    assert any(
        message.startswith("operator cancelled the statement of POST /slow") for message in caplog.messages
    )


@pytest.mark.parametrize(
    "form", [{}, {"process": "../../etc", "lease": "1"}, {"process": process_name(), "lease": "x"}]
)
def test_a_holder_that_is_gone_is_a_word_and_not_an_error(operator, form):
    client = operator("view_poolconnection", "cancel_poolconnection")

    answer = client.post(f"{PAGE}cancel/", form, follow=True)

    assert (answer.status_code, "was given back meanwhile" in answer.content.decode()) == (200, True)


def test_who_may_only_look_can_not_cancel_and_who_may_nothing_sees_nothing(operator):
    client = operator("view_poolconnection")
    looking, cancelling = client.get(PAGE).status_code, client.post(f"{PAGE}cancel/").status_code
    User.objects.get().user_permissions.clear()

    assert (looking, cancelling, client.get(PAGE).status_code) == (200, 403, 403)


def test_the_button_works_only_by_post_and_only_from_our_own_page(operator, settings):
    from django.test import Client

    operator("view_poolconnection", "cancel_poolconnection")
    stranger = Client(enforce_csrf_checks=True)
    stranger.force_login(User.objects.get())

    assert stranger.get(f"{PAGE}cancel/").status_code == 405
    assert stranger.post(f"{PAGE}cancel/").status_code == 403


def test_the_page_is_on_the_front_page_of_the_admin_for_who_may_see_it(operator):
    front = operator("view_poolconnection").get(reverse("admin:index")).content.decode()

    assert f'href="{PAGE}"' in front
