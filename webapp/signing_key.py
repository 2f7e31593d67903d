"""Private keys of Ed25519 (RFC 8032), each set as the 32 bytes of its seed in base64url."""

import re
from base64 import urlsafe_b64decode
from functools import lru_cache
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SEED = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
"""What `secrets.token_urlsafe(32)` makes."""


class SigningKey:
    """The private key of a process."""

    def __init__(self, seed: str) -> None:
        """`seed`: a text that matches SEED."""
        private = Ed25519PrivateKey.from_private_bytes(seed_of(seed))
        self.sign = private.sign
        """Returns the signature over some bytes."""
        self.public = private.public_key().public_bytes_raw()
        self.fingerprint = fingerprint_of(self.public)


@lru_cache(16)
def signing_key(seed: str) -> SigningKey:
    return SigningKey(seed)


def seed_of(text: str) -> bytes:
    """The 32 bytes of a text that matches SEED."""
    return urlsafe_b64decode(f"{text}=")


def fingerprint_of(public: bytes) -> str:
    """The name of a public key: the first 8 bytes of its SHA-256, in hex."""
    return sha256(public).hexdigest()[:16]
