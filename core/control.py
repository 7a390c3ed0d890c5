"""A Unix socket beside each server process, on which the others and the operator's commands talk to it.

Each process has a pool of its own, and a request or a scrape reaches just one of them. So each listens in a folder that
nobody but its owner may enter: one line of JSON in, one out. Whoever wants to know about all asks every socket there.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import socket
import socketserver
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.conf import settings

from core.postgres_account import Account, PostgresError, digest, make_parents, make_private
from core.purpose import process_name

log = logging.getLogger(__name__)

Action = Callable[[dict[str, Any]], Any]

ANSWER_TIMEOUT_S = 2.0
ASK_ALL_TIMEOUT_S = 0.5
_PATH_MAX_BYTES = 100  # the kernel's limit is 107 on Linux and 103 on macOS
_LINE_MAX_BYTES = 64 * 1024


def folder() -> Path:
    """Return where the sockets lie: follows from VAR_DIR alone."""
    inside: Path = settings.VAR_DIR / "run"
    longest = inside / f"{'x' * 40}.sock"
    return (
        inside
        if len(os.fsencode(longest)) <= _PATH_MAX_BYTES
        else Path("/tmp") / f"qrsite-run-{digest(inside)}"
    )


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def listen(actions: dict[str, Action]) -> None:
    """Answer for this process from now on; where the folder can't be made, say so and go without."""

    class Handler(socketserver.StreamRequestHandler):
        timeout = ANSWER_TIMEOUT_S

        def handle(self) -> None:
            with suppress(OSError):  # who asked is gone
                if line := self.rfile.readline(_LINE_MAX_BYTES):
                    self.wfile.write(json.dumps(_answer(actions, line)).encode() + b"\n")

    path = folder() / f"{process_name()}.sock"
    try:
        make_parents(path.parent)
        make_private(path.parent, Account(os.geteuid(), os.getegid()))
        # Under its name only once it listens: who finds a socket that refuses takes it for a dead one's.
        young = path.with_suffix(".new")
        young.unlink(missing_ok=True)
        server = _Server(str(young), Handler)
        young.rename(path)
    except (OSError, PostgresError) as error:
        log.warning("This process can't be asked about its pool: %s", error)
        return
    threading.Thread(target=server.serve_forever, name="control", daemon=True).start()


def _answer(actions: dict[str, Action], line: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(line)
        return {"process": process_name(), "answer": actions[asked["do"]](asked)}
    except Exception as error:
        log.exception("The control socket was asked %r", line[:200])
        return {"process": process_name(), "error": f"{type(error).__name__}: {error}"}


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without that account
        return f"user {os.getuid()}"


def ask(process: str, do: str, *, timeout_s: float = ANSWER_TIMEOUT_S, **details: Any) -> Any:
    """Ask one process of this machine.

    Raises:
        OSError: it does not listen (any more), or not answer in time.
        RuntimeError: it could not do that; the message says why.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout_s)
        client.connect(str(folder() / f"{process}.sock"))
        client.sendall(json.dumps({"do": do, "by": _who(), **details}).encode() + b"\n")
        with client.makefile("rb") as lines:
            answer = json.loads(lines.readline() or b'{"error": "no answer"}')
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["answer"]


def processes() -> list[str]:
    """List the processes that listen; a socket that one left behind is removed.

    Raises:
        PermissionError: the folder belongs to another user.
    """
    listening: list[str] = []
    if not folder().is_dir():
        return listening
    if folder().stat().st_uid != os.geteuid():
        raise PermissionError(f"{folder()} belongs to another user")
    for path in sorted(folder().glob("*.sock")):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
                listening.append(path.stem)
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except FileNotFoundError:
                pass
    return listening


def ask_all(do: str, **details: Any) -> list[Any]:
    """Ask every process of this machine, all at once; one that can't answer is left out, and logged."""

    def answer(process: str) -> list[Any]:
        try:
            return [ask(process, do, timeout_s=ASK_ALL_TIMEOUT_S, **details)]
        except (OSError, RuntimeError, ValueError) as error:
            log.warning("%s did not answer: %s", process, error)
            return []

    listening = processes()
    with ThreadPoolExecutor(max(len(listening), 1)) as executor:
        return [told for answers in executor.map(answer, listening) for told in answers]
