"""The pools that `python -m bench.pool` compares, all with 5 + 10 connections or the nearest that they know.

Otherwise they have their own defaults: django-db-connection-pool looks at each connection before it hands it out, and
Django's native pool, psycopg_pool and QueuePool don't. Imports at the top only what is in every environment.
"""

from __future__ import annotations

import random
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

from bench.contestant import CAP, OVERFLOW, SIZE, Contestant, ThroughDjango, named


class ThroughSqlAlchemy(Contestant):
    """How an engine of SQLAlchemy does it."""

    _engine: Any

    def once(self) -> None:
        self._engine.raw_connection().close()

    def take(self) -> Any:
        return self._engine.connect()

    def ask(self, taken: Any) -> None:
        taken.exec_driver_sql("SELECT 1")

    def dispose(self) -> None:
        self._engine.dispose()


class Qrsite(ThroughSqlAlchemy):
    """Ours: `core.db.engine` with the events, purposes and metrics that the site has."""

    name = "qrsite"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        import_module("django").setup()
        self._db = import_module("core.db")
        self._purpose = import_module("core.purpose")
        self._engine = self._db.engine

    def entering(self, kind: str) -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = self._purpose.entering(
            getattr(self._purpose, kind.upper()), "bench"
        )
        return context

    def reserve_shares(self) -> None:
        self._db.pool.reserve_shares()


class QrsiteDjango(ThroughDjango):
    """Ours, borrowed from by the ORM: what a Django site pays for a checkout."""

    name = "qrsite-django"

    def __init__(self, timeout_s: float) -> None:
        Contestant.__init__(self, timeout_s)
        import_module("django").setup()
        self._connection = import_module("django.db").connection

    def start_afresh(self) -> None:
        """Do nothing: the pool sees to itself."""


class QrsiteMixed(Qrsite):
    """Ours, borrowed from by raw SQL and by the ORM, at random."""

    name = "qrsite-mixed"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self._django = QrsiteDjango(timeout_s)

    def take(self) -> Any:
        return super().take() if random.random() < 0.5 else self._django.take()

    def ask(self, taken: Any) -> None:
        if hasattr(taken, "exec_driver_sql"):
            super().ask(taken)
        else:
            self._django.ask(taken)


class QueuePool(ThroughSqlAlchemy):
    """SQLAlchemy's own pool, as create_engine() makes it."""

    name = "QueuePool"
    environment = "psycopg2"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        driver = import_module("psycopg2")
        self._engine = import_module("sqlalchemy").create_engine(
            "postgresql+psycopg2://",
            creator=lambda: driver.connect("", application_name=named(self.name)),
            pool_size=SIZE,
            max_overflow=OVERFLOW,
            pool_timeout=timeout_s,
        )

    def start_afresh(self) -> None:
        self._engine.dispose(close=False)


class DjangoDbConnectionPool(ThroughDjango):
    """django-db-connection-pool: a Django backend over QueuePool, with pre-ping on."""

    name = "django-db-connection-pool"
    environment = "psycopg2"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            timeout_s,
            ENGINE="dj_db_conn_pool.backends.postgresql",
            OPTIONS={"application_name": named(self.name)},
            POOL_OPTIONS={"POOL_SIZE": SIZE, "MAX_OVERFLOW": OVERFLOW, "TIMEOUT": timeout_s},
        )
        self._pools = import_module("dj_db_conn_pool.core").pool_container
        self._inherited: list[Any] = []

    def dispose(self) -> None:
        self._pools.dispose()

    def start_afresh(self) -> None:
        super().start_afresh()  # its documentation has no word on forks; this is the best that can be done
        self._inherited += [self._pools.pop(name) for name in list(self._pools)]


class DjangoPool(ThroughDjango):
    """Django's native pool, new in 5.1."""

    name = "django-native"
    environment = "psycopg3"

    def __init__(self, timeout_s: float) -> None:
        pool = {"min_size": SIZE, "max_size": CAP, "timeout": timeout_s}
        options = {"application_name": named(self.name), "pool": pool}
        super().__init__(timeout_s, ENGINE="django.db.backends.postgresql", OPTIONS=options)
        self._inherited: list[Any] = []

    def dispose(self) -> None:
        self._connection.close_pool()

    def start_afresh(self) -> None:
        super().start_afresh()
        pools = (
            self._connection._connection_pools
        )  # its threads are gone, so close_pool() would wait for them
        self._inherited += [pools.pop(name) for name in list(pools)]


class PsycopgPool(Contestant):
    """psycopg_pool by itself."""

    name = "psycopg_pool"
    environment = "psycopg3"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self._inherited: list[Any] = []
        self._pool = self._new()

    def _new(self) -> Any:
        name = {"application_name": named(self.name)}
        pool = import_module("psycopg_pool").ConnectionPool(
            "", kwargs=name, min_size=SIZE, max_size=CAP, timeout=self.timeout_s, open=False
        )
        pool.open(wait=False)
        return pool

    def take(self) -> Any:
        return self._pool.getconn()

    def ask(self, taken: Any) -> None:
        taken.execute("SELECT 1")

    def give(self, taken: Any) -> None:
        self._pool.putconn(taken)

    def dispose(self) -> None:
        self._pool.drain()

    def start_afresh(self) -> None:
        self._inherited.append(self._pool)
        self._pool = self._new()


CONTESTANTS: dict[str, type[Contestant]] = {
    contestant.name: contestant
    for contestant in (
        Qrsite,
        QrsiteDjango,
        QrsiteMixed,
        QueuePool,
        DjangoDbConnectionPool,
        DjangoPool,
        PsycopgPool,
    )
}
OURS = Qrsite.name
OTHERS = tuple(name for name, contestant in CONTESTANTS.items() if contestant.environment)
