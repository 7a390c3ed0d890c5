"""Tickets out of a CSV: what is read, what is refused, and that all of it is imported or nothing."""

import asyncio
import io
import json
import os
import re
import stat
import tempfile
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.test import Client
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart
from django.urls import reverse
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qrsite import asgi
from tests.factories import NOW, client_who_may, make_event
from tickets import import_files, importing, issuing
from tickets.csv_rows import (
    MAX_ROW_CHARS,
    NOT_CLOSED,
    NOT_UTF8,
    TOO_LONG,
    WRONG_QUOTES,
    FileRefused,
    RowError,
)
from tickets.import_admin import ImportAdmin
from tickets.models import Kind, Ticket

HEADER = b"holder,email,kind,reference\n"
ADA = ("Ada", "ada@example.org", "vip", "r1")
GOOD = HEADER + b"Ada,ada@example.org,vip,r1\nBob,,,\n"
PAGE = "/admin/tickets/ticket/import/"
CONFIRM = PAGE + "confirm/"


def checked(data, kinds=()):
    """What check finds, and the wishes that it lets through."""
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    with tempfile.TemporaryFile("w+") as spool:
        found = importing.check(file, spool, kinds=kinds)
        return found, [issuing.Wish(*json.loads(line)) for line in spool]


def errors(data):
    return checked(data)[0].first_errors


def rows_of(event):
    return list(event.ticket_set.order_by("holder").values_list("holder", "email", "kind", "reference"))


@pytest.mark.parametrize(
    "data",
    [
        b"holder,email,kind,reference\nAda,ada@example.org,vip,r1\n",
        b"\xef\xbb\xbfholder;email;kind;reference\r\nAda;ada@example.org;vip;r1\r\n",
        b"Reference\tKIND\tHolder \temail\nr1\tvip\tAda\tada@example.org",
        b'"kind","holder","email","reference"\r"vip", "Ada"," ada@example.org","r1"\r',
        b"holder,email,kind,reference\n\n,,,\nAda,ada@example.org,vip,r1\n , ,,\n",
    ],
)
def test_commas_semicolons_tabs_in_any_order_and_case_are_read_alike(data):
    found, wishes = checked(data)

    assert (found.rows, found.errors, wishes) == (1, 0, [ADA])


def test_what_is_not_there_is_as_the_api_has_it():
    assert checked(b"holder\nAda\n")[1] == [("Ada", "", "", None)]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "The first line is empty"),
        (b"\n\nholder\nAda", "The first line is empty"),
        (
            b"holder,seat,\x1b\nAda,1,2",
            r"Unknown columns: 'seat', '\\x1b'\. There may be holder, email, kind",
        ),
        (b"Ada,ada@example.org\n", "Unknown columns: 'ada', 'ada@example.org'"),
        (b"email,kind\nada@example.org,vip", "There is no column holder"),
        (b"holder,Holder\nAda,Bob", "The column holder is there more than once"),
        ("holder\nAda".encode("utf-16"), "not UTF-8"),
        ("Größe\n".encode("latin-1"), "not UTF-8"),
        (b'"holder', "no header"),
        (b"x" * 50_000, "no header"),
    ],
)
def test_a_file_whose_header_is_wrong_is_refused_with_a_word(data, words):
    with pytest.raises(FileRefused, match=words):
        checked(data)


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        (b",ada@example.org,,", "holder", "Field required"),
        (b"Ada,nobody,,", "email", "not an email address"),
        (b"a" * 201 + b",,,", "holder", "String should have at most 200 characters"),
        (b"A\x00da,,,", "holder", "Control characters are not allowed."),
        (b'"A\nda",,,', "holder", "Control characters are not allowed."),
        ("A\u202eda,,,".encode(), "holder", "Control characters are not allowed."),
        ("J\xfcrgen,,,".encode("latin-1"), "holder", NOT_UTF8),
        (b"Hopper, Grace,,vip,r2", "", "Fields in this row: 5; columns: 4."),
        (b"Ada", "", "Fields in this row: 1; columns: 4."),
        (b'"Ada" L.,,,', "", WRONG_QUOTES),
        (b"a" * MAX_ROW_CHARS + b",,,", "", TOO_LONG),
        (b"a" * 300_000, "", TOO_LONG),
        (b'"' + b"a\n" * 9 + b"a" * MAX_ROW_CHARS, "", TOO_LONG),
    ],
)
def test_an_error_is_of_its_row_and_the_rows_around_it_are_read(row, column, message):
    found, wishes = checked(HEADER + b"Ada,,,\n" + row + b"\nBob,,,\n")

    assert found.first_errors == [RowError(3, column, message)]
    assert [wish.holder for wish in wishes] == ["Ada", "Bob"]


