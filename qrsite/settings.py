"""All settings. README's table lists every variable that is read here."""

from __future__ import annotations

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

from core import postgres, secretfile
from core.environment import parse_database_url, read_dotenv, socket_url, text, whole_number, yes_or_no

BASE_DIR = Path(__file__).resolve().parent.parent
read_dotenv(BASE_DIR)
VAR_DIR = Path(text("VAR_DIR", default=str(BASE_DIR / "var"))).resolve()

# Who named the hosts that the site answers to serves the public: there, secrets must be given, not made up,
# and cookies travel over TLS only.
ALLOWED_HOSTS = [host.strip() for host in text("ALLOWED_HOSTS").split(",") if host.strip()]
PUBLIC = bool(ALLOWED_HOSTS)
if not PUBLIC:
    ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
DEBUG = yes_or_no("DEBUG", default=False)

SECRET_KEY = text("SECRET_KEY")
if not SECRET_KEY:
    if PUBLIC:
        raise ImproperlyConfigured(
            "SECRET_KEY is not set, and ALLOWED_HOSTS says that this site is public: set SECRET_KEY to a long "
            "random text (python -c 'import secrets; print(secrets.token_urlsafe(50))') and keep it."
        )
    SECRET_KEY = secretfile.read_or_create(VAR_DIR / "secret_key", get_random_secret_key)
# Ed25519 keys of the codes, "key id:seed in base64", the first signs. Unset: made in var/ (tickets.keys).
QR_SIGNING_KEYS = text("QR_SIGNING_KEYS")

# The pool (core/db.py). A POOL_SIZE of 0 would mean "no limit" to SQLAlchemy, and so would an overflow of -1.
POOL_SIZE = whole_number("POOL_SIZE", default=5, minimum=1)
POOL_MAX_OVERFLOW = whole_number("POOL_MAX_OVERFLOW", default=10, minimum=0)
POOL_TIMEOUT = whole_number("POOL_TIMEOUT", default=30, minimum=1)
POOL_RECYCLE = whole_number("POOL_RECYCLE", default=1800, minimum=1)
WEB_CONCURRENCY = whole_number("WEB_CONCURRENCY", default=2, minimum=1)
PORT = whole_number("PORT", default=8000, minimum=1, maximum=65535)

DATABASE_URL = text("DATABASE_URL")
EMBEDDED_POSTGRES = None
if not DATABASE_URL:
    EMBEDDED_POSTGRES = postgres.EmbeddedPostgres(VAR_DIR / "postgres")
    DATABASE_URL = socket_url(EMBEDDED_POSTGRES.socket_dir, user=postgres.USER, name=postgres.DATABASE)
_database = parse_database_url(DATABASE_URL)
_start = {
    # In the start-up packet these cost no round trip. UTC: what both sides of the pool expect. No wait for a
    # lock without an end: ten that wait would be all the threads. The Citus
    # setting caps what one of our connections opens on a worker; plain PostgreSQL ignores it.
    "options": "-c TimeZone=UTC -c lock_timeout=10s -c citus.max_adaptive_executor_pool_size=1",
}
# Behind PgBouncer in transaction mode. It refuses `options`: lock_timeout is the role's own there (`serve` looks).
# PGTZ libpq sends as a start-up parameter that PgBouncer knows, and gives to each server connection that it lends us.
PGBOUNCER = yes_or_no("PGBOUNCER", default=False)
if PGBOUNCER:
    os.environ["PGTZ"] = "UTC"
    _start = {}
_database["OPTIONS"] = {
    "connect_timeout": 5,
    # A peer that vanished is noticed after a minute, not after libpq's two hours; nothing of it on a Unix socket.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    **_start,
    **_database["OPTIONS"],
}
DATABASES = {"default": {"ENGINE": "core.backend", "DISABLE_SERVER_SIDE_CURSORS": PGBOUNCER, **_database}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "qrsite",
    "tickets",
    "analytics",
    "health",
    "ninja",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    # Before everything that could refuse or redirect a probe: hosts, TLS, sessions.
    "health.views.HealthMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "core.middleware.ResponseHeaders",
    "core.middleware.EnterPurpose",
    "core.middleware.StreamsHoldNothing",
    "core.middleware.MethodNotAllowed",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "qrsite.urls"
WSGI_APPLICATION = "qrsite.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True

# 1,000 tickets or scans in one call fit several times over.
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = PUBLIC
SECURE_HSTS_SECONDS = 31_536_000 if PUBLIC else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = PUBLIC
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
if yes_or_no("BEHIND_TLS_PROXY", default=False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "filters": {
        "once_per_second": {"()": "core.errors.OncePerSecond"},
        "not_refusals": {"()": "core.errors.NotRefusals"},
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    # Refused requests are the client's affair; what is ours is logged as an error, with its stack.
    "loggers": {
        "django.request": {"level": "ERROR", "filters": ["not_refusals"]},
        "qrsite.api": {"filters": ["once_per_second"]},
        "core.errors": {"filters": ["once_per_second"]},
        "core.probe": {"filters": ["once_per_second"]},
        "core.pool.FairPool": {"level": "WARNING"},  # SQLAlchemy's own words; metrics count what they tell
        "django.security.DisallowedHost": {"level": "CRITICAL"},
        "django.security.RequestDataTooBig": {"level": "CRITICAL"},
    },
}
