"""Printed tickets, as an independent viewer and an independent decoder see them."""

import io
import re
from datetime import timedelta
from unittest.mock import patch

import pypdfium2
import pytest
import zxingcpp
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from PIL import ImageChops
from pypdfium2.raw import FPDF_PAGEOBJ_PATH, FPDF_PAGEOBJ_TEXT
from reportlab.pdfbase.pdfmetrics import stringWidth

from core import db
from tests.factories import NOW, issue, make_event, make_service
from tickets import issuing, lettering, paper, printing
from tickets.lettering import BOLD, Face
from tickets.models import Kind, Ticket

pytestmark = pytest.mark.django_db

LONG = "Maximiliane " * 16 + "Schmidt"
NAMES = {
    "marks on Latin letters": "Zoë Ünal-Łukasiewicz",
    "two hundred characters": (LONG + "x" * 200)[:200],
    "one long word": "W" * 200,
    "Arabic": "محمد عبد الله الإدريسي",
    "Persian": "پریسا گلشیفته",
    "Hebrew": "שרה כהן",
    "Chinese and Japanese": "王小明 山田太郎",
    "Vietnamese": "Nguyễn Thị Minh Khai",
    "Devanagari": "हिन्दी नाम",
    "markup": "<b>&amp; </b>",
    "markup of PDF": r"(\050) Tj /F1 <</A>> %",
}
LAYOUTS = ["pages", "cards"]
MM_PT = 72 / 25.4
A4 = pytest.approx((210 * MM_PT, 297 * MM_PT), abs=0.01)


@pytest.fixture
def event():
    return make_event(name="Midsummer Night's Concert", slug="midsummer")


def make_ticket(event, holder="Ada Lovelace", kind="vip", reference="order-1"):
    [ticket] = issuing.issue(
        event_id=event.id, wishes=[issuing.Wish(holder, "", kind, reference)], now=timezone.now()
    )
    return Ticket.objects.select_related("event").get(id=ticket.ticket_id)


def make_tickets(event, number):
    ids = [ticket.id for ticket in issue(event, number)]
    return sorted(
        Ticket.objects.select_related("event").filter(id__in=ids), key=lambda each: ids.index(each.id)
    )


def printed(tickets, layout="pages"):
    file = io.BytesIO()
    paper.write(file, printing._printed(tickets), layout)
    return file.getvalue()


class Viewer:
    """What a person and a scanner see of a PDF."""

    def __init__(self, content):
        with pypdfium2.PdfDocument(content) as document:
            self.sizes = [page.get_size() for page in document]
            self.texts = [self._text(page) for page in document]
            self.codes = [self._codes(page) for page in document]
            self.metadata = document.get_metadata_dict()

    def _text(self, page):
        return " ".join(page.get_textpage().get_text_bounded().split())

    def _codes(self, page, scale=2):
        picture = page.render(scale=scale).to_pil()
        return {
            code.text: (
                (code.position.top_right.x - code.position.top_left.x) / scale / MM_PT,
                (code.position.bottom_left.y - code.position.top_left.y) / scale / MM_PT,
            )
            for code in zxingcpp.read_barcodes(picture)
        }


def code_of(ticket):
    return issuing.code_of(event_id=ticket.event_id, ticket_id=ticket.id)


def test_a_page_says_all_of_its_ticket_and_carries_its_code(event):
    ticket = make_ticket(event)

    page = Viewer(printed([ticket]))

    code = code_of(ticket)
    assert page.sizes == [A4]
    assert page.texts == [
        "Midsummer Night's Concert Fri 12 Jun 2026, 21:30 Holder Ada Lovelace Doors open Fri 12 Jun 2026, 20:30 "
        f"Kind vip Reference order-1 {' '.join(f'{code[:59]} {code[59:]}'.split())} Show this code at the entrance. "
        f"Whoever shows it first is admitted: let nobody take a picture of it. Ticket number {ticket.id}"
    ]
    assert page.codes == [{code: pytest.approx((80, 80), abs=1.5)}]


