"""The policy that says whose signatures on checkpoints to believe, as this log would have it."""

from collections.abc import Sequence

from webapp.ledger.sealing.note import SignatureType, parse_verifier
from webapp.ledger.sealing.proof import Peer, Policy
from webapp.ledger.sealing.published import PublishedLog
from webapp.settings import Settings


def policy_of(logs: Sequence[PublishedLog], settings: Settings) -> str:
    """Return the policy's file: the open log, with all keys that have signed it, and its witnesses.

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
    return Policy(tuple(peers), witnesses).text
