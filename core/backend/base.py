"""The wrapper that Django keeps per thread; the connection in it is on loan from the pool."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg2
import psycopg2.extensions
import sqlalchemy
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections
from django.db.backends.postgresql import base, creation, features
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from psycopg2.extensions import new_array_type, new_type, register_type
from sqlalchemy import PoolProxiedConnection

from core import db
from core.errors import PoolExhausted
from core.lease import Lease
from core.session import SessionCursor

IS_USABLE_TIMEOUT_S = 0.5

# JSONField decodes by itself and wants text; raw SQL wants psycopg2's dicts. Django registers its choice on the
# connection, where the next borrower would find it; a cursor's own casters end with the cursor.
_JSONB_AS_TEXT = new_type((3802,), "JSONB_AS_TEXT", lambda value, _cursor: value)
_JSONB_ARRAY_AS_TEXT = new_array_type((3807,), "JSONB_ARRAY_AS_TEXT", _JSONB_AS_TEXT)


class DatabaseFeatures(features.DatabaseFeatures):
    """Tell the ORM what our keys are like."""

    # Hot tables have the primary key (event_id, id): grouping by Django's `id` alone does not cover the row.
    allows_group_by_selected_pks = False


class DatabaseCreation(creation.DatabaseCreation):
    """Make test databases; PostgreSQL copies none that somebody is connected to."""

    connection: DatabaseWrapper

    def _create_test_db(self, *arguments: Any, **options: Any) -> str:
        self.connection.close()
        self.connection.close_pool()
        name: str = super()._create_test_db(*arguments, **options)  # type: ignore[misc]
        return name


class _Loan:
    """One borrowed connection. Giving it back twice is harmless; forgetting the loan gives it back."""

    def __init__(self, wrapper: DatabaseWrapper, proxy: PoolProxiedConnection) -> None:
        self.wrapper = weakref.ref(wrapper)
        self.proxy = proxy
        self.pid = os.getpid()
        self.cursors: weakref.WeakSet[psycopg2.extensions.cursor] = weakref.WeakSet()

    def give_back(self) -> None:
        """Close what would still reach the connection, then return it."""
        for cursor in list(self.cursors):
            with suppress(psycopg2.Error):
                cursor.close()
        if self.proxy.is_valid:
            self.proxy.close()

    def lease(self) -> Lease | None:
        """Return what the pool knows of it."""
        return db.pool.lease_of(self.proxy)

    def note_leak(self, how: str) -> None:
        """Remember how it came back without being given back; the pool's keeper tells."""
        if lease := self.lease():
            lease.leak = how

    def is_idle(self) -> bool:
        """Tell whether nobody is reading from it."""
        return all(cursor.closed for cursor in self.cursors)

    def __del__(self) -> None:
        # The parent's: Python frees what other threads held before any at-fork hook.
        if self.pid != os.getpid():
            return
        wrapper = self.wrapper()
        if self.proxy.is_valid:
            if wrapper is not None:
                wrapper.connection = None
            self.note_leak("was held by a thread that ended")
        self.give_back()


class _Loans(threading.local):
    """What this thread has borrowed: the only strong reference to it, so the end of the thread gives it back.

    Django's wrapper would not. It sits in a reference cycle and keeps its connection until the cyclic garbage
    collector happens to run: 15 such threads, and the pool is empty.
    """

    def __init__(self) -> None:
        self.held: set[_Loan] = set()

    def leave_to_parent(self) -> None:
        """In a forked child: never touch what the parent borrowed, not even by forgetting it."""
        for loan in self.held:
            wrapper = loan.wrapper()
            if wrapper is not None:
                wrapper.connection = None
                with suppress(AttributeError):
                    del connections[wrapper.alias]  # with it its transaction, which is the parent's, too
        _inherited.append(self.held)
        self.held = set()


_inherited: list[set[_Loan]] = []
_loans = _Loans()
os.register_at_fork(after_in_child=_loans.leave_to_parent)


def _no_loan() -> None:
    return None


