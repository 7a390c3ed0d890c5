"""What a drill does inside a server process, on behalf of `manage.py pool drill` (health/drill): each is bounded."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from typing import Any, NoReturn

from django.db import Error

from core import db
from core.control import Action
from core.lease import NestedCheckout
from core.purpose import PURPOSES, Purpose, entering

log = logging.getLogger(__name__)

HOLD_MAX_S = 30.0
CHILD_TIMEOUT_S = 5.0

_releases: list[threading.Event] = []


def _status(_asked: dict[str, Any]) -> dict[str, Any]:
    return db.snapshot()


def _cancel(asked: dict[str, Any]) -> str | None:
    held = db.cancel(int(asked["lease"]))
    if held is not None:
        log.warning("%s cancelled the statement of %s", asked.get("by", "Somebody"), held)
    return held


def _hold(asked: dict[str, Any]) -> int:
    """Hold up to `count` connections for a purpose until released, at most `seconds`; return how many it got."""
    wanted, count = _purpose(asked), min(int(asked["count"]), db.pool.cap())
    seconds = min(float(asked["seconds"]), HOLD_MAX_S)
    release = threading.Event()
    _releases.append(release)
    settled = threading.Semaphore(0)
    got = []

    def hold() -> None:
        try:
            with entering(wanted, "drill: hold"), db.begin():
                got.append(True)
                settled.release()
                release.wait(seconds)
        except Error:
            settled.release()

    for _ in range(count):
        threading.Thread(target=hold, name="drill", daemon=True).start()
    deadline_s = time.monotonic() + float(asked["within_s"])
    while count and settled.acquire(timeout=max(deadline_s - time.monotonic(), 0)):
        count -= 1
    return len(got)


def _let_go(_asked: dict[str, Any]) -> None:
    while _releases:
        _releases.pop().set()


def _take(asked: dict[str, Any]) -> dict[str, Any]:
    """Take one connection, ask `SELECT 1`, give it back; return seconds, and the error if there was one."""
    start_s = time.monotonic()
    error = ""
    try:
        with entering(_purpose(asked), "drill: take"), db.begin() as conn:
            conn.exec_driver_sql("SELECT 1")
    except Error as problem:
        error = " ".join(str(problem).split())
    return {"seconds": time.monotonic() - start_s, "error": error}


def _leak(_asked: dict[str, Any]) -> None:
    """Let a thread take a connection and end with it, in a reference cycle that only the collector would undo."""

    def leak() -> None:
        with entering(_purpose({}), "drill: leak"):
            cycle: dict[str, Any] = {"connection": db.engine.raw_connection()}
        cycle["self"] = cycle

    thread = threading.Thread(target=leak, name="drill")
    thread.start()
    thread.join()


def _nest(asked: dict[str, Any]) -> str:
    """Ask for a second connection where there is none and this thread holds one; return what comes of it."""
    with entering(_purpose(asked), "drill: nest"):
        first = db.engine.raw_connection()
        try:
            start_s = time.monotonic()
            db.engine.raw_connection().close()
        except NestedCheckout:
            return f"refused after {time.monotonic() - start_s:.3f} s"
        except Exception as error:
            return type(error).__name__
        else:
            return "joined or given"
        finally:
            first.close()


def _fork(_asked: dict[str, Any]) -> dict[str, Any]:
    """Fork; return the server processes that parent and child talked to before, meanwhile, and after."""
    question = "SELECT pg_backend_pid()"
    with entering(_purpose({}), "drill: fork"), db.engine.connect() as conn:
        before = conn.exec_driver_sql(question).scalar_one()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            _be_the_child(write)
        os.close(write)
        is_told, _, _ = select.select([read], [], [], CHILD_TIMEOUT_S)
        told = os.read(read, 200).decode() if is_told else "no answer"
        os.close(read)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        after = conn.exec_driver_sql(question).scalar_one()
    return {"before": before, "child": told, "after": after}


def _be_the_child(write: int) -> NoReturn:
    """Use a pool of its own, say with whom it talked, and leave without a trace."""
    try:
        with entering(_purpose({}), "drill: child"), db.begin() as conn:
            os.write(write, str(conn.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()).encode())
        db.engine.dispose()
    except BaseException as error:
        os.write(write, f"{type(error).__name__}: {error}"[:100].encode())
    finally:
        os._exit(0)


def _purpose(asked: dict[str, Any]) -> Purpose:
    named = asked.get("purpose", "background")
    return next(item for item in PURPOSES if item.name == named)


def _told(act: Action) -> Action:
    """Say in the log that what follows is a drill, and whose."""

    def told(asked: dict[str, Any]) -> Any:
        log.warning("Drill by %s: %s", asked.get("by", "somebody"), asked["do"])
        return act(asked)

    return told


FAULTS: dict[str, Action] = {"hold": _hold, "take": _take, "leak": _leak, "nest": _nest, "fork": _fork}
ACTIONS: dict[str, Action] = {
    "status": _status,
    "cancel": _cancel,
    "let_go": _let_go,
    **{name: _told(act) for name, act in FAULTS.items()},
}