def test_lines_are_counted_as_an_editor_counts_them():
    found = errors(b'holder,email\r\n"A\r\nda",\r\n\r\nBob,x\r\n"Cy')

    assert [(error.line, error.column) for error in found] == [(2, "holder"), (5, "email"), (6, "")]


def test_one_row_can_have_several_errors():
    found, _ = checked(HEADER + b",x,vpi,\n", kinds=["vip"])

    assert [error.column for error in found.first_errors] == ["holder", "email", "kind"]


def test_a_quote_that_is_not_closed_is_said_of_the_row_where_it_began():
    found = errors(HEADER + b'"Ada,,,\n"Bob",,,\nCy,,,\n')

    assert found == [RowError(2, "", NOT_CLOSED.format(3))]


@pytest.mark.parametrize("text", ["=1+1", "+49 30 123", "-1", "@SUM(A1)", "=HYPERLINK(1)"])
def test_what_looks_like_a_formula_is_kept_as_it_is(text):
    assert [wish.holder for wish in checked(f"holder\n{text}\n".encode())[1]] == [text]


def test_only_the_first_hundred_errors_are_kept_and_all_are_counted():
    found, wishes = checked(HEADER + b",,,r\n" * 12_345)

    assert (found.rows, found.errors, len(found.first_errors), wishes) == (12_345, 12_345, 100, [])


def test_a_repeated_reference_is_the_same_ticket_or_an_error():
    found, wishes = checked(
        HEADER + b"Ada,,vip,r1\n Ada ,,vip,r1\nBob,,vip,r1\nAda,,vip,\nAda,,vip,\nAda,,vip,r2\n"
    )

    assert (found.rows, found.same, [wish.reference for wish in wishes]) == (6, 1, ["r1", None, None, "r2"])
    assert found.first_errors == [
        RowError(4, "reference", "r1 is the reference of an earlier row that says something else.")
    ]


def test_a_kind_that_the_event_has_not_is_an_error_of_its_row():
    found, wishes = checked(HEADER + b"Ada,,vip,\nBob,,vpi,\nCy,,,\n", kinds=["standard", "vip"])

    assert found.first_errors == [
        RowError(3, "kind", "The event has no kind 'vpi', but: standard, vip."),
        RowError(4, "kind", "The event has no kind '', but: standard, vip."),
    ]
    assert [wish.holder for wish in wishes] == ["Ada"]


def test_too_many_rows_are_refused(monkeypatch):
    monkeypatch.setattr(importing, "MAX_ROWS", 2)

    assert checked(GOOD)[0].rows == 2
    with pytest.raises(FileRefused, match="more than 2 rows: split it"):
        checked(GOOD + b"Cy,,,\n")


def peak_bytes(work, *arguments):
    tracemalloc.start()
    try:
        return work(*arguments), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Endless(io.RawIOBase):
    """A file that is made while it is read."""

    def __init__(self, chunks):
        self.chunks = chunks

    def readable(self):
        return True

    def readinto(self, buffer):
        chunk = next(self.chunks, b"")
        buffer[: len(chunk)] = chunk
        return len(chunk)


