"""Named statements out of an app's queries.sql."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from importlib.resources import files

import sqlalchemy
from sqlalchemy.engine import make_url

_DIALECT = make_url("postgresql+psycopg2://").get_dialect()()
_HEADER = re.compile(r"^-- name: (\w+)\n((?:--.*\n)*)", re.MULTILINE)


def load(app: str) -> dict[str, str]:
    """Return the statements of `<app>/queries.sql` by name, their comments dropped, as the driver takes them.

    A statement begins with `-- name: …`, then comment lines: row shape, binds, index. Binds are `:name`; write
    CAST(:x AS type), for `:x::type` is not seen as a bind, and a `:word` in a comment or text would be. Run them by
    `exec_driver_sql`: to compile a text anew for each execution takes 80 µs of the 220 that one costs here.

    Raises:
        ValueError: a name occurs twice, or text stands before the first name.
    """
    before, *parts = _HEADER.split(files(app).joinpath("queries.sql").read_text(encoding="utf-8"))
    names = parts[0::3]
    if before.strip() or len(set(names)) != len(names):
        raise ValueError(f"{app}/queries.sql: every statement needs a name of its own")
    return {
        name: str(sqlalchemy.text(body.strip().removesuffix(";")).compile(dialect=_DIALECT))
        for name, body in zip(names, parts[2::3], strict=True)
    }


def array(values: Iterable[bool | int | datetime | None]) -> str:
    """Return numbers, truths or moments as PostgreSQL writes an array; bind it where a cast names the type.

    psycopg2 adapts a list element by element, 1 to 2 µs each, which is 10 µs for each row of the scan log; this takes a
    tenth of that. Text is left to psycopg2: it knows how to quote.
    """
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"
