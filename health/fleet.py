"""The pools of this machine's processes, and what all processes that share the database may hold together."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.conf import settings

from core import control, db, sql
from core.probe import WITHIN_S, Probe
from core.purpose import process_name

SQL = sql.load("health")
WARN_SHARE = 0.8
NO_LOCK_TIMEOUT = (
    "Behind PgBouncer the role itself has to limit waits for a lock: run ALTER ROLE CURRENT_USER SET "
    "lock_timeout = '10s' as the site's role, then RECONNECT in PgBouncer's console."
)


class Fleet(NamedTuple):
    """Connections that the server allows, and who may come to hold them."""

    allowed: int
    processes: int
    place: int
    others: int

    def needed(self, processes: int) -> int:
        """Return what so many processes may hold, and what others hold now."""
        return processes * (settings.POOL_SIZE + settings.POOL_MAX_OVERFLOW) + self.others

    def verdict(self) -> str:
        """Return "fail" where this process does not fit beside its elders, "warn" where it is tight, else "pass".

        Only the youngest fail: were all to, a process too many would take the whole site out.
        """
        if self.needed(self.place) > self.allowed:
            return "fail"
        return "warn" if self.needed(self.processes) > WARN_SHARE * self.allowed else "pass"

    def advice(self, processes: int) -> str:
        """Say what does not fit, and which settings to change."""
        cap = settings.POOL_SIZE + settings.POOL_MAX_OVERFLOW
        beside = f" beside {self.others} of others" if self.others else ""
        return (
            f"{processes} processes of up to {cap} connections need {processes * cap}{beside}, and PostgreSQL allows "
            f"{self.allowed}: lower WEB_CONCURRENCY, POOL_SIZE or POOL_MAX_OVERFLOW, or raise max_connections."
        )


def measure() -> Fleet:
    """Look at the server: who is connected, and how many may be."""
    with db.within(WITHIN_S), db.begin() as conn:
        return Fleet(*conn.exec_driver_sql(SQL["fleet"], {"process": process_name()}).one())


def problem(fleet: Fleet, processes: int) -> str:
    """Say why so many processes can't be served here, and what to do; "" where they can.

    Behind PgBouncer max_connections is PgBouncer's affair, but lock_timeout can't come with the connection there.
    """
    if settings.PGBOUNCER:
        with db.begin() as conn:
            timeout = conn.exec_driver_sql(SQL["lock_timeout"]).scalar_one()
        return "" if timeout != "0" else NO_LOCK_TIMEOUT
    return fleet.advice(processes) if fleet.needed(processes) > fleet.allowed else ""


probe = Probe(measure)


def snapshots() -> list[dict[str, Any]]:
    """Return what every process of this machine says of its pool, this one always among them."""
    own = db.snapshot()
    try:
        others = [told for told in control.ask_all("status") if told["process"] != own["process"]]
    except PermissionError:  # another user's; this process doesn't listen then, either
        others = []
    return sorted([own, *others], key=lambda told: str(told["process"]))
