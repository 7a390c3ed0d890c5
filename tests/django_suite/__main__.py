"""Run Django's own tests on our backend; what fails must fail on Django's, too, or be explained here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import django

from tests.django_suite.settings import DJANGOS, EMBEDDED_POSTGRES, OURS, VAR

ROOT = Path(__file__).resolve().parents[2]
LABELS = [
    "backends",
    "transactions",
    "transaction_hooks",
    "select_for_update",
    "servers",
    "requests_tests",
    "test_runner",
]
TIMEOUT_S = 300

_HEALTH_CHECKS = "backends.base.test_base.ConnectionHealthChecksTests."
_NEVER_KEPT = "No connection outlives its request, so none needs Django's check at the next one: the pool checks (docs/adr/0009)."

# What follows from the design, each with its reason.
EXPLAINED = {
    f"{_HEALTH_CHECKS}test_health_checks_disabled": _NEVER_KEPT,
    f"{_HEALTH_CHECKS}test_health_checks_enabled": _NEVER_KEPT,
    f"{_HEALTH_CHECKS}test_health_checks_enabled_errors_occurred": _NEVER_KEPT,
    f"{_HEALTH_CHECKS}test_set_autocommit_health_checks_enabled": _NEVER_KEPT,
    "backends.tests.ThreadTests.test_default_connection_thread_local": (
        "A thread that ends gives its connection back, also a shared one, so the wrapper has none (docs/adr/0001)."
    ),
}

_FAILURE = re.compile(
    r"^={70}\n(?:FAIL|ERROR|UNEXPECTED SUCCESS): \S+ \(([\w.]+)\)(?s:.*?)(?=^={70}$|^-{70}\nRan )",
    re.MULTILINE,
)
_RAN = re.compile(r"^Ran (\d+) tests? in .*\n\n(?:OK|FAILED)(.*)$", re.MULTILINE)
_COUNT = re.compile(r"(failures|errors|unexpected successes|skipped)=(\d+)")


class Outcome(NamedTuple):
    """What one run said."""

    ran: int
    skipped: int
    failures: dict[str, str]  # test id -> what was printed about it


def fetch() -> Path:
    """Return the folder of Django's tests: only the source distribution has them."""
    version = django.get_version()
    tests = VAR / version / "tests"
    if not tests.exists():
        tests.parent.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        with TemporaryDirectory(dir=VAR) as folder:
            subprocess.run([*pip, "--no-binary=django", f"--dest={folder}", f"django=={version}"], check=True)
            [archive] = Path(folder).glob("*.tar.gz")
            shutil.unpack_archive(archive, folder)
            [unpacked] = Path(folder).glob("*/tests")
            unpacked.rename(tests)
    return tests


def run(tests: Path, engine: str) -> Outcome:
    """Run the labels on a backend, in one process: several can't tell of a failure without tblib."""
    log = VAR / f"{engine}.log"
    command = [sys.executable, "runtests.py", "--settings=tests.django_suite.settings", "--noinput"]
    with log.open("w") as output:
        process = subprocess.run(
            [*command, "--parallel=1", *LABELS],
            cwd=tests,
            env={**os.environ, "PYTHONPATH": str(ROOT), "SUITE_ENGINE": engine},
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
        )
    text = log.read_text()
    ends = _RAN.findall(text)
    if not ends:
        sys.exit(f"{text[-4000:]}\n{engine}: the run broke off ({process.returncode}); all of it is in {log}")
    ran, result = ends[-1]  # the last one: tests of the test runner print such lines, too
    counts = {name: int(number) for name, number in _COUNT.findall(result)}
    skipped = counts.pop("skipped", 0)
    blocks = list(_FAILURE.finditer(text))
    # A failure that is not understood must not pass for none.
    if len(blocks) != sum(counts.values()) or bool(blocks) != bool(process.returncode):
        sys.exit(f"{engine}: {len(blocks)} failures found of those in {log}, which says:{result}")
    return Outcome(int(ran), skipped, {block[1]: block[0] for block in blocks})


def judge(ours: Outcome, djangos: Outcome) -> list[str]:
    """Return what is wrong, in words."""
    # Where a module can't be imported it hides its tests, on Django's, too.
    broken = {test for test in djangos.failures if test.startswith("unittest.loader.")}
    known = (djangos.failures.keys() | EXPLAINED.keys()) - broken
    wrong = [told for test, told in ours.failures.items() if test not in known]
    wrong += [
        f"Stale: {test} is explained, and passes or is gone."
        for test in EXPLAINED
        if test not in ours.failures
    ]
    wrong += [
        f"Stale: {test} is explained, and fails on Django's, too."
        for test in EXPLAINED
        if test in djangos.failures
    ]
    # A feature that our backend claims not to have would hide its tests.
    if ours[:2] != djangos[:2]:
        wrong.append(
            f"{ours.ran} ran and {ours.skipped} were skipped; on Django's, {djangos.ran} and {djangos.skipped}."
        )
    return wrong


def main() -> int:
    """Return 0 if our backend does what Django's does, or says why not."""
    tests = fetch()
    EMBEDDED_POSTGRES.ensure_running()
    ours, djangos = run(tests, OURS), run(tests, DJANGOS)
    wrong = judge(ours, djangos)
    sys.stdout.writelines(f"{words}\n" for words in wrong)
    both = ours.failures.keys() & djangos.failures.keys()
    explained = ours.failures.keys() & EXPLAINED.keys()
    sys.stdout.write(
        f"Django {django.get_version()}: {ours.ran} tests, {ours.skipped} skipped, {len(ours.failures)} failed on our "
        f"backend: {len(both)} on Django's, too, {len(explained)} explained; {len(wrong)} to mend.\n"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
