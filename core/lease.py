"""Who holds a connection: for error messages, logs and people who wonder."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable
from types import CodeType, FrameType
from typing import NamedTuple

from core import purpose
from core.purpose import Purpose

Stack = tuple[tuple[CodeType, int], ...]
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
        return f"{self.label or self.purpose} on {self.thread.name} for {held_s:.1f} s"


def longest(leases: Iterable[Lease], shown: int = 3) -> list[str]:
    """Name those who hold a connection longest, in a sentence; none where nobody holds one."""
    held = sorted(leases, key=lambda lease: lease.since_s)[:shown]
    return [f"Held longest: {'; '.join(map(str, held))}."] if held else []


def stack(depth: int = 10) -> Stack:
    """Return the callers, the nearest first; cheap enough for every checkout."""
    frame: FrameType | None = sys._getframe(1)
    calls: list[tuple[CodeType, int]] = []
    while frame is not None and len(calls) < depth:
        calls.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return tuple(calls)


def formatted(calls: Stack) -> str:
    """Write a stack as lines."""
    lines = [(code.co_filename, line, code.co_name) for code, line in calls]
    shown = [
        f"  {file}:{line} in {name}\n"
        for file, line, name in lines
        if not any(part in file for part in _HIDDEN)
    ]
    return "".join(shown)
