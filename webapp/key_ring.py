"""Key rings: the key that signs, and those that are accepted beside it while keys are rotated."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from hmac import compare_digest


@dataclass(frozen=True)
class KeyRing:
    """The keys of one purpose, and the MACs that are made with them.

    A MAC is made with the first key. One that any of the keys has made is believed.
    """

    signing: bytes = field(repr=False)
    accepted: tuple[bytes, ...] = field(default=(), repr=False)
    mac_bytes: int = 32

    @classmethod
    def of(cls, signing: str, accepted: str | None = None) -> "KeyRing":
        return cls(signing.encode(), (accepted.encode(),) if accepted else ())

    def __iter__(self) -> Iterator[bytes]:
        yield self.signing
        yield from self.accepted

    def derive(self, purpose: str, mac_bytes: int = 32) -> "KeyRing":
        """Keys for one purpose alone, which tell nothing of these."""
        accepted = tuple([_derived(key, purpose) for key in self.accepted])
        return replace(
            self, signing=_derived(self.signing, purpose), accepted=accepted, mac_bytes=mac_bytes
        )

    def mac(self, *parts: bytes) -> bytes:
        """The MAC over the parts, one after another: the caller says where each ends."""
        return self._mac(self.signing, parts)

    def has_made(self, mac: bytes, *parts: bytes) -> bool:
        """Return whether one of the keys has made this MAC. All are tried, whichever it is."""
        return True in [compare_digest(mac, self._mac(key, parts)) for key in self]

    def fingerprints(self) -> tuple[str, ...]:
        """What may be shown of each key, 16 hex digits, that of the signing one first."""
        return tuple(_derived(key, "fingerprint")[:8].hex() for key in self)

    def _mac(self, key: bytes, parts: tuple[bytes, ...]) -> bytes:
        # Not `hmac.digest`: it releases the interpreter's lock even for the shortest message.
        made = blake2b(key=key, digest_size=self.mac_bytes)
        for part in parts:
            made.update(part)
        return made.digest()


@lru_cache(256)
def _derived(key: bytes, purpose: str) -> bytes:
    """A key that BLAKE2b accepts by its length (RFC 7693 §2.1), and that has one purpose."""
    return blake2b(purpose.encode(), key=blake2b(key).digest()).digest()
