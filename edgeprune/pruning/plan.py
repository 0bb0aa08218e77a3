"""A plan: which channels of which dimension stay. Plain data, diffable JSON, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeprune import serial
from edgeprune.artifact import write_atomically
from edgeprune.errors import DamagedError, DataError
from edgeprune.input_size import Size

SCHEMA = 1
AGAIN = "make a new one with: edgeprune prune WEIGHTS --macs-speed-up 2 --dry-run --save-plan PLAN.json"


@dataclass(frozen=True)
class PlannedDimension:
    """One line of a plan.

    Attributes:
        name: the dimension.
        before: width of the model the plan is for.
        after: width that is kept.
        fixed: why the dimension was left alone, or None.
        kept: for every part that loses channels, the indices that stay, ascending; empty when nothing goes.
    """

    name: str
    before: int
    after: int
    fixed: str | None
    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceDigests:
    """SHA-256 digests of the model that a plan was made for: of its values, and of its shapes.

    ``shapes`` is what :func:`~edgeprune.checkpoint.shape_signature` gives.
    """

    weights: str
    shapes: str


@dataclass(frozen=True)
class PlanSettings:
    """What a plan was asked for; arguments of :class:`~edgeprune.pruning.pruner.Pruner` and its ``plan``.

    Attributes:
        imgsz: of the input that multiply-accumulates are counted for, in pixels: a side, or height and width.
        request: the one request and its value; ``{"widths": "explicit"}`` where widths were given.
        head: which of two heads ships; plans of before this was asked have none and count as ``auto``.
    """

    imgsz: Size
    importance: str
    normalisation: str | None
    scope: str
    seed: int
    align: int
    min_width: int
    ignore: tuple[str, ...]
    max_ratio: Mapping[str, float]
    iterative_steps: int
    request: Mapping[str, int | float | str]
    head: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything needed to prune the same model the same way again.

    Attributes:
        schema: version of this layout.
        versions: of edgeprune, ultralytics, torch and torch-pruning, for the record.
        source: digests of the model it was made for.
        settings: what was asked.
        macs: multiply-accumulates before and after, at ``settings.imgsz``.
        params: parameters before and after.
        result_shapes: shape signature of the pruned model.
        removed: names of whole blocks that are dropped before any width changes.
        dimensions: every dimension of the model, in order of execution.
    """

    schema: int = SCHEMA
    versions: Mapping[str, str]
    source: SourceDigests
    settings: PlanSettings
    macs: tuple[int, int]
    params: tuple[int, int]
    result_shapes: str
    removed: tuple[str, ...] = ()
    dimensions: tuple[PlannedDimension, ...]

    @property
    def widths(self) -> dict[str, int]:
        """Width after pruning by dimension."""
        return {dimension.name: dimension.after for dimension in self.dimensions}

    @property
    def macs_speed_up(self) -> float:
        """Multiply-accumulates before over after."""
        return self.macs[0] / self.macs[1]

    @property
    def digest(self) -> str:
        """SHA-256 over what the plan does to a model; versions and settings do not count."""
        content = {key: value for key, value in serial.to_json(self).items() if key not in ("versions", "settings")}
        return serial.digest_of(content)

    def text(self) -> str:
        """Deterministic JSON with a line a dimension, so that two plans can be compared line by line."""
        data = serial.to_json(self)
        dimensions = data.pop("dimensions")
        head = json.dumps(data, indent=1)[:-2]
        lines = ",\n".join("  " + json.dumps(dimension) for dimension in dimensions)
        return f'{head},\n "dimensions": [\n{lines}\n ]\n}}\n'

    def save(self, path: Path | str) -> None:
        """Write the plan's file, whole or not at all."""
        write_atomically(path, self.text())

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """Read a plan's file; DataError says what is wrong with anything else."""
        try:
            data = serial.read_json_data(Path(path))
        except DamagedError as error:
            raise DamagedError(f"{error}; {AGAIN}") from error
        return plan_from_data(data, path)


def plan_from_data(data: object, where: Path | str) -> Plan:
    """Read a plan from what :func:`edgeprune.serial.to_json` gives for it.

    Args:
        data: dictionaries, lists and plain values.
        where: what the data was read from, named in errors.

    Raises:
        DataError: it is no plan, of another schema, or damaged.
    """
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        seen = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise DataError(f"{where}: not a plan of schema {SCHEMA} (seen: {seen}); {AGAIN}")
    damaged = f"{where}: a damaged plan; {AGAIN}"
    plan = serial.from_json(Plan, data, damaged)
    for name, counts in (("macs", plan.macs), ("params", plan.params)):
        if min(counts) < 1:  # ratios are taken of them
            raise DataError(f"{damaged} ({name}: {list(counts)}, both have to be 1 or more)")
    return plan
