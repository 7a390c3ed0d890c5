"""/metrics: the pools of all processes of this machine, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from core import db
from core.errors import QrsiteError, error_response
from core.meter import BOUNDS_S
from health.fleet import snapshots
from tickets.auth import ServiceScope, StaffSession, Unauthorized
from tickets.tokens import token_hash

SCOPE = "metrics:read"
PERMISSION = "health.view_poolconnection"
REMEMBERED_S = 5.0  # how long a token is not looked up again: revoking takes effect within 5 s
KNEW_S = 3600.0  # for how long it is enough to have been known while the database can't be asked
ASK_WITHIN_S = 0.5

_BOUNDS = [*(str(bound) for bound in BOUNDS_S), "+Inf"]
_known: dict[bytes, float] = {}

GAUGES = {
    "size": "Connections that the pool keeps open.",
    "cap": "Connections that the pool never exceeds.",
    "idle": "Connections that are open and not in use.",
    "overflow": "Connections above size.",
    "outside": "Connections of the process that the pool does not hold.",
    "database_up": "1, or 0 while the last attempt to connect failed.",
    "oldest_wait_s": "How long the one who waits longest has waited, in seconds.",
}
COUNTERS = {
    "connect_failures": "Attempts to connect that failed.",
    "refusals": "Requests for a connection that were told at once that the database is away.",
    "invalidations": "Connections that were closed because they were broken or disowned.",
    "dirty_returns": "Connections that came back with their session changed, and were reset.",
    "leaks": "Connections that came back without being given back.",
}
BY_PURPOSE = {
    "acquire": "Seconds from asking for a connection to getting it.",
    "usage": "Seconds for which a connection was used.",
}


def metrics(request: HttpRequest) -> HttpResponse:
    """Show the numbers to a service with the scope, or to staff with the permission."""
    try:
        _authorize(request)
    except QrsiteError as error:
        return error_response(error.status, error.code, str(error))
    registry = CollectorRegistry()
    registry.register(PoolCollector(snapshots()))
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    response = HttpResponse(encode(registry), content_type=content_type)
    response["Cache-Control"] = "no-store"
    return response


def _authorize(request: HttpRequest) -> None:
    """Let in whom the database knows, and while it is away, whom it knew: then the numbers are needed most.

    Raises:
        Unauthorized, Forbidden: somebody else asks.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    is_token = scheme.lower() == "bearer"
    credential = token_hash(token if is_token else request.COOKIES.get("sessionid", ""))
    if time.monotonic() - _known.get(credential, float("-inf")) < REMEMBERED_S:
        return
    try:
        with db.within(ASK_WITHIN_S):
            caller = (
                ServiceScope(SCOPE).authenticate(request, token)
                if is_token
                else StaffSession(PERMISSION).authenticate(request, None)
            )
    except OperationalError:
        if time.monotonic() - _known.get(credential, float("-inf")) > KNEW_S:
            raise
        return
    except QrsiteError:
        _known.pop(credential, None)
        raise
    if caller is None:
        raise Unauthorized(f"Send a service token with the scope {SCOPE}: Authorization: Bearer <token>.")
    for old in [known for known, at_s in _known.items() if time.monotonic() - at_s > KNEW_S]:
        _known.pop(old, None)
    _known[credential] = time.monotonic()


class PoolCollector(Collector):
    """Turn snapshots of pools (core.status) into metrics, each with the process that it is of."""

    def __init__(self, told: list[dict[str, Any]]) -> None:
        self._told = told

    def collect(self) -> Iterable[Metric]:
        """Yield every metric once, with all its samples."""
        for name, words in GAUGES.items():
            gauge = GaugeMetricFamily(
                f"qrsite_pool_{name.replace('wait_s', 'wait_seconds')}", words, labels=["process"]
            )
            for pool in self._told:
                gauge.add_metric([pool["process"]], pool[name])
            yield gauge
        for name, words in COUNTERS.items():
            counter = CounterMetricFamily(f"qrsite_pool_{name}", words, labels=["process"])
            for pool in self._told:
                counter.add_metric([pool["process"]], pool[name])
            yield counter
        connect = HistogramMetricFamily(
            "qrsite_pool_connect_seconds", "Seconds to connect.", labels=["process"]
        )
        for pool in self._told:
            connect.add_metric([pool["process"]], *_histogram(pool["connect"]))
        yield connect
        yield from self._by_purpose()

    def _by_purpose(self) -> Iterator[Metric]:
        labels = ["process", "purpose"]
        in_use = GaugeMetricFamily("qrsite_pool_in_use", "Connections in use.", labels=labels)
        waiting = GaugeMetricFamily(
            "qrsite_pool_waiting", "Threads that wait for a connection.", labels=labels
        )
        timeouts = CounterMetricFamily(
            "qrsite_pool_timeouts", "Waits that ended at their deadline.", labels=labels
        )
        histograms = {
            name: HistogramMetricFamily(f"qrsite_pool_{name}_seconds", words, labels=labels)
            for name, words in BY_PURPOSE.items()
        }
        for pool in self._told:
            for purpose, numbers in pool["purposes"].items():
                values = [pool["process"], purpose]
                in_use.add_metric(values, numbers["in_use"])
                waiting.add_metric(values, numbers["waiting"])
                timeouts.add_metric(values, numbers["timeouts"])
                for name, family in histograms.items():
                    family.add_metric(values, *_histogram(numbers[name]))
        yield from (in_use, waiting, timeouts, *histograms.values())


def _histogram(told: dict[str, Any]) -> tuple[list[tuple[str, float]], float]:
    """Return cumulated buckets and the sum, as Prometheus wants them."""
    return list(zip(_BOUNDS, accumulate(told["counts"]), strict=True)), told["sum_s"]
