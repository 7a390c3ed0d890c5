"""Tokens of devices and services, and secrets of enrolments: made once, shown once, kept as a hash."""

from __future__ import annotations

import hashlib
import secrets

DEVICE_PREFIX = "qrd_"
SERVICE_PREFIX = "qrs_"
ENROLMENT_PREFIX = "qre_"


def new_token(prefix: str) -> str:
    """Return a token of 256 random bits; the prefix tells people and secret scanners what it is."""
    return prefix + secrets.token_urlsafe(32)


def token_hash(token: str) -> bytes:
    """Return what is kept of a token. Plain SHA-256 suffices: nobody guesses 256 random bits."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
