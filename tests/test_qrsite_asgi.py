"""The front door: what it lets in, and what it refuses before a thread is spent."""

import asyncio
import json
import threading

import pytest

from qrsite import asgi

SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "path": "/api/v1/nothing",
    "query_string": b"",
    "headers": [(b"host", b"localhost")],
}


def chunks(*bodies, then=None):
    """A client that sends these bodies, and then waits or goes away."""
    messages = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    if then:
        messages.append(then)

    async def receive():
        if messages:
            return messages.pop(0)
        return await asyncio.Event().wait()

    return receive


END = {"type": "http.request", "body": b"", "more_body": False}
GONE = {"type": "http.disconnect"}


async def ask(door, receive, **scope):
    sent = []

    async def send(message):
        sent.append(message)

    await door({**SCOPE, **scope}, receive, send)
    if not sent:
        return None
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], json.loads(body), dict(sent[0]["headers"])


def refusal(answer):
    return answer[0], answer[1]["error"]["code"]


def test_a_request_in_pieces_arrives_whole():
    answer = asyncio.run(ask(asgi.FrontDoor(), chunks(b"a", b"b", then=END)))

    assert refusal(answer) == (404, "not_found")


def test_a_body_that_does_not_end_is_cut_at_the_limit(monkeypatch):
    monkeypatch.setattr(asgi, "DRAIN_TIMEOUT_S", 0.05)
    mebibyte = b"x" * 2**20

    answer = asyncio.run(ask(asgi.FrontDoor(), chunks(mebibyte, mebibyte, mebibyte), method="POST"))

    assert refusal(answer) == (413, "too_large")


def test_a_body_that_does_not_come_is_given_up(monkeypatch):
    monkeypatch.setattr(asgi, "BODY_TIMEOUT_S", 0.05)

    answer = asyncio.run(ask(asgi.FrontDoor(), chunks(b"a"), method="POST"))

    assert refusal(answer) == (408, "timeout")


def test_a_client_that_goes_away_is_not_answered():
    assert asyncio.run(ask(asgi.FrontDoor(), chunks(b"a", then=GONE), method="POST")) is None


def test_what_is_not_http_is_left_alone():
    assert asyncio.run(ask(asgi.FrontDoor(), chunks(), type="lifespan")) is None


def test_beyond_its_bound_the_door_says_when_to_come_back_and_then_goes_on(monkeypatch):
    monkeypatch.setattr(asgi, "MAX_WAITING", 1 - asgi.THREADS)
    door = asgi.FrontDoor()

    async def two_at_once():
        waiting = asyncio.create_task(ask(door, chunks(b"a")))
        await asyncio.sleep(0)
        refused = await ask(door, chunks(then=END))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return refused, await ask(door, chunks(then=END))

    refused, after = asyncio.run(two_at_once())

    assert refusal(refused) == (503, "overloaded")
    assert refused[2][b"retry-after"] == b"1"
    assert after[0] == 404


def test_django_runs_on_fewer_threads_than_there_are_connections():
    gate = threading.Event()
    running = []

    def slow(environ, start_response):
        running.append(threading.get_ident())
        gate.wait(10)
        start_response("200 OK", [])
        return [b"{}"]

    door = asgi.FrontDoor()
    door._django.app = slow

    async def many():
        asks = [asyncio.create_task(ask(door, chunks(then=END))) for _ in range(40)]
        while len(running) < asgi.THREADS:
            await asyncio.sleep(0.01)
        at_once = len(running)
        gate.set()
        return at_once, [answer[0] for answer in await asyncio.gather(*asks)]

    assert asyncio.run(many()) == (10, [200] * 40)


@pytest.mark.parametrize(
    ("raw", "arrives"), [(b"a=1&b=%20", "a=1&b=%20"), ("ä=\x80".encode(), "%C3%A4=%C2%80")]
)
def test_a_query_reaches_django_as_ascii(raw, arrives):
    door = asgi.FrontDoor()
    seen = []

    def look(environ, start_response):
        seen.append(environ["QUERY_STRING"])
        start_response("200 OK", [])
        return [b"{}"]

    door._django.app = look
    asyncio.run(ask(door, chunks(then=END), query_string=raw))

    assert seen == [arrives]


def test_clients_together_are_held_to_a_bound_too(monkeypatch):
    monkeypatch.setattr(asgi, "MAX_HELD_BYTES", 1000)
    door = asgi.FrontDoor()

    async def two_at_once():
        sending = asyncio.create_task(ask(door, chunks(b"x" * 900)))
        await asyncio.sleep(0)
        refused = await ask(door, chunks(b"x" * 101, then=END))
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        return refused, await ask(door, chunks(b"x" * 900, then=END))

    refused, after = asyncio.run(two_at_once())

    assert (refusal(refused), after[0]) == ((503, "overloaded"), 404)


def test_a_body_in_chunks_has_a_length_for_django():
    door = asgi.FrontDoor()
    seen = []

    def look(environ, start_response):
        seen.append(
            (environ["CONTENT_LENGTH"], environ["wsgi.input"].read(), "HTTP_TRANSFER_ENCODING" in environ)
        )
        start_response("200 OK", [])
        return [b"{}"]

    door._django.app = look
    asyncio.run(ask(door, chunks(b"ab", b"c", then=END), headers=[(b"transfer-encoding", b"chunked")]))

    assert seen == [("3", b"abc", False)]


def test_the_live_probe_answers_while_every_thread_is_busy():
    door = asgi.FrontDoor()
    gate = threading.Event()
    busy = threading.Semaphore(0)

    def stuck(environ, start_response):
        busy.release()
        gate.wait(10)
        start_response("200 OK", [])
        return [b"{}"]

    door._django.app = stuck

    async def probe():
        asks = [asyncio.create_task(ask(door, chunks(then=END))) for _ in range(asgi.THREADS)]
        for _ in asks:
            await asyncio.to_thread(busy.acquire)
        answer = await ask(door, chunks(then=END), path="/health/live/")
        gate.set()
        await asyncio.gather(*asks)
        return answer

    assert asyncio.run(probe())[:2] == (200, {"status": "pass"})


def test_a_client_that_reads_slowly_keeps_no_thread():
    door = asgi.FrontDoor()
    finished = threading.Event()

    def long(environ, start_response):
        start_response("200 OK", [])
        yield from [b"x"] * 100
        finished.set()

    door._django.app = long

    async def read_nothing():
        async def send(_message):
            await asyncio.Event().wait()

        asking = asyncio.create_task(door(SCOPE, chunks(then=END), send))
        is_finished = await asyncio.to_thread(finished.wait, 10)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        return is_finished

    assert asyncio.run(read_nothing())
