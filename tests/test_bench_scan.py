"""The bench of scans: that it explains itself and draws. Its numbers are not for a test."""

import subprocess
import sys
from xml.etree import ElementTree

from bench.scan_drawing import svg


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
