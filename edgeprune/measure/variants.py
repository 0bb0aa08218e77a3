"""A model as a target would run it under other keys of its profile: compiled, and timed beside the model as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.dataset import Dataset
from edgeprune.errors import TargetError
from edgeprune.measure.latency import latency_settings
from edgeprune.pruning.heads import ships_end_to_end
from edgeprune.runtimes.site import Site
from edgeprune.samples.measurement import Measurement
from edgeprune.target import Target

if TYPE_CHECKING:
    from torch import nn

TIMED_CALIBRATION = {"calibration.images": 16, "calibration.method": "minmax"}


def only_timed(target: Target) -> Target:
    """The target for engines that are only timed: INT8 is calibrated on a few images, since no latency depends on where
    its ranges end."""
    return target.changed(TIMED_CALIBRATION) if target.precision.startswith("int8") else target


def site_with(site: Site, keys: Mapping[str, Any]) -> Site:
    """The same place with other values of some keys of its target's profile; ``TargetError`` where it refuses them."""
    return replace(site, target=site.target.changed(keys)) if keys else site


def other_output(site: Site, there: Site, model: nn.Module) -> str:
    """Why two exports of a model are not held against each other by the time of the model alone, and how all of them
    get one head: other keys give it another one, and the raw one's time leaves out what the end-to-end one computes.
    Empty where they are comparable, as from frame to boxes.

    Args:
        site: with the keys of the profile.
        there: with the other ones.
        model: of one head or two.
    """
    if site.target.budget.scope != "model":
        return ""
    own, other = (ships_end_to_end(model, one.target.exported_head) for one in (site, there))
    if other or not own:
        return ""
    return (
        f"{there.target.head_note(known=site.usable)}, whose time leaves out what the end-to-end one computes besides; "
        "export.head: raw in the profile has every form compared with it"
    )


def require_same_output(site: Site, there: Site, model: nn.Module) -> None:
    """Raise ``TargetError`` for exports that are not comparable; arguments as of :func:`other_output`."""
    if why := other_output(site, there, model):
        raise TargetError(why)


def site_for(site: Site, target: Target) -> Site:
    """The same place with another target, which then knows the release of TensorRT that is there."""
    return replace(site, target=target.at_tensorrt(site.runtime.tensorrt_version()))


def side_by_side(
    site: Site, engines: Sequence[Path], dataset: Dataset | None = None, *, effort: float, trained: bool = True
) -> list[Measurement]:
    """Interleaved latencies in ms of engines whose inputs may differ in size and batch: each takes what it was made
    for. Arguments as in :func:`~edgeprune.measure.latency.latency_settings`."""
    settings = latency_settings(site, dataset, effort=effort, trained=trained)
    own_size = replace(settings, batch=0, imgsz=None)
    return site.runtime.latency(engines, own_size, progress=site.reporter.progress)
