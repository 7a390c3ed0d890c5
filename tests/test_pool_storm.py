"""The cap under a minute of everything at once; what the bench measures, held as a promise."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_minute_of_threads_kills_forks_and_disposals_never_opens_more_than_the_cap():
    command = [sys.executable, "-m", "bench.pool", "--case", "storm", "--contestant", "qrsite", "--json"]

    process = subprocess.run(command, capture_output=True, text=True, timeout=300)

    ours = json.loads(process.stdout.splitlines()[0])["qrsite"]
    assert 10 <= ours["most_at_once"] <= 15, ours
    assert (ours["threads_stuck"], ours["forks_stuck"]) == (0, 0)
    assert min(ours["turns"], ours["kills"], ours["forks"], ours["disposes"]) > 0
    assert process.returncode == 0, process.stdout
