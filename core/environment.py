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

env = environ.Env()


def whole_number(name: str, *, default: int, minimum: int, maximum: int = 2**31 - 1) -> int:
    """Return the variable as an integer from `minimum` to `maximum`."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not re.fullmatch("[0-9]{1,10}", text) or not minimum <= int(text) <= maximum:
        limits = f"from {minimum} to {maximum}" if maximum < 2**31 - 1 else f"of at least {minimum}"
        raise ImproperlyConfigured(f"{name} must be a whole number {limits}, not {text[:40]!r}.")
    return int(text)


def yes_or_no(name: str, *, default: bool) -> bool:
    """Return the variable as a truth value."""
    text = os.environ.get(name, "").strip().lower()
    if text in {"", "0", "1", "true", "false", "yes", "no", "on", "off"}:
        return text in {"1", "true", "yes", "on"} if text else default
    raise ImproperlyConfigured(f"{name} must be true or false, not {text!r}.")


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
    if parts.scheme not in {"postgres", "postgresql"} or not name or "/" in name:
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
        env.read_env(folder / ".env")
