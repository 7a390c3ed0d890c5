"""The Ed25519 keys that sign and verify codes."""

from __future__ import annotations

import base64
import binascii
from functools import cache
from typing import NamedTuple

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from nacl.signing import SigningKey, VerifyKey

from core import secretfile

FORM = "QR_SIGNING_KEYS is 'key id:seed' with commas between: a number from 1 to 255, 32 bytes in Base64."


class KeyRing(NamedTuple):
    """The key that signs, and all that verify, by key id."""

    signing_id: int
    signing_key: SigningKey
    verify_keys: dict[int, VerifyKey]


@cache
def key_ring() -> KeyRing:
    """Return the keys of QR_SIGNING_KEYS, or of var/qr_signing_keys, which is made at the first use.

    Raises:
        ImproperlyConfigured: the text is not of the form that README gives; it is never repeated.
    """
    return parse(
        settings.QR_SIGNING_KEYS or secretfile.read_or_create(settings.VAR_DIR / "qr_signing_keys", _new_key)
    )


def parse(text: str) -> KeyRing:
    """Read `1:<seed>,2:<seed>`; the first signs."""
    keys: dict[int, SigningKey] = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        number, _, seed = item.partition(":")
        try:
            key_id, key = int(number), SigningKey(base64.b64decode(seed, validate=True))
        except (ValueError, TypeError, binascii.Error):
            raise ImproperlyConfigured(FORM) from None
        # Bytes 1 and key id become the code's first three characters. At 5, 50, 95, … the first of them is a
        # space, which keyboard scanners and forms strip.
        if not 1 <= key_id <= 255 or key_id % 45 == 5:
            raise ImproperlyConfigured(
                f"{FORM} {key_id} can't be a key id (nor can 5, 50, 95, 140, 185, 230)."
            )
        if key_id in keys:
            raise ImproperlyConfigured(f"{FORM} Key id {key_id} occurs twice.")
        keys[key_id] = key
    if not keys:
        raise ImproperlyConfigured(FORM)
    signing_id = next(iter(keys))
    return KeyRing(signing_id, keys[signing_id], {key_id: key.verify_key for key_id, key in keys.items()})


def _new_key() -> str:
    return f"1:{base64.b64encode(bytes(SigningKey.generate())).decode('ascii')}\n"
