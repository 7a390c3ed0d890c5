"""manage.py serve: the site, on as many processes as WEB_CONCURRENCY says."""

from __future__ import annotations

import json
import secrets
import socket
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError, call_command
from django.db import connections
from django.utils import timezone
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.server.mp import MPServer

from core import db
from health.fleet import measure, problem
from tickets import demo

STOP_TIMEOUT_S = 5
HEADER_TIMEOUT_S = 5
# More than the front door lets wait, so that it can tell the others to come back.
MAX_CONNECTIONS = 4096


class _Server(MPServer):
    """Replaces processes for as long as nobody says stop: Granian gives up where one ends twice within 5.5 s."""

    def _respawn_workers(self, *arguments: Any, **options: Any) -> None:
        super()._respawn_workers(*arguments, **options)
        self.respawned_wrks.clear()  # what it takes for a crash loop: a gate that is killed twice still has to open


class Command(BaseCommand):
    """Serve until Ctrl-C or SIGTERM."""

    help = (
        "Serve the site on PORT (8000) with WEB_CONCURRENCY (2) processes of at most POOL_SIZE + POOL_MAX_OVERFLOW "
        "connections each, until Ctrl-C. --demo first migrates the database and seeds a demo event, once."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add --host and --demo."""
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
        parser.add_argument(
            "--demo", action="store_true", help="migrate, seed a demo event, write var/demo.json"
        )

    def handle(self, *args: Any, host: str, **options: Any) -> None:
        """Check that it can work before it starts."""
        self._check_port(host)
        self._check_database()
        if options["demo"]:
            call_command("migrate", interactive=False, verbosity=0)
            self._seed(f"http://{host}:{settings.PORT}")
        # The processes that serve have pools of their own; this one only watches over them.
        connections.close_all()
        db.engine.dispose()
        _Server(
            "qrsite.asgi:application",
            address=host,
            port=settings.PORT,
            interface=Interfaces.ASGINL,
            workers=settings.WEB_CONCURRENCY,
            loop=Loops.uvloop,
            websockets=False,
            backlog=2048,
            backpressure=MAX_CONNECTIONS,
            # A connection that stays silent is closed; granian has no such deadline for HTTP/2.
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_S * 1000),
            respawn_failed_workers=True,
            workers_kill_timeout=STOP_TIMEOUT_S,
        ).serve()

    def _check_port(self, host: str) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, settings.PORT))
            except OSError as error:
                raise CommandError(
                    f"Can't listen on {host}:{settings.PORT} ({error.strerror}): set PORT to a free one."
                ) from error

    def _check_database(self) -> None:
        fleet = measure()
        if words := problem(fleet, fleet.processes + settings.WEB_CONCURRENCY):
            raise CommandError(words)

    def _seed(self, base_url: str) -> None:
        path = settings.VAR_DIR / "demo.json"
        contents = demo.seed(
            path=path, base_url=base_url, database_url=settings.DATABASE_URL, now=timezone.now()
        )
        body = json.dumps(
            {"code": next(iter(contents["sample_codes"]), ""), "nonce": secrets.token_urlsafe(6)}
        )
        self.stdout.write(
            f"""
  site        {base_url}/admin/   (user {contents["admin_user"]}, password {contents["admin_password"] or "unchanged"})
  API docs    {base_url}/api/v1/docs   (signed in as above)
  health      {base_url}/health/db
  device      {contents["device_token"]}
  all of it   {path}

Scan a ticket:
  curl -s {base_url}/api/v1/scans -H 'Authorization: Bearer {contents["device_token"]}' \\
       -H 'Content-Type: application/json' -d '{body}'
"""
        )
