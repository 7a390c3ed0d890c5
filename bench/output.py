"""How benches talk to a person: progress in a terminal, and tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


def progress(case: str) -> Callable[[str], None]:
    """Return what shows on one line of a terminal what is going on; "" wipes it."""

    def tell(what: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{case}: {what} …" if what else "\r\x1b[K")
            sys.stderr.flush()

    return tell


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows under the first one, which names the columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in (rows[0], tuple("-" * width for width in widths), *rows[1:]):
        print("  ".join(f"{word:{width}}" for word, width in zip(row, widths, strict=True)).rstrip())  # noqa: T201
    print()  # noqa: T201
