"""Secrets that a machine makes for itself when nobody gave it any."""

from __future__ import annotations

import fcntl
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


def replace(path: Path, change: Callable[[str], str]) -> None:
    """Replace the secret in `path` by what `change` makes of it; whoever reads meanwhile gets the old one or the new.

    Changes happen one after the other, also those of several processes. On disk when this returns. The file stays its
    owner's, also where root changes it.

    Raises:
        ImproperlyConfigured: the folder can't be written, or the file not read.
    """
    try:
        path = path.resolve()
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            _replace(path, change(path.read_text().strip()))
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ImproperlyConfigured(
            f"{error.strerror or error}: {path}. Run this as the site's user."
        ) from error


def _replace(path: Path, text: str) -> None:
    owner = path.stat()
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


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
