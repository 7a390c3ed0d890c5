"""Import the tickets of a CSV: check every row, then issue them all or none."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import BinaryIO, NamedTuple, TextIO

from django.db import transaction
from pydantic import ValidationError

from core.errors import QrsiteError
from tickets import csv_rows, issuing
from tickets.csv_rows import FileRefused, Row, RowError
from tickets.models import Event
from tickets.schemas import MAX_TICKETS, TicketIn

MAX_ROWS = 100_000
KEPT_ERRORS = 100


def _tell_nobody(_rows: int) -> None:
    pass


@dataclass
class Checked:
    """What was found in a file: `same` are rows that repeat an earlier one, and only the first errors are kept."""

    rows: int = 0
    same: int = 0
    errors: int = 0
    first_errors: list[RowError] = field(default_factory=list)

    def refuse(self, error: RowError) -> None:
        """Count an error."""
        self.errors += 1
        if len(self.first_errors) < KEPT_ERRORS:
            self.first_errors.append(error)


class Outcome(NamedTuple):
    """What issuing did or would do; `refused` says why nothing can be issued."""

    new: int
    already: int
    refused: str


def check(
    file: BinaryIO,
    spool: TextIO,
    *,
    kinds: Collection[str],
    tell: Callable[[int], None] = _tell_nobody,
) -> Checked:
    """Check each row by the API's rules and write the good ones, as `issue` reads them, to the spool.

    Holds a number or two per reference and nothing of the rows; `tell` hears their number every thousand.

    Args:
        file: the CSV, open for reading bytes; it stays open.
        spool: an empty file of text; it is at its beginning in the end.
        kinds: those that the event has; none: it takes any.
        tell: is told how far it is.

    Raises:
        FileRefused: the header does not name the columns, or there are more than MAX_ROWS rows.
    """
    found = Checked()
    seen: dict[int, int] = {}
    for row in csv_rows.read(file):
        found.rows += 1
        if found.rows > MAX_ROWS:
            raise FileRefused(f"The file has more than {MAX_ROWS:,} rows: split it.")
        wish = _wish(row, kinds, found)
        if wish is not None and _is_first(wish, seen, row.line, found):
            spool.write(json.dumps(wish) + "\n")
        if found.rows % MAX_TICKETS == 0:
            tell(found.rows)
    spool.seek(0)
    return found


def issue(
    *,
    event_id: int,
    spool: Iterator[str],
    now: datetime,
    is_dry: bool,
    tell: Callable[[int], None] = _tell_nobody,
) -> Outcome:
    """Issue the tickets of a checked file in one transaction, all or none; a dry run ends with none.

    A reference that the event has leaves its ticket as it is. Other calls that issue for this event wait meanwhile.
    """
    new, rows, refused = 0, 0, ""
    try:
        with transaction.atomic():
            with issuing.in_batches(event_id=event_id, now=now) as add:
                while wishes := [issuing.Wish(*json.loads(line)) for line in islice(spool, MAX_TICKETS)]:
                    new += len(add(wishes).added)
                    rows += len(wishes)
                    tell(rows)
            if is_dry:
                transaction.set_rollback(True)
    except QrsiteError as error:
        refused = str(error)
    return Outcome(new, rows - new, refused)


def kinds_of(event: Event) -> list[str]:
    """Return the kinds that an event has."""
    return list(event.kind_set.values_list("name", flat=True))


def _wish(row: Row | RowError, kinds: Collection[str], found: Checked) -> issuing.Wish | None:
    if isinstance(row, RowError):
        found.refuse(row)
        return None
    problems = {}
    try:
        issuing.check_kinds([row.cells.get("kind", "").strip()], kinds)
    except issuing.UnknownKind as error:
        problems["kind"] = str(error)
    try:
        item = TicketIn(**{name: cell for name, cell in row.cells.items() if cell.strip(" ")})
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            problems[str(problem["loc"][0])] = problem["msg"].removeprefix("Value error, ")
    for column in sorted(problems, key=csv_rows.COLUMNS.index):
        found.refuse(RowError(row.line, column, problems[column]))
    return None if problems else issuing.Wish(item.holder, item.email or "", item.kind, item.reference)


def _is_first(wish: issuing.Wish, seen: dict[int, int], line: int, found: Checked) -> bool:
    """Tell whether no row before had this reference; 64 bits of each are remembered, not its text."""
    if wish.reference is None:
        return True
    key, content = hash(wish.reference), hash(wish)
    if key not in seen:
        seen[key] = content
        return True
    if seen[key] == content:
        found.same += 1
    else:
        message = f"{wish.reference} is the reference of an earlier row that says something else."
        found.refuse(RowError(line, "reference", message))
    return False
