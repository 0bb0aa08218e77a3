"""What releases of TensorRT can do, as far as a profile has to know it before any device is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from packaging.specifiers import SpecifierSet
from packaging.version import Version

OLDEST_TENSORRT = "10.3"  # JetPack 6.1; assumed where no range is given

# The builders of JetPack 5.1 and 6.0 choose the precision of a layer themselves, out of those that they are allowed
WEAKLY_TYPED = SpecifierSet(">=8.5,<8.7")
NEWEST_WEAK_OPSET = 17

KNOWN = (
    ("8.5", SpecifierSet(">=8.5,<8.7")),
    ("8.6", SpecifierSet(">=8.6,<8.7")),
    ("10.3", SpecifierSet(">=10.3,<12")),
    ("11.0", SpecifierSet(">=11.0,<12")),
)
"""Releases at which something of the builder or of trtexec's command line changed, each with the releases from it on
that are known; the command lines themselves are in :mod:`edgeprune.runtimes.trtexec_argv`."""
KNOWN_VERSIONS = "8.5, 8.6, 10.3 and newer of 10, and 11"
WITH_LEVELS = SpecifierSet(">=8.6")

# NVIDIA's release notes and support matrix: 10.7 is the last 10 with a DLA, 11.4.1 the first 11, on AGX Orin alone.
WITH_DLA = (SpecifierSet(">=8.5,<8.7"), SpecifierSet(">=10.3,<10.8"))
WITH_DLA_AGAIN = SpecifierSet(">=11.4.1,<12")
DLA_AGAIN_MODULE, DLA_AGAIN_JETPACK = "p3701-", SpecifierSet(">=7.2.2")
DLA_WORDS = (
    "a DLA is in TensorRT 8.5, 8.6 (JetPack 5.1, 6.0) and 10.3 to 10.7 (JetPack 6.1, 6.2), and from 11.4.1 on again "
    "on an AGX Orin with JetPack 7.2.2"
)
# NVIDIA, "Migrating TensorRT from 10.x to 11.x on Jetson/JetPack" of 11.2.1, 11.3.0 and 11.4.1; the release notes of
# 11.0, 11.1 and 11.4.0 name no JetPack either.
ELEVEN_ON_JETSON, ELEVEN_JETPACK = SpecifierSet(">=11.4.1"), SpecifierSet(">=7.2.2")
ELEVEN_MODULES = ("p3701-", "p3834-")
ELEVEN_WORDS = (
    "it supports 11 from 11.4.1 on, on an AGX Orin and a Thor with JetPack 7.2.2 or newer (the SBSA package); every "
    "other Jetson stays on the 10.x of its JetPack"
)
_RELEASES = ("8.5", "8.6", *(f"10.{minor}" for minor in range(3, 8)))
_TRIED = [Version(f"{release}{patch}") for release in _RELEASES for patch in ("", ".99")]
_TRIED_AGAIN = [Version("11.4.1"), Version("11.99")]


def oldest_in(versions: SpecifierSet, able: Callable[[str], bool] = lambda _: True) -> str | None:
    """The oldest release of a profile's range whose builder is known and that is able; None where there is none.

    Args:
        versions: the range; without a lower end it begins at :data:`OLDEST_TENSORRT`, where that is in it.
        able: whether a release has what is asked for.
    """
    bounds = [Version(one.version.rstrip(".*")) for one in versions if one.operator in (">=", ">", "==", "~=")]
    assumed = OLDEST_TENSORRT if versions.contains(OLDEST_TENSORRT) else KNOWN[0][0]
    lowest = max(bounds, default=Version(assumed))
    begins = [str(lowest), *(first for first, _ in KNOWN), str(_TRIED_AGAIN[0])]
    found = [
        release
        for release in begins
        if Version(release) >= lowest
        and (versions.contains(release) or (bounds and release == str(lowest)))
        and any(release in known for _, known in KNOWN)
        and able(release)
    ]
    return min(found, key=Version, default=None)


def has_release(versions: SpecifierSet, first: str, below: str) -> bool:
    """Whether a profile's range has any release from ``first`` on and before ``below``."""
    lower, upper = Version(first), Version(below)
    tried = {
        *(one.version.rstrip(".*") for one in versions if one.operator != "==="),
        *(
            f"{major}.{minor}.{patch}"
            for major in range(lower.major, upper.major + 1)
            for minor in range(100)
            for patch in (0, 99)
        ),
        first,
    }
    return any(lower <= Version(release) < upper and versions.contains(release) for release in tried)


def is_weakly_typed(version: str) -> bool:
    """Whether the builder of this version chooses precisions itself; later ones do what the graph says."""
    return version in WEAKLY_TYPED


def precision_in_graph(precision: str, version: str | None) -> str:
    """The number format that a graph must hold for an engine in ``precision`` by this version of trtexec.

    A weakly typed builder is given the FP32 graph and allowed FP16; INT8 it takes from Q/DQ pairs with FP32 scales,
    and reads those of FP16 as garbage (onnx-tensorrt 8.6, builtin_op_importers.cpp).
    """
    if version is None or not is_weakly_typed(version):
        return precision
    return "int8" if precision.startswith("int8") else "fp32"


def has_level(version: str, level: int | None) -> bool:
    """Whether the builder of this version can be told a level of optimization; none is told to every version."""
    return level is None or version in WITH_LEVELS


def has_dla(version: str) -> bool:
    """Whether a TensorRT of this version builds for a DLA on any board."""
    return any(version in known for known in (*WITH_DLA, WITH_DLA_AGAIN))


def board_has_dla(version: str, modules: Iterable[str], jetpack: str) -> bool:
    """Whether it does on a board with one of these modules and this JetPack; an unknown JetPack is trusted."""
    if version not in WITH_DLA_AGAIN:
        return has_dla(version)
    return any(name.startswith(DLA_AGAIN_MODULE) for name in modules) and (not jetpack or jetpack in DLA_AGAIN_JETPACK)


def jetson_supports(version: str, modules: Iterable[str], jetpack: str) -> bool:
    """Whether NVIDIA supports this TensorRT on a Jetson with one of these modules and this JetPack; an unknown JetPack
    is trusted, and so is a version before 11, which comes with one."""
    if Version(version).major < 11:
        return True
    known = version in ELEVEN_ON_JETSON and any(name.startswith(ELEVEN_MODULES) for name in modules)
    return known and (not jetpack or jetpack in ELEVEN_JETPACK)


def range_has_dla(versions: SpecifierSet, modules: Iterable[str]) -> bool:
    """Whether any version of a profile's range has a DLA on one of these modules; no modules are any."""
    modules = list(modules)
    again = not modules or any(DLA_AGAIN_MODULE in name for name in modules)
    return any(version in versions for version in (*_TRIED, *(_TRIED_AGAIN if again else ())))
