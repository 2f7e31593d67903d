"""The keys that sign the log's checkpoints, and the name under which they do."""

from dataclasses import dataclass, field

from webapp.ledger.sealing.note import (
    Signer,
    Verifier,
    cosigner,
    ed25519_signer,
    ml_dsa_44_cosigner,
)
from webapp.settings import Settings, SettingsError
from webapp.signing_key import seed_of


@dataclass(frozen=True)
class LogKeys:
    """The private keys of the log, which only workers have."""

    origin: str
    """The name of the first log; a later one has its number behind it."""
    seed: bytes = field(repr=False)
    accepted_seed: bytes | None = field(default=None, repr=False)
    """The key that is rotated out, or will be in: it signs beside the other one."""
    quantum_safe_seed: bytes | None = field(default=None, repr=False)

    def signers(self, origin: str, at: int) -> list[Signer]:
        """The signers of a checkpoint at a moment, in seconds since the epoch.

        The log signs plainly, which every reader of notes understands, and as a cosigner, which
        says when. Where a second key is set, it does so by ML-DSA-44 too.
        """
        seeds = [seed for seed in (self.seed, self.accepted_seed) if seed is not None]
        signers = [ed25519_signer(origin, seed) for seed in seeds]
        signers += [cosigner(origin, seed, at) for seed in seeds]
        if self.quantum_safe_seed is not None:
            signers.append(ml_dsa_44_cosigner(origin, self.quantum_safe_seed, at))
        return signers

    def verifiers(self, origin: str) -> list[Verifier]:
        return [signer.verifier for signer in self.signers(origin, at=1)]


def origin_of(base: str, number: int) -> str:
    """The origin of a log. The first one has the name that is set; a later one its number too."""
    return base if number == 1 else f"{base}#{number}"


def base_of(origin: str) -> str:
    """The name that is set, of the origin of any of its logs."""
    return origin.partition("#")[0]


def log_keys(settings: Settings) -> LogKeys:
    """The keys of this process; raises `SettingsError` with everything that it lacks."""
    if settings.log_signing_key is None or settings.log_origin is None:
        raise SettingsError(missing_settings(settings))
    return LogKeys(
        settings.log_origin,
        seed_of(settings.log_signing_key),
        *map(_optional_seed, (settings.log_signing_key_accepted, settings.log_signing_key_pq)),
    )


def missing_settings(settings: Settings) -> list[str]:
    """What a process that seals lacks, as problems of its settings."""
    given = {"LOG_SIGNING_KEY": settings.log_signing_key, "LOG_ORIGIN": settings.log_origin}
    return [f"{name} is not set, and workers seal with it" for name in given if not given[name]]


def _optional_seed(text: str | None) -> bytes | None:
    return seed_of(text) if text else None
