"""How commands tell a person who watches how far they are."""

from __future__ import annotations

from django.core.management.base import OutputWrapper


def show(stream: OutputWrapper, words: str) -> None:
    """Write over the line that was shown before; nothing where nobody watches."""
    if stream.isatty():
        stream.write(f"\r\x1b[K{words}", style_func=str, ending="")


def bar(part: float) -> str:
    """Draw a share of 1, with the number beside it."""
    return f"{'█' * round(part * 30):░<30} {part:4.0%}"
