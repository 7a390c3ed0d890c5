"""The Ed25519 keys that sign and verify codes."""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from nacl.signing import SigningKey, VerifyKey

from core import secretfile
from core.errors import QrsiteError

log = logging.getLogger(__name__)

FORM = "QR_SIGNING_KEYS is 'key id:seed' with commas between: a number from 1 to 255, 32 bytes in Base64."
# Bytes 1 and key id become the code's first three characters. At these, the first of them is a space, which
# keyboard scanners and forms strip.
UNUSABLE_IDS = {5, 50, 95, 140, 185, 230}
NOTICED_WITHIN_S = 1.0  # how long a running process goes on without looking at the file


class KeyRing(NamedTuple):
    """The key that signs, and all that verify, by key id; the one that signs comes first."""

    signing_id: int
    signing_key: SigningKey
    verify_keys: dict[int, VerifyKey]


class KeyRefused(QrsiteError):
    """The keys can't be changed in this way."""

    code = "key_refused"
    status = 409


class _KeyFile:
    """The keys in a file: made at the first use, read again once it was replaced."""

    def __init__(self) -> None:
        self._known: tuple[KeyRing, object] | None = None
        self._look_again_at_s = 0.0

    def ring(self) -> KeyRing:
        """Return the keys as they were within the last second; asking in between costs no system call."""
        known, now_s = self._known, time.monotonic()
        if known is not None and now_s < self._look_again_at_s:
            return known[0]
        self._look_again_at_s = now_s + NOTICED_WITHIN_S
        if known is None:
            secretfile.read_or_create(path(), _first_key)
        self._known = known = self._read(known)
        return known[0]

    def _read(self, known: tuple[KeyRing, object] | None) -> tuple[KeyRing, object]:
        """Read what is new. Whoever runs goes on with what it knows where that fails: a gate never stops for it."""
        try:
            # Stamp first: what is written between the two is seen at the next look.
            status = path().stat()
            stamp = status.st_ino, status.st_mtime_ns, status.st_size
            if known is not None and known[1] == stamp:
                return known
            return parse(path().read_bytes().decode("ascii", "replace")), stamp
        except (OSError, ImproperlyConfigured) as error:
            if known is None:
                raise ImproperlyConfigured(f"{path()}: {error}") from error
            log.error("The signing keys can't be read; the ones known before stay in use: %s", error)
            return known


_file = _KeyFile()


def path() -> Path:
    """Return where the keys are kept that the environment does not give."""
    folder: Path = settings.VAR_DIR
    return folder / "qr_signing_keys"


def key_ring() -> KeyRing:
    """Return the keys of QR_SIGNING_KEYS, or of var/qr_signing_keys, which is made at the first use.

    What `manage.py keys` writes to the file is noticed within a second; the environment is read at start only.

    Raises:
        ImproperlyConfigured: the text is not of the form that README gives; it is never repeated.
    """
    return parse(settings.QR_SIGNING_KEYS) if settings.QR_SIGNING_KEYS else _file.ring()


@lru_cache(maxsize=4)
def parse(text: str) -> KeyRing:
    """Read `1:<seed>,2:<seed>`; the first signs."""
    keys = _read(text)
    signing_id = next(iter(keys))
    return KeyRing(signing_id, keys[signing_id], {key_id: key.verify_key for key_id, key in keys.items()})


def jwks(ring: KeyRing) -> list[dict[str, str]]:
    """Return the public keys as RFC 8037 writes them, the one that signs first."""
    return [
        {"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": str(key_id), "x": public(key)}
        for key_id, key in ring.verify_keys.items()
    ]


def public(key: VerifyKey) -> str:
    """Return a public key in Base64 for addresses, without padding."""
    return base64.urlsafe_b64encode(bytes(key)).decode("ascii").rstrip("=")


def with_new_key(text: str) -> tuple[str, int]:
    """Return the text with a new key at its end, which verifies and doesn't sign, and the new key's id.

    Ids go round, so that a retired one comes back as late as can be.

    Raises:
        KeyRefused: every id is taken.
    """
    keys = _read(text)
    newest = next(iter(keys))
    for key_id in (*range(newest + 1, 256), *range(1, newest)):
        if key_id not in keys and key_id not in UNUSABLE_IDS:
            return _write({**keys, key_id: SigningKey.generate()}), key_id
    raise KeyRefused("Every key id is taken: retire some first.")


def signing_with(text: str, key_id: int) -> str:
    """Return the text with this key first: it signs, all verify.

    Raises:
        KeyRefused: there is no such key.
    """
    keys = _read(text)
    _demand(key_id, keys)
    return _write({key_id: keys[key_id], **keys})


def without(text: str, key_id: int) -> str:
    """Return the text without a key: its codes become `unknown_key`.

    Raises:
        KeyRefused: there is no such key, or it is needed.
    """
    keys = _read(text)
    _demand(key_id, keys)
    if len(keys) == 1:
        raise KeyRefused(f"Key {key_id} is the only one, and signs: rotate first.")
    if key_id == next(iter(keys)):
        raise KeyRefused(f"Key {key_id} signs: rotate first.")
    return _write({other: key for other, key in keys.items() if other != key_id})


def change_file(change: Callable[[str], str]) -> None:
    """Replace what the file holds by what `change` makes of it; never half, and never two at once."""
    secretfile.read_or_create(path(), _first_key)
    secretfile.replace(path(), lambda text: f"{change(text)}\n")


def _read(text: str) -> dict[int, SigningKey]:
    keys: dict[int, SigningKey] = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        number, _, seed = item.partition(":")
        try:
            key_id, key = int(number), SigningKey(base64.b64decode(seed, validate=True))
        except (ValueError, TypeError, binascii.Error):
            raise ImproperlyConfigured(FORM) from None
        if not 1 <= key_id <= 255 or key_id in UNUSABLE_IDS:
            unusable = ", ".join(map(str, sorted(UNUSABLE_IDS)))
            raise ImproperlyConfigured(f"{FORM} {key_id} can't be a key id (nor can {unusable}).")
        if key_id in keys:
            raise ImproperlyConfigured(f"{FORM} Key id {key_id} occurs twice.")
        keys[key_id] = key
    if not keys:
        raise ImproperlyConfigured(FORM)
    return keys


def _demand(key_id: int, keys: Mapping[int, SigningKey]) -> None:
    if key_id not in keys:
        raise KeyRefused(f"There is no key {key_id}; there are: {', '.join(map(str, keys))}.")


def _write(keys: Mapping[int, SigningKey]) -> str:
    return ",".join(
        f"{key_id}:{base64.b64encode(bytes(key)).decode('ascii')}" for key_id, key in keys.items()
    )


def _first_key() -> str:
    return f"{_write({1: SigningKey.generate()})}\n"
