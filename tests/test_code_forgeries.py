"""A million ways to change a code, and none gets in: each is an ordinary refusal."""

import multiprocessing
import random
import uuid
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest
from nacl.signing import SigningKey

from tests.forger import Forger
from tests.phones import gate_of
from tests.serving import servers
from tickets import codes

REASONS = {"unreadable", "unknown_key", "bad_signature"}
KEYS = {key_id: SigningKey(bytes([key_id]) * 32) for key_id in (1, 2, 255)}


def outcomes_of_forgeries(number, seed):
    """Count what codes.read says of so many forgeries; `accepted` keeps the texts that it should have refused."""
    made = random.Random(seed)
    genuine = [
        codes.make(
            codes.TicketRef(made.randint(1, 2**31 - 1), made.randint(1, 2**63 - 1)), key_id=key_id, key=key
        )
        for key_id, key in KEYS.items()
        for _ in range(10)
    ]
    trusted = {key_id: key.verify_key for key_id, key in KEYS.items()}
    forger = Forger(genuine, seed)
    reasons, ways, accepted = Counter(), Counter(), []
    for _ in range(number):
        way, text = forger.forge()
        ways[way] += 1
        try:
            codes.read(text, trusted)
        except codes.CodeRefused as refused:
            reasons[refused.reason] += 1
        else:
            accepted.append((way, text))
    return reasons, ways, accepted


@pytest.mark.parametrize("number", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_no_changed_code_is_read_and_none_is_an_error(number):
    shares = 20
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(partial(outcomes_of_forgeries, number // shares), range(shares)))

    reasons = sum((result[0] for result in results), Counter())
    ways = sum((result[1] for result in results), Counter())
    assert [text for result in results for text in result[2]] == []
    assert (reasons.total(), set(reasons)) == (number, REASONS)
    assert min(ways.values()) > number / 50


@pytest.mark.parametrize("around", ["\r", "\n", "\t", "\r\n", "\n\n\t\r"])
def test_what_names_a_ticket_is_its_one_code_with_nothing_but_line_ends_around_it(around):
    ref = codes.TicketRef(7, 2**63 - 1)
    code = codes.make(ref, key_id=1, key=KEYS[1])

    for text in (code, code + around, around + code, around + code + around):
        assert codes.read(text, {1: KEYS[1].verify_key}) == ref


def test_changed_codes_are_refused_over_http_and_every_one_is_logged(tmp_path_factory):
    with servers() as start, gate_of(start(tmp_path_factory.mktemp("forgeries") / "var")) as gate:
        server = gate.server
        forger = Forger(server.issue(20), seed=0)
        forgeries = {uuid.uuid4().hex: forger.forge()[1] for _ in range(2_400)}
        phones = [gate.phone() for _ in range(60)]
        answers = {}
        for nonces in batches(forgeries, len(phones)):
            for phone, nonce in zip(phones, nonces, strict=True):
                phone.send(forgeries[nonce], nonce)
            answers |= {nonce: phone.receive() for phone, nonce in zip(phones, nonces, strict=True)}
        rows = server.ask(
            "SELECT nonce, reason FROM ticket_scans WHERE verdict = 'refused' AND ticket_id IS NULL"
        )
        admitted = server.ask("SELECT count(*) FROM ticket_scans WHERE verdict <> 'refused'")

    assert {(status, said["verdict"]) for status, said in answers.values()} == {(200, "refused")}
    assert dict(rows) == {nonce: said["reason"] for nonce, (_, said) in answers.items()}
    assert set(dict(rows).values()) == REASONS
    assert admitted == [(0,)]


def batches(items, size):
    return zip(*[iter(items)] * size, strict=True)
