"""Of two heads the one that the device's TensorRT builds, as in a build there: what is trained, timed and refused goes
by the release that the device has, not by the oldest of the profile's range."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune import checkpoint
from edgeprune.data.digits import write_digits
from edgeprune.errors import TargetError
from edgeprune.frontier import run as frontier_run
from edgeprune.frontier.run import FrontierRun
from edgeprune.search import run as search_run
from edgeprune.search.bench import SiteBench
from edgeprune.search.inputs import read_inputs, refuse_lacking_head
from edgeprune.stages.pretrain import run_of
from edgeprune.sweep import jobs_ray
from edgeprune.sweep import run as sweep_run
from edgeprune.sweep.point import Job, Pruned, conditions_of, target_on
from edgeprune.sweep.run import sweep
from edgeprune.sweep.steps import RealSteps, _training_key
from edgeprune.target import Target, load_target
from edgeprune.training import finetune as finetune_module
from tests.export.helpers import saved, stock_model
from tests.frontier.test_frontier import MadeUpSteps, made_up_screening
from tests.search.devices import StandIn, stand_in_site

SIDE = 64
BOTH = pytest.mark.parametrize(("release", "head"), [("10.16.0", "auto"), ("10.3.0", "raw")])


class OfRelease(StandIn):
    """A device whose TensorRT is of this release."""

    def __init__(self, release: str) -> None:
        super().__init__(0.5, 0.1)
        self.release = release

    def tensorrt_version(self) -> str:
        return self.release


def board(precision: str = "int8-fp16", **keys: Any) -> Target:
    """A board whose profile allows 10.3, where INT8 with top-k inside cannot be built, and newer ones."""
    return load_target("jetson-orin-nano").changed(
        {"precision": precision, "imgsz": SIDE, "budget": {"speed_up": 1.5}, **keys}
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("head") / "digits", train=16, val=2, test=2, imgsz=SIDE)


def two_headed(path: Path, *, fused: bool = False) -> Path:
    model = stock_model("yolo26", "detect", nc=10)
    model.names = {number: str(number) for number in range(10)}
    if fused:
        model.model[-1].end2end = True
        model.fuse(verbose=False)
    return saved(model, path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_headed(tmp_path_factory.mktemp("weights") / "two.pt")


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_headed(tmp_path_factory.mktemp("weights") / "fused.pt", fused=True)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], OfRelease]:
    """Have searches, sweeps and frontiers find this release, as the site of a build does."""

    def at(release: str) -> OfRelease:
        runtime = OfRelease(release)

        def site(target: Target, **_: Any) -> Any:
            return nullcontext(stand_in_site(target.at_tensorrt(runtime.tensorrt_version()), runtime))

        for module in (search_run, sweep_run, frontier_run):
            monkeypatch.setattr(module, "open_site", site)
        return runtime

    return at


def job_at(release: str, target: Target, **more: Any) -> Job:
    site = stand_in_site(target.at_tensorrt(release), OfRelease(release))
    job = Job("a", b"given", target, "d.yaml", "d", 0, False, "c", True, 2, conditions=conditions_of(site))
    return replace(job, **more)


@BOTH
def test_a_row_is_trained_by_the_head_that_a_build_there_ships(
    release: str, head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def finetune(weights: Path, *, out: Path, settings: Any, **_: Any) -> Any:
        told.append(settings.head)
        out.mkdir(parents=True)
        (out / "best.pt").write_bytes(b"trained")
        return SimpleNamespace(best=out / "best.pt")

    monkeypatch.setattr(finetune_module, "finetune", finetune)
    job = job_at(release, board(), cache=str(tmp_path / "profiles"))
    RealSteps().finetune(job, Pruned(b"pruned", 2.0, 1))
    site = stand_in_site(job.target.at_tensorrt(release), OfRelease(release))
    build: Any = SimpleNamespace(target=site.target, site=site)
    assert told == [head] == [run_of(build)["head"]]


def test_forms_of_one_model_share_a_training_where_they_ship_one_head() -> None:
    pruned = Pruned(b"pruned", 2.0, 1)
    for release, trainings in (("10.16.0", 1), ("10.3.0", 2)):
        rows = [job_at(release, board(precision)) for precision in ("fp16", "int8-fp16")]
        assert len({_training_key(row, pruned) for row in rows}) == trainings, release
    row = job_at("10.16.0", board())
    assert len({row.key, job_at("10.3.0", board()).key, replace(row, conditions={}).key}) == 3


def test_a_runtime_that_tells_no_release_leaves_the_profile_s_range() -> None:
    site = stand_in_site(board(), StandIn(1.0, 0.1))
    assert target_on(site.target, conditions_of(site)) == site.target
    assert board().possible_heads == ("raw", "auto")
    for keys in ({"device.tensorrt": "==10.3.*"}, {"export.head": "raw"}):
        assert board(**keys).possible_heads == ("raw",)
    assert load_target("cpu").possible_heads == board("fp16").possible_heads == ("auto",)


@BOTH
@pytest.mark.parametrize("jobs", ["here", "ray"])
def test_the_jobs_of_a_sweep_know_the_release(
    release: str,
    head: str,
    jobs: str,
    weights: Path,
    data: Path,
    tmp_path: Path,
    opened: Callable[[str], OfRelease],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime, sent = opened(release), []

    def on_node(target: Target) -> dict[str, str]:
        return conditions_of(stand_in_site(target, runtime))

    def kept(todo: Any, *_: Any, **__: Any) -> Any:
        sent.extend(todo)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_run, "conditions_on_ray", on_node)
    monkeypatch.setattr(sweep_run, "finish_jobs", kept)
    with pytest.raises(KeyboardInterrupt):
        sweep(board(), weights, data, out=tmp_path, budgets=[("speed_up", 1.5)], epochs=1, jobs=jobs)
    assert len(sent) == 2 and {job.head for job in sent} == {head}


@pytest.mark.parametrize(("release", "heads"), [("10.16.0", {"auto"}), ("10.3.0", {"auto", "raw"})])
def test_the_rows_of_a_frontier_ship_what_was_screened(
    release: str, heads: set[str], weights: Path, data: Path, tmp_path: Path, opened: Callable[[str], OfRelease]
) -> None:
    opened(release)
    steps, options = MadeUpSteps(), {"kind": "speed_up", "budgets": [1.8], "epochs": 1, "everything": True}
    FrontierRun(board("fp16"), weights, data, out=tmp_path, steps=steps, screener=made_up_screening, **options).made()
    assert {job.target.precision for job in steps.jobs} == {"fp16", "int8-fp16"}
    assert {job.head for job in steps.jobs} == heads


def test_a_form_that_the_profile_forbids_is_a_row_with_its_reason_and_ends_no_frontier(
    weights: Path, data: Path, tmp_path: Path, opened: Callable[[str], OfRelease]
) -> None:
    """INT8 with NMS inside: 10.16 builds it, but no profile with 10.3 in its range states it."""
    opened("10.16.0")
    steps, options = MadeUpSteps(), {"kind": "speed_up", "budgets": [1.8], "epochs": 1}
    asked, given = board("fp16", **{"export.nms": True}), {"steps": steps, "screener": made_up_screening}
    found = FrontierRun(asked, weights, data, out=tmp_path, **options, **given).made()
    refused = {row.name: row.dropped for row in found.rows if row.form.keys.get("precision") == "int8-fp16"}
    assert refused and all("a device.tensorrt from 10.4 on" in str(why) for why in refused.values())
    assert {job.target.precision for job in steps.jobs} == {"fp16"}


@BOTH
def test_layers_are_timed_and_counted_by_one_head(
    release: str,
    head: str,
    weights: Path,
    data: Path,
    tmp_path: Path,
    opened: Callable[[str], OfRelease],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened(release)
    seen: list[tuple[str, str]] = []

    def layers(model: Any, bench: SiteBench, *, head: str, **_: Any) -> None:
        seen.append((head, bench.conditions["export"]["head"]))

    monkeypatch.setattr(search_run, "profile_layers", layers)
    search_run.profile(board(), weights, data, cache=tmp_path)
    assert seen == [(head, head)]


def test_a_fused_model_is_refused_by_the_release_that_is_there(
    fused: Path, data: Path, tmp_path: Path, opened: Callable[[str], OfRelease], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint.load(fused)
    assert read_inputs(board(), fused, data, trust=False).target.exported_head == "raw", "10.16 would take its own"
    refuse_lacking_head(source, board().at_tensorrt("10.16.0"), known=True)
    with pytest.raises(TargetError, match="export: head raw: the model was fused"):
        read_inputs(board(**{"device.tensorrt": "==10.3.*"}), fused, data, trust=False)
    given: dict[str, Any] = {"out": tmp_path / "out", "epochs": 0}
    opened("10.3.0")
    for refused in (
        lambda: search_run.profile(board(), fused, data, cache=None),
        lambda: sweep(board(), fused, data, budgets=[("speed_up", 1.5)], **given),
        lambda: FrontierRun(board(), fused, data, kind="speed_up", budgets=[1.5], **given).made(),
    ):
        with pytest.raises(TargetError, match="export: head raw: the model was fused"):
            refused()
    assert not (tmp_path / "out").exists()


def test_a_node_of_a_cluster_tells_its_release(monkeypatch: pytest.MonkeyPatch) -> None:
    site = stand_in_site(board(), OfRelease("10.16.0"))
    monkeypatch.setattr("edgeprune.runtimes.site.open_site", lambda target: nullcontext(site))
    assert target_on(board(), jobs_ray._conditions(board())).exported_head == "auto"
