"""A budget search on its own: weights and a target in, a pruned checkpoint and its plan out."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import DeviceError, TargetError
from edgeprune.options import image_side
from edgeprune.search.probing import WINDOW
from edgeprune.stages.base import Context, Reporter, Silent, Weights
from edgeprune.target import Target, load_target
from edgeprune.workspace import Workspace

if TYPE_CHECKING:
    from edgeprune.checkpoint import Checkpoint
    from edgeprune.pruning.plan import Plan
    from edgeprune.search.profile import Profile

CACHE = Path("runs") / "profiles"


@dataclass(frozen=True)
class Found:
    """What a search gives.

    Attributes:
        checkpoint: pruned, not fine-tuned, stock classes.
        plan: which channels stayed.
        plan_file: the same as JSON.
        speed_up: latency of the unpruned model over the pruned one's, measured side by side in the probe kept; 1.0
            when the unpruned model met the budget.
        probes: every probe: predicted, measured, error.
        importance: what ranked the channels.
        profile: of the unpruned model; None when no probe was needed.
    """

    checkpoint: Path
    plan: Plan
    plan_file: Path
    speed_up: float
    probes: list[dict[str, Any]]
    importance: str
    profile: Profile | None

    @property
    def final_error(self) -> float:
        """Predicted over measured latency of the plan that was kept, minus 1, before any probe corrected the model."""
        kept = next((row for row in self.probes if row["kept"]), None)
        return 0.0 if kept is None else kept["margin"] / kept["uncorrected"] - 1


def search(
    weights: str | Path,
    target: str | Path | Target,
    output: str | Path,
    *,
    speed_up: float | None = None,
    latency_ms: float | None = None,
    data: str | Path | None = None,
    imgsz: int | None = None,
    plan_file: str | Path | None = None,
    cache: str | Path | None = CACHE,
    least_used: float = WINDOW[0],
    seed: int = 0,
    trust: bool = False,
    reporter: Reporter | None = None,
) -> Found:
    """Find the pruning that gives up least and meets a latency budget, measured on the target's runtime.

    Args:
        weights: an Ultralytics checkpoint.
        target: name or path of a profile, or a :class:`~edgeprune.target.Target`.
        output: the pruned checkpoint; its plan is written beside it unless ``plan_file`` says where.
        speed_up: replaces the profile's budget: measured latency ratio.
        latency_ms: replaces the profile's budget: milliseconds of its statistic.
        data: dataset YAML whose training split ranks channels by the loss; without it the importance needs no data.
        imgsz: replaces the profile's image side, pixels.
        plan_file: the plan as JSON.
        cache: folder of measured profiles; None measures anew.
        least_used: share of the budget that the plan is to use at least; nearer to 1 takes more probes.
        seed: of everything drawn.
        trust: load a checkpoint with foreign classes.
        reporter: who watches; nobody by default.

    Raises:
        TargetError: a wrong argument, or a budget out of reach. Nothing was written.
        DataError: weights or dataset are unreadable.
        DeviceError: the target's runtime is not here.
    """
    from edgeprune.artifact import write_atomically

    output = Path(output)
    plan_file = output.with_suffix(".plan.json") if plan_file is None else Path(plan_file)
    if output.suffix != ".pt":
        raise TargetError(f"-o {output}: the pruned checkpoint is a .pt file")
    profile = target if isinstance(target, Target) else load_target(target)
    profile = profile.with_overrides(speed_up=speed_up, latency_ms=latency_ms, imgsz=imgsz)
    if profile.budget.kind == "macs_speed_up":
        raise TargetError(
            f"the budget {profile.budget} is not one of latency; give --speed-up or --latency-ms, or use "
            "'edgeprune prune --macs-speed-up'"
        )
    with opened(weights, profile, data=data, seed=seed, trust=trust, reporter=reporter) as (context, source, folder):
        from edgeprune.stages.searching import Workshop

        workshop = Workshop(context, source, folder)
        baseline = workshop.bench.compiled(source.model, folder / "baseline", {})["engine"][1]
        found = workshop.within_budget(baseline, None if cache is None else Path(cache), least_used)
        found.plan.save(plan_file)
        write_atomically(output, found.files["model"][1].read_bytes())
        return Found(output, found.plan, plan_file, found.speed_up, found.probes, workshop.importance, found.profile)


def profile(
    weights: str | Path,
    target: str | Path | Target,
    *,
    imgsz: int | None = None,
    cache: str | Path | None = CACHE,
    seed: int = 0,
    trust: bool = False,
    reporter: Reporter | None = None,
) -> Profile:
    """Where the milliseconds of a model are on a target, measured or from the cache; arguments as :func:`search`."""
    from edgeprune.search.profile import profiled
    from edgeprune.stages.bench import ContextBench

    asked = target if isinstance(target, Target) else load_target(target)
    asked = asked.with_overrides(imgsz=imgsz)
    with opened(weights, asked, data=None, seed=seed, trust=trust, reporter=reporter) as (context, source, folder):
        return profiled(
            source.model,
            ContextBench(context, source),
            imgsz=asked.imgsz,
            align=asked.channel_alignment,
            folder=folder / "profile",
            cache=None if cache is None else Path(cache),
            seed=seed,
            progress=context.reporter.progress,
        )


@contextlib.contextmanager
def opened(
    weights: str | Path,
    target: Target,
    *,
    data: str | Path | None,
    seed: int,
    trust: bool,
    reporter: Reporter | None,
    device: bool = True,
    splits: Sequence[str] = ("train",),
) -> Iterator[tuple[Context, Checkpoint, Path]]:
    """What the stages of a build see, without a run directory: context, checkpoint, and a folder that goes afterwards.

    ``device`` says whether the target's runtime is needed, ``splits`` which ones of ``data`` are.

    Raises:
        TargetError: the image size is no multiple of the model's stride, or INT8 without data.
        DeviceError: the target's runtime is not usable here.
    """
    from edgeprune import checkpoint
    from edgeprune.dataset import Dataset
    from edgeprune.devices import device_of
    from edgeprune.export.quiet import quiet
    from edgeprune.runtimes.site import runtime_on

    source = checkpoint.load(weights, trust=trust)
    image_side(target.imgsz, source.stride, source.task)
    if data is None and target.precision.startswith("int8"):
        raise TargetError(f"precision {target.precision} is calibrated on images: give --data")
    dataset: Any = None
    if data is not None:
        dataset = Dataset.load(data, task=source.task, need=sorted(splits))
        dataset.check_matches(source.names)
    reporter = reporter or Silent()
    with device_of(target.device, reporter.note) as place:
        runs_on, available = runtime_on(place, target)
        if device and not available.ok:
            raise DeviceError(f"{target.runtime} is not usable here: {available.detail}; next: {available.remedy}")
        folder = Path(tempfile.mkdtemp(prefix="edgeprune-search-"))
        try:
            context = Context(
                target=target,
                weights=Weights(source.path, source.sha256, source.task),
                dataset=dataset,
                seed=seed,
                trust=trust,
                workspace=Workspace(folder),
                runtime=runs_on,
                usable=available.ok,
                next_command="",
                reporter=reporter,
                device=place,
            )
            with quiet():
                yield context, source, folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
