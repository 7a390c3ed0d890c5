"""The bench of scans: that it explains itself and draws. Its numbers are not for a test."""

import subprocess
import sys
from xml.etree import ElementTree

from bench.scan_drawing import svg
from bench.server import Server


def test_it_explains_itself():
    command = [sys.executable, "-m", "bench.scan", "--help"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)

    assert all(word in process.stdout for word in ("--contestant", "--quick", "crowd", "engine-per-call"))


def test_it_draws_two_bars_for_everybody_and_marks_errors():
    outcome = {
        "qrsite": {"1000": {"scans_per_s": 5000, "p99_ms": 200.0, "errors": {}}},
        "engine-per-call": {"1000": {"scans_per_s": 200, "p99_ms": 9000.0, "errors": {"500": 7}}},
        "fastapi": {},  # given up
    }

    picture = ElementTree.fromstring(svg(outcome, 1000))

    words = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}rect"))) == 1 + 2 * 2
    assert {"qrsite", "5,000", "engine-per-call", "200 *", "9,000 *"} <= set(words)
    assert "fastapi" not in words


def test_sessions_at_once_are_counted_from_the_servers_log(monkeypatch):
    lines = """\
1.0 [11] LOG:  connection authorized: user=u database=d application_name=ours:5
1.1 [12] LOG:  connection authorized: user=u database=d application_name=ours:5
1.2 [12] FATAL:  terminating connection due to administrator command
1.3 [11] FATAL:  terminating connection due to administrator command
1.4 [13] LOG:  connection authorized: user=u database=d application_name=ours:5
1.5 [11] LOG:  disconnection: session time: 0:00:00.500 user=u database=d host=[local]
1.6 [14] LOG:  connection authorized: user=u database=d application_name=ours:5
1.7 [15] LOG:  connection authorized: user=u database=d application_name=theirs:6
"""
    monkeypatch.setattr(Server, "__init__", lambda self: None)
    monkeypatch.setattr(Server, "_logged", lambda self, position: lines)

    assert Server().most_at_once(0) == {("ours", 5): 2, ("theirs", 6): 1}
