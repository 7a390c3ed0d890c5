"""Settings from the environment: nonsense stops start-up with one line that names the variable."""

import os
import subprocess
import sys

import pytest

from core import environment
from core.postgres import EmbeddedPostgres


def manage(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


NONSENSE = [
    ("POOL_SIZE", "abc"),
    ("POOL_SIZE", "-1"),
    ("POOL_SIZE", "0"),
    ("POOL_SIZE", "5.5"),
    ("POOL_SIZE", "\u0665"),
    ("POOL_MAX_OVERFLOW", "-1"),
    ("POOL_MAX_OVERFLOW", "many"),
    ("POOL_TIMEOUT", "0"),
    ("POOL_RECYCLE", "x"),
    ("WEB_CONCURRENCY", "0"),
    ("PORT", "http"),
    ("DEBUG", "maybe"),
    ("DATABASE_URL", "nonsense"),
    ("DATABASE_URL", "mysql://root:hunter2@localhost/shop"),
    ("DATABASE_URL", "postgres://me:hunter2@localhost:port/shop"),
    ("DATABASE_URL", "postgres://me:hunter2@localhost"),
    ("DATABASE_URL", "postgres://me:hunter2@[::1/shop"),
    ("QR_SIGNING_KEYS", "hunter2"),
]


@pytest.mark.parametrize(("name", "value"), NONSENSE)
@pytest.mark.parametrize("command", ["check", "serve"])
def test_nonsense_stops_start_up_with_one_line_that_names_the_variable(name, value, command):
    process = manage(command, **{name: value})

    assert process.returncode == 2, process.stderr
    assert process.stderr.count("\n") == 1
    assert name in process.stderr
    assert "hunter2" not in process.stderr


@pytest.mark.parametrize("command", [["migrate"], ["serve"], ["serve", "--demo"]])
def test_a_server_that_can_not_be_reached_is_one_line(command):
    process = manage(*command, DATABASE_URL="postgres://me:hunter2@127.0.0.1:1/shop", PORT="8971")

    assert process.returncode == 1
    assert process.stderr.count("\n") == 1
    assert "127.0.0.1" in process.stderr
    assert "hunter2" not in process.stderr


def test_a_public_site_needs_a_secret_of_its_own():
    process = manage("check", ALLOWED_HOSTS="tickets.example.org", SECRET_KEY="")

    assert process.returncode == 2
    assert "SECRET_KEY is not set" in process.stderr


def test_importing_the_engine_opens_no_connection():
    code = "import django; django.setup(); from core import db; print(tuple(db.pool_stats()))"
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "qrsite.settings",
        "DATABASE_URL": "postgres://me@127.0.0.1:1/none",
        "POOL_SIZE": "3",
        "POOL_MAX_OVERFLOW": "0",
    }

    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

    assert (process.stdout, process.stderr) == ("(3, 0, 0, 0)\n", "")


URLS = {
    "postgres://me:p%40ss@db.example.org:6543/shop?sslmode=require": {
        "NAME": "shop",
        "USER": "me",
        "PASSWORD": "p@ss",
        "HOST": "db.example.org",
        "PORT": "6543",
        "OPTIONS": {"sslmode": "require"},
    },
    "postgresql://me@/shop?host=%2Frun%2Fpg": {
        "NAME": "shop",
        "USER": "me",
        "PASSWORD": "",
        "HOST": "/run/pg",
        "PORT": "",
        "OPTIONS": {},
    },
    "postgres:///shop": {"NAME": "shop", "USER": "", "PASSWORD": "", "HOST": "", "PORT": "", "OPTIONS": {}},
}


@pytest.mark.parametrize(("url", "expected"), URLS.items())
def test_a_postgres_url_is_understood(url, expected):
    assert environment.parse_database_url(url) == expected


def test_the_embedded_servers_url_leads_to_its_socket(tmp_path):
    server = EmbeddedPostgres(tmp_path / "a b,c")

    settings = environment.parse_database_url(
        environment.socket_url(server.socket_dir, user="qrsite", name="qrsite")
    )

    assert (settings["HOST"], settings["USER"], settings["NAME"]) == (
        str(server.socket_dir),
        "qrsite",
        "qrsite",
    )