def many(rows):
    yield HEADER
    for row in range(rows):
        yield f"Ada {row},ada{row}@example.org,standard,order-{row:08d}\n".encode()


def test_a_line_without_an_end_is_not_held():
    endless = (b"holder\n" if index == 0 else b"x" * 8_000 for index in range(5_000))

    (found, _), peak = peak_bytes(checked, io.BufferedReader(Endless(endless)))

    assert found.first_errors == [RowError(2, "", TOO_LONG)]
    assert peak < 2**20


def test_a_quote_that_is_never_closed_is_not_held():
    endless = (b'holder\n"' if index == 0 else b"x\n" * 1_000 for index in range(10))

    (found, _), peak = peak_bytes(checked, io.BufferedReader(Endless(endless)))

    assert found.first_errors[0] == RowError(2, "", TOO_LONG)
    assert peak < 2**20


@pytest.mark.slow
@pytest.mark.django_db
def test_the_memory_that_100_000_rows_take_is_that_of_their_references():
    event = make_event(capacity=100_000)

    def look_at(rows):
        with tempfile.TemporaryFile("w+") as spool:
            found = importing.check(io.BufferedReader(Endless(many(rows))), spool, kinds=())
            outcome = importing.issue(event_id=event.id, spool=spool, now=NOW, is_dry=True)
        return found.errors, outcome.new, outcome.refused

    few, few_peak = peak_bytes(look_at, 10_000)
    all_of_them, peak = peak_bytes(look_at, 100_000)

    assert (few, all_of_them) == ((0, 10_000, ""), (0, 100_000, ""))
    assert few_peak < 6 * 2**20
    assert peak < 20 * 2**20


MANGLED = st.lists(
    st.one_of(
        st.sampled_from(
            [HEADER, b"\xef\xbb\xbf", b"Ada,,,\n", b'"', b",", b";", b"\t", b"\r", b"\n", b"\x00"]
        ),
        st.sampled_from(
            [b"holder", b"reference", b"\xff", b"\xed\xa0\x80", "\u2028".encode(), b'""', b"'", b"="]
        ),
        st.binary(max_size=30),
    ),
    max_size=40,
).map(b"".join)


@given(MANGLED)
@example(b"\xff\xfe")
@hypothesis_settings(max_examples=500, deadline=None)
def test_no_bytes_make_it_fail(data):
    try:
        found, wishes = checked(HEADER + data)
        checked(data)
    except FileRefused:
        return
    assert found.rows >= len(wishes) + found.same


@pytest.fixture(autouse=True)
def folder(tmp_path, settings):
    settings.VAR_DIR = tmp_path
    return tmp_path / "imports"


@pytest.fixture
def organiser(db):
    """Somebody who may add tickets, and no more."""
    user = User.objects.create_user("organiser", is_staff=True)
    names = ["add_ticket", "view_ticket"]
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client = Client()
    client.force_login(user)
    return client


def look(client, event, data=GOOD, /, **fields):
    return client.post(PAGE, {"event": event.id, "file": SimpleUploadedFile("a.csv", data), **fields})


def summary(page):
    outcome, found = page.context["outcome"], page.context["checked"]
    return found.rows, outcome.new, outcome.already, found.same, found.errors


def confirm(client, page, **options):
    return client.post(CONFIRM, {"upload": page.context["upload"]}, follow=True, **options)


def said(page):
    return [str(message) for message in page.context["messages"]]


def test_a_file_is_looked_at_and_then_imported(organiser, folder):
    event = make_event(name="Midsummer")

    page = look(organiser, event)

    assert summary(page) == (2, 2, 0, 0, 0)
    assert "Import 2 tickets" in page.content.decode()
    assert not Ticket.objects.exists()
    [kept] = folder.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, kept)] == [0o700, 0o600]

    listing = confirm(organiser, page)

    assert said(listing) == ["Imported 2 tickets for Midsummer; 0 had been issued before."]
    assert listing.redirect_chain[0][0] == f"/admin/tickets/ticket/?event__id__exact={event.id}"
    assert rows_of(event) == [ADA, ("Bob", "", "", None)]
    assert [(entry.object_id, entry.change_message) for entry in LogEntry.objects.all()] == [
        (str(event.id), "Imported 2 tickets.")
    ]
    assert list(folder.iterdir()) == []


