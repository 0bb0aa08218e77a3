"""Readers of text on any text: profiles, plans, records of a build, what trtexec and tegrastats print.

Each gives what it promises or raises the error that its docstring names; nothing else, and within moments.
"""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import edgeprune
from edgeprune.errors import DataError, TargetError
from edgeprune.records.history import history
from edgeprune.records.verify import verify_build
from edgeprune.report.history import history_table
from edgeprune.runtimes import trtexec_output
from edgeprune.serial import to_json
from tests.hostile.records import places_of, spoiled
from tests.records.sample import build_record
from tests.situations.profiles import QUICK

QUICKLY = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
WORDS = st.text(max_size=20)
NUMBERS = st.one_of(st.integers(-(10**30), 10**30), st.floats(), st.booleans(), st.none())
JSON = st.recursive(
    NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


def places(content: Any) -> list[tuple[Any, ...]]:
    """Every place in a mapping of mappings."""
    found = []
    for key, value in content.items():
        found.append((key,))
        if isinstance(value, dict):
            found += [(key, *place) for place in places(value)]
    return found


def read_profile(path: Path) -> None:
    """A target, or a refusal of one line."""
    try:
        edgeprune.load_target(path)
    except TargetError as error:
        assert len(str(error).splitlines()) == 1, repr(str(error))


PROFILE_PLACES = places({**QUICK, "name": "x", "device": {"kind": "cpu", "host": ""}, "export": {"opset": 17}})


@QUICKLY
@given(place=st.sampled_from(PROFILE_PLACES), value=JSON)
def test_a_profile_with_any_value(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    content = copy.deepcopy({**QUICK, "name": "x", "device": {"kind": "cpu", "host": ""}, "export": {"opset": 17}})
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(spoiled(content, place, value)), encoding="utf-8", errors="replace")
    read_profile(tmp_path / "p.yaml")


@QUICKLY
@given(
    text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60)
    | st.text("&*!?-:[]{}<>|%@`'\" \n\tab0", max_size=60)
)
def test_a_profile_of_any_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(QUICK) + text, encoding="utf-8")
    read_profile(tmp_path / "p.yaml")


TIMES = [{"startEnqMs": 0.0, "endEnqMs": 0.1, "h2dMs": 0.2, "computeMs": 1.0, "d2hMs": 0.1}] * 2
LAYERS = [{"count": 3}, {"name": "conv", "averageMs": 0.5, "medianMs": 0.4}]
OUTPUTS = [{"name": "output0", "dimensions": "1x2", "values": [0.5, 1.0]}]
TRTEXEC: dict[str, tuple[Any, Any]] = {
    "times": (trtexec_output.times_of, TIMES),
    "profile": (trtexec_output.profile_of, LAYERS),
    "outputs": (trtexec_output.outputs_of, OUTPUTS),
}


@pytest.mark.parametrize("name", TRTEXEC)
@QUICKLY
@given(row=st.integers(0, 1), key=st.integers(0, 4), value=JSON, gone=st.booleans())
def test_what_trtexec_writes(name: str, row: int, key: int, value: Any, gone: bool) -> None:
    reader, content = TRTEXEC[name]
    rows = copy.deepcopy(content)
    chosen = rows[row % len(rows)]
    names = list(chosen)
    if gone:
        del chosen[names[key % len(names)]]
    else:
        chosen[names[key % len(names)]] = value
    with contextlib.suppress(ValueError):
        reader(json.dumps(rows))


@pytest.mark.parametrize("name", TRTEXEC)
@QUICKLY
@given(value=JSON, text=WORDS, cut=st.integers(0, 200))
def test_any_text_for_what_trtexec_writes(name: str, value: Any, text: str, cut: int) -> None:
    reader, content = TRTEXEC[name]
    for written in (json.dumps(value), json.dumps([value]), text, json.dumps(content)[:cut]):
        with contextlib.suppress(ValueError):
            reader(written)


LOG = "Data transfers: Enabled\nSpin-wait: Disabled\nCUDA Graph: Enabled\nExposeDMA: Enabled\n"


