"""A device gets its token by a QR: once, in time, and never two at once."""

import io
import json
import re
import threading
from datetime import timedelta
from urllib.parse import unquote

import pytest
import zxingcpp
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from core import db
from tests.factories import NOW, make_device, make_event, make_open_event
from tickets import enrolment, queries
from tickets.models import Device, Enrolment
from tickets.tokens import token_hash

pytestmark = pytest.mark.django_db
PATH = "/api/v1/devices/enrol"
LISTING = "admin:tickets_device_changelist"


@pytest.fixture
def event():
    return make_open_event(slug="midsummer", name="Midsummer")


@pytest.fixture
def device(event):
    return make_device(event)[0]


def invite(*devices, now=None):
    return enrolment.invite(devices=devices, now=now or timezone.now())


def exchange(secret):
    client = Client(raise_request_exception=False)
    return client.post(PATH, json.dumps({"secret": secret}), content_type="application/json")


def refusal(secret):
    response = exchange(secret)
    return response.status_code, response.json()["error"]["code"]


def scan(token):
    client = Client(raise_request_exception=False)
    body = json.dumps({"code": "x", "nonce": "n"})
    headers = {"Authorization": f"Bearer {token}"}
    return client.post("/api/v1/scans", body, content_type="application/json", headers=headers).status_code


def test_a_secret_becomes_a_token_that_scans(device):
    [secret] = invite(device)

    response = exchange(secret)

    answer = response.json()
    token = answer.pop("token")
    assert response.status_code == 201
    assert response["Cache-Control"] == "private, no-store"
    assert answer == {
        "device": "Scanner",
        "gate": "Main gate",
        "event": "midsummer",
        "event_name": "Midsummer",
        "time_zone": "Europe/Berlin",
    }
    assert scan(token) == 200
    device.refresh_from_db()
    assert device.enrolled_at is not None


def test_nothing_that_could_be_used_is_kept(device):
    [secret] = invite(device)
    token = exchange(secret).json()["token"]

    row = Enrolment.objects.get()
    assert bytes(row.secret_hash) == token_hash(secret)
    assert bytes(Device.objects.get().token_hash) == token_hash(token)
    assert len(secret) >= len("qre_") + 128 / 6


def test_a_secret_works_once(device):
    [secret] = invite(device)
    token = exchange(secret).json()["token"]

    assert refusal(secret) == (410, "enrolment_used")
    assert scan(token) == 200


def test_a_secret_is_valid_for_ten_minutes(device):
    [late] = invite(device, now=timezone.now() - timedelta(minutes=10))
    assert refusal(late) == (410, "enrolment_expired")

    [in_time] = invite(device, now=timezone.now() - timedelta(minutes=9, seconds=50))
    assert exchange(in_time).status_code == 201


def test_a_newer_secret_ends_the_older_one(device):
    [older], [newer] = invite(device), invite(device)

    assert refusal(older) == (410, "enrolment_expired")
    assert exchange(newer).status_code == 201


@pytest.mark.parametrize("secret", ["", "qre_", "qre_" + "A" * 43, "qrd_x", "\x00", "qre_\x00"])
def test_what_is_no_secret_is_unknown(device, secret):
    invite(device)

    assert refusal(secret) == (404, "enrolment_unknown")
    assert Enrolment.objects.get().used_at is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{}", 422),
        ('{"secret": 7}', 422),
        ('{"secret": "%s"}' % ("x" * 201), 422),
        ('{"secret": "\\ud800"}', 422),
        ("[]", 400),
    ],
)
def test_what_is_no_exchange_is_said_so(body, status):
    assert Client().post(PATH, body, content_type="application/json").status_code == status


def test_the_old_token_stops_when_the_new_one_is_made_and_not_before(event):
    device, old = make_device(event)
    [secret] = invite(device)
    before = scan(old)

    new = exchange(secret).json()["token"]

    assert (before, scan(old), scan(new)) == (200, 401, 200)
    with db.begin() as conn:
        found = queries.devices_by_token(conn, token_hashes=[token_hash(old), token_hash(new)])
    assert list(found) == [token_hash(new)]  # what the lane asks when 5 s are over