class DatabaseWrapper(base.DatabaseWrapper):
    """Borrow from the pool at the first query; give back at the end of the request, command or thread.

    `connection` is the driver's own object, as Django's internals expect; the pool's proxy stays with the loan.
    """

    features_class = DatabaseFeatures
    creation_class = DatabaseCreation
    _loan: Callable[[], _Loan | None] = staticmethod(_no_loan)

    def pooled_connection(self) -> PoolProxiedConnection:
        """Return the pool's proxy of the connection that is held now."""
        loan = self._loan()
        if loan is None:
            raise OperationalError("This thread holds no connection of the pool.")
        return loan.proxy

    def get_new_connection(self, conn_params: dict[str, Any]) -> psycopg2.extensions.connection:
        """Borrow; only what the pool is not for (creating a test database) connects by itself.

        Raises:
            PoolExhausted: no connection came free within the deadline.
            ImproperlyConfigured: there is no such isolation level.
        """
        options = self.settings_dict["OPTIONS"]
        self.isolation_level = _isolation_level(options)
        connection = self._connection(conn_params)
        # Not for who opens the connection: these are the borrower's, and Session.clean() ends them with the loan.
        connection.cursor_factory = options.get("cursor_factory", SessionCursor)
        if "isolation_level" in options:
            connection.isolation_level = self.isolation_level
        return connection

    def _connection(self, conn_params: dict[str, Any]) -> psycopg2.extensions.connection:
        if self is not db.orm() and conn_params != db.orm().get_connection_params():
            return db.connect_outside(**conn_params)
        try:
            loan = _Loan(self, db.engine.raw_connection())
        except sqlalchemy.exc.TimeoutError as error:
            raise PoolExhausted(str(error)) from error
        _loans.held.add(loan)
        self._loan = weakref.ref(loan)
        connection = loan.proxy.driver_connection
        assert isinstance(connection, psycopg2.extensions.connection)
        return connection

    def _close(self) -> None:
        # `connection` is cleared in a broken atomic block too: using it after giving it back must fail.
        connection, self.connection = self.connection, None
        loan = self._loan()
        self._loan = _no_loan
        with self.wrap_database_errors:
            if loan is not None:
                _loans.held.discard(loan)
                loan.give_back()
            elif connection is not None:
                connection.close()

    def close_if_unusable_or_obsolete(self) -> None:
        """Give back at the end of a request, without asking the server whether it still works: the pool finds out."""
        if self.connection is not None and not self.in_atomic_block:
            self.close()

    def give_back_if_idle(self) -> None:
        """Give back what nobody is reading from, between two chunks of a stream, say."""
        loan = self._loan()
        is_changed = getattr(self.connection, "changed_by", None) is not None
        if loan is not None and not self.in_atomic_block and not is_changed and loan.is_idle():
            self.close()

    def abandon(self) -> None:
        """Roll back and give back whatever this thread left open, a transaction block, too; say who it was.

        A generator that was forgotten inside `atomic()` would make the next request on this thread part of it.
        """
        if self.in_atomic_block:
            if loan := self._loan():
                loan.note_leak("was left in a transaction")
                loan.proxy.invalidate()  # which ends it
            self._close()
            del connections[self.alias]  # its savepoints and hooks are for nobody

    def is_usable(self) -> bool:
        """Ask the server, and hang up on it if it doesn't answer in time."""
        loan = self._loan()
        if loan is None or (lease := loan.lease()) is None:
            return self.connection is not None and super().is_usable()
        try:
            with db.pool.keeper.hanging_up_after(IS_USABLE_TIMEOUT_S, lease.link):
                return super().is_usable()
        except psycopg2.OperationalError:
            return False

    def close_pool(self) -> None:
        """Close the idle connections: Django asks before it clones or drops a test database."""
        db.engine.dispose()

    def create_cursor(self, name: str | None = None) -> psycopg2.extensions.cursor:
        """Open a cursor that gives JSONField its text."""
        cursor: psycopg2.extensions.cursor = super().create_cursor(name)
        register_type(_JSONB_AS_TEXT, cursor)
        register_type(_JSONB_ARRAY_AS_TEXT, cursor)
        loan = self._loan()
        if loan is not None:
            loan.cursors.add(cursor)
        return cursor


def _isolation_level(options: dict[str, Any]) -> IsolationLevel:
    level = options.get("isolation_level", IsolationLevel.READ_COMMITTED)
    try:
        return IsolationLevel(level)
    except ValueError as error:
        raise ImproperlyConfigured(
            f"Invalid transaction isolation level {level} specified. Use one of the psycopg.IsolationLevel values."
        ) from error
