"""Checked imports, kept in var/imports from when somebody looked at them until they are imported, for a day at most."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from django.conf import settings

from core.errors import QrsiteError

KEPT_FOR_S = 24 * 3600


class UploadGone(QrsiteError):
    """There is no such file any more."""

    code = "upload_gone"
    status = 410

    def __init__(self) -> None:
        super().__init__(
            "This file was imported already, or it is older than a day. Look at the tickets first."
        )


def folder() -> Path:
    """Return where they are."""
    return Path(settings.VAR_DIR) / "imports"


def keep(spool: TextIO) -> str:
    """Copy a spool to a file that only its owner reads, and return the file's name, which nobody can guess."""
    folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_old()
    name = secrets.token_hex(16)
    descriptor = os.open(folder() / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        spool.seek(0)
        shutil.copyfileobj(spool, file)
    return name


@contextmanager
def taken(name: str) -> Iterator[TextIO]:
    """Open a kept file; of all who take it at once, one gets it, and it is gone when the block ends.

    Where the block raises it is kept on. So commit outside of this block: what was committed can't be imported again.

    Raises:
        UploadGone: it was taken, or is too old.
    """
    kept, mine = folder() / name, folder() / f"{name}.taken"
    try:
        kept.rename(mine)
    except FileNotFoundError:
        raise UploadGone from None
    try:
        with mine.open() as file:
            yield file
    except BaseException:
        mine.rename(kept)
        raise
    mine.unlink(missing_ok=True)


def _remove_old() -> None:
    for path in folder().iterdir():
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - KEPT_FOR_S:
                path.unlink()
