"""The code in the QR: what we sign is read back, and nothing else is."""

import io

import base45
import pytest
import segno
import zxingcpp
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey
from PIL import Image

from tickets import codes

KEY = SigningKey(b"\x01" * 32)
KEYS = {1: KEY.verify_key}
REF = codes.TicketRef(event_id=7, ticket_id=2**63 - 1)
CODE = codes.make(REF, key_id=1, key=KEY)


def refusal(text, keys=KEYS):
    with pytest.raises(codes.CodeRefused) as caught:
        codes.read(text, keys)
    return caught.value.reason


@given(event_id=st.integers(1, 2**31 - 1), ticket_id=st.integers(1, 2**63 - 1))
def test_a_code_names_the_ticket_that_it_was_made_for(event_id, ticket_id):
    ref = codes.TicketRef(event_id, ticket_id)
    code = codes.make(ref, key_id=1, key=KEY)

    assert codes.read(code, KEYS) == ref
    assert len(code) == codes.CODE_CHARS


@given(
    st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:a\xdf:", min_size=116, max_size=118)
    | st.binary(min_size=78, max_size=78).map(lambda raw: base45.b45encode(raw).decode())
)
def test_texts_are_decoded_as_the_library_has_it(text):
    try:
        expected = base45.b45decode(text)
    except (ValueError, UnicodeEncodeError):
        expected = None
    try:
        found = codes._decode(text)
    except codes.CodeRefused:
        found = None

    assert found == (expected if expected is not None and len(expected) == 78 and len(text) == 117 else None)


def test_a_code_is_always_the_same_text():
    assert codes.make(REF, key_id=1, key=KEY) == CODE


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_picture_is_a_version_5_qr_at_level_m(kind):
    qr = segno.make(CODE, error="m", micro=False, boost_error=False)

    assert (qr.version, qr.error, qr.mode, qr.symbol_size(border=0)) == (5, "M", "alphanumeric", (37, 37))


def test_an_independent_decoder_reads_the_picture():
    picture = io.BytesIO()
    segno.make(CODE, error="m", boost_error=False).save(picture, kind="png", scale=4)

    [result] = zxingcpp.read_barcodes(Image.open(picture))

    assert codes.read(result.text, KEYS) == REF


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\t"])
def test_the_line_end_of_a_keyboard_scanner_is_no_part_of_the_code(end):
    assert codes.read(CODE + end, KEYS) == REF


def test_every_flipped_bit_is_refused():
    raw = base45.b45decode(CODE)
    reasons = set()
    for bit in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        reasons.add(refusal(base45.b45encode(bytes(flipped)).decode()))

    assert reasons == {"unreadable", "unknown_key", "bad_signature"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        CODE.lower(),
        CODE[:-1],
        CODE[:-3],
        CODE + "0",
        CODE + "000",
        " " + CODE,
        CODE * 2,
        "hello",
        "https://example.org/t/1",
        "\x00" * 117,
        "\ud800",
        "é" * 117,
        "::::::",
    ],
)
def test_what_is_not_ours_is_unreadable(text):
    assert refusal(text) == "unreadable"


def test_a_code_of_another_key_is_refused():
    other = SigningKey(b"\x02" * 32)

    assert refusal(codes.make(REF, key_id=2, key=other)) == "unknown_key"
    assert refusal(codes.make(REF, key_id=1, key=other)) == "bad_signature"


def test_a_signature_for_anything_else_is_none_of_ours():
    payload = base45.b45decode(CODE)[:14]
    without_domain = payload + KEY.sign(payload).signature

    assert refusal(base45.b45encode(without_domain).decode()) == "bad_signature"


@settings(max_examples=500)
@given(st.text(max_size=200))
def test_no_text_is_accepted_by_chance_and_none_raises_anything_else(text):
    assert refusal(text) in {"unreadable", "unknown_key", "bad_signature"}


@settings(max_examples=500)
@given(st.integers(0, codes.CODE_CHARS - 1), st.sampled_from("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"))
def test_a_code_with_one_other_character_is_refused(position, char):
    text = CODE[:position] + char + CODE[position + 1 :]

    assert text == CODE or refusal(text) in {"unreadable", "unknown_key", "bad_signature"}
