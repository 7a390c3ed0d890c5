"""The real thing: `manage.py serve --demo` with two processes, its own PostgreSQL, and clients that hurry."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import psutil
import pytest

from core.postgres import EmbeddedPostgres
from tests.fake_driver import until
from tests.serving import STOP_WITHIN_S, free_port, is_gone, servers

CAP = 2 * 15


@pytest.fixture(scope="module")
def start():
    with servers() as start:
        yield start


@pytest.fixture(scope="module")
def server(start, tmp_path_factory):
    return start(tmp_path_factory.mktemp("server") / "var")


def test_the_demo_file_holds_what_a_newcomer_needs_and_only_the_owner_reads_it(server):
    path = server.var / "demo.json"

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(server.demo) == [
        "admin_password",
        "admin_url",
        "admin_user",
        "base_url",
        "database_url",
        "device_token",
        "event",
        "sample_codes",
        "service_token",
    ]
    assert len(server.demo["sample_codes"]) >= 20
    assert server.ask("SELECT count(*) FROM ticket WHERE admitted_at IS NULL")[0][0] >= 20


def test_a_newcomers_first_scans(server):
    code = server.demo["sample_codes"][0]
    nonce = uuid.uuid4().hex
    with httpx.Client() as client:
        first = server.scan(client, code, nonce).json()
        second = server.scan(client, code).json()
        again = server.scan(client, code, nonce).json()
        stats = client.get(f"{server.url}/api/v1/events/demo/stats", headers=server.service).json()
        numbers = client.get(f"{server.url}/health/db").json()

    assert (first["verdict"], first["replayed"]) == ("admitted", False)
    assert (second["verdict"], second["reason"]) == ("refused", "already_admitted")
    assert (second["first_admitted_at"], second["first_gate"]) == (first["first_admitted_at"], "Main gate")
    assert again == {**first, "replayed": True}
    assert (stats["admitted"], stats["refused_by_reason"]) == (1, {"already_admitted": 1})
    assert sorted(numbers) == ["checked_in", "checked_out", "overflow", "pool_size"]


def test_of_64_parallel_scans_of_one_ticket_over_two_processes_exactly_one_is_admitted(server):
    [code] = server.issue(1)
    together = threading.Barrier(64, timeout=20)

    def scan(_index):
        with httpx.Client() as client:
            client.get(f"{server.url}/health/live")
            together.wait()
            return server.scan(client, code).json()

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(scan, range(64)))

    assert Counter(answer["reason"] for answer in answers) == {None: 1, "already_admitted": 63}
    assert len({answer["first_admitted_at"] for answer in answers}) == 1


def test_200_clients_and_an_admin_never_hold_more_connections_than_the_pools_allow(server):
    codes = server.issue(600)
    done = threading.Event()
    seen = []

    def watch():
        while not done.is_set():
            seen.append(
                server.ask("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'qrsite:%'")[0][
                    0
                ]
            )

    def click_through_the_admin():
        with httpx.Client(base_url=server.url, follow_redirects=True) as client:
            client.get("/admin/login/")
            form = {
                "username": server.demo["admin_user"],
                "password": server.demo["admin_password"],
                "csrfmiddlewaretoken": client.cookies["csrftoken"],
            }
            assert client.post("/admin/login/?next=/admin/", data=form).status_code == 200
            pages = ["", "tickets/ticket/", "analytics/scan/", "tickets/event/", "tickets/device/"]
            while not done.is_set():
                assert {client.get(f"/admin/{page}").status_code for page in pages} == {200}

    def scan(index):
        with httpx.Client(timeout=30) as client:
            return [server.scan(client, code).json()["verdict"] for code in codes[index * 3 : index * 3 + 3]]

    with ThreadPoolExecutor(202) as pool:
        others = [pool.submit(watch), pool.submit(click_through_the_admin)]
        answers = [verdict for verdicts in pool.map(scan, range(200)) for verdict in verdicts]
        done.set()
        for other in others:
            other.result()

    assert Counter(answers) == {"admitted": 600}
    assert 0 < max(seen) <= CAP


ODD_REQUESTS = {
    "a query that is not ASCII": (
        "GET /api/v1/tickets/1?x=é HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        b" 401 ",
    ),
    "a query that is not UTF-8": (b"GET /admin/?x=\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", b" 400 "),
    "a path that is not UTF-8": (b"GET /admin/\xff/%ff%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", b" 4"),
    "an unknown host": (b"GET /admin/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", b" 400 "),
    "a probe of an unknown host": (b"GET /health/db HTTP/1.1\r\nHost: evil.example\r\n\r\n", b" 200 "),
    "a probe without its body": (b"HEAD /health/db/ HTTP/1.1\r\nHost: x\r\n\r\n", b" 200 "),
    "a header that is not ASCII": (
        b"GET /api/v1/tickets/1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
        b" 401 ",
    ),
    "too much": (
        b"POST /api/v1/scans HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n"
        + b"x" * 3_000_000,
        b" 413 ",
    ),
}


@pytest.mark.parametrize(("request_bytes", "status"), ODD_REQUESTS.values(), ids=ODD_REQUESTS)
def test_odd_requests_get_an_answer_and_never_a_500(server, request_bytes, status):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(request_bytes)
        answer = client.recv(65536)

    assert status in answer.partition(b"\r\n")[0]


def test_a_client_that_sends_slowly_keeps_no_thread(server):
    head = b"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(60)]
    try:
        for client in slow:
            client.sendall(head)
        with httpx.Client(timeout=5) as client:
            assert server.scan(client, "x").json()["reason"] == "unreadable"
    finally:
        for client in slow:
            client.close()


def test_a_second_start_seeds_nothing_again_and_ctrl_c_stops_everything(start, tmp_path):
    first = start(tmp_path / "var")
    with httpx.Client() as client:
        first.scan(client, first.demo["sample_codes"][0])
    before = first.ask("SELECT (SELECT count(*) FROM ticket), (SELECT count(*) FROM device)")
    postmaster = int((tmp_path / "var/postgres/data/postmaster.pid").read_text().split()[0])
    output = first.stop()

    second = start(tmp_path / "var")
    after = second.ask("SELECT (SELECT count(*) FROM ticket), (SELECT count(*) FROM device)")
    kept = ("admin_password", "device_token", "service_token")
    second.stop()

    assert "embedded PostgreSQL stopped" in output
    assert is_gone(postmaster)
    assert before == after
    assert [second.demo[name] for name in kept] == [first.demo[name] for name in kept]
    assert first.demo["sample_codes"][0] not in second.demo["sample_codes"]
    assert second.process.returncode == 0


def test_probes_tell_of_a_frozen_database_in_time_while_every_thread_hangs(server):
    postmaster = psutil.Process(int((server.var / "postgres/data/postmaster.pid").read_text().split()[0]))
    url = f"{server.url}/health/"
    frozen: list[psutil.Process] = []

    def scan(_index):
        with httpx.Client(timeout=30) as client:
            return server.scan(client, "x").status_code

    with ThreadPoolExecutor(30) as pool:
        try:
            postmaster.suspend()
            frozen = [postmaster, *postmaster.children()]
            for process in frozen[1:]:
                process.suspend()
            stuck = [pool.submit(scan, index) for index in range(30)]
            time.sleep(1.2)  # what was known of the database is stale by now
            answers = [httpx.get(url + probe, timeout=5) for probe in ("db", "ready", "live", "db")]
        finally:
            for process in reversed(frozen):
                process.resume()
        after = {future.result() for future in stuck}

    assert [answer.status_code for answer in answers] == [503, 503, 200, 503]
    assert max(answer.elapsed.total_seconds() for answer in answers) < 0.8
    assert after <= {200, 503}
    server.wait_until_ready()


def test_a_connection_that_stays_silent_is_closed(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        assert client.recv(1) == b""


def test_a_body_in_chunks_is_judged(server):
    def chunks():
        yield b'{"code": "x", '
        yield b'"nonce": "in-chunks"}'

    headers = {**server.device, "Content-Type": "application/json"}
    answer = httpx.post(f"{server.url}/api/v1/scans", content=chunks(), headers=headers)

    assert (answer.status_code, answer.json()["reason"]) == (200, "unreadable")


def test_a_worker_that_is_killed_is_replaced_and_none_outlives_the_server(start, tmp_path):
    running = start(tmp_path / "var")
    psutil.Process(running.process.pid).children()[0].kill()
    with httpx.Client() as client:
        for code in running.demo["sample_codes"][:20]:
            with suppress(httpx.TransportError):
                running.scan(client, code)
        running.wait_until_ready()
        assert running.scan(client, "x").status_code == 200
    workers = psutil.Process(running.process.pid).children(recursive=True)
    running.process.kill()
    running.process.wait()

    assert psutil.wait_procs(workers, timeout=STOP_WITHIN_S)[1] == []
    EmbeddedPostgres(
        tmp_path / "var" / "postgres"
    ).ensure_running()  # its last user now, and stops it at exit


def test_a_worker_whose_replacement_is_killed_at_once_is_replaced_again(server):
    watcher = psutil.Process(server.process.pid)
    for _ in range(3):
        known = watcher.children()
        youngest = max(known, key=psutil.Process.create_time)
        youngest.kill()
        until(lambda known=known: set(watcher.children()) - set(known))

    server.wait_until_ready()
    assert [worker.status() != psutil.STATUS_ZOMBIE for worker in watcher.children()] == [True, True]


def pool_command(server, *arguments):
    environment = {**os.environ, "VAR_DIR": str(server.var), "PORT": str(server.port)}
    command = [sys.executable, "manage.py", "pool", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_pool_status_tells_of_every_process(server):
    words = pool_command(server, "status")
    numbers = json.loads(pool_command(server, "status", "--json").stdout)

    assert (words.returncode, words.stdout.count(" of 15 in use, ")) == (0, 2)
    assert [pool["cap"] for pool in numbers] == [15, 15]


@pytest.mark.slow
def test_the_drill_finds_every_promise_kept(server):
    outcome = pool_command(server, "drill")

    lines = outcome.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["pass", step] for step in ("kill", "freeze", "exhaust", "nest", "leak", "fork", "cap")
    ], outcome.stdout + server.output()
    assert outcome.returncode == 0
    with httpx.Client() as client:
        assert server.scan(client, "x").status_code == 200


def test_a_statement_is_cancelled_from_the_command_line(server):
    unknown = pool_command(server, "cancel", "nowhere-1", "1")
    process = json.loads(pool_command(server, "status", "--json").stdout)[0]["process"]
    gone = pool_command(server, "cancel", process, "999999")

    assert (unknown.returncode, "No server process nowhere-1" in unknown.stderr) == (1, True)
    assert (gone.returncode, "given back meanwhile" in gone.stderr) == (1, True)


def test_a_drill_needs_the_right_address(server):
    outcome = pool_command(server, "drill", "--only", "kill", "--url", "http://127.0.0.1:1")

    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert "say where it listens, --url" in outcome.stderr


def test_a_drill_says_what_it_would_do_and_what_it_does_not_know(server):
    dry = pool_command(server, "drill", "--only", "kill,fork", "--dry-run")
    unknown = pool_command(server, "drill", "--only", "kil")

    assert [line.split()[:2] for line in dry.stdout.splitlines()] == [["would", "kill"], ["would", "fork"]]
    assert (unknown.returncode, "No such step: kil" in unknown.stderr) == (2, True)


def test_metrics_tell_of_every_process_whichever_is_asked(server):
    answers = [httpx.get(f"{server.url}/metrics", headers=server.service).text for _ in range(10)]

    assert {text.count("\nqrsite_pool_cap{") for text in answers} == {2}


def test_a_port_that_is_taken_is_one_line(server):
    environment = {**os.environ, "VAR_DIR": str(server.var), "PORT": str(server.port)}

    process = subprocess.run(
        [sys.executable, "manage.py", "serve"], env=environment, capture_output=True, text=True, timeout=60
    )

    assert process.returncode == 1
    assert "set PORT to a free one" in process.stderr
    assert process.stderr.count("\n") == 1


def test_processes_that_could_not_all_connect_are_refused(server):
    environment = {
        **os.environ,
        "VAR_DIR": str(server.var),
        "PORT": str(free_port()),
        "WEB_CONCURRENCY": "50",
    }

    process = subprocess.run(
        [sys.executable, "manage.py", "serve"], env=environment, capture_output=True, text=True, timeout=60
    )

    assert process.returncode == 1
    assert "52 processes of up to 15 connections need 780" in process.stderr  # two serve already
    assert "PostgreSQL allows 97: lower WEB_CONCURRENCY, POOL_SIZE or POOL_MAX_OVERFLOW" in process.stderr


def test_running_processes_follow_the_keys(start, tmp_path):
    server = start(tmp_path / "var")

    def keys(*arguments):
        line = [sys.executable, "manage.py", "keys", *arguments]
        environment = {**os.environ, "VAR_DIR": str(server.var)}
        subprocess.run(line, check=True, capture_output=True, env=environment)

    def answers(code):
        """What both processes say: each new connection reaches either."""
        return {server.scan(httpx, code).json()["reason"] for _ in range(12)}

    [old] = server.issue(1)
    keys("rotate")
    shown = [httpx.get(f"{server.url}/api/v1/keys").json()["keys"][0]["kid"] for _ in range(12)]
    [new] = server.issue(1)
    before = answers(old), answers(new)
    keys("retire", "1")

    assert set(shown) == {"2"}
    assert before == ({None, "already_admitted"}, {None, "already_admitted"})
    assert (answers(old), answers(new)) == ({"unknown_key"}, {"already_admitted"})