def test_a_second_click_imports_nothing(organiser):
    event = make_event()
    page = look(organiser, event)

    confirm(organiser, page)
    again = confirm(organiser, page)

    assert said(again) == [
        "This file was imported already, or it is older than a day. Look at the tickets first."
    ]
    assert (Ticket.objects.count(), LogEntry.objects.count()) == (2, 1)


def test_of_all_who_take_a_file_at_once_one_gets_it():
    name = import_files.keep(io.StringIO("x"))
    start = threading.Barrier(8)

    def take(_index):
        start.wait()
        try:
            with import_files.taken(name) as file:
                return file.read()
        except import_files.UploadGone:
            return None

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(take, range(8)))

    assert sorted(map(str, taken)) == ["None"] * 7 + ["x"]


def test_what_could_not_be_imported_can_be_tried_again(organiser, monkeypatch):
    page = look(organiser, make_event())
    with monkeypatch.context() as patch, pytest.raises(OperationalError):
        patch.setattr(ImportAdmin, "log_change", database_is_away)
        confirm(organiser, page)
    assert not Ticket.objects.exists()

    again = confirm(organiser, page)

    assert (said(again)[0][:18], Ticket.objects.count()) == ("Imported 2 tickets", 2)


def database_is_away(*_arguments):
    raise OperationalError("the lock was held for too long")


def test_nobody_confirms_what_somebody_else_looked_at(organiser, admin_client, folder):
    page = look(organiser, make_event())

    assert confirm(admin_client, page).status_code == 403
    assert (Ticket.objects.count(), len(list(folder.iterdir()))) == (0, 1)


@pytest.mark.parametrize("upload", ["", "x", "\x00", "WyJhIiwxLDFd:1abc:def"])
def test_a_token_that_is_none_of_ours_imports_nothing(organiser, upload):
    page = organiser.post(CONFIRM, {"upload": upload}, follow=True)

    assert said(page) == [str(import_files.UploadGone())]


def test_a_file_is_kept_for_a_day(organiser, folder, monkeypatch):
    event = make_event()
    page = look(organiser, event)
    [kept] = folder.iterdir()
    yesterday = time.time() - import_files.KEPT_FOR_S - 1
    os.utime(kept, (yesterday, yesterday))

    look(organiser, event, HEADER + b"Cy,,,\n")

    assert kept not in list(folder.iterdir())
    assert said(confirm(organiser, page)) == [str(import_files.UploadGone())]
    assert not Ticket.objects.exists()


@pytest.mark.django_db
def test_without_the_permission_it_is_forbidden():
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename="view_ticket"))
    client = Client()
    client.force_login(user)

    answers = [client.get(PAGE), look(client, make_event()), client.post(CONFIRM, {"upload": "x"})]

    assert [answer.status_code for answer in answers] == [403, 403, 403]
    assert "Import CSV" not in client.get(reverse("admin:tickets_ticket_changelist")).content.decode()


@pytest.mark.django_db
def test_without_a_login_one_is_asked_for(client):
    assert client.post(PAGE).url == f"/admin/login/?next={PAGE}"


def test_a_post_from_elsewhere_is_forbidden(organiser):
    organiser.handler.enforce_csrf_checks = True

    assert [organiser.post(path).status_code for path in (PAGE, CONFIRM)] == [403, 403]


def test_the_list_leads_to_the_page_which_needs_nothing_inline(organiser):
    listing = organiser.get(reverse("admin:tickets_ticket_changelist")).content.decode()
    page = organiser.get(PAGE).content.decode()

    assert f'<a href="{PAGE}">Import CSV</a>' in listing
    assert "<code>holder</code>" in page
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=|(src|href)=.?https?:", page)


