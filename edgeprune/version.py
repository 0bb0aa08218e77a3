"""The version of this package and of others, where every room can read it without importing what it is about."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"


def installed(package: str) -> str:
    """Version of an installed distribution, ``absent`` when there is none; imports nothing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
