"""What work is for, and who does it: set once where work enters, read by the pool at every checkout."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Purpose:
    """A kind of work and what it gets of the pool; compared by identity, for that is looked at a lot."""

    __slots__ = ("guaranteed", "name", "rank", "timeout_s")

    def __init__(self, rank: int, name: str, *, guaranteed: int, timeout_s: float | None) -> None:
        self.rank = rank
        self.name = name
        self.guaranteed = guaranteed
        self.timeout_s = timeout_s  # None: the pool's own, POOL_TIMEOUT

    def __repr__(self) -> str:
        return self.name


SCAN = Purpose(0, "scan", guaranteed=2, timeout_s=1.0)
HEALTH = Purpose(1, "health", guaranteed=1, timeout_s=0.5)
WEB = Purpose(2, "web", guaranteed=3, timeout_s=5.0)
ADMIN = Purpose(3, "admin", guaranteed=1, timeout_s=5.0)
BACKGROUND = Purpose(4, "background", guaranteed=1, timeout_s=None)
# The most urgent first: each leaves free what those before it are guaranteed.
PURPOSES = (SCAN, HEALTH, WEB, ADMIN, BACKGROUND)

_purpose: ContextVar[Purpose] = ContextVar("purpose", default=BACKGROUND)
_label: ContextVar[str] = ContextVar("label", default="")

_host = socket.gethostname().partition(".")[0][-30:]  # the end tells pods apart
_serves = False


def serve(*, from_now_on: bool) -> None:
    """Say whether this process serves the site, or runs a command beside it."""
    global _serves
    _serves = from_now_on


def is_server() -> bool:
    """Tell whether this process serves the site."""
    return _serves


def process_name() -> str:
    """Return the name of this process, one of its own in a fleet of hosts and containers; a command's begins so."""
    return f"{'' if _serves else 'command-'}{_host}-{os.getpid()}"


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