def test_a_revoked_device_comes_back_by_no_secret(device):
    [secret] = invite(device)
    Device.objects.update(revoked_at=NOW)

    assert refusal(secret) == (410, "device_revoked")
    assert Enrolment.objects.get().used_at is None
    with pytest.raises(enrolment.DeviceRevoked, match="Scanner"):
        invite(device)
    assert Enrolment.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_of_many_exchanges_at_once_exactly_one_wins():
    device = make_device(make_open_event())[0]
    for _ in range(10):
        [secret] = invite(device)
        start, answers = threading.Barrier(8), []

        def try_it(secret=secret, start=start, answers=answers):
            start.wait(10)
            try:
                answers.append(enrolment.enrol(secret=secret, now=timezone.now()).token)
            except enrolment.EnrolmentUsed:
                answers.append(None)
            finally:
                connection.close()

        threads = [threading.Thread(target=try_it) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        [token] = filter(None, answers)
        assert len(answers) == 8
        assert bytes(Device.objects.get().token_hash) == token_hash(token)


@pytest.mark.django_db(transaction=True)
def test_revoking_and_enrolling_at_once_leave_a_revoked_device_revoked():
    device = make_device(make_open_event())[0]
    [secret] = invite(device)
    start, outcomes = threading.Barrier(2), []

    def enrol():
        start.wait(10)
        try:
            outcomes.append(enrolment.enrol(secret=secret, now=timezone.now()).token)
        except enrolment.DeviceRevoked:
            outcomes.append(None)
        finally:
            connection.close()

    thread = threading.Thread(target=enrol)
    thread.start()
    start.wait(10)
    Device.objects.filter(revoked_at=None).update(revoked_at=timezone.now())
    thread.join()

    assert len(outcomes) == 1
    assert Device.objects.get().revoked_at is not None
    assert outcomes[0] is None or scan(outcomes[0]) == 401


def shown(page):
    """What the QRs on a page hold, read by another decoder, and what stands below them."""
    text = page.content.decode()
    pictures = [unquote(uri) for uri in re.findall(r'src="(data:image/svg[^"]*)"', text)]
    return pictures, re.findall(r"<code>(.*?)</code>", text)


def test_the_button_shows_a_qr_with_the_address_of_the_gates_page(admin_client, device):
    page = admin_client.post(reverse("admin:tickets_device_enrol", args=[device.id]))

    pictures, [url] = shown(page)
    secret = re.fullmatch(r"http://testserver/gate/#enrol=(qre_[\w-]+)", url)[1]
    assert len(pictures) == 1
    assert "no-store" in page["Cache-Control"]
    assert "img-src 'self' data:" in page["Content-Security-Policy"]
    assert exchange(secret).status_code == 201
    history = admin_client.get(reverse("admin:tickets_device_history", args=[device.id])).content.decode()
    assert "Made a QR to enrol it." in history
    assert secret not in history


def test_an_independent_decoder_reads_the_address():
    import segno
    from PIL import Image

    from tickets.token_admin import _invitation

    device = make_device(make_event())[0]
    url = f"https://tickets.example.org/gate/#enrol={invite(device)[0]}"
    picture = io.BytesIO()
    segno.make(url, error="m", micro=False).save(picture, kind="png", scale=4, border=4)

    [result] = zxingcpp.read_barcodes(Image.open(picture))

    assert result.text == url
    assert _invitation(device, url, NOW)["qr"] == segno.make(url, error="m", micro=False).svg_data_uri(
        scale=8, border=4
    )


def test_many_are_enrolled_at_once(admin_client, event):
    devices = [make_device(event, gate=gate)[0] for gate in ("North", "South")]
    chosen = {"action": "enrol", "_selected_action": [device.id for device in devices]}

    page = admin_client.post(reverse(LISTING), chosen)

    pictures, urls = shown(page)
    answers = [exchange(url.partition("=")[2]).json() for url in urls]
    assert len(pictures) == 2
    assert {answer["gate"] for answer in answers} == {"North", "South"}
    assert len({answer["token"] for answer in answers}) == 2


def test_a_revoked_device_gets_no_qr(admin_client, device):
    Device.objects.update(revoked_at=NOW)

    page = admin_client.post(reverse("admin:tickets_device_enrol", args=[device.id]), follow=True)
    form = admin_client.get(reverse("admin:tickets_device_change", args=[device.id])).content.decode()

    assert "Revoked for good, so add anew: Scanner." in page.content.decode()
    assert "Enrol by QR" not in form
    assert not Enrolment.objects.exists()


def test_looking_at_the_address_makes_no_secret_and_an_unknown_device_is_said_so(admin_client, device):
    address = reverse("admin:tickets_device_enrol", args=[device.id])

    assert admin_client.get(address).status_code == 302
    nobody = admin_client.post(reverse("admin:tickets_device_enrol", args=[device.id + 1]), follow=True)
    assert "Choose 1 to 100 devices." in nobody.content.decode()
    assert not Enrolment.objects.exists()


def test_who_may_only_look_enrols_nothing(client, device):
    watcher = User.objects.create_user("watcher", is_staff=True)
    watcher.user_permissions.add(Permission.objects.get(codename="view_device"))
    client.force_login(watcher)

    button = client.post(reverse("admin:tickets_device_enrol", args=[device.id]))
    client.post(reverse(LISTING), {"action": "enrol", "_selected_action": [device.id]})
    form = client.get(reverse("admin:tickets_device_change", args=[device.id])).content.decode()

    assert button.status_code == 403
    assert "Enrol by QR" not in form
    assert not Enrolment.objects.exists()


def test_the_admin_tells_when_a_device_was_enrolled_and_seen(admin_client, device):
    Device.objects.update(enrolled_at=NOW, last_seen_at=NOW + timedelta(minutes=5))

    for page in (reverse(LISTING), reverse("admin:tickets_device_change", args=[device.id])):
        text = admin_client.get(page).content.decode()
        assert "Fri 12 Jun 2026, 21:30" in text
        assert "Fri 12 Jun 2026, 21:35" in text


def seen(*devices, at):
    with db.begin() as conn:
        queries.devices_seen(conn, device_ids=[device.id for device in devices], seen_at=at)
    return list(Device.objects.order_by("id").values_list("last_seen_at", flat=True))


def test_a_device_is_noted_once_a_minute(event):
    busy, idle = make_device(event)[0], make_device(event)[0]
    second, minute = timedelta(seconds=1), timedelta(minutes=1)

    assert seen(busy, busy, at=NOW) == [NOW, None]
    assert seen(busy, at=NOW + minute - second) == [NOW, None]
    assert seen(busy, at=NOW - minute) == [NOW, None]
    assert seen(busy, idle, at=NOW + minute) == [NOW + minute] * 2
    assert seen(at=NOW + minute) == [NOW + minute] * 2
    assert idle.id > busy.id


def test_writing_when_nothing_is_due_writes_nothing(event):
    device = make_device(event)[0]
    seen(device, at=NOW)
    with connection.cursor() as cursor:
        cursor.execute("SELECT ctid FROM device")
        before = cursor.fetchall()
        seen(device, at=NOW + timedelta(seconds=59))
        cursor.execute("SELECT ctid FROM device")
        assert cursor.fetchall() == before


@pytest.mark.django_db(transaction=True)
def test_noting_never_waits_for_who_changes_a_device():
    event = make_open_event()
    held, free = make_device(event)[0], make_device(event)[0]
    locked, go = threading.Event(), threading.Event()

    def hold():
        with db.begin() as conn:
            conn.exec_driver_sql("SELECT id FROM device WHERE id = %s FOR UPDATE", (held.id,))
            locked.set()
            go.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait(10)
    try:
        assert seen(held, free, at=NOW) == [None, NOW]
    finally:
        go.set()
        thread.join()
