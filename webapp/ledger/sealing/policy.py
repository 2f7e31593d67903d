"""The policy that says whose signatures on checkpoints to believe, as this log would have it."""

from collections.abc import Sequence

from webapp.ledger.sealing.note import SignatureType, parse_verifier
from webapp.ledger.sealing.proof import Peer, Policy
from webapp.ledger.sealing.published import EventSigner, PublishedLog
from webapp.settings import Settings

SIGNER = "#sightline key"
"""What a comment begins with that names a key under which events are signed."""


def policy_of(
    logs: Sequence[PublishedLog], signers: Sequence[EventSigner], settings: Settings
) -> str:
    """Return the policy's file: the open log, with all keys that have signed it, and its witnesses.

    Comments, which other readers pass over, name the keys under which events are signed.
    It asks for no witness: the newest checkpoint may have been cosigned by none yet. How many of
    them have to have seen one, whoever verifies decides.
    """
    peers = [
        Peer(verifier, f"{settings.public_url}{log.path}")
        for log in logs
        if log.state == "open"
        for verifier in log.verifiers
        if verifier.type is not SignatureType.COSIGNATURE
    ]
    witnesses = {
        witness.name: Peer(parse_verifier(witness.key), witness.url)
        for witness in settings.witnesses
    }
    keys = [f"{SIGNER} {key.process} {key.fingerprint} {key.public_key}\n" for key in signers]
    return Policy(tuple(peers), witnesses).text + "".join(keys)
