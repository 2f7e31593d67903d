"""Sightline: every access across tenants decided by rules, served fast, recorded exactly once."""
