"""`manage.py serve --demo` as a process of its own, for tests of the real thing."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager

import httpx
import psutil
import psycopg2

STOP_WITHIN_S = 10


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_gone(pid, within_s=STOP_WITHIN_S):
    """PostgreSQL removes its pid file, and with that counts as stopped, a moment before its process ends."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


class Server:
    """One `serve --demo`, on a port and a var/ of its own, and on a PostgreSQL of its own where no variable names one."""

    def __init__(self, var, **variables):
        self.var = var
        self.port = free_port()
        self.log = (var.parent / f"{self.port}.log").open("w+")
        environment = {**os.environ, "VAR_DIR": str(var), "PORT": str(self.port)}
        for name in ("DATABASE_URL", "DJANGO_SETTINGS_MODULE"):
            environment.pop(name, None)
        environment.update(variables)
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "serve", "--demo"],
            env=environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.url = f"http://127.0.0.1:{self.port}"
        self.wait_until_ready()
        self.demo = json.loads((var / "demo.json").read_text())
        self.device = {"Authorization": f"Bearer {self.demo['device_token']}"}
        self.service = {"Authorization": f"Bearer {self.demo['service_token']}"}

    def output(self):
        self.log.flush()
        self.log.seek(0)
        return self.log.read()

    def wait_until_ready(self, within_s=60):
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.output()
            try:
                if httpx.get(f"{self.url}/health/ready").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(self.output())

    def scan(self, client, code, nonce=None):
        body = {"code": code, "nonce": nonce or uuid.uuid4().hex}
        return client.post(f"{self.url}/api/v1/scans", json=body, headers=self.device)

    def issue(self, number):
        body = {"tickets": [{"holder": f"Guest {index}"} for index in range(number)]}
        url = f"{self.url}/api/v1/events/demo/tickets"
        answer = httpx.post(url, json=body, headers=self.service)
        assert answer.status_code == 201
        return [ticket["code"] for ticket in answer.json()["tickets"]]

    def ask(self, question):
        connection = psycopg2.connect(self.demo["database_url"].replace("postgres://", "postgresql://"))
        try:
            with connection.cursor() as cursor:
                cursor.execute(question)
                return cursor.fetchall()
        finally:
            connection.close()

    def stop(self):
        """Press Ctrl-C, as a terminal does: for the whole foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(STOP_WITHIN_S)
        output = self.output()
        self.log.close()
        return output


@contextmanager
def servers():
    """Lend a function that starts servers; whatever comes of the test, none stays."""
    started = []

    def start(var, **variables):
        started.append(Server(var, **variables))
        return started[-1]

    try:
        yield start
    finally:
        for server in started:
            if server.process.poll() is None:
                server.stop()
            server.log.close()
            # Root's may lie elsewhere, where pytest does not tidy up.
            shutil.rmtree((server.var / "postgres").resolve(), ignore_errors=True)
