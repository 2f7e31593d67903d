"""The sealed log over the ledger: a Merkle tree that proves what each event was and where it is."""
