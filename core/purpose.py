"""What work is for, and who does it: set once where work enters, read by the pool at every checkout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import NamedTuple


class Share(NamedTuple):
    """What a purpose gets of the pool."""

    guaranteed: int
    timeout_s: float | None  # None: the pool's own, POOL_TIMEOUT


class Purpose(Enum):
    """Kinds of work, the most urgent first. Each leaves free what the more urgent ones are guaranteed."""

    SCAN = Share(guaranteed=2, timeout_s=1.0)
    HEALTH = Share(guaranteed=1, timeout_s=0.5)
    WEB = Share(guaranteed=3, timeout_s=5.0)
    ADMIN = Share(guaranteed=1, timeout_s=5.5)
    BACKGROUND = Share(guaranteed=1, timeout_s=None)


_purpose: ContextVar[Purpose] = ContextVar("purpose", default=Purpose.BACKGROUND)
_label: ContextVar[str] = ContextVar("label", default="")


def current() -> Purpose:
    """Return what the work at hand is for."""
    return _purpose.get()


def label() -> str:
    """Return the endpoint or command that is at work, "" where nobody said."""
    return _label.get()


@contextmanager
def entering(purpose: Purpose, label: str) -> Iterator[None]:
    """Say what the work in this block is for, and its name for logs and error messages."""
    tokens = _purpose.set(purpose), _label.set(label)
    try:
        yield
    finally:
        _purpose.reset(tokens[0])
        _label.reset(tokens[1])