def test_each_ticket_has_its_page_in_the_order_given(event):
    tickets = make_tickets(event, 3)

    assert [list(codes) for codes in Viewer(printed(tickets)).codes] == [[code_of(each)] for each in tickets]


def test_every_card_of_a_sheet_is_read(event):
    tickets = make_tickets(event, 19)

    sheet = Viewer(printed(tickets, "cards"))

    assert sheet.sizes == [A4] * 3
    assert [set(codes) for codes in sheet.codes] == [
        {code_of(each) for each in part} for part in (tickets[:8], tickets[8:16], tickets[16:])
    ]
    assert all(min(size) > 35 for codes in sheet.codes for size in codes.values())
    for ticket in tickets:
        [text] = [text for text in sheet.texts if str(ticket.id) in text]
        assert f"Doors Fri 12 Jun 2026, 20:30 {ticket.holder} standard" in text


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        ({"admits_from": NOW - timedelta(hours=3)}, "Fri 12 Jun 2026, 18:30"),
        ({"admits_until": NOW}, "Fri 12 Jun 2026, 20:30 until Fri 12 Jun 2026, 21:30"),
    ],
)
def test_a_kind_with_times_of_its_own_has_them_on_its_tickets(event, times, shown):
    Kind.objects.create(event=event, name="vip", **times)

    ticket = make_ticket(event)

    [page], [cards] = (Viewer(printed([ticket], layout)).texts for layout in LAYOUTS)

    assert f"Doors open {shown} Kind vip" in page
    assert f"Doors {shown} Ada Lovelace vip" in cards


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("holder", NAMES.values(), ids=NAMES)
def test_any_name_is_printed_and_the_code_still_read(event, layout, holder):
    ticket = make_ticket(event, holder)

    page = Viewer(printed([ticket], layout))

    assert holder in page.texts[0].replace("\u200b", "")
    assert list(page.codes[0]) == [code_of(ticket)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_longest_of_everything_leaves_the_code_and_its_quiet_zone_alone(layout):
    event = make_event(name="An evening of chamber music " * 7)
    ticket = make_ticket(event, "W" * 200, "W" * 100, "W" * 200)

    content = printed([ticket] * 8, layout)

    assert all(list(codes) == [code_of(ticket)] for codes in Viewer(content).codes)
    with pypdfium2.PdfDocument(content) as document:
        for page in document:
            texts = [each.get_bounds() for each in page.get_objects([FPDF_PAGEOBJ_TEXT])]
            codes = [
                box for each in page.get_objects([FPDF_PAGEOBJ_PATH]) if is_square(box := each.get_bounds())
            ]
            assert len(codes) == 8 / len(document)
            for box in codes:
                quiet = 4 / 37 * (box[2] - box[0]) - 0.1
                assert not [text for text in texts if overlap(text, box, quiet)]
            assert all(0 < left < right < page.get_width() for left, _, right, _ in texts)


def is_square(box):
    left, bottom, right, top = box
    return right - left > 35 * MM_PT and abs((right - left) - (top - bottom)) < 0.1


def overlap(text, code, margin):
    left, bottom, right, top = code
    return (
        text[0] < right + margin
        and text[2] > left - margin
        and text[1] < top + margin
        and text[3] > bottom - margin
    )


@pytest.mark.parametrize("holder", ["王小明", "한", "😀"])
def test_what_the_font_lacks_is_seen_as_boxes(event, holder):
    ticket = make_ticket(event)

    def picture(holder):
        ticket.holder = holder
        with pypdfium2.PdfDocument(printed([ticket])) as document:
            return document[0].render().to_pil()

    left, top, right, bottom = ImageChops.difference(picture(holder), picture(" ")).getbbox()

    assert right - left > 6 * len(holder)
    assert bottom - top > 10


@pytest.mark.parametrize("text", [*NAMES.values(), "", "a", LONG, "😀" * 100, "e\u0301" * 99])
@pytest.mark.parametrize("lines", [1, 3])
def test_text_never_leaves_its_place(text, lines):
    lettering.load_fonts()
    fitted = lettering.fit(text, Face(BOLD, 12, 7, lines=lines), 110)

    assert len(fitted.lines) <= lines
    assert 7 <= fitted.size <= 12
    assert all(stringWidth(line, BOLD, fitted.size) <= 110 for line in fitted.lines)


def test_a_name_shrinks_before_it_is_cut():
    lettering.load_fonts()
    face = Face(BOLD, 12, 7)

    fits, shrunk, cut = (lettering.fit("Ada " * number, face, 110) for number in (2, 6, 60))

    assert (fits.size, fits.lines, fits.is_whole) == (12, ["Ada Ada"], True)
    assert (7 <= shrunk.size < 12, shrunk.lines, shrunk.is_whole) == (True, [" ".join(["Ada"] * 6)], True)
    assert (cut.size, cut.lines[0][-1], cut.is_whole) == (7, "…", False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_tickets_give_the_same_bytes_and_others_do_not(event, layout):
    first, second = make_ticket(event, "王 محمد 😀"), make_ticket(event, "Bob", reference="order-2")

    before = printed([first], layout)
    printed([second, first], layout)

    assert printed([first], layout) == before
    assert printed([second], layout) != before


def test_a_pdf_says_what_it_is(event):
    ticket = make_ticket(event)

    one, two = printed([ticket]), printed([ticket, ticket])

    assert {key: Viewer(one).metadata[key] for key in ("Title", "Author", "Subject", "Creator")} == {
        "Title": "Midsummer Night's Concert: Ada Lovelace",
        "Author": "Midsummer Night's Concert",
        "Subject": "Tickets",
        "Creator": "qrsite",
    }
    assert Viewer(two).metadata["Title"] == "Midsummer Night's Concert: 2 tickets"
    assert b"/Lang (en)" in one


def test_every_font_comes_along(event):
    with pypdfium2.PdfDocument(printed([make_ticket(event)])) as document:
        fonts = {each.get_font().get_base_name() for each in document[0].get_objects([FPDF_PAGEOBJ_TEXT])}
        embedded = {each.get_font().is_embedded for each in document[0].get_objects([FPDF_PAGEOBJ_TEXT])}

    assert embedded == {True}
    assert len(fonts) == 3


@pytest.mark.uncounted
@pytest.mark.parametrize("field", ["voided_at", "transferred_at"])
def test_a_ticket_that_the_gate_would_refuse_is_not_printed(event, admin_client, field):
    good, bad = make_ticket(event), make_ticket(event, "Bob", reference=None)
    Ticket.objects.filter(id=bad.id).update(**{field: NOW})
    shop = {"Authorization": f"Bearer {make_service('tickets:read')}"}

    api = Client().get(f"/api/v1/tickets/{bad.id}/ticket.pdf", headers=shop)
    page = act(admin_client, "print_pages", good, bad)

    said = f"a void or transferred ticket is refused at the gate: Bob ({bad.id})."
    assert (api.status_code, api.json()["error"]["code"]) == (409, "ticket_not_valid")
    assert api.json()["error"]["message"].endswith(said)
    assert said in page.content.decode()


def act(client, action, *tickets, **more):
    listing = reverse("admin:tickets_ticket_changelist")
    chosen = {"action": action, "_selected_action": [ticket.id for ticket in tickets], **more}
    return client.post(listing, chosen, follow=True)


def content(response):
    try:
        return b"".join(response.streaming_content)
    finally:
        response.close()


@pytest.mark.parametrize(("action", "page_count"), [("print_pages", 9), ("print_cards", 2)])
def test_the_admin_prints_what_is_chosen_in_the_order_of_the_list(admin_client, event, action, page_count):
    tickets = make_tickets(event, 9)

    response = act(admin_client, action, *tickets)
    paper = Viewer(content(response))

    assert response["Content-Type"] == "application/pdf"
    assert response["Content-Disposition"] == 'inline; filename="tickets.pdf"'
    assert len(paper.sizes) == page_count
    assert {code for codes in paper.codes for code in codes} == {code_of(ticket) for ticket in tickets}
    newest_first = sorted((ticket.id for ticket in tickets), reverse=True)
    assert list(map(int, re.findall(r"\b\d{14,}\b", " ".join(paper.texts)))) == newest_first


def test_one_pdf_holds_a_thousand_tickets_at_most(admin_client, event):
    tickets = make_tickets(event, printing.TICKETS_MAX + 1)

    page = act(admin_client, "print_cards", tickets[0], select_across="1")

    assert "One PDF holds at most 1,000 tickets. Choose fewer at a time." in page.content.decode()


def test_who_may_look_at_tickets_may_print_them_and_nobody_else(event):
    ticket = make_ticket(event)
    address = reverse("api:ticket_pdf", args=[ticket.id])
    looker, other = Client(), Client()
    for client, names in ((looker, ["view_ticket"]), (other, ["view_event"])):
        user = User.objects.create_user(names[0], is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=names))
        client.force_login(user)

    listing = looker.get(reverse("admin:tickets_ticket_changelist")).content.decode()
    offered = re.findall(r'<option value="(\w+)"', listing)

    assert offered == ["print_pages", "print_cards"]
    assert content(act(looker, "print_cards", ticket))[:5] == b"%PDF-"
    assert content(looker.get(address))[:5] == b"%PDF-"
    assert (act(other, "print_cards", ticket).status_code, other.get(address).status_code) == (403, 403)
    assert Client().get(address).status_code == 401


def test_the_api_prints_one_ticket_for_those_who_may_read(event):
    ticket = make_ticket(event)
    address = f"/api/v1/tickets/{ticket.id}/ticket.pdf"
    reader, writer = (
        Client(headers={"Authorization": f"Bearer {make_service(scope)}"})
        for scope in ("tickets:read", "tickets:write")
    )

    response = reader.get(address)

    assert (response.status_code, response["Content-Type"]) == (200, "application/pdf")
    assert response["Content-Disposition"] == f'inline; filename="ticket-{ticket.id}.pdf"'
    assert response["Cache-Control"] == "private, no-store"
    assert content(response) == printed([ticket])
    assert writer.get(address).status_code == 403


@pytest.mark.parametrize("number", ["0", "7", "-1", "x", "99999999999999999999999"])
def test_no_such_ticket_is_not_found(number):
    reader = Client(headers={"Authorization": f"Bearer {make_service('tickets:read')}"})

    response = reader.get(f"/api/v1/tickets/{number}/ticket.pdf")

    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.uncounted
def test_the_tickets_page_leads_to_its_pdf(admin_client, event):
    ticket = make_ticket(event)

    address = reverse("admin:tickets_ticket_change", args=[ticket.id])

    valid = admin_client.get(address).content.decode()
    Ticket.objects.update(voided_at=NOW)
    void = admin_client.get(address).content.decode()

    assert f'<a href="/api/v1/tickets/{ticket.id}/ticket.pdf">PDF</a>' in valid
    assert "ticket.pdf" not in void


def test_while_others_print_for_long_one_is_told(event):
    ticket = make_ticket(event)
    reader = Client(headers={"Authorization": f"Bearer {make_service('tickets:read')}"})
    with patch.object(printing, "WAIT_S", 0), printing._printer:
        response = reader.get(f"/api/v1/tickets/{ticket.id}/ticket.pdf")
    with patch.object(printing, "DRAW_S", 0.001):
        late = reader.get(f"/api/v1/tickets/{ticket.id}/ticket.pdf")

    for refusal in (response, late):
        assert (refusal.status_code, refusal.json()["error"]["code"], refusal["Retry-After"]) == (
            503,
            "overloaded",
            "1",
        )
    assert content(reader.get(f"/api/v1/tickets/{ticket.id}/ticket.pdf")) == printed([ticket])


def test_nobody_holds_a_connection_while_it_is_drawn(transactional_db):
    ticket = make_ticket(make_event())
    seen = []
    with patch.object(printing, "_draw", lambda *_: seen.append(db.orm().connection)):
        printing.answer([ticket], "pages").close()

    assert seen == [None]
