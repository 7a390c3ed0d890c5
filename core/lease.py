"""Who holds a connection: for error messages, logs, metrics and people who wonder."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable
from itertools import count, takewhile
from types import CodeType, FrameType
from typing import Any

from core import purpose
from core.link import Link
from core.purpose import Purpose

Stack = tuple[tuple[CodeType, int], ...]
_HIDDEN = ("sqlalchemy/", "/core/pool.py", "/core/slots.py", "/core/lease.py")


class Lease:
    """One connection in use."""

    __slots__ = (
        "asked_s",
        "is_dirty",
        "is_forgotten",
        "label",
        "leak",
        "link",
        "number",
        "purpose",
        "since_s",
        "stack",
        "thread",
    )
    _numbers = count(1)

    def __init__(self, link: Link, wanted: Purpose, asked_s: float) -> None:
        self.link = link
        self.number = next(self._numbers)
        self.purpose = wanted
        self.label = purpose.label()
        self.thread = threading.current_thread()
        self.asked_s = asked_s
        self.since_s = time.monotonic()
        self.stack = stack()
        self.is_dirty = self.is_forgotten = False
        self.leak = ""  # how it came back without being given back

    def reclaim(self, why: str) -> None:
        """Take the connection from a holder that will not give it back: close it, so that its slot is free."""
        reference = self.link.record.fairy_ref
        if reference is not None and (proxy := reference()) is not None:
            self.leak = why
            self.link.session.cut()  # another thread may be waiting for the server on it, and closing would wait, too
            proxy.invalidate()

    def snapshot(self, now_s: float) -> dict[str, Any]:
        """Return who holds what since when, as JSON can hold it."""
        return {
            "lease": self.number,
            "purpose": self.purpose.name,
            "label": self.label,
            "thread": self.thread.name,
            "held_s": now_s - self.since_s,
            **self.link.session.describe(),
        }

    def __str__(self) -> str:
        held_s = time.monotonic() - self.since_s
        return f"{self.label or self.purpose} on {self.thread.name} for {held_s:.1f} s"


class NestedCheckout(RuntimeError):
    """A thread that holds a connection would have to wait for a second one; waiting for each other, such threads stall."""

    def __init__(self, first: Lease) -> None:
        super().__init__(
            f"This thread holds a connection already ({first}), taken at:\n{formatted(first.stack)}"
            f"and would wait for a second one at:\n{formatted(stack())}"
        )


def longest(leases: Iterable[Lease], shown: int = 3) -> list[str]:
    """Name those who hold a connection longest, in a sentence; none where nobody holds one."""
    held = sorted(leases, key=lambda lease: lease.since_s)[:shown]
    return [f"Held longest: {'; '.join(map(str, held))}."] if held else []


def stack(depth: int = 16) -> Stack:
    """Return the callers, the nearest first; cheap enough for every checkout (a line number is not: see formatted)."""
    frame: FrameType | None = sys._getframe(4)
    calls: list[tuple[CodeType, int]] = []
    while frame is not None and len(calls) < depth:
        calls.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(calls)


def formatted(calls: Stack) -> str:
    """Write a stack as lines."""
    return "".join(
        f"  {code.co_filename}:{_line(code, instruction)} in {code.co_name}\n"
        for code, instruction in calls
        if not any(part in code.co_filename for part in _HIDDEN)
    )


def _line(code: CodeType, instruction: int) -> int:
    spans = takewhile(lambda span: span[0] <= instruction, code.co_lines())
    return next(reversed([line for _, _, line in spans if line is not None]), code.co_firstlineno)