def test_a_login_that_ran_out_before_the_import_leads_back_with_a_word(organiser):
    page = organiser.get(CONFIRM, follow=True)

    assert page.redirect_chain == [(PAGE, 302)]
    assert said(page) == ["Nothing was imported: look at the file again."]


def test_who_may_only_add_tickets_reads_what_the_import_did(db, folder):
    client = client_who_may("add_ticket")

    done = confirm(client, look(client, make_event(name="Midsummer")))

    assert (done.status_code, done.redirect_chain) == (200, [(PAGE, 302)])
    assert said(done) == ["Imported 2 tickets for Midsummer; 0 had been issued before."]
    assert f'href="{reverse("admin:tickets_ticket_changelist")}"' not in done.content.decode()


def test_an_error_in_one_row_keeps_the_others_out_and_is_shown(organiser, folder):
    page = look(organiser, make_event(), GOOD + b"<b>Cy</b>,x,,\n")

    text = page.content.decode()
    assert summary(page) == (3, 2, 0, 0, 1)
    assert "Nothing can be imported: 1 error. Mend the file and send it again." in text
    assert '<th scope="row">4</th><td>email</td><td>not an email address</td>' in text
    assert (page.context["upload"], folder.exists()) == ("", False)


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "The submitted file is empty."), (b"seat\n1", "Unknown columns: &#x27;seat&#x27;")],
)
def test_a_file_that_can_not_be_read_is_refused_on_the_page(organiser, data, words):
    page = look(organiser, make_event(), data)

    assert page.status_code == 200
    assert words in page.content.decode()


@pytest.mark.parametrize("fields", [{"event": ""}, {"event": "x"}, {"event": "999999999"}, {"file": ""}])
def test_without_an_event_or_a_file_the_page_says_what_is_missing(organiser, fields):
    page = look(organiser, make_event(), **fields)

    assert list(page.context["form"].errors) == list(fields)


def test_what_the_event_has_already_is_left_as_it_is(organiser):
    event = make_event()
    issuing.issue(event_id=event.id, wishes=[issuing.Wish("Ada L.", "", "", "r1")], now=NOW)

    page = look(organiser, event)
    confirm(organiser, page)
    nothing_new = look(organiser, event, HEADER + b"Ada,,,r1\n")

    assert summary(page) == (2, 1, 1, 0, 0)
    assert rows_of(event) == [("Ada L.", "", "", "r1"), ("Bob", "", "", None)]
    assert "There is nothing new to import." in nothing_new.content.decode()


@pytest.mark.parametrize("batch", [1, 2, 1000])
def test_beyond_the_capacity_it_is_told_how_many_are_left(organiser, monkeypatch, batch):
    monkeypatch.setattr(importing, "MAX_TICKETS", batch)
    event = make_event(capacity=4)
    issuing.issue(event_id=event.id, wishes=[issuing.Wish("Ada", "", "", "r1")], now=NOW)

    page = look(organiser, event, HEADER + b"Ada,,,r1\n" + b"Bob,,,\n" * 5)

    assert summary(page) == (6, 5, 1, 0, 0)
    assert page.context["outcome"].refused == "The event admits 4; 3 more can be issued."
    assert "Nothing can be imported: The event admits 4; 3 more can be issued." in page.content.decode()
    assert (page.context["upload"], Ticket.objects.count()) == ("", 1)


def test_beyond_the_capacity_of_a_kind_it_is_told_how_many_are_left(organiser):
    event = make_event(capacity=4)
    Kind.objects.create(event=event, name="vip", capacity=1)

    page = look(organiser, event, HEADER + b"Ada,,vip,\nBob,,vip,\n")
    unknown = look(organiser, event, HEADER + b"Ada,,vpi,\n")

    assert page.context["outcome"].refused == "The kind vip admits 1; 1 more can be issued."
    assert summary(unknown) == (1, 0, 0, 0, 1)


