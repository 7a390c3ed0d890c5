"""An ordinary Django site that judges scans, on the pool that BENCH_CONTESTANT names. gunicorn serves it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

from django.conf import settings

from bench.contestant import CAP, OVERFLOW, SIZE, named
from bench.scan_work import STATEMENTS, Row, drive, pyformat, read, steps

_NAME = os.environ["BENCH_CONTESTANT"]
_OPTIONS: dict[str, Any] = {"application_name": named(_NAME)}
_DATABASES: dict[str, dict[str, Any]] = {
    "gunicorn": {"CONN_MAX_AGE": 600},
    "gunicorn-0": {"CONN_MAX_AGE": 0},
    "django-native": {"OPTIONS": {**_OPTIONS, "pool": {"min_size": SIZE, "max_size": CAP, "timeout": 30}}},
    "django-db-connection-pool": {
        "ENGINE": "dj_db_conn_pool.backends.postgresql",
        "POOL_OPTIONS": {"POOL_SIZE": SIZE, "MAX_OVERFLOW": OVERFLOW, "TIMEOUT": 30},
    },
    "engine-per-call": {},
}
settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["PGDATABASE"],
            "USER": os.environ["PGUSER"],
            "HOST": os.environ["PGHOST"],
            "OPTIONS": _OPTIONS,
            **_DATABASES[_NAME],
        }
    },
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for the bench",
    USE_TZ=True,
)

from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.http import HttpRequest, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

_SQL = {name: pyformat(statement) for name, statement in STATEMENTS.items()}


def scan(request: HttpRequest) -> JsonResponse:
    """Judge one scan in a transaction of its own."""
    body = json.loads(request.body)
    code, nonce = str(body["code"]), str(body["nonce"])
    token = request.headers["Authorization"].removeprefix("Bearer ")
    work = steps(read(code), code, nonce, token, datetime.now(UTC))
    if _NAME == "engine-per-call":
        return _with_an_engine_of_its_own(work)
    with transaction.atomic(), connection.cursor() as cursor:

        def ask(name: str, binds: dict[str, Any]) -> Row:
            cursor.execute(_SQL[name], binds)
            return cursor.fetchone()

        status, answer = drive(work, ask)
    return JsonResponse(answer, status=status)


def _with_an_engine_of_its_own(work: Any) -> JsonResponse:
    """What this project was made to end: nobody disposes the engine, and it keeps its connection until it is collected."""
    from sqlalchemy import create_engine, text

    engine = create_engine("postgresql+psycopg2://", connect_args=_OPTIONS)
    with engine.begin() as conn:
        status, answer = drive(work, lambda name, binds: conn.execute(text(STATEMENTS[name]), binds).first())
    return JsonResponse(answer, status=status)


urlpatterns = [path("api/v1/scans", scan)]
application = get_wsgi_application()
