"""Energy of one inference, where the board or the GPU tells its power."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgeprune.errors import only_informs
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.site import Site
from edgeprune.samples.gates import Gate, info_gate
from edgeprune.samples.measurement import Measurement
from edgeprune.samples.statistics import Spread, confidence_text, spread_of
from edgeprune.samples.text import ends_text

ENERGY = "energy per inference"
Energies = tuple[Measurement, Measurement]
"""Of the unpruned model and of the candidate, measured in turns."""


def measure_energy(site: Site, settings: BenchSettings, baseline: Path, candidate: Path) -> Energies | None:
    """Energy of an inference of two engines on the target; None where no power is told.

    It only informs: a run that fails is told, and costs nothing that was judged.
    """
    found = None
    with only_informs("warning: the energy of an inference was not measured", site.reporter.note):
        found = site.runtime.energy([baseline, candidate], settings, progress=site.reporter.progress)
    return None if found is None else (found[0], found[1])


def by_role(energies: Energies | None) -> list[tuple[Literal["baseline", "candidate"], Measurement]]:
    """Energies as rows of a record; none where they were not measured."""
    return [] if energies is None else [("baseline", energies[0]), ("candidate", energies[1])]


def energy_gates(stage: str, energies: Energies | None) -> list[Gate]:
    """A row with the millijoules of an inference; none where they were not measured."""
    if energies is None:
        return []
    before, after = (spread_of(energy.values) for energy in energies)
    candidate = energies[1]
    telemetry = candidate.conditions.device.telemetry
    meter = telemetry.source if telemetry is not None else "its meter"
    part = "GPU alone" if meter == "nvidia-smi" else "whole board"
    sure = confidence_text(after.confidence, 1)
    reason = (
        f"{_ends(after)} at {sure} by {len(candidate.values)} runs of seconds, "
        f"unpruned {before.median:.3g} ({_ends(before)}); "
        f"power of the {part} by {meter} while inferences follow one another"
    )
    if candidate.simulated:
        reason = f"simulated: {reason}"
    return [info_gate(stage, ENERGY, after.median, "mJ", reason)]


def _ends(spread: Spread) -> str:
    return ends_text(spread.low, spread.high, "g", 3)
