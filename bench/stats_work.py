"""Ask every question about statistics over HTTP, in one process, and measure what the database takes for the answers.

`python -m bench.stats_work <service token>` takes a question and how often to ask it, as a line of JSON, and answers with a
line of milliseconds. Only the statements of the statistics count: they run on the engine, who calls is looked up through
the ORM.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from importlib import import_module
from typing import Any

WARM_UPS = (
    3  # for each question: the first calls import, connect, and fill the caches of PostgreSQL's backend
)
_PASSED_ON = (
    "SELECT slug, min(from_ticket_id) FROM ticket_transfers JOIN event ON event.id = event_id GROUP BY slug"
)
_ONE = "/api/v1/events/{event}/stats"
QUESTIONS = {
    "all events": "/api/v1/stats",
    "trending": "/api/v1/stats/trending",
    "event": _ONE,
    "timeline minute": f"{_ONE}/timeline?bucket=minute",
    "timeline 15min": f"{_ONE}/timeline?bucket=15min",
    "timeline hour": f"{_ONE}/timeline?bucket=hour",
    "timeline day": f"{_ONE}/timeline?bucket=day",
    "heatmap": f"{_ONE}/heatmap",
    "gates": f"{_ONE}/gates",
    "throughput": f"{_ONE}/throughput",
    "invalid attempts": f"{_ONE}/invalid-attempts",
    "transfers": f"{_ONE}/transfers",
    "transfers of a ticket": f"{_ONE}/transfers?ticket={{ticket}}",
    "compare": f"{_ONE}/compare?other={{other}}",
    "silent": f"{_ONE}/silent",
}


class _Asker:
    """A client of the site, in this process."""

    def __init__(self, token: str) -> None:
        import_module("django").setup()
        client = import_module("django.test").Client
        self._client = client(SERVER_NAME="localhost", HTTP_AUTHORIZATION=f"Bearer {token}")
        db = import_module("core.db")
        self._clock = _Clock(db.engine)
        with db.begin() as conn:
            tickets: dict[str, int] = dict(conn.exec_driver_sql(_PASSED_ON).all())
        events = sorted(tickets)
        self._paths = {
            name: itertools.cycle(
                [
                    pattern.format(event=event, other=other, ticket=tickets[event])
                    for event, other in zip(events, events[1:] + events[:1], strict=True)
                ]
            )
            for name, pattern in QUESTIONS.items()
        }

    def ask(self, question: str) -> float:
        """Ask it of the next event; return how many milliseconds the database took."""
        path = next(self._paths[question])
        self._clock.spent_s = 0.0
        answer = self._client.get(path)
        assert answer.status_code == 200, (path, answer.content[:300])
        return round(self._clock.spent_s * 1000, 3)


class _Clock:
    """Sums up what statements take, from when they are sent until their rows are here."""

    def __init__(self, engine: Any) -> None:
        self.spent_s = self._began_s = 0.0
        listen = import_module("sqlalchemy.event").listen
        listen(engine, "before_cursor_execute", self._begin)
        listen(engine, "after_cursor_execute", self._end)

    def _begin(self, *_arguments: Any) -> None:
        self._began_s = time.perf_counter()

    def _end(self, *_arguments: Any) -> None:
        self.spent_s += time.perf_counter() - self._began_s


def main() -> None:
    """Warm up, then do what comes in."""
    asker = _Asker(sys.argv[1])
    for question in QUESTIONS:
        for _ in range(WARM_UPS):
            asker.ask(question)
    print("{}", flush=True)  # noqa: T201
    for line in sys.stdin:
        question, times = json.loads(line)
        print(json.dumps([asker.ask(question) for _ in range(times)]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
