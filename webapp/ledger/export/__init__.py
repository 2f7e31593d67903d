"""Exports of the ledger, which somebody else can check without Sightline."""
