"""``levers: auto`` of a profile: number format and output form of a build, chosen by a screening. No training.

A lower number format that costs next to no accuracy takes part of the budget that pruning, which costs more, then need
not take. Input size and other checkpoints are left to people: what they cost is not told without training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeprune.checkpoint import Checkpoint
from edgeprune.dataset import Dataset
from edgeprune.frontier.choose import loss
from edgeprune.frontier.levers import forms, refused_by
from edgeprune.frontier.output_form import choose_output
from edgeprune.frontier.screening import Screening, screen
from edgeprune.measure.variants import site_with
from edgeprune.quiet import quiet
from edgeprune.records.frontier import Screened
from edgeprune.runtimes.site import Site
from edgeprune.samples.measurement import LEAST_GAIN
from edgeprune.target import Target
from edgeprune.workspace import has_finished_stage

SHARE_OF_FLOOR = 0.5  # of the accuracy that may be lost; the rest is for what is pruned


def choose_precision(
    site: Site,
    source: Checkpoint,
    dataset: Dataset,
    keep: Path,
    screener: Callable[..., Screening] = screen,
    *,
    stated: Target | None = None,
) -> tuple[Target, str]:
    """The site's target with the output form and the number format that its budget in ms is best met in, and why.

    Args:
        site: usable.
        source: the checkpoint that is built.
        dataset: calibrates INT8, and measures what a number format costs.
        keep: folder of finished screenings, in the run directory of the build.
        screener: what times forms without training.
        stated: the target as its profile states it, which is to allow what is chosen; the site's when None.
    """
    with TemporaryDirectory(prefix="edgeprune-levers-", ignore_cleanup_errors=True) as scratch, quiet():
        # another format would leave behind what is finished, and the epochs of its training
        screener = partial(screener, final=True, settled=has_finished_stage(keep.parent))
        output = choose_output(site, source, "model", dataset, Path(scratch) / "outputs", keep, screener)
        site = site_with(site, output.keys)
        asked = [form for form in forms(site.target, "model") if "size" not in form.levers]
        refused = refused_by((stated or site.target).changed(output.keys), asked)
        able = [form for form in asked if form.name not in refused]
        found = screener(site, able, {"model": source}, dataset, Path(scratch) / "forms", keep)
        found = replace(found, refused={**refused, **found.refused})
    best, why = choice(found.screened, site.target)
    said = f"levers auto: {why}{found.refused_text}" + (f". {output.why.rstrip('.')}" if output.measured else "")
    return site.target.changed({**best.form.keys, "levers": "named"}), said


def choice(screened: tuple[Screened, ...], target: Target) -> tuple[Screened, str]:
    """The form to build, and why. Pure.

    Args:
        screened: forms of one model at one size, the named number format first.
        target: its budget is in ms.
    """
    named, budget_ms = screened[0], target.budget.value
    lost = target.accuracy.max_map_drop * SHARE_OF_FLOOR
    if named.ms <= budget_ms:
        return named, f"{target.precision} takes {named.ms:.2f} ms, within the budget as it is"
    cheap = [one for one in screened[1:] if one.speed_up >= LEAST_GAIN and loss(named, one) <= lost]
    if not cheap:
        tried = ", ".join(
            f"{one.form.name} ×{one.speed_up:.2f} for {loss(named, one):.4f} of the accuracy" for one in screened[1:]
        )
        return named, f"{target.precision} stays, no other number format helps ({tried or 'none runs here'})"
    meeting = [one for one in cheap if one.ms <= budget_ms]
    best = min(meeting, key=lambda one: loss(named, one)) if meeting else max(cheap, key=lambda one: one.speed_up)
    text = f"{best.form.name} is ×{best.speed_up:.2f} as fast as {target.precision} for {loss(named, best):.4f} of "
    text += "the accuracy without training"
    if meeting:
        return best, f"{text}; it meets the budget alone, {best.ms:.2f} ms, and nothing is left to prune"
    left, whole = best.ms / budget_ms, named.ms / budget_ms
    return best, f"{text}; what is left to gain by pruning is ×{left:.2f} in place of ×{whole:.2f}"
