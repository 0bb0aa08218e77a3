"""Before hours of training: what of a latency pruning can take, what a budget costs, and what else would be faster.

Two more probes tell the shares: the model at its least widths, and that without the blocks that can go. What is left of
the latency then is fixed. Where the budget turns out dear, the levers that the runtime offers are tried on the unpruned
model, which needs no training either.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from edgeprune.checkpoint import Checkpoint
from edgeprune.dataset import Dataset
from edgeprune.errors import WHAT_MAY_END_IT, DataError, first_line
from edgeprune.measure.compiling import PACKAGES
from edgeprune.measure.variants import require_same_output, side_by_side, site_with
from edgeprune.pruning.depth import is_inside, removable_blocks
from edgeprune.pruning.plan import Plan
from edgeprune.pruning.pruner import Pruner
from edgeprune.records.facts import Alternative, Diagnosis
from edgeprune.runtimes.site import Site
from edgeprune.samples.gates import moved_reason
from edgeprune.samples.measurement import Measurement
from edgeprune.samples.statistics import DRIFT_TOLERANCE, value_of
from edgeprune.search.bench import SiteBench, timing_bench
from edgeprune.search.layers import FIXED
from edgeprune.search.profile import LayerProfile, timed_model
from edgeprune.serial import digest_of, read_json, write_json
from edgeprune.target import Target
from edgeprune.target.schema import CAPTURING
from edgeprune.version import versions_of

EFFORT = 0.4  # of a gate's samples: shares and ratios are told in per cent
SCHEMA_VERSION = 4
"""Of what is kept. 2: graphs with NMS inside are simplified too; 3: of models of the same shapes only the one that was
measured, by the packages that make its graphs, and nothing that other work disturbed; 4: what a CUDA graph gains
is held against the engine as it is before and after."""
MORE_IMAGES = 4  # times the target's batch


@dataclass(frozen=True)
class _Known:
    """What depends on no budget, as it is kept beside the layer profiles.

    Attributes:
        schema: :data:`SCHEMA_VERSION`.
        width_share: see :class:`~edgeprune.records.facts.Diagnosis`.
        depth_share: likewise.
        passing: whether a floor could not be compiled, or other work disturbed the times; such shares are told once and
            not kept.
        measured: levers whose gain was measured, for a budget that was dear.
    """

    schema: int
    width_share: float
    depth_share: float
    passing: bool = False
    measured: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class Diagnostician:
    """Measures a diagnosis at a site.

    Attributes:
        site: the target.
        source: the unpruned checkpoint.
        pruner: of it, with the user's constraints.
        dataset: calibrates INT8, and gives the frames of an end-to-end latency.
        baseline: engine of the unpruned model.
        folder: where candidates are compiled; they are removed.
        cache: folder of layer profiles, where what depends on no budget is kept too; None measures it anew.
        disturbed: names of levers that were timed beside other work: their gain is told once and not kept.
    """

    site: Site
    source: Checkpoint
    pruner: Pruner
    dataset: Dataset | None
    baseline: Path
    folder: Path
    cache: Path | None = None
    disturbed: set[str] = field(default_factory=set)

    def diagnose(self, profile: LayerProfile, plan: Plan, speed_up: float) -> Diagnosis:
        """Shares of the latency and the price of a plan, with alternatives where it is dear.

        Args:
            profile: of the unpruned model.
            plan: what the search ends with, or the fastest that it knows.
            speed_up: of the plan, as it was measured.
        """
        file = self._file()
        known = _read(file)
        try:
            if known is None:
                self.site.reporter.progress("diagnosis: the model at its least widths, and without blocks")
                known = self._shares()
            width, depth = known.width_share, known.depth_share
            (macs, macs_left), (parameters, parameters_left) = plan.macs, plan.params
            found = Diagnosis(
                width_share=width,
                depth_share=depth,
                fixed_share=1 - width - depth,
                decoding_share=_decoding_share(profile),
                speed_up=speed_up,
                macs_share=1 - macs_left / macs,
                parameters_share=1 - parameters_left / parameters,
            )
            if found.dear:
                found = replace(found, alternatives=self.alternatives(known.measured))
                sure = [one for one in found.alternatives if one.speed_up is not None]
                known = replace(known, measured=tuple(one for one in sure if one.name not in self.disturbed))
            if file is not None and not known.passing:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, known)
            return found
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self) -> Path | None:
        """Where the shares and the levers of this model at this site are kept: all that they depend on is in its
        name."""
        if self.cache is None:
            return None
        levers: list[Any] = []
        for name, keys, reason in offered_levers(self.site.target):
            try:
                at = dict(self._bench_with(keys).conditions)
            except WHAT_MAY_END_IT as error:
                at = {"refused": first_line(error)}
            levers.append([name, keys, reason, at])
        content = {
            "schema": SCHEMA_VERSION,
            "conditions": dict(timing_bench(self.site, self.source, self.dataset).conditions),
            "model": timed_model(self.pruner),
            "packages": versions_of(PACKAGES),
            "least": self.pruner.narrowest,
            "blocks": _outermost_blocks(self.pruner),
            "levers": levers,
        }
        return self.cache / f"diagnosis-{digest_of(content)[:16]}.json"

    def alternatives(self, known: Sequence[Alternative] = ()) -> tuple[Alternative, ...]:
        """Levers that the runtime offers, each timed on the unpruned model; why not, where one was not.

        Args:
            known: those that were timed before.
        """
        every, before_now = list(offered_levers(self.site.target)), {one.name: one for one in known}
        if offered := [lever for lever in every if lever[0] not in before_now]:
            before_now |= {one.name: one for one in self._measured(offered)}
        return tuple(before_now[name] for name, _, _ in every)

    def _measured(self, offered: Sequence[tuple[str, dict[str, str | int | bool], str]]) -> Iterator[Alternative]:
        engines: dict[str, Path] = {}
        reasons = {name: reason for name, _, reason in offered if reason}
        for number, (name, keys, reason) in enumerate(offered):
            if reason or "measure.cuda_graph" in keys:
                continue
            self.site.reporter.progress(f"diagnosis: {name}", done=number, total=len(offered))
            try:
                bench = self._bench_with(keys)
                engines[name] = bench.compile(self.source.model, self.folder / f"lever-{number}", {}).required_engine
            except WHAT_MAY_END_IT as error:
                reasons[name] = first_line(error)
        times = self._times([self.baseline, *engines.values()])
        before, by_name = _ms(times[0]), dict(zip(engines, map(_ms, times[1:]), strict=True))
        self.disturbed.update(name for name, one in zip(engines, times[1:], strict=True) if moved_reason(times[0], one))
        for name, keys, _ in offered:
            gain = before / by_name[name] if name in by_name else None
            if "measure.cuda_graph" in keys and name not in reasons:
                gain = self._captured_gain(keys, reasons, name, times[0])
            more_images = int(keys.get("batch", self.site.target.batch)) / self.site.target.batch
            yield Alternative(name, keys, None if gain is None else gain * more_images, reasons.get(name, ""))

    def _bench_with(self, keys: Mapping[str, str | int | bool]) -> SiteBench:
        there = site_with(self.site, keys)
        require_same_output(self.site, there, self.source.model)
        return timing_bench(there, self.source, self.dataset)

    def _captured_gain(
        self, keys: dict[str, str | int | bool], reasons: dict[str, str], name: str, before: Measurement
    ) -> float | None:
        """How many times faster the unpruned model's own engine is, captured; None where it cannot be, with the reason.

        Settings hold for a whole run, so that the two are not interleaved: a machine that drifts would pass for a gain.
        It is held against the mean of the engine as it is before and after.

        Args:
            keys, name: of the lever.
            reasons: why a lever was not measured, to add to.
            before: the engine as it is.
        """
        try:
            [captured] = side_by_side(site_with(self.site, keys), [self.baseline], self.dataset, effort=EFFORT)
            if not captured.conditions.cuda_graph:
                reasons[name] = "the engine cannot be captured"
                return None
            [after] = self._times([self.baseline])
        except WHAT_MAY_END_IT as error:
            reasons[name] = first_line(error)
            return None
        level = (_ms(before) + _ms(after)) / 2
        drifted = abs(_ms(before) - _ms(after)) > DRIFT_TOLERANCE * level
        if drifted or any(map(moved_reason, (before, captured, after))):
            self.disturbed.add(name)
        return level / _ms(captured)

    def _shares(self) -> _Known:
        """Shares of the latency that widths can take, and that blocks can take besides."""
        bench = timing_bench(self.site, self.source, self.dataset)
        engines: list[Path] = []
        refused = False
        for number, model in enumerate(_floors(self.pruner)):
            try:
                engines.append(bench.compile(model, self.folder / f"floor-{number}", {}).required_engine)
            except WHAT_MAY_END_IT as error:
                if not engines:
                    raise
                refused = True
                self.site.reporter.note(f"what fewer blocks can take counts as fixed: {first_line(error)}")
        times = self._times([self.baseline, *engines])
        disturbed = any(moved_reason(times[0], one) for one in times[1:])
        before, *floors = map(_ms, times)
        narrow = min(floors[0], before)
        shallow = min(floors[-1], narrow)
        return _Known(SCHEMA_VERSION, 1 - narrow / before, (narrow - shallow) / before, refused or disturbed)

    def _times(self, engines: list[Path]) -> list[Measurement]:
        return side_by_side(self.site, engines, self.dataset, effort=EFFORT, trained=False)


def _read(file: Path | None) -> _Known | None:
    try:
        found = None if file is None else read_json(_Known, file)
    except DataError:
        return None
    return found if found is not None and found.schema == SCHEMA_VERSION else None


def offered_levers(target: Target) -> Iterator[tuple[str, dict[str, str | int | bool], str]]:
    """Name, keys of a profile, and why it cannot be measured (empty where it can), of each lever besides pruning."""
    for precision in target.lower_precisions:
        yield f"precision {precision}", {"precision": precision}, ""
    if target.device.kind != "cpu" and not target.measure.cuda_graph and target.device.dla_core is None:
        captured = target.runtime in CAPTURING
        why = "" if captured else f"edgeprune captures none for {target.runtime}, but for {', '.join(CAPTURING)}"
        yield "CUDA graph", {"measure.cuda_graph": True} if captured else {}, why
    if target.budget.scope == "model":
        images = target.batch * MORE_IMAGES
        why = "the export is dynamic; its batch is chosen when it runs" if target.export.dynamic else ""
        yield f"batch {images}", {"batch": images}, why


def _floors(pruner: Pruner) -> Iterator[nn.Module]:
    """The model at its least widths, then that without every block that can go, where there is one."""
    outermost = _outermost_blocks(pruner)
    for one in (pruner, *([pruner.without(outermost)] if outermost else [])):
        plan = one.plan(widths=one.narrowest, scores=one.even_scores, importance="random")
        yield one.apply(plan, check=False)


def _outermost_blocks(pruner: Pruner) -> list[str]:
    """Names of the blocks that can go, without those that lie in another one."""
    names = [block.name for block in removable_blocks(pruner.original, pruner.constraints)]
    return [name for name in names if not is_inside(name, names)]


def _decoding_share(profile: LayerProfile) -> float | None:
    by_layer = profile.copies[0].layer_ms
    return by_layer.get(FIXED, 0.0) / sum(by_layer.values()) if profile.nodes else None


def _ms(measurement: Measurement) -> float:
    return value_of(measurement.values, "p50")
