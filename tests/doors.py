"""The two doors of `POST /api/v1/scans`: the lane, and the view behind it."""

import asyncio
import json

from django.db import connection
from django.test import Client

from qrsite.scan_door import ScanDoor
from tests import contract

PATH = "/api/v1/scans"


def request(token, body, **headers):
    sent = {
        "host": "localhost",
        "content-type": "application/json",
        "authorization": f"Bearer {token}",
        **headers,
    }
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return data, sent


async def through(door, data, headers):
    """Ask the lane; None where it leaves the request to Django."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": PATH,
        "query_string": b"",
        "scheme": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    }
    if not await door.answer(scope, bytearray(data), send):
        assert sent == []
        return None
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    status, body = sent[0]["status"], json.loads(sent[1]["body"])
    contract.assert_agrees("POST", PATH, status, answered["content-type"], lambda: body)
    return status, body, answered


def by_the_lane(*requests):
    async def all_at_once():
        door = ScanDoor()
        return await asyncio.gather(*(through(door, *each) for each in requests))

    try:
        return asyncio.run(all_at_once())
    finally:
        connection.close()


def by_the_view(data, headers):
    client = Client(raise_request_exception=False)
    answer = client.post(PATH, data, content_type=headers["content-type"], headers=headers)
    return answer.status_code, answer.json(), {name.lower(): value for name, value in answer.items()}


def scan(code, nonce, **more):
    return {"code": code, "nonce": nonce, **more}
