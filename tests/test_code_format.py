"""docs/code-format.md suffices to write a verifier: here is one, of that page and `cryptography` alone."""

import json
import re
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from nacl.signing import SigningKey

from tickets import codes, keys

PAGE = (Path(__file__).parent.parent / "docs/code-format.md").read_text()
[_vectors] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
VECTORS = json.loads(_vectors)
PUBLIC_KEYS = {key["key_id"]: bytes.fromhex(key["public_key"]) for key in VECTORS["keys"]}
SEEDS = {key["key_id"]: bytes.fromhex(key["seed"]) for key in VECTORS["keys"]}
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"


def decoded(text):
    numbers = [ALPHABET.index(char) for char in text]  # ValueError: another character
    groups = [numbers[start : start + 3] for start in range(0, 117, 3)]
    if len(text) != 117:
        raise ValueError("another length")
    # OverflowError: a number above 65535
    return b"".join((a + 45 * b + 2025 * c).to_bytes(2, "big") for a, b, c in groups)


def verify(text):
    try:
        raw = decoded(text.strip("\r\n\t"))
    except (ValueError, OverflowError):
        return {"verdict": "unreadable"}
    if raw[0] != 1:
        return {"verdict": "unreadable"}
    if raw[1] not in PUBLIC_KEYS:
        return {"verdict": "unknown_key"}
    try:
        key = Ed25519PublicKey.from_public_bytes(PUBLIC_KEYS[raw[1]])
        key.verify(raw[14:], b"qrsite-ticket-v1" + bytes(1) + raw[:14])
    except InvalidSignature:
        return {"verdict": "bad_signature"}
    event, ticket = int.from_bytes(raw[2:6], "big"), int.from_bytes(raw[6:14], "big")
    return {"verdict": "valid", "key_id": raw[1], "event": event, "ticket": str(ticket)}


def expected(vector):
    return {name: value for name, value in vector.items() if name not in {"code", "why"}}


def test_the_page_has_vectors_of_every_verdict():
    verdicts = {vector["verdict"] for vector in VECTORS["codes"]}

    assert verdicts == {"valid", "unreadable", "unknown_key", "bad_signature"}
    assert ALPHABET in PAGE


@pytest.mark.parametrize("vector", VECTORS["codes"], ids=lambda vector: vector.get("why", "plain"))
def test_a_verifier_written_from_the_page_says_what_the_page_says(vector):
    assert verify(vector["code"]) == expected(vector)


@pytest.mark.parametrize("vector", VECTORS["codes"], ids=lambda vector: vector.get("why", "plain"))
def test_so_does_ours(vector):
    ring = keys.parse(keys._write({key_id: SigningKey(seed) for key_id, seed in SEEDS.items()}))
    try:
        ref = codes.read(vector["code"], ring.verify_keys)
        said = {"verdict": "valid", "event": ref.event_id, "ticket": str(ref.ticket_id)}
    except codes.CodeRefused as refused:
        said = {"verdict": refused.reason}

    wanted = expected(vector)
    wanted.pop("key_id", None)
    assert said == wanted
    assert {key_id: bytes(key) for key_id, key in ring.verify_keys.items()} == PUBLIC_KEYS


@pytest.mark.parametrize("vector", [vector for vector in VECTORS["codes"] if vector["verdict"] == "valid"])
def test_we_sign_what_the_page_has(vector):
    ref = codes.TicketRef(vector["event"], int(vector["ticket"]))
    key = SigningKey(SEEDS[vector["key_id"]])

    assert codes.make(ref, key_id=vector["key_id"], key=key) == vector["code"].strip()
