"""Who holds a connection: for error messages, logs and people who wonder."""

from __future__ import annotations

import sys
import threading
import time
from types import FrameType
from typing import NamedTuple

from core import purpose
from core.purpose import Purpose

Stack = tuple[tuple[str, int, str], ...]
_HIDDEN = ("sqlalchemy", "/core/pool.py", "/core/lease.py")


class Lease(NamedTuple):
    """One connection in use."""

    purpose: Purpose
    label: str
    thread: threading.Thread
    since_s: float
    stack: Stack

    @classmethod
    def now(cls, wanted: Purpose) -> Lease:
        """Describe what takes a connection here and now."""
        return cls(wanted, purpose.label(), threading.current_thread(), time.monotonic(), stack())

    def __str__(self) -> str:
        held_s = time.monotonic() - self.since_s
        return f"{self.label or self.purpose.name.lower()} on {self.thread.name} for {held_s:.1f} s"


def stack(depth: int = 12) -> Stack:
    """Return the callers outside the pool's own code, the nearest first; cheap enough for every checkout."""
    frame: FrameType | None = sys._getframe(1)
    calls: list[tuple[str, int, str]] = []
    while frame is not None and len(calls) < depth:
        calls.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return tuple(calls)


def formatted(calls: Stack) -> str:
    """Write a stack as lines."""
    shown = [call for call in calls if not any(part in call[0] for part in _HIDDEN)]
    return "".join(f"  {file}:{line} in {name}\n" for file, line, name in shown)
