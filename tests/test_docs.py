"""What the documents say is so."""

import re
import subprocess
import sys
from pathlib import Path

from django.apps import apps
from django.core.management import get_commands

from core.purpose import PURPOSES
from health import metrics
from qrsite.api import api
from tickets import enrolment, printing
from tickets.rules import REASONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def table_cells(text, heading):
    section = re.split(r"^## ", text.partition(f"## {heading}\n")[2], flags=re.MULTILINE)[0]
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]


def test_every_variable_is_in_the_table_and_only_those():
    source = (ROOT / "qrsite/settings.py").read_text()
    read = set(re.findall(r'(?:text|whole_number|yes_or_no)\(\s*"(\w+)"', source))

    assert {cells[0].strip("`") for cells in table_cells(README, "Settings")} == read


def test_the_defaults_in_the_table_are_the_settings():
    defaults = {cells[0].strip("`"): cells[1] for cells in table_cells(README, "Settings")}
    source = (ROOT / "qrsite/settings.py").read_text()
    numbers = dict(re.findall(r'whole_number\("(\w+)", default=(\d+)', source))

    assert {name: defaults[name] for name in numbers} == numbers


def test_every_address_of_the_api_is_in_the_table():
    documented = " ".join(cells[0] for cells in table_cells(README, "Addresses"))

    for path in api.get_openapi_schema()["paths"]:
        tail = path.replace("{ticket_id}", "{id}")
        assert tail in documented or "…/" + tail.rpartition("/")[2] in documented, path


def test_every_command_of_the_makefile_is_in_the_table():
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    documented = re.findall(r"`make ([\w-]+)`", README)

    assert set(documented) <= set(targets)
    assert set(targets) - set(documented) <= {"help", "setup"}


def test_every_command_of_ours_is_in_the_table():
    ours = {
        name for name, app in get_commands().items() if app in {"qrsite", "tickets", "analytics", "health"}
    }

    assert ours == set(re.findall(r"^\| `manage.py (\w+)` \|", README, re.MULTILINE))


def test_the_tables_of_operations_are_those_of_the_code():
    page = (ROOT / "docs/operations.md").read_text()
    purposes = re.findall(r"^\| `(\w+)` \|.*\| (\S+)(?: s)? \| (\d) \|$", page, re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", page.partition("## Metrics")[2]))
    counters = {f"{name}_total" for name in [*metrics.COUNTERS, "timeouts"]}
    gauges = {name.replace("wait_s", "wait_seconds") for name in metrics.GAUGES}

    assert purposes == [
        (item.name, f"{item.timeout_s:g}" if item.timeout_s else "`POOL_TIMEOUT`", str(item.guaranteed))
        for item in PURPOSES
    ]
    histograms = {f"{name}_seconds" for name in [*metrics.BY_PURPOSE, "connect"]}
    assert counters | gauges | histograms | {"in_use", "waiting"} <= named


def test_ci_runs_the_readmes_test_command():
    assert "\nmake test\n" in (ROOT / ".ci/run").read_text()
    assert "$ make test\n" in README


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_table_of_reasons_is_the_one_in_the_code_in_order():
    section = (ROOT / "docs/scanning.md").read_text().partition("## Devices")[0]
    table = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)

    assert tuple(table) == REASONS


def test_the_errors_of_an_enrolment_are_those_of_the_code():
    section = (ROOT / "docs/scanning.md").read_text().partition("## Devices")[2]
    table = re.findall(r"^\| `(\w+)` \| (\d+) \|", section, re.MULTILINE)
    errors = [
        enrolment.EnrolmentUnknown,
        enrolment.EnrolmentUsed,
        enrolment.EnrolmentExpired,
        enrolment.DeviceRevoked,
    ]

    assert table == [(error.code, str(error.status)) for error in errors]


def test_the_errors_of_printing_are_those_of_the_code():
    section = (ROOT / "docs/organising.md").read_text().partition("## Print tickets")[2]
    table = re.findall(r"^\| `(\w+)` \| (\d+) \|", section, re.MULTILINE)
    errors = [printing.TicketNotValid, printing.TooManyTickets, printing.PrinterBusy]

    assert table == [(error.code, str(error.status)) for error in errors]


def test_the_table_of_permissions_names_ours_and_only_such_as_there_are():
    page = (ROOT / "docs/organising.md").read_text()
    named = re.findall(
        r"^\| `(\w+\.\w+)` \|", page.partition("## Permissions")[2].partition("\n## ")[0], re.MULTILINE
    )
    ours, all_of_them = set(), set()
    for model in apps.get_models():
        options = model._meta
        made = {f"{word}_{options.model_name}" for word in options.default_permissions}
        own = {codename for codename, _ in options.permissions}
        ours |= {f"{options.app_label}.{codename}" for codename in own}
        all_of_them |= {f"{options.app_label}.{codename}" for codename in made | own}

    assert set(named[: len(ours)]) == ours
    assert set(named) <= all_of_them


def test_every_decision_has_its_number_and_its_parts():
    pages = sorted((ROOT / "docs/adr").glob("*.md"))

    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text()
        assert re.findall(r"^## (\w+)", text, re.MULTILINE) == ["Context", "Decision", "Consequences"], (
            page.name
        )
        assert text.count("\n") <= 40, page.name


def test_every_row_about_the_pool_has_its_number_and_its_tests():
    numbers = re.findall(r"^\| (M?\d+) \|", (ROOT / "docs/pool.md").read_text(), re.MULTILINE)
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_pool_*.py"))
    tested = re.findall(r"^def test_([pm])(\d\d)_\w", tests, re.MULTILINE)

    assert numbers == [*map(str, range(1, 32)), *(f"M{number}" for number in range(1, 11))]
    assert {letter.upper().strip("P") + number.lstrip("0") for letter, number in tested} == set(numbers)


def test_every_requirement_is_pinned_and_says_why():
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text().splitlines():
            assert line.startswith(("#", "-r ")) or re.match(r"[\w-]+==\S+ +# \w", line), line


def test_the_bench_explains_itself():
    command = [sys.executable, "-m", "bench.spike", "--help"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "--clients" in process.stdout
