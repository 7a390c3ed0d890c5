"""Phones at the gate of a `Server`: each has a connection of its own, and doesn't give up until it has a verdict."""

import http.client
import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import psutil

from tests.fake_driver import until

PATH = "/api/v1/scans"
WORKERS = 2
PATIENCE_S = 30
PAUSE_S = 0.02  # between two tries; far less than Retry-After asks for, so as to be in the way


class Outcome(NamedTuple):
    """What came of one scan in the end, and how often its phone was cut off or told to come back before."""

    nonce: str
    answer: dict[str, Any]
    cut_off: int
    told_to_come_back: int


class Phone:
    """What is sent and what is received may be apart, so that many scans can be under way."""

    def __init__(self, server):
        self._headers = {**server.device, "Content-Type": "application/json"}
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)

    def send(self, code, nonce=None, **more):
        self.send_body(json.dumps({"code": code, "nonce": nonce or uuid.uuid4().hex, **more}))

    def send_body(self, body):
        self.connection.request("POST", PATH, body, self._headers)

    def receive(self):
        """Return the status and what was said; who is told to come back is told when."""
        response = self.connection.getresponse()
        said = json.loads(response.read())
        assert response.status != 503 or response.headers["Retry-After"] == "1"
        return response.status, said

    def scan(self, code, nonce=None, **more):
        self.send(code, nonce, **more)
        return self.receive()

    def scan_until_judged(self, code, nonce):
        """Scan, with the same nonce again after each failure, as docs/scanning.md tells clients to."""
        cut_off = told_to_come_back = 0
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            try:
                status, said = self.scan(code, nonce)
            except (OSError, http.client.HTTPException):
                self.connection.close()
                cut_off += 1
            else:
                if status == 200:
                    return Outcome(nonce, said, cut_off, told_to_come_back)
                assert status == 503, said
                told_to_come_back += 1
            time.sleep(PAUSE_S)
        raise AssertionError(f"{nonce} was never judged: cut off {cut_off}, told {told_to_come_back} times")

    def wait_for_its_process(self):
        """Return once the process has read what it was sent before."""
        self.connection.request("GET", "/health/live")
        self.connection.getresponse().read()


class Gate:
    """The phones of one server."""

    def __init__(self, server):
        self.server = server
        self._phones = []

    def phone(self):
        self._phones.append(Phone(self.server))
        return self._phones[-1]

    def close(self):
        for phone in self._phones:
            phone.connection.close()

    def workers(self):
        """Return the processes that serve, the oldest first; one that is being replaced is waited for."""
        until(lambda: len(self._living()) == WORKERS)
        return sorted(self._living(), key=psutil.Process.create_time)

    def _living(self):
        return [child for child in psutil.Process(self.server.process.pid).children() if _lives(child)]

    def worker_of(self, phone):
        """Return the process that has the other end of a phone's connection."""
        port = phone.connection.sock.getsockname()[1]
        [owner] = [
            worker.pid
            for worker in self.workers()
            if any(other.raddr and other.raddr.port == port for other in worker.net_connections("tcp"))
        ]
        return owner

    def phones_of_each_worker(self, number):
        """Return so many phones for each process: all listen on one port, and who answers is the kernel's choice."""
        owned = {worker.pid: [] for worker in self.workers()}
        while any(len(phones) < number for phones in owned.values()):
            phone = self.phone()
            phone.wait_for_its_process()
            mates = owned[self.worker_of(phone)]
            if len(mates) < number:
                mates.append(phone)
            else:
                phone.connection.close()
        return list(owned.values())

    def storm(self, codes, *faults, phones=32):
        """Scan every code twice, many at once; do each fault when another share is judged; return all outcomes."""
        waiting = [(code, uuid.uuid4().hex) for code in codes for _ in range(2)]
        share = len(waiting) // (len(faults) + 1)
        outcomes = []

        def work(phone):
            with suppress(IndexError):
                while True:
                    outcomes.append(phone.scan_until_judged(*waiting.pop()))

        with ThreadPoolExecutor(phones) as pool:
            busy = [pool.submit(work, self.phone()) for _ in range(phones)]
            for number, fault in enumerate(faults, start=1):
                until(lambda due=number * share: len(outcomes) >= due or all(one.done() for one in busy))
                fault()
            for one in busy:
                one.result()
        return outcomes


@contextmanager
def gate_of(server) -> Iterator[Gate]:
    gate = Gate(server)
    try:
        yield gate
    finally:
        gate.close()


def _lives(process):
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
