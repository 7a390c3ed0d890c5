"""The plain WSGI door: every call, the scans too, through Django."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "qrsite.settings")
application = get_wsgi_application()