def test_a_kind_that_went_away_since_it_was_looked_at_keeps_all_out(organiser):
    event = make_event()
    page = look(organiser, event)
    Kind.objects.create(event=event, name="standard")

    again = confirm(organiser, page)

    assert said(again)[0].startswith("Nothing was imported. The event has no kind")
    assert not Ticket.objects.exists()


def test_what_fitted_when_it_was_looked_at_and_does_not_now_is_not_imported(organiser, monkeypatch):
    monkeypatch.setattr(importing, "MAX_TICKETS", 1)
    event = make_event(capacity=2)
    page = look(organiser, event)
    issuing.issue(event_id=event.id, wishes=[issuing.Wish("Cy", "", "", None)], now=NOW)

    again = confirm(organiser, page)

    assert said(again) == ["Nothing was imported. The event admits 2; 1 more can be issued."]
    assert ([row[0] for row in rows_of(event)], LogEntry.objects.count()) == (["Cy"], 0)


@given(MANGLED)
@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_looking_at_any_bytes_answers_and_writes_nothing(organiser, data):
    event = make_event()

    assert look(organiser, event, HEADER + data).status_code == 200
    assert not Ticket.objects.exists()


async def through_the_door(door, body, **scope):
    """The status and the text that a client gets of `body`, sent in pieces."""
    pieces = [body[start : start + 2**20] for start in range(0, len(body), 2**20)]
    sent = []

    async def receive():
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message):
        sent.append(message)

    request = {"type": "http", "http_version": "1.1", "method": "POST", "path": PAGE, "query_string": b""}
    await door({**request, "headers": [(b"host", b"localhost")], **scope}, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]).decode()


def test_the_door_lets_large_files_in_at_the_page_and_nowhere_else():
    door = asgi.FrontDoor()
    five, seventeen = b"x" * 5 * 2**20, b"x" * 17 * 2**20

    answers = [
        asyncio.run(through_the_door(door, five, path="/admin/tickets/ticket/add/")),
        asyncio.run(through_the_door(door, five, path=CONFIRM)),
        asyncio.run(through_the_door(door, seventeen)),
    ]

    assert reverse("admin:tickets_ticket_import") == asgi.IMPORT_PATH
    assert [status for status, _ in answers] == [413, 413, 413]
    assert "<h1>The file is too large: split it.</h1>" in answers[2][1]
    assert (door._held_bytes, door._imports) == (0, set())


def test_large_files_that_come_at_once_leave_memory_for_scans():
    door = asgi.FrontDoor()
    held = threading.Semaphore(0)
    gate = threading.Event()

    def slow(environ, start_response):
        held.release()
        gate.wait(10)
        start_response("200 OK", [])
        return [b"read"]

    door._django.app = slow

    async def three_at_once():
        five = b"x" * 5 * 2**20
        reading = [asyncio.create_task(through_the_door(door, five)) for _ in range(asgi.MAX_IMPORTS)]
        for _ in reading:
            await asyncio.to_thread(held.acquire)
        refused = await through_the_door(door, five)
        small = asyncio.create_task(through_the_door(door, b"x"))
        await asyncio.to_thread(held.acquire)
        gate.set()
        return refused, await asyncio.gather(*reading, small), await through_the_door(door, five)

    refused, read, after = asyncio.run(three_at_once())

    assert refused[0] == 503
    assert [*read, after] == [(200, "read")] * 4


