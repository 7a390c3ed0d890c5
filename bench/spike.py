"""Door-opening against a running `make run`: many clients scan at once, and the server's connections are counted.

The client shares the machine with the server, so scans/s say what both reach together.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import platform
import statistics
import subprocess
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2


def main() -> None:
    """Run the spike and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200, help="how many scan at once (200)")
    parser.add_argument("--seconds", type=float, default=10, help="for how long (10)")
    parser.add_argument("--demo", type=Path, default=Path("var/demo.json"), help="what make run wrote")
    options = parser.parse_args()
    demo = json.loads(options.demo.read_text())
    codes = itertools.cycle(_issue(demo, 5_000))
    stop_at = time.monotonic() + options.seconds
    done = threading.Event()

    with ThreadPoolExecutor(options.clients + 1) as pool:
        watched = pool.submit(_most_connections, demo["database_url"], done)
        clients = [pool.submit(_scan_until, demo, codes, stop_at) for _ in range(options.clients)]
        answers = [answer for client in clients for answer in client.result()]
        done.set()

    millis = sorted(seconds * 1000 for _, seconds in answers)
    print(  # noqa: T201
        json.dumps(
            {
                "bench": "spike",
                **machine(),
                "clients": options.clients,
                "scans": len(answers),
                "scans_per_s": round(len(answers) / options.seconds),
                "answers": Counter(status for status, _ in answers),
                "p50_ms": round(statistics.median(millis), 1),
                "p99_ms": round(millis[int(len(millis) * 0.99)], 1),
                **watched.result(),
            }
        )
    )


def _issue(demo: dict[str, Any], number: int) -> list[str]:
    codes: list[str] = []
    client = http.client.HTTPConnection(urlsplit(demo["base_url"]).netloc, timeout=60)
    while len(codes) < number:
        body = {"tickets": [{"holder": "Spike"}] * 1000}
        headers = {"Authorization": f"Bearer {demo['service_token']}", "Content-Type": "application/json"}
        client.request("POST", f"/api/v1/events/{demo['event']}/tickets", json.dumps(body), headers)
        codes += [ticket["code"] for ticket in json.loads(client.getresponse().read())["tickets"]]
    return codes


def _scan_until(demo: dict[str, Any], codes: Any, stop_at: float) -> list[tuple[int, float]]:
    headers = {"Authorization": f"Bearer {demo['device_token']}", "Content-Type": "application/json"}
    client = http.client.HTTPConnection(urlsplit(demo["base_url"]).netloc, timeout=60)
    answers = []
    while (start := time.monotonic()) < stop_at:
        body = json.dumps({"code": next(codes), "nonce": uuid.uuid4().hex})
        client.request("POST", "/api/v1/scans", body, headers)
        response = client.getresponse()
        response.read()
        answers.append((response.status, time.monotonic() - start))
    client.close()
    return answers


def _most_connections(database_url: str, done: threading.Event) -> dict[str, int]:
    """Ask PostgreSQL every 50 ms how many connections it has; the asker's own is left out of the site's."""
    everything, ours = 0, 0
    connection = psycopg2.connect(database_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        while not done.wait(0.05):
            cursor.execute(
                "SELECT count(*), count(*) FILTER (WHERE application_name LIKE 'qrsite:%') FROM pg_stat_activity"
            )
            row = cursor.fetchone() or (0, 0)
            everything, ours = max(everything, row[0]), max(ours, row[1])
    connection.close()
    return {"site_connections_max": ours, "pg_stat_activity_max": everything}


def machine() -> dict[str, str]:
    """Say where and on what a number was measured."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    words = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return {"machine": words, "commit": commit}


if __name__ == "__main__":
    main()
