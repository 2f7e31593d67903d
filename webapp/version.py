"""The version of Sightline: that of `pyproject.toml`, which is not installed with the service."""

VERSION = "0.1.0"
