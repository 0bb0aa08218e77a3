"""What releases of TensorRT can do, as far as a profile has to know it before any device is asked: one table, from
which the rest of edgeprune takes what it needs. The simulated devices know it by themselves, and are its check."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, pairwise

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

OLDEST_TENSORRT = "10.3"  # JetPack 6.1; assumed where no range is given
NEWER_OF_11 = "11.4.1"  # the first 11 that NVIDIA supports on a Jetson


@dataclass(frozen=True)
class Boards:
    """Boards that have something, by module and JetPack.

    Attributes:
        modules: beginnings of their names (``p3701-``); empty for every one.
        jetpack: releases of JetPack, as a version specifier; empty for every one.
    """

    modules: tuple[str, ...] = ()
    jetpack: str = ""

    def has_module(self, modules: Iterable[str]) -> bool:
        """Whether one of these modules (``p3701-0005``, ``nvidia,p3701-0005``) is among them."""
        return not self.modules or any(name.rpartition(",")[2].startswith(self.modules) for name in modules)

    def has(self, modules: Iterable[str], jetpack: str) -> bool:
        """Whether a board with these modules and this JetPack is; an unknown JetPack is trusted."""
        return self.has_module(modules) and (not (jetpack and self.jetpack) or jetpack in SpecifierSet(self.jetpack))


@dataclass(frozen=True)
class Release:
    """Releases of TensorRT between which nothing changes that matters here.

    Attributes:
        first: the oldest of them.
        below: the release that ends them.
        trtexec: the release whose command line of trtexec they have, so that equal ones have the same
            (:mod:`edgeprune.runtimes.trtexec_argv`).
        opset: newest ONNX opset that the parser takes.
        weakly_typed: the builder chooses the precision of a layer itself, out of those that it is allowed.
        has_levels: the builder can be told a level of optimization.
        builds_int8_top_k: INT8 graphs with top-k or NMS inside can be built, as far as is known.
        dla: boards for whose DLA they build; None for none.
        jetsons: Jetsons on which NVIDIA supports them; None for none.
    """

    first: str
    below: str
    trtexec: str
    opset: int
    weakly_typed: bool = False
    has_levels: bool = True
    builds_int8_top_k: bool = True
    dla: Boards | None = None
    jetsons: Boards | None = None

    def __contains__(self, version: str | Version) -> bool:
        return Version(self.first) <= _version(version) < Version(self.below)


EVERY = Boards()
# 8.5 and 8.6 come with JetPack 5.1 and 6.0, 10.3 with 6.1 and 6.2. NVIDIA's release notes and support matrix: 10.7 is
# the last 10 with a DLA, 11.4.1 the first 11, on AGX Orin alone. Jetsons from 11 on: "Migrating TensorRT from 10.x to
# 11.x on Jetson/JetPack" of 11.2.1, 11.3.0 and 11.4.1; the release notes of 11.0, 11.1 and 11.4.0 name no JetPack
# either. Opsets: docs/operators.md of onnx-tensorrt. INT8 with top-k: Ultralytics' exporter.
DLA_OF_11 = Boards(("p3701-",), ">=7.2.2")
JETSONS_OF_11 = Boards(("p3701-", "p3834-"), ">=7.2.2")
RELEASES = (
    Release("8.5", "8.6", "8.5", 17, weakly_typed=True, has_levels=False, dla=EVERY, jetsons=EVERY),
    Release("8.6", "8.7", "8.6", 17, weakly_typed=True, dla=EVERY, jetsons=EVERY),
    Release("10.3", "10.4", "10.3", 20, builds_int8_top_k=False, dla=EVERY, jetsons=EVERY),
    Release("10.4", "10.8", "10.3", 20, dla=EVERY, jetsons=EVERY),
    Release("10.8", "10.15", "10.3", 20, jetsons=EVERY),
    Release("10.15", "11.0", "10.3", 24, jetsons=EVERY),
    Release("11.0", NEWER_OF_11, "11.0", 24),
    Release(NEWER_OF_11, "11.5", "11.0", 24, dla=DLA_OF_11, jetsons=JETSONS_OF_11),
    Release("11.5", "12.0", "11.0", 25, dla=DLA_OF_11, jetsons=JETSONS_OF_11),
)
"""Every release that is known, oldest first; what lies between two of them or beyond is not."""
NEWEST_WEAK_OPSET = max(release.opset for release in RELEASES if release.weakly_typed)

# The table in words; tests hold them against it.
KNOWN_STRONG_VERSIONS = "10.3 and newer of 10, and 11"
KNOWN_VERSIONS = f"8.5, 8.6, {KNOWN_STRONG_VERSIONS}"
DLA_WORDS = (
    "a DLA is in TensorRT 8.5, 8.6 (JetPack 5.1, 6.0) and 10.3 to 10.7 (JetPack 6.1, 6.2), and from 11.4.1 on again "
    "on an AGX Orin with JetPack 7.2.2"
)
ELEVEN_WORDS = (
    "it supports 11 from 11.4.1 on, on an AGX Orin and a Thor with JetPack 7.2.2 or newer (the SBSA package); every "
    "other Jetson stays on the 10.x of its JetPack"
)


def release_of(version: str | Version) -> Release | None:
    """The entry of a version of TensorRT; None for one that is not known."""
    return next((release for release in RELEASES if version in release), None)


def is_too_new(version: str) -> bool:
    """Whether a version of TensorRT is beyond those that are known."""
    return Version(version) >= Version(RELEASES[-1].below)


def why_unknown(version: str) -> str:
    """What is wrong with a version of TensorRT that :func:`release_of` does not know; empty for one that it knows."""
    if release_of(version) is not None:
        return ""
    if is_too_new(version):
        return f"TensorRT {version} is newer than what edgeprune knows ({KNOWN_VERSIONS})"
    return f"TensorRT {version} is too old: known are {KNOWN_VERSIONS}"


def spans(kind: Callable[[Release], object]) -> list[tuple[str, str]]:
    """Where releases are of one kind: the first of each run of them, and the release that ends it.

    Args:
        kind: of a release, for example its command line; None leaves it out.
    """
    runs: list[tuple[object, str, str]] = []
    for release in RELEASES:
        if (found := kind(release)) is None:
            continue
        if runs and runs[-1][0] == found and runs[-1][2] == release.first:
            runs[-1] = (found, runs[-1][1], release.below)
        else:
            runs.append((found, release.first, release.below))
    return [(first, below) for _, first, below in runs]


def oldest_in(versions: SpecifierSet, able: Callable[[str], bool] = lambda _: True) -> str | None:
    """The oldest release of a profile's range that is known and able; None where there is none.

    Args:
        versions: the range; without a lower end it begins at :data:`OLDEST_TENSORRT`, where that is in it. Of one that
            begins behind a release (``>10.3.0``) it is that release, which can do the same.
        able: whether a release has what is asked for.
    """
    begins = any(one.operator in (">=", ">", "==", "===", "~=") for one in versions)
    assumed = OLDEST_TENSORRT if versions.contains(OLDEST_TENSORRT) else RELEASES[0].first
    ends = [*_ends(versions), *(Version(release.first) for release in RELEASES)]
    found = [
        end
        for end in ends
        if (begins or end >= Version(assumed))
        and release_of(end) is not None
        and any(versions.contains(tried) for tried in (end, _behind(end, ends)))
        and able(end.base_version)
    ]
    return min(found).base_version if found else None


def has_release(versions: SpecifierSet, first: str, below: str) -> bool:
    """Whether a profile's range has any release from ``first`` on and before ``below``, to the patch and further."""
    lower, upper = Version(first), Version(below)
    ends = [lower, *_ends(versions)]
    tried = chain.from_iterable((end, _behind(end, ends)) for end in ends)
    return any(lower <= release < upper and versions.contains(release) for release in tried)


