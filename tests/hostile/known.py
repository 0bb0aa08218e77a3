"""What today's code does wrong with which hostile input, and which inputs the fast part of the tests tries."""

from __future__ import annotations

KNOWN: dict[str, str] = {}
"""Id of a try to what is wrong."""

FAST: set[str] = set()
"""Ids of tries that take a moment and are the ones to tell."""