@QUICKLY
@given(before=st.text(max_size=30), after=st.text(max_size=30), cut=st.integers(0, len(LOG)))
def test_any_log_of_trtexec(before: str, after: str, cut: int) -> None:
    log = before + LOG[:cut] + after
    with contextlib.suppress(ValueError):
        trtexec_output.settings_used(log)
    assert isinstance(trtexec_output.meaning_of(log), str)
    assert str(trtexec_output.failure(["trtexec"], 1, log)).count("\n") == 0


@QUICKLY
@given(text=st.text("{}[]()<>\\.*+?$^|abc0 :\n", max_size=60))
def test_what_a_log_means_whatever_stands_in_its_names(text: str) -> None:
    for log in (
        f"Unknown option: {text}",
        f"No importer registered for op: {text}",
        f"In node 3 {text}",
        f"[E] {text}",
    ):
        assert isinstance(trtexec_output.meaning_of(log), str)


TEGRASTATS = (
    "11-26-2026 10:00:00 RAM 2448/7620MB (lfb 4x4MB) SWAP 0/3810MB (cached 0MB) CPU [2%@729,0%@729,off,off] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 12%@[305] VIC off APE 174 cpu@45.2C gpu@43.1C "
    "VDD_IN 4504mW/4504mW VDD_CPU_GPU_CV 486mW/486mW"
)


@QUICKLY
@given(
    cut=st.integers(0, len(TEGRASTATS)),
    place=st.integers(0, len(TEGRASTATS)),
    noise=st.text("0123456789@%./-mWMBC[], \x00é", max_size=12),
)
@example(cut=0, place=0, noise="GR3D_FREQ @[,]")
def test_any_line_of_tegrastats(cut: int, place: int, noise: str) -> None:
    from edgeprune.agent import telemetry

    line = TEGRASTATS[:place] + noise + TEGRASTATS[place:]
    for text in (line, line[:cut], noise, TEGRASTATS):
        assert telemetry.tegrastats_reading(text) is not None


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A plan that the tool made."""
    from tests.situations import catalogue
    from tests.situations.driver import Sandbox

    box = Sandbox(tmp_path_factory.mktemp("plan"))
    given_inputs = catalogue.good(box.root / "in")
    argv = ["prune", given_inputs.weights, "--ratio", 0.3, "--dry-run", "--save-plan", box.out / "plan.json"]
    assert box.run(argv, keep=True).code == 0
    return json.loads((box.out / "plan.json").read_text())


@QUICKLY
@given(data=st.data(), value=JSON)
def test_a_plan_with_any_value(tmp_path: Path, plan: dict[str, Any], data: st.DataObject, value: Any) -> None:
    from edgeprune.pruning.plan import Plan

    line = data.draw(st.integers(0, len(plan["dimensions"]) - 1))
    spots = [*places(plan), *(("dimensions", line, *place) for place in places(plan["dimensions"][line]))]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(spoiled(plan, data.draw(st.sampled_from(spots)), value)))
    try:
        read = Plan.load(path)
    except DataError as error:
        assert len(str(error).splitlines()) == 1
    else:
        read.save(path)
        assert Plan.load(path).widths == read.widths


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """The content of a ``build.json``, with few samples."""
    content = to_json(build_record())
    for row in content["measurements"]:
        row["measurement"]["values"] = row["measurement"]["values"][:60]
        row["measurement"]["conditions"]["launches"] = [60]
    return content


@QUICKLY
@given(data=st.data(), value=JSON)
def test_a_record_with_any_value(tmp_path: Path, record: dict[str, Any], data: st.DataObject, value: Any) -> None:
    place = data.draw(st.sampled_from(list(places_of(record))))
    (tmp_path / "build.json").write_text(json.dumps(spoiled(record, place, value)))
    try:
        verified = verify_build(tmp_path)
        history_table(history([tmp_path]))
    except (DataError, TargetError) as error:
        assert len(str(error).splitlines()) == 1, repr(str(error))
    else:
        assert all(len(line.splitlines()) == 1 for line in verified.edited), verified.edited
