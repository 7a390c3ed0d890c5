"""The plain WSGI door: every call, the scans too, through Django."""

import os

from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "qrsite.settings")
application = get_wsgi_application()

from core import db

db.pool.reserve_shares()
for signal in (request_started, request_finished):
    # Requests that came through this door; those of Django's test client live inside a transaction of the test.
    signal.connect(db.abandon_open_transaction, sender=type(application))
