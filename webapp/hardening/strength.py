"""Secrets and passwords that somebody could guess."""

import os
import zlib
from itertools import pairwise

from marshmallow import ValidationError

from webapp.signing_key import SEED

MIN_SECRET_BYTES = 32
MIN_PASSWORD = 12
"""Characters."""

MIN_DISTINCT = 10
"""Different bytes of a random secret, at least. Of 32 in hexadecimal nearly all have as many."""

MIN_STEPS = 8
"""Different distances from one byte to the next. An alphabet in order has one."""

_NO_SEED = (
    "must be 32 random bytes in base64url"
    " (`python -c 'import secrets; print(secrets.token_urlsafe(32))'`)"
)


def check_secret(secret: str) -> None:
    """Refuse a text that no generator of random bytes would have made."""
    if not is_random(os.fsencode(secret), MIN_SECRET_BYTES):
        raise ValidationError(
            f"is weak: give it at least {MIN_SECRET_BYTES} random bytes "
            "(`python -c 'import secrets; print(secrets.token_urlsafe(48))'`)"
        )


def check_seed(seed: str) -> None:
    """Refuse a text that is no private key."""
    if not SEED.fullmatch(seed):
        raise ValidationError(_NO_SEED)


def check_random_seed(seed: str) -> None:
    """Refuse a private key that no generator of random bytes would have made."""
    if not (SEED.fullmatch(seed) and is_random(os.fsencode(seed), MIN_SECRET_BYTES)):
        raise ValidationError(_NO_SEED)


def is_random(secret: bytes, shortest: int) -> bool:
    """Whether a secret is long enough, and neither monotonous, in order nor a repetition."""
    steps = {after - before for before, after in pairwise(secret)}
    compressed = zlib.compress(secret, 9, -zlib.MAX_WBITS)
    return (
        len(secret) >= shortest
        and len(set(secret)) >= MIN_DISTINCT
        and len(steps) >= MIN_STEPS
        and len(compressed) >= 0.75 * shortest
    )


def check_password(user: str | None, password: str) -> None:
    """Refuse a password that is the user's name, or short."""
    if password == user:
        raise ValidationError("has its user's name as the password")
    if len(password) < MIN_PASSWORD:
        raise ValidationError(f"has a password of less than {MIN_PASSWORD} characters")
