"""FastAPI on asyncpg's pool: the peer that waits without threads. uvicorn serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import asyncpg
from fastapi import FastAPI, Header
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from bench.contestant import CAP, SIZE, named
from bench.scan_work import STATEMENTS, numbered, read, steps

_SQL = {name: numbered(statement) for name, statement in STATEMENTS.items()}


class Attempt(BaseModel):
    """One attempt, as a device sends it."""

    code: str
    nonce: str


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    """Keep the pool open while the process serves."""
    name = {"application_name": named("fastapi")}
    async with asyncpg.create_pool(min_size=SIZE, max_size=CAP, server_settings=name) as pool:
        app.state.pool = pool
        yield


async def scan(attempt: Attempt, authorization: Annotated[str, Header()]) -> JSONResponse:
    """Judge one scan in a transaction of its own."""
    token = authorization.removeprefix("Bearer ")
    work = steps(read(attempt.code), attempt.code, attempt.nonce, token, datetime.now(UTC))
    async with application.state.pool.acquire() as conn, conn.transaction():
        row: Any = None
        try:
            wanted, binds = next(work)
            while True:
                sql, names = _SQL[wanted]
                row = await conn.fetchrow(sql, *[binds[name] for name in names])
                wanted, binds = work.send(row)
        except StopIteration as end:
            status, answer = end.value
    return JSONResponse(answer, status_code=status)


application = FastAPI(lifespan=lifespan)
application.post("/api/v1/scans", response_model=None)(scan)
