"""What tests compile with: they are skipped without it, or fail where ``EDGEPRUNE_MUST_COMPILE`` says that it is here,
as ``.ci/run`` does."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def needs(*tools: str) -> None:
    """Skip the test that asks unless every one of these programs is here."""
    for tool in tools:
        if shutil.which(tool) is None:
            without(f"{tool} is not here")


def without(reason: str) -> NoReturn:
    """Skip the test that asks, or fail it where nothing may be missing."""
    if os.environ.get("EDGEPRUNE_MUST_COMPILE"):
        pytest.fail(f"{reason}, and EDGEPRUNE_MUST_COMPILE is set")
    pytest.skip(reason)
