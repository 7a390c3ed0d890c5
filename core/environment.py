"""Settings out of environment variables; nonsense stops start-up with a sentence that names the variable."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured
from psycopg2 import ProgrammingError
from psycopg2.extensions import make_dsn

DATABASE_URL_FORM = "postgres://user:password@host:5432/name"


def text(name: str, *, default: str = "") -> str:
    """Return the variable as it is."""
    return os.environ.get(name, "").strip() or default


def whole_number(name: str, *, default: int, minimum: int, maximum: int = 2**31 - 1) -> int:
    """Return the variable as an integer from `minimum` to `maximum`."""
    number = text(name, default=str(default))
    if not re.fullmatch("[0-9]{1,10}", number) or not minimum <= int(number) <= maximum:
        limits = f"from {minimum} to {maximum}" if maximum < 2**31 - 1 else f"of at least {minimum}"
        raise ImproperlyConfigured(f"{name} must be a whole number {limits}, not {number[:40]!r}.")
    return int(number)


def yes_or_no(name: str, *, default: bool) -> bool:
    """Return the variable as a truth value."""
    word = text(name, default=str(default)).lower()
    if word not in {"0", "1", "true", "false", "yes", "no", "on", "off"}:
        raise ImproperlyConfigured(f"{name} must be true or false, not {word[:40]!r}.")
    return word in {"1", "true", "yes", "on"}


def parse_database_url(url: str) -> dict[str, Any]:
    """Return Django's connection settings for a PostgreSQL URL.

    A folder in `?host=` is a Unix socket, as in libpq; every other parameter of the query goes to libpq
    as it is (`sslmode`, …). The error never repeats the URL: it may hold a password.
    """
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        port = parts.port
    except ValueError:
        parts, query, port = urlsplit(""), {}, None
    name = unquote(parts.path.removeprefix("/"))
    is_postgres = parts.scheme in {"postgres", "postgresql"}
    if not is_postgres or not name or "/" in name or "\x00" in unquote(url):
        raise ImproperlyConfigured(f"DATABASE_URL is not a PostgreSQL URL: write it as {DATABASE_URL_FORM}.")
    try:
        make_dsn(**query)
    except ProgrammingError as error:
        raise ImproperlyConfigured(f"DATABASE_URL: {error}") from None
    return {
        "NAME": name,
        "USER": unquote(parts.username or query.pop("user", "")),
        "PASSWORD": unquote(parts.password or query.pop("password", "")),
        "HOST": query.pop("host", "") or unquote(parts.hostname or ""),
        "PORT": str(port or query.pop("port", "")),
        "OPTIONS": query,
    }


def socket_url(folder: Path, *, user: str, name: str) -> str:
    """Return the URL of a database behind a Unix socket."""
    return f"postgres://{user}@/{name}?host={quote(str(folder), safe='')}"


def read_dotenv(folder: Path) -> None:
    """Read `.env` if there is one; variables that are already set win."""
    if (folder / ".env").is_file():
        environ.Env.read_env(folder / ".env")
