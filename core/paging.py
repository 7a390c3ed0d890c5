"""Pages of a long list over HTTP: how they are asked for, and what the next one comes after."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field

Row = TypeVar("Row")
PAGE_MAX = 1000

Limit = Annotated[int, Field(ge=1, le=PAGE_MAX)]
After = Annotated[int | None, Field(ge=1, lt=2**63)]
Name = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]


def page_of(rows: list[Row], limit: int, number: str) -> tuple[list[Row], str | None]:
    """Return a page of rows of which one more was asked for, and the number that the next page comes after, if any."""
    page = rows[:limit]
    return page, str(getattr(page[-1], number)) if len(rows) > limit else None
