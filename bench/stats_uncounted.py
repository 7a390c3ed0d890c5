"""The site as it is but for its counters: what they cost is what this saves. `python -m bench.stats_uncounted`."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def _count_nothing(*_arguments: Any, **_named: Any) -> None:
    """Do nothing."""


if __name__ == "__main__":
    import_module("django").setup()
    tally = import_module("analytics.counters").Tally
    for method in ("scanned", "changed", "add"):
        setattr(tally, method, _count_nothing)
    # The processes that serve are forked from this one.
    import_module("django.core.management").execute_from_command_line(["manage.py", "serve"])
