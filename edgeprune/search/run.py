"""The public functions of this room: a budget search on its own, and a layer profile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeprune import checkpoint
from edgeprune.artifact import write_atomically
from edgeprune.errors import TargetError
from edgeprune.input_size import Size
from edgeprune.measure.variants import site_for
from edgeprune.options import output_file, refuse_source
from edgeprune.progress import Progress, Reporter, one_run, reporter_of
from edgeprune.pruning.plan import Plan
from edgeprune.quiet import quiet
from edgeprune.records.facts import Diagnosis, ProbeFacts
from edgeprune.runtimes.site import Site, open_site
from edgeprune.samples.gates import Gate
from edgeprune.scratch import scratch
from edgeprune.search.bench import SiteBench, timing_bench
from edgeprune.search.budget import BudgetSearch
from edgeprune.search.inputs import (
    Inputs,
    frontier_command,
    read_inputs,
    refuse_lacking_head,
    refuse_unused_data,
    require_prunable,
)
from edgeprune.search.profile import LayerProfile, profile_layers
from edgeprune.settings import check_seed
from edgeprune.target import Target, load_target, name_to_type

CACHE = Path("runs") / "profiles"


@dataclass(frozen=True)
class SearchResult:
    """What a search gives.

    Attributes:
        checkpoint: pruned, not fine-tuned, stock classes.
        plan: which channels stayed.
        plan_file: the same as JSON.
        speed_up: latency of the unpruned model, or of the reference where there is one, over the pruned one's, measured
            side by side in the probe kept; 1.0 when the unpruned model met the budget.
        probes: every probe, in order.
        importance: what ranked the channels.
        profile: of the unpruned model; None when no probe was needed.
        gate: the budget against the samples of the probe kept, as a build's gate holds it; INCONCLUSIVE too where the
            search could not tell whether a milder plan would do.
        diagnosis: what of the latency pruning can take, and what the budget costs; None when no probe was needed.
    """

    checkpoint: Path
    plan: Plan
    plan_file: Path
    speed_up: float
    probes: tuple[ProbeFacts, ...]
    importance: str
    profile: LayerProfile | None
    gate: Gate
    diagnosis: Diagnosis | None = None


@dataclass(frozen=True)
class Reference:
    """A checkpoint as a target runs it, which a speed-up is a ratio to.

    Attributes:
        weights: the checkpoint.
        target: what runs it.
        start_used: share of the budget that the model to prune takes unpruned, where that was measured beside it.
    """

    weights: Path
    target: Target
    start_used: float | None = None


@scratch()
@one_run()
def search(
    target: str | Path | Target,
    weights: str | Path,
    data: str | Path | None = None,
    *,
    output: str | Path,
    speed_up: float | None = None,
    latency_ms: float | None = None,
    device: str | None = None,
    imgsz: Size | None = None,
    plan_file: str | Path | None = None,
    cache: str | Path | None = CACHE,
    least_used: float | None = None,
    reference: Reference | None = None,
    diagnose: bool = True,
    compiled: str | Path | None = None,
    other_levers: str | None = None,
    seed: int = 0,
    trust: bool = False,
    progress: Progress | Reporter | None = None,
) -> SearchResult:
    """Find the pruning that gives up least and meets a latency budget, measured on the target's runtime.

    Where other work disturbs the measurements so much that none shows the budget held, the best plan is written all the
    same and the result's gate is INCONCLUSIVE, or FAIL where the last one shows that it is not.

    Args:
        target: name of a shipped profile, path of a profile, or a :class:`~edgeprune.target.Target`.
        weights: an Ultralytics checkpoint.
        data: dataset YAML whose training split ranks channels by the loss; without it the importance needs no data.
        output: the pruned checkpoint; its plan is written beside it unless ``plan_file`` says where.
        speed_up: replaces the profile's budget: measured latency ratio.
        latency_ms: replaces the profile's budget: milliseconds of its statistic.
        device: where the target's runtime is: ``user@host[:port]``; the profile's, or this machine, when None.
        imgsz: a side, or height and width, in pixels; see :mod:`edgeprune.input_size` for what holds when None.
        plan_file: the plan as JSON.
        cache: folder of measured profiles; None measures anew.
        least_used: share of the budget that the plan is to use at least; nearer to 1 takes more probes. The profile's
            when None.
        reference: what a speed-up is a ratio to; the model itself, unpruned, when None.
        diagnose: measure what of the latency pruning can take, and what the budget costs.
        compiled: folder of unpruned models as they were compiled by another search; None compiles them anew.
        other_levers: the command that tells what other levers bring, where the budget is out of reach; that of the
            arguments when None, and empty for none.
        seed: of everything drawn.
        trust: load a checkpoint with foreign classes.
        progress: called as the work moves, or a :class:`~edgeprune.progress.Reporter`; nobody by default.

    Raises:
        TargetError: a wrong argument, a place that cannot be written, or a budget out of reach. Nothing was written.
        DataError: weights or dataset are unreadable.
        DeviceError: the target's runtime is not here.
    """
    check_seed(seed)
    output = Path(output)
    plan_file = output.with_suffix(".plan.json") if plan_file is None else Path(plan_file)
    if output.suffix != ".pt":
        raise TargetError(f"-o {output}: the pruned checkpoint is a .pt file")
    if plan_file == output:
        raise TargetError(f"--save-plan {plan_file}: the pruned checkpoint goes there; give the plan (.json) another")
    for file in (output, plan_file):  # hours of measuring would end without a place for what they found
        output_file(file)
        refuse_source(file, weights)
    named = name_to_type(target, "TARGET.yaml")
    target = load_target(target).with_overrides(speed_up=speed_up, latency_ms=latency_ms, device=device)
    if target.budget.kind == "macs_speed_up":
        raise TargetError(
            f"the budget {target.budget} is not one of latency; give --speed-up or --latency-ms, or "
            "without a device: edgeprune prune WEIGHTS --macs-speed-up 2 -o pruned.pt"
        )
    inputs = read_inputs(target, weights, data, trust=trust, imgsz=imgsz)
    source, dataset = inputs.source, inputs.dataset
    require_prunable(inputs.target, source)
    with _open_usable_site(inputs, seed, reporter_of(progress)) as (site, folder):
        if other_levers is None:
            stated = {"imgsz": imgsz, "device": device, "seed": seed or None}
            refused = target.sparsify is not None  # by the frontier, which trains nothing before it prunes
            other_levers = "" if refused else frontier_command(named, weights, data, target.budget, stated, trust)
        budget_search = BudgetSearch(site, source, folder, dataset, other_levers=other_levers)
        kept_compiled = None if compiled is None else Path(compiled)
        baseline = budget_search.bench.compile_source(folder / "baseline", kept_compiled).required_engine
        unpruned = None
        if reference is not None:
            beside = SiteBench(
                site_for(site, reference.target), checkpoint.load(reference.weights, trust=trust), dataset
            )
            unpruned = baseline
            baseline = beside.compile_source(folder / "reference", kept_compiled).required_engine
        share = target.prune.least_used if least_used is None else least_used
        kept = None if cache is None else Path(cache)
        start = None if reference is None else reference.start_used
        chosen = budget_search.search(baseline, kept, share, unpruned, start_used=start, diagnose=diagnose)
        chosen.plan.save(plan_file)
        write_atomically(output, chosen.files.model.read_bytes())
        return SearchResult(
            checkpoint=output,
            plan=chosen.plan,
            plan_file=plan_file,
            speed_up=chosen.speed_up,
            probes=chosen.probes,
            importance=budget_search.importance,
            profile=chosen.profile,
            gate=chosen.gate,
            diagnosis=chosen.diagnosis,
        )


@scratch()
@one_run()
def profile(
    target: str | Path | Target,
    weights: str | Path,
    data: str | Path | None = None,
    *,
    device: str | None = None,
    imgsz: Size | None = None,
    cache: str | Path | None = CACHE,
    seed: int = 0,
    trust: bool = False,
    progress: Progress | Reporter | None = None,
) -> LayerProfile:
    """Where the milliseconds of a model are on a target, measured or from the cache; arguments as :func:`search`."""
    check_seed(seed)
    target = load_target(target).with_overrides(device=device)
    refuse_unused_data(target, data, ranks=False)
    inputs = read_inputs(target, weights, data, trust=trust, imgsz=imgsz)
    with _open_usable_site(inputs, seed, reporter_of(progress)) as (site, folder):
        return profile_layers(
            inputs.source.model,
            timing_bench(site, inputs.source, inputs.dataset),
            imgsz=inputs.size.side,
            align=inputs.target.channel_alignment,
            folder=folder / "profile",
            cache=None if cache is None else Path(cache),
            seed=seed,
            head=site.target.exported_head,
            progress=site.reporter.progress,
        )


@contextmanager
def _open_usable_site(inputs: Inputs, seed: int, reporter: Reporter) -> Iterator[tuple[Site, Path]]:
    """A site that can measure, and a folder for what is compiled there; libraries are quiet meanwhile."""
    with (
        open_site(inputs.target, seed=seed, reporter=reporter) as site,
        TemporaryDirectory(prefix="edgeprune-search-", ignore_cleanup_errors=True) as scratch,
        quiet(),
    ):
        site.require_usable()
        refuse_lacking_head(inputs.source, site.target, known=True)
        site.reporter.note(str(inputs.size))
        yield site, Path(scratch)
