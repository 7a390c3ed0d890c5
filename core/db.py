"""The one engine of this process, and raw SQL on it.

SQLAlchemy owns connections, Django owns transactions (docs/adr/0001): the ORM borrows from `engine`
(core/backend), and `begin()` runs raw SQL on the connection and in the transaction that the thread's ORM has.
So a thread never holds two connections, and one `atomic()` covers both.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast
from weakref import WeakSet

import psycopg2
import sqlalchemy
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, Error, InternalError, connections, transaction
from psycopg2.extensions import TRANSACTION_STATUS_INERROR
from sqlalchemy import ExceptionContext, PoolProxiedConnection, event
from sqlalchemy.pool import ConnectionPoolEntry

from core import purpose
from core.pool import FairPool, connect_within_s
from core.postgres import PostgresError
from core.purpose import HEALTH, entering
from core.session import Session, SessionCursor, application_name

if TYPE_CHECKING:
    from core.backend.base import DatabaseWrapper

CANCEL_WITHIN_S = 1.0


class PoolStats(NamedTuple):
    """Connections of this process, counted without I/O."""

    pool_size: int
    checked_in: int
    checked_out: int
    overflow: int


def _refuse_what_keeps_connections(configured: dict[str, Any]) -> None:
    """Refuse settings of Django under which a thread would hold a connection that it doesn't use.

    Raises:
        ImproperlyConfigured: one of them is set.
    """
    if configured.get("CONN_MAX_AGE", 0) != 0:
        raise ImproperlyConfigured(
            "CONN_MAX_AGE must be 0: the pool keeps connections open, and a thread that kept one between two requests "
            "would keep it from everybody else. Remove it; POOL_RECYCLE limits the age of connections."
        )
    if configured.get("ATOMIC_REQUESTS", False):
        raise ImproperlyConfigured(
            "ATOMIC_REQUESTS must be off: it takes a connection before the view is entered, for views that need none, "
            "too. Remove it; use transaction.atomic() where several writes belong together."
        )


_refuse_what_keeps_connections(settings.DATABASES[DEFAULT_DB_ALIAS])


def connect(**parameters: Any) -> Session:
    """Open a connection outside the pool's count, starting the embedded server if it is ours and not running.

    Raises:
        psycopg2.OperationalError: the server can't be reached.
    """
    if settings.EMBEDDED_POSTGRES is not None:
        try:
            settings.EMBEDDED_POSTGRES.ensure_running()
        except PostgresError as error:
            raise psycopg2.OperationalError(str(error)) from error
    own = {"connection_factory": Session, "cursor_factory": SessionCursor}
    session: Session = psycopg2.connect(**{**parameters, **own})
    return session


def connect_outside(**parameters: Any) -> Session:
    """Open a connection that the pool is not for (creating a test database); counted, and named in pg_stat_activity."""
    session = connect(**{"application_name": application_name("outside"), **parameters})
    _outside.add(session)
    return session


def _connect_for_pool() -> Session:
    """Open a connection for the purpose at hand, within its deadline."""
    # What Django's settings name at this moment: in a test, the test database.
    parameters = orm().get_connection_params()
    # libpq counts whole seconds, and 0 would be for ever.
    within_s = max(math.ceil(connect_within_s.get()), 1)
    parameters["connect_timeout"] = min(parameters.get("connect_timeout", 5), within_s)
    return connect(**{"application_name": application_name(purpose.current().name), **parameters})


engine = sqlalchemy.create_engine(
    "postgresql+psycopg2://",
    creator=_connect_for_pool,
    poolclass=FairPool,
    pool_size=settings.POOL_SIZE,
    max_overflow=settings.POOL_MAX_OVERFLOW,
    pool_timeout=settings.POOL_TIMEOUT,
    pool_recycle=settings.POOL_RECYCLE,
    use_native_hstore=False,  # saves a catalogue query on every new connection
)

pool = cast("FairPool", engine.pool)  # dispose() keeps it
# A connection to another database than the one named now is replaced (Django renames it for tests).
pool.target = lambda: connections.settings[DEFAULT_DB_ALIAS]["NAME"]
os.register_at_fork(after_in_child=pool.start_afresh)
_outside: WeakSet[Session] = WeakSet()


@event.listens_for(engine, "connect")
def _keep_types(session: Session, _record: ConnectionPoolEntry) -> None:
    session.keep_types()  # after the dialect's own listener, before the first borrower


@event.listens_for(engine, "handle_error")
def _as_django(context: ExceptionContext) -> Exception | None:
    """Raise what the ORM would raise, with the driver's error as its cause."""
    if context.is_pre_ping or not isinstance(context.original_exception, psycopg2.Error):
        return None
    try:
        with orm().wrap_database_errors:
            raise context.original_exception
    except Error as error:
        return error


