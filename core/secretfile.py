"""Secrets that a machine makes for itself when nobody gave it any."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured


def read_or_create(path: Path, make: Callable[[], str]) -> str:
    """Return the secret in `path`, making it first if there is none.

    Processes that race for the first start agree on one secret: the file appears whole (a link
    to a finished temporary file) or not at all. Only the owner can read it (mode 0600).

    Raises:
        ImproperlyConfigured: the folder can't be written, or the file not read.
    """
    try:
        return _read_or_create(path, make)
    except OSError as error:
        raise ImproperlyConfigured(
            f"{error.strerror or error}: {path}. Set VAR_DIR to a folder that this user can write."
        ) from error


def _read_or_create(path: Path, make: Callable[[], str]) -> str:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(make())
            os.link(name, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(name)
    return path.read_text().strip()
