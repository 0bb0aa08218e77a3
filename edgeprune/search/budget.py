"""The search for a plan within a budget at a site: profile, propose, probe, correct. The prune stage and ``search``
share it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from edgeprune.checkpoint import Checkpoint
from edgeprune.dataset import Dataset
from edgeprune.errors import WHAT_MAY_END_IT, OutOfReachError, StageError, TargetError, first_line
from edgeprune.measure.compiling import CompiledFiles
from edgeprune.pruning.batches import Batch, calibration_batches
from edgeprune.pruning.criteria import ranks_by_images, refuse_without_batches
from edgeprune.pruning.plan import Plan
from edgeprune.pruning.pruner import Pruner, Scores, resolve_importance
from edgeprune.records.facts import Diagnosis, ProbeFacts, ProbeLatency
from edgeprune.report.diagnosis import diagnosis_lines
from edgeprune.runtimes.site import Site
from edgeprune.samples.gates import (
    MET_UNPRUNED,
    TOO_NEAR,
    Gate,
    Verdict,
    may_settle_quietly,
    simulated_gate,
    unpruned_gate,
)
from edgeprune.search.bench import SiteBench, timing_bench
from edgeprune.search.diagnosis import Diagnostician
from edgeprune.search.inputs import refuse_untrainable
from edgeprune.search.planner import Planner
from edgeprune.search.prober import Prober, Start
from edgeprune.search.probing import (
    Candidate,
    Probe,
    Reading,
    choose,
    most_further_looks,
    most_repeats,
    run_probes,
)
from edgeprune.search.profile import LayerProfile, profile_layers
from edgeprune.target import Budget
from edgeprune.target.schema import BUDGET_WINDOW

CLEARLY_OVER = 2.0  # times the budget, from which on a share in per cent puzzles
ROUNDING = 1e-9  # of a quotient: 1.15 / 0.01 is a little less than 115
NOT_NEAR = 1.15  # share of the budget from which on a model that was timed elsewhere surely misses it


@dataclass(frozen=True)
class PlanFound:
    """The plan that a search ends with.

    Attributes:
        files: checkpoint, graph and engine of the pruned model.
        plan: the widths that it kept.
        probes: in order; empty when the unpruned model is within the budget already.
        speed_up: measured latency of what the budget speaks of, the unpruned model or a reference, over the pruned
            one's in the probe that was kept; 1.0 without.
        profile: what the cost model was fitted to; None without probes.
        gate: the budget against the samples of the probe that was kept, as a build's gate holds it; INCONCLUSIVE too
            where the search could not tell whether a milder plan would do.
        diagnosis: what the budget costs; None without probes.
    """

    files: CompiledFiles
    plan: Plan
    probes: tuple[ProbeFacts, ...]
    speed_up: float
    profile: LayerProfile | None
    gate: Gate
    diagnosis: Diagnosis | None = None

    @property
    def unpruned(self) -> bool:
        """Whether there was nothing to prune."""
        return not self.probes


@dataclass(frozen=True)
class _Probed:
    """A candidate that was probed, with its number and what was measured the last time."""

    number: int
    attempt: int
    files: CompiledFiles
    plan: Plan
    latency: ProbeLatency
    gate: Gate


class BudgetSearch:
    """One model and everything that its candidates share: dimensions, scores, a place to compile them in.

    Engines of candidates are only timed, by :attr:`timing`; by :attr:`bench` the model is compiled as it is.

    Args:
        site: the target.
        source: the unpruned checkpoint.
        folder: where candidates are made.
        dataset: its training split ranks channels; without it the importance needs no data.
        importance: criterion that ranks channels; the target's when None.
        other_levers: the command that tells what other levers bring for the same budget, as
            :func:`edgeprune.search.inputs.frontier_command` writes it; the search knows copies of what was given. Empty
            where there is none to name.
        to_train: what is found is fine-tuned: a checkpoint that cannot be is refused once something is to be pruned.
    """

    def __init__(
        self,
        site: Site,
        source: Checkpoint,
        folder: Path,
        dataset: Dataset | None = None,
        importance: str | None = None,
        other_levers: str = "edgeprune frontier --help",
        to_train: bool = False,
    ) -> None:
        target = site.target
        self.other_levers, self.to_train = other_levers, to_train
        self.site, self.source, self.folder, self.dataset = site, source, folder, dataset
        self.bench = SiteBench(site, source, dataset)
        self.timing = timing_bench(site, source, dataset)
        self.pruner = Pruner(
            source.model,
            target.imgsz,
            ignore=target.prune.ignore,
            max_ratio=target.prune.max_ratio,
            align=target.channel_alignment,
            min_width=target.prune.min_width,
            head=target.exported_head,
        )
        importance = importance or target.prune.importance
        self._looks = dataset is not None and ranks_by_images(importance)
        images = () if self._looks else None
        self.importance = resolve_importance(importance, images)
        refuse_without_batches(self.importance, images)

    @cached_property
    def batches(self) -> list[Batch] | None:
        """Labelled images that rank channels and blocks; None where the importance looks at none."""
        if self.dataset is None or not self._looks:
            return None
        site, source = self.site, self.source
        site.reporter.progress("reading images for the importance of channels")
        imgsz = site.target.imgsz
        return calibration_batches(self.dataset, source.task, imgsz, seed=site.seed, stride=source.stride)

    @cached_property
    def scores(self) -> Scores:
        """Importance of every channel, asked for where a channel may go."""
        batches = self.batches
        self.site.reporter.progress(f"ranking channels by {self.importance}")
        return self.pruner.scores(
            self.importance, batches=batches, seed=self.site.seed, progress=self.site.reporter.progress
        )

    @property
    def macs_limit(self) -> float:
        """Largest MACs ratio that the widths allow."""
        return self.pruner.macs() / self.pruner.macs(self.pruner.narrowest)

    def prune_by_macs(self, macs_speed_up: float, scores: Scores | None = None) -> tuple[CompiledFiles, Plan]:
        """Prune to a MACs ratio: for a budget of MACs, or at a site that is not usable.

        Args:
            macs_speed_up: the ratio.
            scores: of the channels; those of the importance when None.
        """
        plan = self.pruner.plan(
            macs_speed_up=max(macs_speed_up, 1.0),
            importance=self.importance,
            scores=self.scores if scores is None else scores,
            seed=self.site.seed,
        )
        return self.timing.compile(self.pruner.apply(plan), self.folder / "chosen", _metadata(plan)), plan

    def keep_all(self) -> tuple[CompiledFiles, Plan]:
        """The model as it was given, compiled, and the plan that keeps every channel of it.

        Raises:
            StageError: the plan gives up something: what ships untrained must be what was given.
        """
        files, plan = self.prune_by_macs(1.0, self.pruner.even_scores)
        if plan.params[0] != plan.params[1]:
            raise StageError(
                f"a plan that is to keep every channel has {plan.params[1]} of {plan.params[0]} parameters; "
                "this is a bug of edgeprune"
            )
        return files, plan

    def search(
        self,
        baseline: Path,
        cache: Path | None,
        least_used: float = BUDGET_WINDOW[0],
        unpruned: Path | None = None,
        *,
        start_used: float | None = None,
        diagnose: bool = True,
    ) -> PlanFound:
        """Find the plan that gives up least and meets the latency budget, measured on the target; the best one that may
        meet it where no interval holds it.

        Args:
            baseline: engine that a budget of a ratio speaks of.
            cache: folder of profiles.
            least_used: share of the budget that the plan is to use at least.
            unpruned: engine of the unpruned model, where that is not ``baseline``.
            start_used: share of the budget that the unpruned model takes, where that was measured; it is measured here
                all the same where it is near to the budget.
            diagnose: measure what the budget costs too, where the profile does not say otherwise.

        Raises:
            TargetError: the budget is out of reach; says how far one gets and which layers hold it.
            DataError: ``to_train``, and the checkpoint cannot be trained.
        """
        site, budget = self.site, self.site.target.budget
        diagnose = diagnose and site.target.prune.diagnose
        prober = Prober(site, baseline, self.dataset, unpruned)
        if start_used is not None and start_used > NOT_NEAR:
            start = Start(start_used, start_used)
            prober.unpruned_used = start_used
        else:
            start = prober.start_used()
            if start.used <= BUDGET_WINDOW[1] and start.undecided:
                start = prober.start_used(1)
        if start.used_high <= BUDGET_WINDOW[1]:  # fast enough as it is: a plan that keeps every channel
            files, plan = self.keep_all()
            return PlanFound(files, plan, (), 1.0, None, self._gate(_unpruned_gate(budget, start.gate)))
        if self.to_train:
            refuse_untrainable(self.source)
        self.pruner.refuse_fixed()
        planner = self.planner(cache)
        fit = planner.profile.fit
        site.reporter.note(
            f"cost model: {len(fit.timed)} layers, device step {fit.model.sizes.step}, held-out error "
            f"{fit.median_error:.1%} (median of {len(fit.errors)})"
        )
        probed: dict[Hashable, _Probed] = {}
        max_probes = site.target.prune.max_probes

        def measure(candidate: Candidate, predicted: float, attempt: int) -> Reading:
            number = len(probed) + 1 if attempt == 0 else probed[candidate.key].number
            if attempt == 0:
                most = max(max_probes, number)
                site.reporter.progress(f"probe {number}: exporting and compiling", done=number - 1, total=most)
                plan, model = planner.plan(candidate)
                files = self.timing.compile(model, self.folder / f"probe-{number}", _metadata(plan))
            else:
                plan, files = probed[candidate.key].plan, probed[candidate.key].files
            site.reporter.progress(f"probe {number}: measuring", done=number - 1, total=max(max_probes, number))
            reading, latency, raw = prober.measure(files.required_engine, attempt)
            probed[candidate.key] = _Probed(number, attempt, files, plan, latency, raw)
            again = f"probe {number}, measured again for longer" if attempt else f"probe {number}"
            corrected = "" if latency.drift is None else ", drift-corrected"
            site.reporter.note(
                f"{again}: MACs ×{plan.macs_speed_up:.2f}, {budget.statistic} {latency.baseline_ms:.2f} → "
                f"{latency.candidate_ms:.2f} ms, {share_text(reading.used)} the budget "
                f"({_ends(reading.used_low, reading.used_high)}{corrected}), predicted {share_text(predicted)} it "
                f"({predicted / reading.used - 1:+.1%}){'; ' if reading.unsteady else ''}{reading.unsteady}"
            )
            return reading

        repeats = most_repeats(site.target.measure.retries)
        run = run_probes(
            planner.solve,
            measure,
            start_used=start.used,
            max_probes=max_probes,
            max_repeats=repeats,
            least_used=least_used,
        )
        if run.best is None:
            fastest = probed[run.floor.candidate.key]
            if diagnose:
                self._diagnose(unpruned or baseline, planner.profile, fastest.plan, fastest.latency.speed_up, cache)
            held = ", ".join(planner.slowest_layers(run.floor.candidate))
            self.site.reporter.note(f"the floor of the latency is held by {held}")
            blocks_stay = planner.blocks_stay
            why = _out_of_reach(budget, run.floor, fastest.latency, self.other_levers, blocks_stay)
            raise _refusal(run.probes, why)

        def sure(probe: Probe) -> bool:
            return probe.holds and probed[probe.candidate.key].gate.verdict is Verdict.PASS

        def to_measure_again(probe: Probe) -> bool:
            least = min((one.candidate.loss for one in last if sure(one)), default=math.inf)
            again = probe.holds and not sure(probe) and probed[probe.candidate.key].attempt < repeats
            return again and probe.candidate.loss < least

        # The search reads ms corrected for drift, and a ratio by other bounds than the gate: with more samples of a
        # quiet machine both agree. A plan that turns out to miss, or stays undecided, gives way to the next that holds.
        last, further = list(run.probes), most_further_looks(site.target.measure.retries)
        while (found := [probe for probe in last if to_measure_again(probe)]) and further:
            further -= 1
            probe = min(found, key=lambda probe: probe.candidate.loss)
            attempt = probed[probe.candidate.key].attempt + 1
            last[last.index(probe)] = replace(probe, reading=measure(probe.candidate, probe.predicted, attempt))
        best, milder = choose(last, least_used, sure) if any(map(sure, last)) else choose(last, least_used)
        best = best or min(last, key=lambda probe: probe.reading.used)
        kept = probed[best.candidate.key]
        if best.candidate.exhausted and best.reading.used < least_used:
            site.reporter.note(
                f"the plan removes all that can go and takes {share_text(best.reading.used)} the budget; a milder one "
                f"may do: raise prune.max_probes ({max_probes})"
            )
        for candidate in probed.values():
            if candidate is not kept:
                shutil.rmtree(candidate.files.model.parent)
        probes = tuple(_facts(probe, probed[probe.candidate.key], probe is best) for probe in last)
        gate = self._gate(search_gate(budget, best, kept.gate, milder))
        if gate.verdict is not Verdict.PASS:
            site.reporter.note(f"the search is not sure of the budget; its best plan goes on: {gate.reason}")
        speed_up, diagnosis = kept.latency.speed_up, None
        if diagnose:
            diagnosis = self._diagnose(unpruned or baseline, planner.profile, kept.plan, speed_up, cache)
        return PlanFound(kept.files, kept.plan, probes, speed_up, planner.profile, gate, diagnosis)

    def diagnose(self, baseline: Path, plan: Plan, speed_up: float, cache: Path | None) -> Diagnosis:
        """What a plan costs that an earlier search ended with, measured at ``speed_up``. Nothing rests on it: whatever
        of :data:`~edgeprune.errors.WHAT_MAY_END_IT` ends it, its layer times too, is no reason to lose the plan.

        Args:
            baseline: engine of the unpruned model.
            plan: of the search.
            speed_up: of the plan.
            cache: folder of profiles.
        """
        return self._diagnosed(baseline, self.profile(cache), plan, speed_up, cache)

    def _diagnose(
        self, baseline: Path, profile: LayerProfile, plan: Plan, speed_up: float, cache: Path | None = None
    ) -> Diagnosis | None:
        """The same for a search that ends with this plan, or without one; None where it cannot be told."""
        try:
            return self._diagnosed(baseline, profile, plan, speed_up, cache)
        except WHAT_MAY_END_IT as error:  # the search has its plan; it is not lost for what is said about it
            self.site.reporter.note(f"what the budget costs could not be measured: {first_line(error)}")
            return None

    def _diagnosed(
        self, baseline: Path, profile: LayerProfile, plan: Plan, speed_up: float, cache: Path | None
    ) -> Diagnosis:
        """What a plan costs; told at once, for the search may end without one."""
        folder = self.folder / "diagnosis"
        diagnostician = Diagnostician(self.site, self.source, self.pruner, self.dataset, baseline, folder, cache)
        found = diagnostician.diagnose(profile, plan, speed_up)
        for line in diagnosis_lines(found, self.site.target.budget):
            self.site.reporter.note(line)
        return found

    def _gate(self, gate: Gate) -> Gate:
        return simulated_gate(gate) if self.site.runtime.simulated else gate

    def profile(self, cache: Path | None) -> LayerProfile:
        """Measured layer times of the unpruned model and copies of it, from the cache where they are."""
        return profile_layers(
            self.source.model,
            self.timing,
            imgsz=self.site.target.imgsz,
            align=self.site.target.channel_alignment,
            folder=self.folder / "profile",
            cache=cache,
            seed=self.site.seed,
            head=self.pruner.head,
            progress=self.site.reporter.progress,
        )

    def planner(self, cache: Path | None) -> Planner:
        """The solver, on a profile that is measured if need be."""
        return Planner(
            self.pruner,
            self.scores,
            self.importance,
            self.profile(cache),
            batches=self.batches,
            seed=self.site.seed,
            progress=self.site.reporter.progress,
        )


def search_gate(budget: Budget, best: Probe, raw: Gate, milder: Probe | None = None) -> Gate:
    """The verdict on the probe that a search ends with: what a build's gate says of its samples, and INCONCLUSIVE in
    place of PASS where the search itself is not sure.

    Args:
        budget: that was asked for.
        best: the probe.
        raw: the budget against its samples as they are.
        milder: a plan that removes less and may hold the budget too, which could not be told from one that misses.
    """
    reading, measured = best.reading, raw.reason
    if may_settle_quietly(raw.reason):
        measured = measured.partition("; measure again")[0]
    if budget.kind == "latency_ms":
        low, high = (budget.value * share for share in (reading.used_low, reading.used_high))
        ends = "too few samples for an interval" if math.isinf(high) else f"{low:.4g} to {high:.4g} ms"
        measured += f"; drift-corrected {budget.value * reading.used:.4g} ms ({ends})"
    if raw.verdict is Verdict.PASS and best.holds and milder is None:
        return replace(raw, reason=measured)
    if raw.verdict is not Verdict.PASS:
        return replace(raw, reason=f"{measured}; {_search_again(raw.reason)}")
    if milder is not None:
        why = (
            f"held, with {reading.used:.0%} of the budget used; a plan that removes less may hold it too, at "
            f"{milder.reading.used:.0%} ({_ends(milder.reading.used_low, milder.reading.used_high)})"
        )
    elif reading.unsteady:
        why = reading.unsteady
    elif reading.used_high > BUDGET_WINDOW[1]:
        why = "beside the unpruned model, which ran faster than before, the interval does not hold the budget"
    else:
        why = "it is not faster than the unpruned model beyond the noise"
    return replace(raw, verdict=Verdict.INCONCLUSIVE, reason=f"{measured}: {why}; {_search_again(why)}")


def _search_again(why: str) -> str:
    """What to do about a search that was not sure, by what it says of its last measurement."""
    how = "on a quiet machine, or with more measure.retries"
    if TOO_NEAR in why:
        how = "with another budget"
    elif not may_settle_quietly(why):
        how = "once that is mended"
    return f"search again {how} (another --seed begins a new search)"


def _unpruned_gate(budget: Budget, measured: Gate | None) -> Gate:
    """The row of a budget that the unpruned model meets, as surely as its own samples say."""
    if measured is None:
        return unpruned_gate("search", budget.value)
    met = measured.verdict is Verdict.PASS
    words = MET_UNPRUNED if met else "it may be met without pruning"
    return replace(measured, reason=f"{words}: {measured.reason}")


def share_text(share: float) -> str:
    """How much of a budget a latency takes, before "the budget": per cent while that reads as a share."""
    return f"{share:.1%} of" if share < CLEARLY_OVER else f"{share:.2f} times"


def rounded_down(value: float) -> float:
    """To three digits, at most the value: what can be asked where this much was reached."""
    return -rounded_up(-value)


def rounded_up(value: float) -> float:
    """To three digits, at least the value."""
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 2)
    return math.ceil(value / unit - ROUNDING) * unit


def _ends(low: float, high: float) -> str:
    if not math.isfinite(high):
        return "too few samples for an interval"
    return f"{low:.1%} to {high:.1%}" if high < CLEARLY_OVER else f"{low:.2f} to {high:.2f} times"


def _metadata(plan: Plan) -> dict[str, Any]:
    return {"plan_digest": plan.digest, "shape_signature": plan.result_shapes}


def _facts(probe: Probe, candidate: _Probed, kept: bool) -> ProbeFacts:
    return ProbeFacts(
        macs_ratio=candidate.plan.macs_speed_up,
        parameters=candidate.plan.params[1],
        removed=candidate.plan.removed,
        latency=candidate.latency,
        budget_share=probe.reading.used,
        budget_share_low=probe.reading.used_low,
        budget_share_high=probe.reading.used_high if math.isfinite(probe.reading.used_high) else None,
        predicted_share=probe.predicted,
        uncorrected_share=probe.candidate.share * probe.start_used,
        kept=kept,
    )


def _refusal(probes: Sequence[Probe], why: str) -> TargetError:
    """Of a budget that no probe may hold; after steady measurements alone the same search would end alike."""
    steady = not any(probe.reading.unsteady for probe in probes)
    return OutOfReachError(why) if steady else TargetError(why)


def _out_of_reach(budget: Budget, floor: Probe, latency: ProbeLatency, levers: str, blocks_stay: bool = False) -> str:
    """What was asked, how far one gets, and last what to type next."""
    reading = floor.reading
    faster, told = reading.speed_up_low > 1, math.isfinite(reading.used_high)
    if budget.kind == "latency_ms":
        reached = f"{budget.statistic} {latency.candidate_ms:.2f} ms"
        sure = f"--latency-ms {rounded_up(budget.value * reading.used_high):g} or more" if told else ""
    else:
        reached = f"×{latency.speed_up:.2f}"
        sure = f"--speed-up {rounded_down(budget.value / reading.used_high):g} or less" if told else ""
    noise = "" if faster else ", which is not faster than the unpruned model beyond the noise"
    what = "the floor measured here is" if floor.candidate.exhausted else "the fastest of the probes measured here is"
    # a ratio is to this model at this size: of a smaller one it would be another ratio
    ways = [f"ask for {sure}"] if sure and faster else []
    ways += ["let whole blocks go too, which taylor and fisher price on the images of --data"] if blocks_stay else []
    ways += ["take a smaller scale of the model or a smaller --imgsz"] if budget.kind == "latency_ms" else []
    ways += [f"see what other levers bring: {levers}"] if levers else []
    text = f"the budget {budget} is out of reach for this model: {what} {reached}{noise}"
    return f"{text}; {', or '.join(ways)}" if ways else text
