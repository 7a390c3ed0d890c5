"""What every pool in `python -m bench.pool` has to do, and how Django's connection wrapper does it.

Runs in environments where only some of the libraries exist, so libraries are imported by whoever needs them. libpq finds
the server in PGHOST, PGUSER and PGDATABASE. Every connection names its process in application_name, by which the bench
counts at the server.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, ClassVar

SIZE, OVERFLOW = 5, 10
CAP = SIZE + OVERFLOW


class Contestant:
    """One pool in this process. What is taken must be given back, broken or not."""

    name: ClassVar[str]
    environment: ClassVar[str] = (
        ""  # the one to run in: requirements-<environment>.txt; "": the project's own
    )

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s

    def once(self) -> None:
        """Check out and return, as cheaply as the pool's users can."""
        self.give(self.take())

    def take(self) -> Any:
        """Check out."""
        raise NotImplementedError

    def ask(self, taken: Any) -> None:
        """Run SELECT 1."""
        raise NotImplementedError

    def give(self, taken: Any) -> None:
        """Return."""
        taken.close()

    def turn(self) -> None:
        """Check out, ask, return."""
        taken = self.take()
        try:
            self.ask(taken)
        finally:
            self.give(taken)

    def dispose(self) -> None:
        """Close the connections while others use them, as an operator or a test runner may."""
        raise NotImplementedError

    def start_afresh(self) -> None:
        """In a forked child: do what the pool's documentation tells its users to do there."""

    def entering(self, kind: str) -> AbstractContextManager[None]:
        """Say what the work in this block is for ("scan" or "background"), where the pool wants to know."""
        return nullcontext()

    def reserve_shares(self) -> None:
        """Put guarantees into force, where the pool knows any."""


class ThroughDjango(Contestant):
    """A pool that is borrowed from by Django's connection wrapper: at the first query, until close()."""

    def __init__(self, timeout_s: float, **database: Any) -> None:
        super().__init__(timeout_s)
        django, conf = import_module("django"), import_module("django.conf")
        where = {"NAME": os.environ["PGDATABASE"], "USER": os.environ["PGUSER"], "HOST": os.environ["PGHOST"]}
        conf.settings.configure(DATABASES={"default": {**where, **database}}, USE_TZ=True)
        django.setup()
        self._connection: Any = import_module("django.db").connection

    def once(self) -> None:
        self._connection.ensure_connection()
        self._connection.close()

    def take(self) -> Any:
        self._connection.ensure_connection()
        return self._connection

    def ask(self, taken: Any) -> None:
        with taken.cursor() as cursor:
            cursor.execute("SELECT 1")

    def start_afresh(self) -> None:
        # Pools keep the parameters with which they were made: name the child before it makes its own.
        self._connection.settings_dict["OPTIONS"]["application_name"] = named(self.name)


def named(name: str) -> str:
    """Return an application_name that tells the process."""
    return f"{name}:{os.getpid()}"
