#!/usr/bin/env python
"""Run administrative tasks; exit 0 done, 1 failed, 2 misuse or a wrong setting."""

import os
import sys


def main() -> None:
    """Run one command; anticipated failures end as one line, not as a traceback."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "qrsite.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line
    from django.db import OperationalError

    from core.errors import QrsiteError
    from core.purpose import BACKGROUND, entering

    try:
        with entering(BACKGROUND, " ".join(["manage.py", *sys.argv[1:2]])):
            execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        _stop(error, exit_code=2)
    except (OperationalError, QrsiteError) as error:
        _stop(error, exit_code=1)


def _stop(error: Exception, *, exit_code: int) -> None:
    print("error:", " ".join(str(error).split()), file=sys.stderr)  # noqa: T201
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
