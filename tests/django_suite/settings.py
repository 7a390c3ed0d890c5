"""Settings of a run of Django's tests, on our backend or, to compare, on the one that SUITE_ENGINE names."""

import os
from pathlib import Path

from core import postgres

OURS = "core.backend"
DJANGOS = "django.db.backends.postgresql"
VAR = Path(__file__).resolve().parents[2] / "var" / "django_suite"

EMBEDDED_POSTGRES = postgres.EmbeddedPostgres(VAR / "postgres")
POOL = {"POOL_SIZE": 5, "POOL_MAX_OVERFLOW": 10, "POOL_TIMEOUT": 30, "POOL_RECYCLE": 1800}
globals().update(POOL)


class _Databases(dict[str, dict[str, str]]):
    """Prints core.db's settings, too: the tests print DATABASES, and little else, into settings of subprocesses."""

    def __str__(self) -> str:
        needed = {**POOL, "EMBEDDED_POSTGRES": None}  # it runs already
        return "\n".join([super().__str__(), *(f"{name} = {value}" for name, value in needed.items())])


def _database(name: str) -> dict[str, str]:
    return {
        "ENGINE": os.environ.get("SUITE_ENGINE", OURS),
        "NAME": name,
        "USER": postgres.USER,
        "HOST": str(EMBEDDED_POSTGRES.socket_dir),
    }


DATABASES = _Databases(default=_database("suite"), other=_database("suite_other"))

# As in Django's own tests/test_sqlite.py.
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
