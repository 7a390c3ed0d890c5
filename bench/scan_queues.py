"""Queues that were made offline come in at once: the case of `python -m bench.scan` for `POST /api/v1/scans/batch`."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bench.scan_contestants import serving
from bench.scan_stage import Stage
from bench.worker import GivenUp, Numbers

PATH = "/api/v1/scans/batch"
QUEUE = 1000
PHONES = 4
PROCESSES = 1


def queue(stage: Stage, name: str, seconds: float, progress: Callable[[str], None]) -> Numbers:
    """Four phones send queues of 1,000 scans each, one after the other, to one process."""
    stage.renew()
    codes = (stage.folder / "codes.txt").read_text().split("\n")[: stage.tickets]
    tokens = (stage.folder / "tokens.txt").read_text().split()
    bodies = [
        json.dumps(
            {
                "scans": [
                    {"code": code, "nonce": f"queue-{start + n}"}
                    for n, code in enumerate(codes[start : start + QUEUE])
                ]
            }
        )
        for start in range(0, len(codes) - QUEUE + 1, QUEUE)
    ]
    progress(f"{PHONES} phones, {PROCESSES} process")
    with serving(name, stage, PROCESSES) as (port, _site), ThreadPoolExecutor(PHONES) as phones:
        _send(port, tokens[0], bodies[-PHONES:], float("inf"))  # warms up
        began_s = time.monotonic()
        shares = [bodies[phone:-PHONES:PHONES] for phone in range(PHONES)]
        sent = list(
            phones.map(
                lambda phone: _send(port, tokens[phone], shares[phone], began_s + seconds), range(PHONES)
            )
        )
        took_s = time.monotonic() - began_s
    told = sum(admitted for _, admitted in sent) + PHONES * QUEUE
    admitted, twice, torn = stage.admissions()
    return {
        "scans_per_s": round(sum(scans for scans, _ in sent) / took_s),
        "queues": sum(scans for scans, _ in sent) // QUEUE,
        "admissions_lost": max(told - admitted, 0) + twice + torn,
    }


def _send(port: int, token: str, bodies: list[str], until_s: float) -> tuple[int, int]:
    """Send queues one after the other, until there is no more time; count scans, and those admitted."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    scans = admitted = 0
    for body in bodies:
        if time.monotonic() > until_s:
            break
        client.request("POST", PATH, body, headers)
        answer = client.getresponse()
        found = answer.read()
        if answer.status != 200:
            raise GivenUp(f"a queue got {answer.status}: {found[:200]!r}")
        scans += QUEUE
        admitted += found.count(b'"admitted"')
    client.close()
    return scans, admitted
