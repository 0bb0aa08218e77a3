"""The version of this package and of others, where every room can read it without importing what it is about."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version

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


def declared(package: str, extra: str = "") -> str:
    """The package with the range that edgeprune states for it in pyproject.toml, as pip takes it.

    Read from the installed edgeprune, a wheel or a checkout. The package alone where that does not tell: edgeprune runs
    uninstalled, or was installed before it needed the package.

    Args:
        package: its name.
        extra: the extra of edgeprune that it belongs to; empty for what every installation needs.
    """
    from packaging.requirements import Requirement  # not before it is asked for

    try:
        stated = [Requirement(text) for text in requires("edgeprune") or ()]
    except PackageNotFoundError:
        stated = []
    for one in stated:
        found = re.search(r"""\bextra == ["']([^"']+)""", str(one.marker or ""))
        if one.name == package and (found[1] if found else "") == extra:
            ends = sorted(str(one.specifier).split(","), key=lambda end: (end[:1] == "<", end))  # >=1.20,<2
            return package + ",".join(ends)
    return package


def pip_extra(extra: str, *packages: str) -> str:
    """The command line that installs packages of an extra in edgeprune's ranges: ``edgeprune[extra]`` itself would be
    looked for in an index."""
    return pip("install", *(declared(package, extra) for package in packages))
