"""A pool that is fair, hard-capped, shared by purposes and careful with a database that is away.

Built on SQLAlchemy's Pool: it keeps the records, events and proxies. Used beyond its documented surface, and held by
tests: `_do_get`, `_do_return_conn`, `_create_connection`, `_invalidate`, of its connect event `_exec_once_mutex`, and of its
records `fairy_ref`, `needs_gc` and `_is_hard_or_soft_invalidated`. It never finds `recycle` or its `_invalidate_time` set, and no record that was invalidated:
its records would close and connect by themselves, in a slot whose last connection may still be leaving the server.

Who gets a slot, and when: core/slots. Here: what is in it, from connect to close.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import psycopg2
from sqlalchemy import event
from sqlalchemy.pool.base import _ConnectionRecord

from core import purpose
from core.keeper import Keeper
from core.lease import Lease
from core.link import Link
from core.meter import Meter
from core.outage import Outage
from core.purpose import Purpose
from core.slots import SlottedPool
from core.turns import Turns

LINGER_S = 60.0  # how long a connection above pool_size stays open unused: 5 + 10 without it opened 163 for 12 threads
INTRODUCE_TIMEOUT_S = 0.4
# What its deadline leaves to a connect.
connect_within_s: ContextVar[float] = ContextVar("connect_within_s", default=5.0)


class FairPool(SlottedPool):
    """Hand connections (core.link.PooledConnection) to threads in turn; never open more than size + overflow."""

    def __init__(
        self,
        creator: Any,
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float = 30.0,
        recycle: float = -1,
        **kwargs: Any,
    ) -> None:
        super().__init__(creator, **kwargs | {"reset_on_return": None})
        # Named as QueuePool names them, for whoever looks.
        self._size = pool_size
        self._max_overflow = max_overflow
        self._cap = pool_size + max_overflow
        self._timeout, self._recycle_s, self._has_shares = timeout, recycle, False
        self.target: Callable[[], Any] = lambda: None  # where connections should lead to now
        event.listen(self, "reset", self._clean)
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget every connection without touching it: in a forked child they are the parent's."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        # SQLAlchemy's, held during the first connect, and nobody here would ever release it. Where that was at work, the
        # dialect's own questions (version, default schema) stay unasked in the child: textual SQL needs none of them.
        on_connect: Any = self.dispatch.connect.for_modify(self.dispatch)
        on_connect._exec_once_mutex = None
        self._idle: deque[Link] = deque()  # the last used on the right
        self._leases: dict[_ConnectionRecord, Lease] = {}
        self._turns: Turns[Link] = Turns(self._cap)
        self._turns.share(in_force=self._has_shares)
        self._returned: deque[tuple[Lease, bool, float]] = deque()
        self._closing = 0
        self._connecting = 0
        self._suspect_until_s = self._disowned_until_s = 0.0
        self.sound_at_s = 0.0  # when a connection last was made, or came back in good order
        self.outage = Outage(self._cap)
        self.meter = Meter()
        self.keeper = Keeper(self)

    def reserve_shares(self, *, in_force: bool = True) -> None:
        """Put the guarantees of all purposes into force: in a process that serves, where several meet."""
        self._has_shares = in_force
        purpose.serve(from_now_on=in_force)
        self._turns.share(in_force=in_force)

    def _do_get(self) -> _ConnectionRecord:
        asked_s = time.monotonic()
        wanted = purpose.current()
        deadline_s = asked_s + (wanted.timeout_s or self._timeout)
        link = self._slot(wanted, deadline_s)
        while (record := self._lend(link, wanted, asked_s, deadline_s)) is None:
            if time.monotonic() > deadline_s:
                with self._changing():
                    self._turns.give_back(wanted)
                raise self._too_late(wanted)
            link = self._slot(wanted, deadline_s, again=True)
        return record

    def _lend(
        self, link: Link | None, wanted: Purpose, asked_s: float, deadline_s: float
    ) -> _ConnectionRecord | None:
        """Lend what is in a slot that is ours, made here if there is nothing; None if it was dead, and is closed."""
        try:
            if link is None:
                link = self._connect(wanted, deadline_s)
            elif not self._is_fit(link, wanted, deadline_s):
                link.close()
                return None
            self._leases[link.record] = Lease(link, wanted, asked_s)
        except BaseException:
            if link is not None:
                with suppress(Exception):
                    link.close()
            with self._changing():
                self._turns.give_back(wanted)
            raise
        self.keeper.call()
        return link.record

    def _is_fit(self, link: Link, wanted: Purpose, deadline_s: float) -> bool:
        """Tell whether an idle connection is alive, young, and serves this purpose from now on."""
        now_s = time.monotonic()
        if not self._is_current(link) or not link.is_worth_keeping(self.target(), now_s):
            return False
        if link.purpose is wanted and link.is_trusted(now_s, suspect_until_s=self._suspect_until_s):
            return True
        patience_s = min(INTRODUCE_TIMEOUT_S, deadline_s - now_s)
        try:
            with self.keeper.hanging_up_after(patience_s, link):
                link.introduce(wanted)
        except psycopg2.Error:
            # What broke this one broke the others that were idle, too; a short deadline broke nothing.
            self.discard(everything=patience_s == INTRODUCE_TIMEOUT_S, broken=1)
            return False
        self.sound_at_s = now_s
        return True

    def _connect(self, wanted: Purpose, deadline_s: float) -> Link:
        start_s = time.monotonic()
        within = connect_within_s.set(deadline_s - start_s)
        try:
            record: Any = self._create_connection()
            link = Link(record, wanted, born_s=start_s, target=self.target(), recycle_s=self._recycle_s)
            link.session.see_off = self.keeper.see_off
        except psycopg2.OperationalError as error:
            with self._lock:
                self.outage.begin(error)
                self.meter.connect_failures += 1
            raise
        else:
            with self._lock:
                self.outage.end()
                self.meter.connect.observe(time.monotonic() - start_s)
        finally:
            connect_within_s.reset(within)
            with self._changing():
                self._connecting -= 1
        self.sound_at_s = link.idle_since_s
        return link

    def _is_current(self, link: Link) -> bool:
        return link.born_s >= self._disowned_until_s and link.is_open()

    def _invalidate(
        self, connection: Any, exception: BaseException | None = None, _checkin: bool = True
    ) -> None:
        """Disown all that are as old as one that broke (SQLAlchemy calls this when a statement finds that out)."""
        record: Any = getattr(connection, "_connection_record", None)
        lease = self._leases.get(record)
        if lease is None or lease.link.born_s >= self._disowned_until_s:
            self._disowned_until_s = time.monotonic()
        if _checkin and getattr(connection, "is_valid", False):
            connection.invalidate(exception)

    def _clean(self, _connection: Any, record: Any, _state: Any) -> None:
        """Make the session as good as new (SQLAlchemy's reset event)."""
        lease = self._leases.get(record)
        if lease is None or self._pid != os.getpid():
            return
        if record.needs_gc:  # by the garbage collector, at any line, also of ours: the keeper closes it
            lease.is_forgotten, lease.leak = True, lease.leak or "was forgotten"
            return
        try:
            lease.is_dirty = lease.link.clean()
        except psycopg2.Error as error:  # broken, or beyond cleaning
            record.invalidate(error)

    def _do_return_conn(self, record: Any) -> None:
        # Taken before a fork: the parent's. Python frees what other threads held before any at-fork hook runs.
        lease = self._leases.pop(record, None) if self._pid == os.getpid() else None
        if lease is None:
            return
        if not lease.is_forgotten:
            self.take_back(lease)
        if lease.leak:
            self.keeper.take(lease)

    def take_back(self, lease: Lease) -> None:
        """Make the slot free again; close a connection that is broken or was forgotten."""
        link = lease.link
        is_sound = not lease.is_forgotten and self._is_current(link)
        now_s = time.monotonic()
        try:
            if is_sound:
                self.sound_at_s = link.idle_since_s = now_s
            else:
                if not lease.leak:
                    self._suspect_until_s = now_s  # what broke this one may have broken those that are idle
                link.close()  # while it still has its slot: the cap holds at the server, too
        finally:
            self._returned.append((lease, is_sound, now_s))
            self._settle()

    def discard(self, *, everything: bool = False, broken: int = 0) -> None:
        """Close idle connections: those above pool_size that lingered long enough, or all."""
        discarded = []
        with self._lock:
            self.meter.invalidations += broken
            if everything:
                self._disowned_until_s = time.monotonic()
            due_s = time.monotonic() - LINGER_S
            while self._idle and (everything or (self.overflow() and self._idle[0].idle_since_s <= due_s)):
                discarded.append(self._idle.popleft())
            self._closing += len(discarded)
        try:
            for link in discarded:
                link.session.hang_up()
            for link in discarded:
                link.close()
        finally:
            with self._changing():
                self._closing -= len(discarded)

    def dispose(self) -> None:
        """Close what is idle now, and what is in use when it comes back."""
        self.discard(everything=True)

    def recreate(self) -> FairPool:
        """Return this pool: a second one would have a second cap (SQLAlchemy's dispose() lends 30 of 15)."""
        return self