def parts_in(versions: SpecifierSet, first: str, below: str) -> list[tuple[str, str]]:
    """Where a profile's range has releases from ``first`` on and before ``below``: the first of each run of them, and
    the release that ends it. Releases are told to the patch here, as programs tell them."""
    lower, upper = (_to_patch(Version(one)) for one in (first, below))
    ends = {_to_patch(end) for end in _ends(versions)}
    ends = {end for major, minor, patch in ends for end in ((major, minor, patch), (major, minor, patch + 1))}
    ends = sorted({lower, upper, *(end for end in ends if lower < end < upper)})
    parts: list[tuple[str, str]] = []
    for begin, end in pairwise(".".join(map(str, end)) for end in ends):
        if not versions.contains(begin, prereleases=True):
            continue
        joined = parts and parts[-1][1] == begin
        parts.append((parts.pop()[0] if joined else begin, end))
    return parts


def _to_patch(version: Version) -> tuple[int, int, int]:
    return version.major, version.minor, version.micro


def _ends(versions: SpecifierSet) -> list[Version]:
    """Where a range may begin or end: between two neighbours of these every release is in it, or none.

    10.3 and 10.3.0 are the same end and both kept: ``===`` tells them apart.
    """
    ends: list[Version] = []
    for one in versions:
        try:
            version = Version(one.version.removesuffix(".*"))
        except InvalidVersion:  # of ===, which takes any text
            continue
        ends += [version, Version(version.base_version)]
        if one.version.endswith(".*"):
            ends.append(_next(version.release))
        elif one.operator == "~=":
            ends.append(_next(version.release[:-1]))
    return ends


