"""What a frontier leaves as data: every lever that was looked at for some budgets, and what is recommended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from edgeprune.records.sweep import Point, worst_exit_code
from edgeprune.samples.gates import Gate, Verdict

Keys = Mapping[str, str | int | float | bool | tuple[int, int]]
"""Keys of a profile, with dots between sections, and their values."""
Kind = Literal["latency_ms", "speed_up"]
"""Of a budget."""
Identity = tuple[str, tuple[tuple[str, object], ...]]
"""What tells a form from every other: its checkpoint, and its keys with their values."""


@dataclass(frozen=True)
class Form:
    """A checkpoint as it is, and the keys of a profile under which it runs.

    Attributes:
        name: in words, such as ``int8, 224 px``; ``as it is`` for the baseline; unique.
        weights: name of its checkpoint.
        keys: what differs from the target that was given.
        levers: what was pulled: ``precision``, ``size``, ``checkpoint``, ``output``.
    """

    name: str
    weights: str
    keys: Keys
    levers: tuple[str, ...]

    @property
    def identity(self) -> Identity:
        """By what it is known, whatever it is called."""
        return self.weights, tuple(sorted(self.keys.items()))


@dataclass(frozen=True)
class Screened:
    """A form as it was measured without training, in one interleaved run with the baseline.

    Attributes:
        form: what was measured.
        ms: latency, in the budget's statistic.
        speed_up: latency of the baseline over its own.
        accuracy: on the split that training looks at; None where it was not measured, which is so for a combination.
        parameters: of its checkpoint.
        speed_up_low: lower end of the ratio's interval; None in older files.
        speed_up_high: upper end; None there too, and where too few samples left none.
    """

    form: Form
    ms: float
    speed_up: float
    accuracy: float | None
    parameters: int
    speed_up_low: float | None = None
    speed_up_high: float | None = None


@dataclass(frozen=True)
class Row:
    """One lever, or a combination of levers.

    Attributes:
        name: in words; unique.
        form: what runs, unpruned.
        budget: what it is pruned to, as text; empty where it is not pruned.
        screened_speed_up: of its form, unpruned, in the screening; None where the form does not run here.
        screened_accuracy: of its form without training; None where it was not measured.
        dropped: why the screening leaves it out; empty where it does not.
        point: what was measured of it; None where it was not trained.
        undominated: whether no other row is both faster and more accurate.
        met: budgets, as text, that a search found it to meet without pruning; empty in older files.
        unsure: the same that it may meet without pruning, with why that is not sure; empty in older files.
    """

    name: str
    form: Form
    budget: str
    screened_speed_up: float | None
    screened_accuracy: float | None
    dropped: str = ""
    point: Point | None = None
    undominated: bool = False
    met: tuple[str, ...] = ()
    unsure: Mapping[str, str] = field(default_factory=dict)

    @property
    def measured(self) -> Point | None:
        """Its point, where there is one that did not fail."""
        return self.point if self.point is not None and self.point.failed is None else None


@dataclass(frozen=True)
class Choice:
    """Which row to take for a budget, and which stand beside it.

    Attributes:
        budget: as text.
        best: the row to take; None where no row meets the budget.
        reference: the model as it is; None where it was not measured, or is the row to take.
        second: the most accurate of the others that surely hold the budget.
        unsure: the most accurate of the others that may hold it.
        why: where there is a row, why it is not sure that it holds the budget, empty where it is; else why there is
            none.
        near: whether that is because a steady measurement of the row is within noise of the budget: the next run takes
            such a row as it is.
    """

    budget: str
    best: Row | None
    reference: Row | None = None
    second: Row | None = None
    unsure: Row | None = None
    why: str = ""
    near: bool = False


@dataclass(frozen=True)
class Floor:
    """What the row to take lost against the model as it is, trained for as long, held against what may be lost.

    Attributes:
        own: of the row to take.
        instead: name of another row that may hold the budget and lose no more, where the one to take surely loses
            more; else empty.
    """

    own: Gate
    instead: str = ""

    @property
    def gate(self) -> Gate:
        """Whether a row holds both, the budget and the floor."""
        if not self.instead:
            return self.own
        reason = f"{self.instead} may hold the budget, and lose no more than that ({self.own.reason})"
        return replace(self.own, verdict=Verdict.INCONCLUSIVE, reason=reason)


@dataclass(frozen=True)
class Recommendation:
    """What to take for a budget.

    Attributes:
        budget: as text.
        row: name of the row; None where no row meets the budget.
        sentence: why, in words.
        keys: of a profile that builds it; empty where there is none.
        weights: path of the checkpoint to build: as the row was trained where it is not pruned, as it was given where
            the build prunes and trains it; empty where there is none, and in older files.
        command: the build of it, one item an argument; empty where there is none, and in older files.
        inconclusive: why it is not sure that the row meets the budget; empty where it does.
        floor: what the row lost against the model as it is, trained for as long, held against what the profile allows
            (:attr:`Floor.gate`); None where there is no row, where that is the model as it is, or was not measured, and
            in older files.
    """

    budget: str
    row: str | None
    sentence: str
    keys: Keys
    weights: str = ""
    command: tuple[str, ...] = ()
    inconclusive: str = ""
    floor: Gate | None = None


@dataclass(frozen=True)
class Frontier:
    """All rows, the baseline first.

    Attributes:
        target: the profile, by its name or as a path.
        kind: of the budgets: ``latency_ms`` or ``speed_up``.
        budgets: their values.
        statistic: of a budget in ms.
        metric: name of the accuracy.
        epochs: of every row that was trained; without meaning where ``hours`` is given.
        rows: what was looked at.
        recommendations: one a budget.
        screening_seconds: that the screening took when it ran; None in older files.
        output: which output form every row has, and why; empty for what is no detector, and in older files.
        outputs: the output forms as they were measured, the target's own first; empty where none was.
        split: of the images that accuracy is of, and that rows are recommended by; empty in older files.
        hours: that every row was trained for, where the profile limits time (``finetune.time_h``) and not epochs.
        scope: of every latency: ``model``, or ``end_to_end``; ``model`` in older files.
        schema_version: of the JSON that :mod:`edgeprune.serial` makes of it; 1 in files that say none.
    """

    target: str
    kind: Kind
    budgets: tuple[float, ...]
    statistic: str
    metric: str
    epochs: int
    rows: tuple[Row, ...]
    recommendations: tuple[Recommendation, ...]
    screening_seconds: float | None = None
    output: str = ""
    outputs: tuple[Screened, ...] = ()
    split: str = ""
    hours: float | None = None
    schema_version: Literal[1] = 1
    scope: Literal["model", "end_to_end"] = "model"

    @property
    def exit_code(self) -> int:
        """What the command ends with: 1 where nothing that was measured meets a budget for the accuracy that the
        profile allows to be lost, 5 where that is not sure, and the code of the error where a device or a program left
        a row, or all of them, unmeasured."""
        failed = [row.point.exit_code for row in self.rows if row.point is not None and row.point.failed is not None]
        if any(row.measured is not None for row in self.rows):
            failed = [code for code in failed if code > 2]  # a budget out of reach is an answer
            failed += [1 if one.row is None else 5 if one.inconclusive else 0 for one in self.recommendations]
            failed += [one.floor.verdict.exit_code for one in self.recommendations if one.floor is not None]
        return worst_exit_code(failed)
