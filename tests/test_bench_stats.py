"""The bench of the statistics: that it explains itself, and how it judges. Its numbers are not for a test."""

import subprocess
import sys

from bench.stats import goals_of, tables_of
from bench.stats_raw import RAW
from bench.stats_work import QUESTIONS
from qrsite.api import api


def test_it_explains_itself():
    command = [sys.executable, "-m", "bench.stats", "--help"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)

    assert all(word in process.stdout for word in ("--case", "--scans", "--quick", "questions", "delta"))


def test_it_asks_every_question_that_the_api_answers():
    asked = {
        path.partition("?")[0].format(event="{slug}", ticket=1, other="x") for path in QUESTIONS.values()
    }

    assert asked == {path for path in api.get_openapi_schema()["paths"] if "/stats" in path}
    assert set(RAW) <= set(QUESTIONS)


def test_the_worst_question_decides():
    row = {"small_ms": 1.0, "median_ms": 1.2, "p99_ms": 3.0, "ratio": 1.2}
    found = {"event": row, "heatmap": {**row, "p99_ms": 21.0}}

    goals = goals_of({"questions": found})

    assert [(goal.reached, goal.where, goal.verdict) for goal in goals] == [
        (1.2, "event", "yes"),
        (21.0, "heatmap", "NO"),
        (1.2, "event", "yes"),
    ]


def test_a_case_that_came_to_nothing_misses_its_goals():
    goals = goals_of({name: {} for name in ("build", "questions", "exact", "cost")})

    assert [goal.verdict for goal in goals] == ["NO"] * 7


def test_what_was_not_counted_stands_beside_what_was():
    row = {"small_ms": 1.0, "median_ms": 1.2, "p99_ms": 3.0, "ratio": 1.2}

    [table] = tables_of({"questions": {"event": row, "silent": row}, "raw": {"event": {"median_ms": 90.5}}})

    assert table[1:] == [
        ("event", "1", "1.2", "3", "1.2", "90.5"),
        ("silent", "1", "1.2", "3", "1.2", "-"),
    ]
