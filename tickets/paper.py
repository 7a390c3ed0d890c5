"""How a printed ticket looks: an A4 page, or one of eight cards on a sheet.

`python -m tickets.paper` reads tickets from its standard input and writes a PDF: see tickets.printing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import IO, Any, Literal, NamedTuple

import segno
from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from segno.utils import matrix_to_lines  # type: ignore[attr-defined]  # its stubs forgot it

from tickets.lettering import BOLD, MONO, REGULAR, Face, letter, load_fonts

Layout = Literal["pages", "cards"]

PAGE_WIDTH, PAGE_HEIGHT = A4
MARGIN = 20 * mm
WIDTH = PAGE_WIDTH - 2 * MARGIN
# A page is folded at its half and its quarter: the code lies within one of them.
CODE_TOP, CODE_SIZE = 134 * mm, 80 * mm
COLUMN = PAGE_WIDTH / 2 + 8 * mm
COLUMN_WIDTH = PAGE_WIDTH - MARGIN - COLUMN
# An A4 sheet cut three times is eight A7 cards, which is what badge holders take.
COLUMNS, ROWS = 2, 4
CARD_WIDTH, CARD_HEIGHT = PAGE_WIDTH / COLUMNS, PAGE_HEIGHT / ROWS
CARD_MARGIN, CARD_TOP, CARD_CODE = 10 * mm, 13 * mm, 38 * mm
QUIET = 4 / 37  # of the QR's side: nothing else is printed as near to it
MARK = 6 * mm  # printers leave some 4 mm blank at the edges
GRAY = 0.4

LABEL = Face(REGULAR, 8, 8, gray=GRAY)
VALUE = Face(REGULAR, 11, 7, lines=2)
PAGE_EVENT, PAGE_STARTS = Face(BOLD, 28, 14, lines=3), Face(REGULAR, 14, 14)
PAGE_HOLDER, PAGE_ADVICE = Face(BOLD, 18, 10, lines=2), Face(BOLD, 14, 14, lines=2)
CARD_EVENT, CARD_STARTS = Face(BOLD, 11, 7, lines=3), Face(REGULAR, 8, 6)
CARD_HOLDER, CARD_KIND = Face(BOLD, 12, 7, lines=3), Face(REGULAR, 9, 7, lines=2)
CARD_DETAIL, CARD_NUMBER = Face(REGULAR, 7, 6, lines=2, gray=GRAY), Face(MONO, 6, 6, gray=GRAY)


class Printed(NamedTuple):
    """What is printed of a ticket, as text."""

    event: str
    starts: str
    doors: str
    holder: str
    kind: str
    reference: str
    number: str
    code: str


def write(file: IO[bytes], tickets: Sequence[Printed], layout: Layout) -> None:
    """Write tickets as a PDF; the same tickets give the same bytes."""
    load_fonts()
    font: Any = REGULAR  # the types of reportlab want a number here
    canvas = Canvas(file, A4, pageCompression=1, invariant=1, lang="en", initialFontName=font)
    events = ", ".join(dict.fromkeys(ticket.event for ticket in tickets))
    canvas.setTitle(f"{events}: {tickets[0].holder if len(tickets) == 1 else f'{len(tickets)} tickets'}")
    canvas.setAuthor(events)
    canvas.setSubject("Tickets")
    canvas.setCreator("qrsite")
    if layout == "pages":
        for ticket in tickets:
            _page(canvas, ticket)
            canvas.showPage()
    else:
        for first in range(0, len(tickets), COLUMNS * ROWS):
            _sheet(canvas, tickets[first : first + COLUMNS * ROWS])
            canvas.showPage()
    canvas.save()


def _page(canvas: Canvas, ticket: Printed) -> None:
    y = letter(canvas, MARGIN, PAGE_HEIGHT - MARGIN, ticket.event, PAGE_EVENT, WIDTH)
    y = letter(canvas, MARGIN, y - 2 * mm, ticket.starts, PAGE_STARTS, WIDTH) - 8 * mm
    canvas.setStrokeGray(0)
    canvas.setLineWidth(0.5)
    canvas.line(MARGIN, y, PAGE_WIDTH - MARGIN, y)
    y = _field(canvas, MARGIN, y - 7 * mm, WIDTH, "Holder", ticket.holder, PAGE_HOLDER)
    below = _field(canvas, MARGIN, y, COLUMN_WIDTH, "Doors open", ticket.doors)
    if ticket.kind:
        _field(canvas, COLUMN, y, COLUMN_WIDTH, "Kind", ticket.kind)
    if ticket.reference:
        _field(canvas, MARGIN, below, WIDTH, "Reference", ticket.reference)

    _qr(canvas, ticket.code, MARGIN, CODE_TOP, CODE_SIZE)
    half = -(-len(ticket.code) // 2)
    canvas.setFont(MONO, CODE_SIZE / canvas.stringWidth("0" * half, MONO, 1))  # two lines as wide as the QR
    canvas.setFillGray(GRAY)
    y = CODE_TOP - CODE_SIZE * (1 + QUIET) - 4 * mm
    canvas.drawString(MARGIN, y, ticket.code[:half])
    canvas.drawString(MARGIN, y - 4 * mm, ticket.code[half:])

    y = letter(canvas, COLUMN, CODE_TOP, "Show this code at the entrance.", PAGE_ADVICE, COLUMN_WIDTH)
    why = "Whoever shows it first is admitted: let nobody take a picture of it."
    letter(canvas, COLUMN, y - 2 * mm, why, VALUE, COLUMN_WIDTH)
    _field(canvas, COLUMN, CODE_TOP - CODE_SIZE + 9 * mm, COLUMN_WIDTH, "Ticket number", ticket.number)


def _sheet(canvas: Canvas, tickets: Sequence[Printed]) -> None:
    canvas.setStrokeGray(GRAY)
    canvas.setLineWidth(0.3)
    for column in range(COLUMNS + 1):
        for row in range(ROWS + 1):  # marks where to cut
            x, y = column * CARD_WIDTH, row * CARD_HEIGHT
            canvas.line(x - MARK, y, x + MARK, y)
            canvas.line(x, y - MARK, x, y + MARK)
    for index, ticket in enumerate(tickets):
        row, column = divmod(index, COLUMNS)
        _card(canvas, ticket, column * CARD_WIDTH, PAGE_HEIGHT - row * CARD_HEIGHT)


def _card(canvas: Canvas, ticket: Printed, left: float, top: float) -> None:
    x, qr_x = left + CARD_MARGIN, left + CARD_WIDTH - CARD_MARGIN - CARD_CODE
    width = qr_x - CARD_CODE * QUIET - mm - x
    y = letter(canvas, x, top - CARD_TOP, ticket.event, CARD_EVENT, width)
    y = letter(canvas, x, y - mm, ticket.starts, CARD_STARTS, width)
    y = letter(canvas, x, y, f"Doors {ticket.doors}", CARD_DETAIL, width)
    y = letter(canvas, x, y - 3 * mm, ticket.holder, CARD_HOLDER, width)
    y = letter(canvas, x, y - mm, ticket.kind, CARD_KIND, width)
    letter(canvas, x, y, ticket.reference, CARD_DETAIL, width)
    _qr(canvas, ticket.code, qr_x, top - CARD_TOP, CARD_CODE)
    below = top - CARD_TOP - CARD_CODE * (1 + QUIET)
    letter(canvas, qr_x, below, ticket.number, CARD_NUMBER, CARD_CODE)


def _field(
    canvas: Canvas, x: float, y: float, width: float, label: str, value: str, face: Face = VALUE
) -> float:
    y = letter(canvas, x, y, label, LABEL, width)
    return letter(canvas, x, y - 0.5 * mm, value, face, width) - 6 * mm


def _qr(canvas: Canvas, code: str, x: float, top: float, size: float) -> None:
    """Draw the dark modules as one path, so that no viewer leaves seams between them."""
    matrix = segno.make(code, error="m", micro=False, boost_error=False).matrix
    bars = matrix_to_lines(matrix, 0, len(matrix) - 1, incby=-1)
    canvas.saveState()
    canvas.translate(x, top - size)
    canvas.scale(size / len(matrix), size / len(matrix))
    canvas.setFillGray(0)
    # Whole numbers as PDF writes them: a path object of reportlab takes three times as long.
    canvas.addLiteral(" ".join(f"{start} {row} {end - start} 1 re" for (start, row), (end, _) in bars) + " f")
    canvas.restoreState()


if __name__ == "__main__":
    os.nice(10)  # gates come first
    kind_of_paper, rows = json.load(sys.stdin)
    write(sys.stdout.buffer, [Printed(*row) for row in rows], kind_of_paper)
