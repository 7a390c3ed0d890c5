"""Read a CSV of tickets row by row: whatever is wrong with a row is said of that row, and nothing is held."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO, NamedTuple, TextIO

from core.errors import QrsiteError

COLUMNS = ("holder", "email", "kind", "reference")
DELIMITERS = ",;\t"
# The longest ticket that the API takes has 754 characters; a quote that is never closed would swallow the file.
MAX_ROW_CHARS = 10_000

TOO_LONG = f'The row is longer than {MAX_ROW_CHARS:,} characters: is a quote (") not closed?'
WRONG_QUOTES = 'Quotes (") stand around a whole field; within it, write "" for one.'
NOT_CLOSED = 'Is a quote (") of this row not closed? It was read as one row with all up to line {}.'
NOT_UTF8 = "This is not UTF-8: save the file as “CSV UTF-8”."


class FileRefused(QrsiteError):
    """The file as a whole can't be read as tickets."""

    code = "file_refused"
    status = 422


class Row(NamedTuple):
    """A row as it stands in the file, by column; `line` is its first line, the header's is 1."""

    line: int
    cells: dict[str, str]


class RowError(NamedTuple):
    """What is wrong with a row; `column` is "" where it is the whole row."""

    line: int
    column: str
    message: str


def read(file: BinaryIO) -> Iterator[Row | RowError]:
    """Yield the rows after the header, but for blank ones; the file stays open.

    Raises:
        FileRefused: the header does not name the columns.
    """
    # What is not UTF-8 becomes surrogates, so that it can be said where it stands.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _rows(_Lines(text))
    finally:
        text.detach()


class _Lines:
    """The lines of a text, counted; a row that takes too many characters ends in an error before it is held."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._row_chars = 0
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_ROW_CHARS)
        if not line:
            raise StopIteration
        self.number += 1
        self._row_chars += len(line)
        if self._row_chars >= MAX_ROW_CHARS:
            while line and not line.endswith(("\n", "\r")):
                line = self._text.readline(MAX_ROW_CHARS)
            raise csv.Error(TOO_LONG)
        return line

    def begin_row(self) -> int:
        """Return the number of the line that comes next."""
        self._row_chars = 0
        return self.number + 1


def _rows(lines: _Lines) -> Iterator[Row | RowError]:
    try:
        first = next(lines, "")
        delimiter = max(DELIMITERS, key=first.count)
        reader = csv.reader(chain([first], lines), delimiter=delimiter, skipinitialspace=True, strict=True)
        columns = _columns(next(reader, []))
    except csv.Error:
        raise FileRefused("The first line is no header: it must name the columns.") from None
    while True:
        line = lines.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            swallowed = NOT_CLOSED.format(lines.number) if lines.number > line else WRONG_QUOTES
            yield RowError(line, "", TOO_LONG if str(error) == TOO_LONG else swallowed)
            continue
        if not "".join(cells).strip(" "):
            continue
        if len(cells) != len(columns):
            yield RowError(line, "", f"Fields in this row: {len(cells)}; columns: {len(columns)}.")
        elif bad := [name for name, cell in zip(columns, cells, strict=True) if not _is_utf8(cell)]:
            yield RowError(line, bad[0], NOT_UTF8)
        else:
            yield Row(line, dict(zip(columns, cells, strict=True)))


def _columns(header: list[str]) -> list[str]:
    names = [name.strip().lower() for name in header]
    if not any(names):
        raise FileRefused("The first line is empty: it must name the columns.")
    if not all(_is_utf8(name) and "\0" not in name for name in names):
        raise FileRefused(NOT_UTF8)
    if unknown := [name for name in names if name not in COLUMNS]:
        shown = ", ".join(repr(name[:50]) for name in unknown[:10])
        raise FileRefused(f"Unknown columns: {shown}. There may be {', '.join(COLUMNS)}.")
    if twice := [name for name in COLUMNS if names.count(name) > 1]:
        raise FileRefused(f"The column {twice[0]} is there more than once.")
    if "holder" not in names:
        raise FileRefused("There is no column holder.")
    return names


def _is_utf8(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)