@pytest.mark.django_db(transaction=True)
def test_five_megabytes_go_through_the_front_door_into_the_page(organiser):
    event = make_event()
    organiser.get(PAGE)
    cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in organiser.cookies.items())
    data = HEADER + b"".join(f"{'Ada' * 60} {row},,,\n".encode() for row in range(27_000))
    fields = {
        "event": event.id,
        "csrfmiddlewaretoken": organiser.cookies["csrftoken"].value,
        "file": SimpleUploadedFile("a.csv", data),
    }
    headers = [
        (b"host", b"localhost"),
        (b"cookie", cookies.encode()),
        (b"content-type", MULTIPART_CONTENT.encode()),
    ]

    status, page = asyncio.run(
        through_the_door(asgi.FrontDoor(), encode_multipart(BOUNDARY, fields), headers=headers)
    )

    assert len(data) > 5 * 10**6
    assert status == 200
    assert "Import 27,000 tickets" in page


def test_a_large_body_that_is_no_file_is_refused_by_django(organiser):
    body = "event=" + "x" * (3 * 2**20)

    answer = organiser.post(PAGE, body, content_type="application/x-www-form-urlencoded")

    assert answer.status_code in {400, 413}


@pytest.fixture
def csv_file(tmp_path):
    path = tmp_path / "guests.csv"
    path.write_bytes(GOOD)
    return path


def command(*arguments):
    out, err = io.StringIO(), io.StringIO()
    call_command("tickets", "import", *map(str, arguments), stdout=out, stderr=err)
    return re.sub(r"[\d.]+ s\.\n", "… s.", out.getvalue()), err.getvalue()


@pytest.mark.django_db
def test_the_command_says_what_it_would_do_and_does_it(csv_file):
    event = make_event()

    dry = command(csv_file, "--event", event.slug, "--dry-run")
    assert not Ticket.objects.exists()
    done = command(csv_file, "--event", event.slug)

    numbers = "2 rows: 2 new, 0 already issued, 0 repeated, 0 errors; … s."
    assert [dry, done] == [(f"Would import 2 tickets. {numbers}", ""), (f"Imported 2 tickets. {numbers}", "")]
    assert rows_of(event) == [ADA, ("Bob", "", "", None)]


@pytest.mark.django_db
def test_the_command_imports_nothing_of_a_file_with_an_error(csv_file):
    event = make_event()
    csv_file.write_bytes(GOOD + b"Cy,x,,\nDi\n")
    err = io.StringIO()

    with pytest.raises(CommandError) as caught:
        call_command("tickets", "import", str(csv_file), "--event", event.slug, stderr=err)

    assert str(caught.value) == "Nothing imported. 4 rows: 2 new, 0 already issued, 0 repeated, 2 errors."
    assert caught.value.returncode == 1
    assert err.getvalue() == (
        "line 4, email: not an email address\nline 5: Fields in this row: 1; columns: 4.\n"
    )
    assert not Ticket.objects.exists()


@pytest.mark.django_db
def test_the_command_says_what_the_capacity_is_short_of(csv_file):
    event = make_event(capacity=1)

    with pytest.raises(CommandError, match="The event admits 1; 1 more can be issued") as caught:
        command(csv_file, "--event", event.slug)

    assert (caught.value.returncode, Ticket.objects.count()) == (1, 0)


@pytest.mark.django_db
def test_the_command_takes_an_event_and_a_file_that_exist(csv_file, tmp_path):
    event = make_event()
    for arguments in [(csv_file, "--event", "none"), (tmp_path / "none", "--event", event.slug)]:
        with pytest.raises(CommandError) as caught:
            command(*arguments)
        assert caught.value.returncode == 2


@pytest.mark.django_db
def test_a_person_who_watches_sees_how_far_it_is(csv_file):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    err = Terminal()
    call_command(
        "tickets", "import", str(csv_file), "--event", make_event().slug, stderr=err, stdout=io.StringIO()
    )

    assert err.getvalue() == f"\r\x1b[KIssuing: {'█' * 30} 100%\r\x1b[K"


def test_the_help_teaches(capsys):
    with pytest.raises(SystemExit):
        call_command("tickets", "import", "--help")

    shown = capsys.readouterr().out
    assert "manage.py tickets import guests.csv --event summer-night --dry-run" in shown
    assert "Exit codes: 0 done, 1 nothing was imported, 2 misuse." in shown
