"""The table of TensorRT's releases: ranges to the patch against counting out, its words, and what derives from it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from edgeprune.devices.trtexec_options import STRONGLY_TYPED, WEAKLY_TYPED, known_options
from edgeprune.errors import DeviceError, TargetError
from edgeprune.export.lint import Limits
from edgeprune.runtimes.trtexec_argv import DLA_GENERATIONS, GENERATIONS, require_known, version_of
from edgeprune.target import load_target
from edgeprune.target.releases import (
    DLA_WORDS,
    KNOWN_STRONG_VERSIONS,
    KNOWN_VERSIONS,
    OLDEST_TENSORRT,
    RELEASES,
    board_has_dla,
    builds_int8_top_k,
    has_dla,
    has_level,
    has_release,
    is_weakly_typed,
    jetson_supports,
    oldest_in,
    parts_in,
    range_has_dla,
    release_of,
)

PACKAGE = Path(__file__).parents[1] / "edgeprune"
AGX, NANO = "nvidia,p3701-0005", "nvidia,p3767-0005"
MINORS = [f"{major}.{minor}" for major in range(8, 14) for minor in range(30)]
NUMBERS = st.sampled_from(["10", *(".".join(map(str, ("10", *rest))) for rest in product(range(4), range(4)))])


@st.composite
def specifiers(draw: st.DrawFn) -> str:
    """Some of every kind but ``===``, which compares text; ``~=`` wants two numbers, ``.*`` may be behind one."""
    kinds = st.sampled_from([">=", ">", "<=", "<", "==", "!=", "~=", "==*", "!=*"])
    written = []
    for kind in draw(st.lists(kinds, min_size=1, max_size=3)):
        version = draw(NUMBERS.filter(lambda text: "." in text) if kind == "~=" else NUMBERS)
        written.append(f"{kind[:-1]}{version}.*" if kind.endswith("*") else f"{kind}{version}")
    return ",".join(written)


EVERY_RELEASE = [Version(".".join(map(str, (10, *rest)))) for rest in product(range(5), range(5), range(2))]


@given(specifiers(), st.sampled_from(["10.0", "10.1", "10.1.2", "10.3"]), st.sampled_from(["10.1.1", "10.2", "10.4"]))
def test_a_range_has_a_release_where_counting_them_out_finds_one(text: str, first: str, below: str) -> None:
    versions = SpecifierSet(text)
    counted = [one for one in EVERY_RELEASE if Version(first) <= one < Version(below) and versions.contains(one)]
    assert has_release(versions, first, below) == bool(counted)


@given(specifiers())
def test_the_parts_of_a_range_hold_what_counting_finds_in_it(text: str) -> None:
    versions = SpecifierSet(text)
    parts = [(Version(first), Version(below)) for first, below in parts_in(versions, "10.1", "10.4")]
    told = [Version(f"10.{minor}.{patch}") for minor, patch in product(range(5), range(5))]
    inside = [one for one in told if Version("10.1") <= one < Version("10.4") and one in versions]
    assert [one for one in told if any(first <= one < below for first, below in parts)] == inside
    assert all(before[1] < behind[0] for before, behind in pairwise(parts))  # as few as can be


PINS = ["==8.6.2", ">=8.6.2,<8.6.3", "==8.5.2", "==10.3.0.30", "==10.3.1", "===10.3.0", "==10.7.*", "~=10.3.0"]


@pytest.mark.parametrize("pin", [*PINS, ">10.3.0,<10.3.2", ">=10.7.1,<11"])
def test_a_range_to_the_patch_has_the_dla_that_its_board_has(pin: str) -> None:
    assert range_has_dla(SpecifierSet(pin), [NANO])
    asked = {"device.dla_core": 0, "device.tensorrt": pin, "measure.cuda_graph": False}
    assert load_target("jetson-orin-nx").changed(asked).device.tensorrt == pin


@pytest.mark.parametrize("pin", ["==11.4.2", ">=11.4.2,<11.5", "==11.4.1", "==11.5.*", "~=11.4.3"])
def test_a_dla_of_11_is_one_of_an_agx_orin(pin: str) -> None:
    assert range_has_dla(SpecifierSet(pin), [AGX]) and range_has_dla(SpecifierSet(pin), [])
    assert not range_has_dla(SpecifierSet(pin), [NANO])


@pytest.mark.parametrize("pin", ["==10.8.0", ">=10.8,<11.4", "==11.4.0", ">=8.7,<10.3", ">=12", "==10.16.1"])
def test_a_range_without_a_dla_has_none_to_the_patch(pin: str) -> None:
    assert not range_has_dla(SpecifierSet(pin), [])


def test_the_oldest_of_a_range_is_in_it_or_just_before() -> None:
    assert oldest_in(SpecifierSet("==10.3.0.30")) == "10.3.0.30"
    assert oldest_in(SpecifierSet(">=8.5,!=8.5.*")) == "8.6"
    assert oldest_in(SpecifierSet("===10.3.0")) == "10.3.0" and oldest_in(SpecifierSet("===ten")) is None
    assert oldest_in(SpecifierSet("==9.*")) is None and oldest_in(SpecifierSet("")) == OLDEST_TENSORRT


def test_the_releases_of_the_table_are_in_order_and_do_not_overlap() -> None:
    ends = [Version(end) for release in RELEASES for end in (release.first, release.below)]
    assert ends == sorted(ends) and all(Version(one.first) < Version(one.below) for one in RELEASES)


def _said(words: str, version: str) -> bool:
    """Whether a list like ``8.5, 10.3 and newer of 10, and 11`` has a version."""
    major, minor = map(int, version.split("."))
    for item in words.replace(", and ", ", ").split(", "):
        first, newer, of = item.partition(" and newer of ")
        if newer:
            found = major == int(of) and minor >= int(first.split(".")[1])
        else:
            found = version == item or str(major) == item
        if found:
            return True
    return False


def test_the_words_and_the_table_know_the_same() -> None:
    known = [version for version in MINORS if release_of(version) is not None]
    assert known == [version for version in MINORS if _said(KNOWN_VERSIONS, version)]
    strong = [version for version in known if not is_weakly_typed(version)]
    assert strong == [version for version in MINORS if _said(KNOWN_STRONG_VERSIONS, version)]
    assert strong[0] == OLDEST_TENSORRT
    assert re.findall(r"8\.\d+|1\d\.[\d.]*\d", DLA_WORDS) == [
        *(version for version in MINORS if version.startswith("8.") and has_dla(version)),
        *(version for version in MINORS if version in ("10.3", "10.7") and has_dla(version)),
        next(release.first for release in RELEASES if release.first.startswith("11") and release.dla is not None),
    ]
    assert not has_dla("10.8") and has_dla("10.7.99")


def _refuses(error: type[Exception], call: Callable[[], object]) -> bool:
    try:
        call()
    except error:
        return True
    return False


def test_whoever_knows_a_release_has_it_from_the_table() -> None:
    """The linter, the command lines and those for a DLA; with what the simulated boards know by themselves."""
    for version in [*MINORS, "11.4.1", "11.4.0", "10.3.0.30", "8.6.2"]:
        numbers, known = version_of(version), release_of(version) is not None
        assert known == any(first <= numbers < below for first, below in GENERATIONS), version
        assert known != _refuses(DeviceError, partial(require_known, numbers)), version
        assert known != _refuses(TargetError, partial(Limits, version)), version
        assert has_dla(version) == any(first <= numbers < below for first, below in DLA_GENERATIONS), version
        if known:
            assert is_weakly_typed(version) == (numbers[:2] in WEAKLY_TYPED), version
            assert has_level(version, 3) == ("--builderOptimizationLevel" in known_options(numbers)), version
            assert builds_int8_top_k(version) == (numbers[:2] != (10, 3)), version


@pytest.mark.parametrize("version", STRONGLY_TYPED, ids=str)
def test_what_the_simulated_boards_can_be_is_known(version: tuple[int, int]) -> None:
    assert release_of(".".join(map(str, version))) is not None


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("12.0", "12.0 is newer than what edgeprune knows .*next: .*update edgeprune"),
        ("99.1", "99.1 is newer than what edgeprune knows"),
        ("9.1", "9.1 is too old: known are 8.5"),
        ("ten", "not readable; write it as 10.3"),
    ],
)
def test_the_linter_refuses_what_the_command_lines_refuse(version: str, words: str) -> None:
    with pytest.raises(TargetError, match=words):
        Limits(version)


@pytest.mark.parametrize(
    ("version", "opset"),
    [("8.5", 17), ("8.6.2", 17), ("10.3.0.30", 20), ("10.14", 20), ("10.15", 24), ("11.4.1", 24), ("11.5", 25)],
)
def test_the_newest_opset_of_a_parser(version: str, opset: int) -> None:
    assert Limits(version).release.opset == opset


def test_a_board_has_what_its_release_and_its_jetpack_have() -> None:
    assert board_has_dla("10.3.0", [NANO], "") and not board_has_dla("10.8.0", [AGX], "6.2")
    assert board_has_dla("11.4.1", [AGX], "7.2.2") and not board_has_dla("11.4.1", [AGX], "7.2")
    assert not board_has_dla("11.4.1", [NANO], "") and not board_has_dla("11.4.1", [], "")
    assert jetson_supports("10.16", [NANO], "6.2") and not jetson_supports("11.4.0", [AGX], "7.2.2")
    assert jetson_supports("11.5", ["p3834-0008"], "") and not jetson_supports("11.5", [NANO], "7.2.2")


def test_no_other_file_has_a_table_of_releases() -> None:
    """Simulated boards are the check, and have their own; trtexec_argv.py says which flags a version has."""
    kept = {"target/releases.py", "runtimes/trtexec_argv.py", "devices/fake.py", "devices/fake_programs.py"}
    kept |= {"devices/trtexec_options.py"}
    own = re.compile(r"(8\.[567]|10\.\d{1,2}|11\.\d)(\.\d+)?")
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name in kept or name.startswith("agent/"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and own.fullmatch(node.value):
                found.append(f"{name}: {node.value}")
            if isinstance(node, ast.Tuple) and 2 <= len(node.elts) <= 3:
                values = [part.value for part in node.elts if isinstance(part, ast.Constant)]
                if len(values) == len(node.elts) and values[:2] in ([8, 5], [8, 6], [8, 7], [10, 3], [10, 8], [10, 15]):
                    found.append(f"{name}: {values}")
    asked_of_the_table = "carry/out.py: 8.5.0"  # whether the profile's builder leaves the first one out
    capabilities = ["runtimes/onnxruntime_.py: 8.6"]  # of GPUs
    assert sorted(found) == [asked_of_the_table, *capabilities]
