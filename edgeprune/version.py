"""The version of this package and of others, where every room can read it without importing what it is about."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"


def installed(package: str) -> str:
    """Version of an installed distribution, ``absent`` when there is none; imports nothing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """As :func:`installed`, of several by name: what a key has of the packages that make its result."""
    return {package: installed(package) for package in packages}


def pip(*arguments: str) -> str:
    """A command line of the pip that belongs to the interpreter that runs: any other installs where it is not seen.

    Args:
        arguments: of pip, one each; ``pip("install", "onnxruntime>=1.24")``.
    """
    python = sys.executable or "python3"
    here = os.path.relpath(python)
    return shlex.join([python if here.startswith("..") else here, "-m", "pip", *arguments])
