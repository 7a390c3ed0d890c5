"""Set lines of text in a PDF: any script, and never wider than their place.

FiraGO has Latin, Greek, Cyrillic, Georgian, Hebrew, Arabic, Thai and Devanagari. What it lacks (Chinese, Japanese,
Korean, emoji, …) is printed as boxes, one a character, and can still be searched for and copied out of the PDF.
Arabic letters are joined, and Arabic and Hebrew run from right to left. Devanagari is not shaped: its letters stand
in the order of writing, legible but unjoined.
"""

from __future__ import annotations

import io
import unicodedata
from functools import cache, lru_cache
from typing import NamedTuple, cast

import arabic_reshaper
import pymupdf_fonts
from bidi import get_display
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

REGULAR, BOLD, MONO = "figo", "figbo", "cascadia"  # FiraGO and Cascadia Mono, as their package calls them
STEP_PT = 0.5
LEADING = 1.2


class Face(NamedTuple):
    """How text looks: it shrinks from `size` to `least` points until it fits its lines, and is cut only then."""

    font: str
    size: float
    least: float
    lines: int = 1
    gray: float = 0.0


class Fitted(NamedTuple):
    """Text at the size and on the lines on which it fits; `is_whole` where each letter of it is printed."""

    size: float
    lines: list[str]
    is_whole: bool


def load_fonts() -> None:
    """Unpack the fonts once in a process: a fifth of a second that only those who print should wait for."""
    for name in (REGULAR, BOLD, MONO):
        if name not in pdfmetrics.getRegisteredFontNames():
            pdfmetrics.registerFont(TTFont(name, io.BytesIO(pymupdf_fonts.myfont(name))))


def letter(canvas: Canvas, x: float, y: float, text: str, face: Face, width: float) -> float:
    """Draw text with its first line below `y`, and return where the next may begin."""
    fitted = fit(text, face, width)
    canvas.setFont(face.font, fitted.size)
    canvas.setFillGray(face.gray)
    # Searching, copying and screen readers get the text itself, not its boxes or its ellipsis.
    if not fitted.is_whole:
        canvas.addLiteral(f"/Span <</ActualText <FEFF{text.encode('utf-16-be').hex()}>>> BDC")
    for line in fitted.lines:
        y -= fitted.size * LEADING
        canvas.drawString(x, y, get_display(line))
    if not fitted.is_whole:
        canvas.addLiteral("EMC")
    return y


@lru_cache(maxsize=256)
def fit(text: str, face: Face, width: float) -> Fitted:
    """Return the size at which text fits into its lines, and these; what doesn't fit at the least size is cut."""
    text = _printable(text, face.font)
    has_glyphs = _glyphs(face.font).issuperset(map(ord, text))
    size = face.size
    while size > face.least:
        lines = _wrapped(text, face.font, size, width)
        if len(lines) <= face.lines and all(_width(line, face.font, size) <= width for line in lines):
            return Fitted(size, lines, has_glyphs)
        size -= STEP_PT
    lines = _wrapped(_with_breaks(text, face.font, face.least, width), face.font, face.least, width)
    if len(lines) > face.lines:
        room = width - _width("…", face.font, face.least)
        rest = " ".join(lines[face.lines - 1 :])
        kept = rest[: _how_many(rest, face.font, face.least, room)]
        lines = [*lines[: face.lines - 1], kept.rstrip() + "…"]
    return Fitted(face.least, lines, has_glyphs and " ".join(lines) == text)


def _printable(text: str, font: str) -> str:
    """Return text on one line, its Arabic joined, and with a plain letter where the font lacks a special form."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    glyphs = _glyphs(font)
    return "".join(
        char if ord(char) in glyphs else unicodedata.normalize("NFKC", char)
        for char in (text if text.isascii() else arabic_reshaper.reshape(text))
    )


@cache
def _glyphs(font: str) -> frozenset[int]:
    """Return the characters that a font has."""
    return frozenset(cast(TTFont, pdfmetrics.getFont(font)).face.charToGlyph)


def _wrapped(text: str, font: str, size: float, width: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and _width(f"{lines[-1]} {word}", font, size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _with_breaks(text: str, font: str, size: float, width: float) -> str:
    """Break the words that are wider than a line."""
    words = []
    for word in text.split(" "):
        while (number := _how_many(word, font, size, width)) < len(word):
            words.append(word[:number])
            word = word[number:]
        words.append(word)
    return " ".join(words)


def _how_many(text: str, font: str, size: float, width: float) -> int:
    number = len(text)
    while number > 1 and _width(text[:number], font, size) > width:
        number -= 1
    return number


def _width(text: str, font: str, size: float) -> float:
    return float(pdfmetrics.stringWidth(text, font, size))