def _next(release: tuple[int, ...]) -> Version:
    """The release that ends all those that begin with these numbers."""
    return Version(".".join(map(str, (*release[:-1], release[-1] + 1))))


def _behind(end: Version, ends: Iterable[Version]) -> Version:
    """A release behind one end and before the next one, whatever that is."""
    longest = max(len(one.release) for one in ends)
    return Version(".".join(map(str, (*end.release, *[0] * (longest - len(end.release)), 1))))


def _version(version: str | Version) -> Version:
    return version if isinstance(version, Version) else Version(version)


def is_weakly_typed(version: str) -> bool:
    """Whether the builder of this version chooses precisions itself; later ones do what the graph says."""
    release = release_of(version)
    return release is not None and release.weakly_typed


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
    release = release_of(version)
    return level is None or (release is not None and release.has_levels)


def builds_int8_top_k(version: str) -> bool:
    """Whether this version is not known to fail on INT8 graphs with top-k or NMS inside."""
    release = release_of(version)
    return release is None or release.builds_int8_top_k


def has_dla(version: str) -> bool:
    """Whether a TensorRT of this version builds for a DLA on any board."""
    release = release_of(version)
    return release is not None and release.dla is not None


def board_has_dla(version: str, modules: Iterable[str], jetpack: str) -> bool:
    """Whether it does on a board with one of these modules and this JetPack; an unknown JetPack is trusted."""
    release = release_of(version)
    return release is not None and release.dla is not None and release.dla.has(modules, jetpack)


def jetson_supports(version: str, modules: Iterable[str], jetpack: str) -> bool:
    """Whether NVIDIA supports this TensorRT on a Jetson with one of these modules and this JetPack; an unknown JetPack
    is trusted, and so is a version before 11, which comes with one."""
    if Version(version) < Version("11"):
        return True
    release = release_of(version) or RELEASES[-1]
    return release.jetsons is not None and release.jetsons.has(modules, jetpack)


def profile_has_dla(version: str, modules: Iterable[str]) -> bool:
    """As :func:`board_has_dla`, of a profile: one that names no modules is about any."""
    release = release_of(version)
    return release is not None and _may_have_dla(release, list(modules))


def range_has_dla(versions: SpecifierSet, modules: Iterable[str]) -> bool:
    """Whether any version of a profile's range has a DLA on one of these modules; no modules are any."""
    modules = list(modules)
    return any(
        has_release(versions, release.first, release.below) for release in RELEASES if _may_have_dla(release, modules)
    )


def _may_have_dla(release: Release, modules: list[str]) -> bool:
    return release.dla is not None and (not modules or release.dla.has_module(modules))