def orm() -> DatabaseWrapper:
    """Return this thread's Django connection wrapper."""
    return cast("DatabaseWrapper", connections[DEFAULT_DB_ALIAS])


class LentConnection(sqlalchemy.Connection):
    """The ORM's connection in SQLAlchemy's clothes: it executes; who lent it commits, rolls back and closes.

    SQLAlchemy's own transaction object is empty (the psycopg2 dialect begins nothing), and it is dropped,
    never closed, so it can't roll back what Django began.
    """

    def __init__(self, proxy: PoolProxiedConnection) -> None:
        super().__init__(engine, proxy, _allow_revalidate=False)
        super().begin()

    def take_back(self) -> None:
        """Make every further use an error: the connection may be somebody else's by then."""
        self._dbapi_connection = None

    def _refuse(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise RuntimeError(
            "core.db.begin() owns this transaction: leave its block to commit, raise to roll back."
        )

    begin = begin_nested = begin_twophase = commit = rollback = close = detach = _refuse


@contextmanager
def begin() -> Iterator[LentConnection]:
    """Run raw SQL in a transaction: the thread's open one, or its own.

    On a thread that holds the ORM's connection, this is that connection: it sees the rows of an open `atomic()`,
    is a savepoint in it, and rolls back with it. Otherwise a connection is borrowed for just this block.

    Raises:
        django.db.Error: as the ORM would raise it; the driver's error is its cause.
        django.db.InternalError: an error was swallowed in the block, so nothing of it can be kept.
    """
    with _borrowed() as wrapper, transaction.atomic():
        wrapper.validate_no_broken_transaction()
        conn = LentConnection(wrapper.pooled_connection())
        try:
            yield conn
        finally:
            conn.take_back()
        if wrapper.connection.info.transaction_status == TRANSACTION_STATUS_INERROR:
            # PostgreSQL answers COMMIT with a silent ROLLBACK here.
            raise InternalError("An error was swallowed inside core.db.begin(): nothing was saved.")


@contextmanager
def in_one_snapshot() -> Iterator[LentConnection]:
    """Begin as `begin` does, to read: all statements see the database as it is at the first.

    In an open transaction, this is a part of it, and sees what that sees.

    Raises:
        django.db.InternalError: something was to be written (25006).
    """
    is_outermost = not orm().in_atomic_block
    with begin() as conn:
        if is_outermost:
            conn.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield conn


@contextmanager
def _borrowed() -> Iterator[DatabaseWrapper]:
    """Hold the thread's connection; give it back at the end if nobody held it before."""
    wrapper = orm()
    borrows = wrapper.connection is None
    try:
        wrapper.ensure_connection()
        yield wrapper
    finally:
        if borrows:
            wrapper.close()


@contextmanager
def within(timeout_s: float) -> Iterator[None]:
    """Hold the thread's connection, and hang up if the block takes longer: the only way out of a wait for a frozen server."""
    with _borrowed() as wrapper:
        lease = pool.lease_of(wrapper.pooled_connection())
        assert lease is not None
        with wrapper.wrap_database_errors, pool.keeper.hanging_up_after(timeout_s, lease.link):
            yield


def ping(*, within_s: float) -> None:
    """Make sure that PostgreSQL answers; hang up on it if it takes longer than that.

    Raises:
        django.db.Error: it does not.
    """
    with within(within_s), begin() as conn:
        conn.exec_driver_sql("SELECT 1")


def abandon_open_transaction(**_signal: Any) -> None:
    """Roll back what a request left open on its thread: a receiver for the signals at its start and its end."""
    orm().abandon()


def cancel(lease_number: int) -> str | None:
    """Cancel the statement that runs on a lease; return who held it, None where it ended before.

    By asking the server: libpq's own way waits for it without an end, and keeps every Python thread from running.

    Raises:
        django.db.Error: the server does not answer.
    """
    for lease in pool.leases():
        if lease.number == lease_number:
            if settings.PGBOUNCER:  # the process id is PgBouncer's invention, which only libpq's way knows
                lease.link.session.cancel()
            else:
                pid = lease.link.session.get_backend_pid()
                with entering(HEALTH, "cancel"), within(CANCEL_WITHIN_S), begin() as conn:
                    conn.exec_driver_sql("SELECT pg_cancel_backend(%s)", (pid,))
            return str(lease)
    return None


def snapshot() -> dict[str, Any]:
    """Return all there is to know of this process's connections; `outside` are those that the pool does not hold."""
    return {**pool.snapshot(), "outside": sum(not session.closed for session in list(_outside))}


def pool_stats() -> PoolStats:
    """Return the pool's four numbers as they are now; `overflow` is what is open above pool_size."""
    return PoolStats(pool.size(), pool.checkedin(), pool.checkedout(), pool.overflow())
