"""The verdict table: every gate as people read it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeprune.records.gates import drop_gate, what_ran
from edgeprune.report.table import Table
from edgeprune.report.text import INTERVAL, number_text, shell_line
from edgeprune.samples.gates import NOT_MEASURED, Gate, Verdict
from edgeprune.samples.text import DIGITS, ends_text, signed_text, told_apart

if TYPE_CHECKING:
    from edgeprune.records.build import BuildRecord
    from edgeprune.samples.average_precision import DropInterval

DROP = " drop"
QUIET = "a quiet machine"
CONNECTED = "over a connection to the board, which builds and measures there by itself"
COLUMNS = ("stage", "metric", "value", "limit", "verdict", "reason")
NAMING = 2  # a stage has several gates: what names a row is the stage and the metric
LEAST_EPOCHS = 10  # what is told to who trained for fewer: after less a pruned model is on its way up


def gate_cells(gate: Gate) -> tuple[str, ...]:
    """The cells of one gate as people read them, in the order of :data:`COLUMNS`.

    A drop is shown as the change that it is, as everywhere: + is a gain, - a loss.
    """
    metric, show = gate.metric, lambda value, digits: number_text(value, gate.unit, digits)
    if metric.endswith(DROP):
        metric, show = metric.removesuffix(DROP) + " change", change_text
    return (
        gate.stage,
        metric,
        *told_apart(gate.value, gate.limit, show),
        gate.verdict.value if gate.limit is not None or gate.verdict is not Verdict.PASS else "info",
        gate.reason,
    )


def change_text(drop: float | None, digits: int = DIGITS) -> str:
    """What a loss is as a change, with its sign."""
    return "–" if drop is None else signed_text(-drop, digits)


def gate_text(gate: Gate) -> str:
    """What a gate measured, and its limit where it has one, in a few words."""
    _, metric, value, limit, *_ = gate_cells(gate)
    return f"{metric} {value}" + (f" (limit {limit})" if gate.limit is not None else "")


def verdict_table(gates: Iterable[Gate], next_command: str | None = None, instead: str = "the command below") -> Table:
    """The gates in their order, one a row; ``next_command`` and ``instead`` as in :func:`short_reasons`."""
    return Table.of(COLUMNS, (gate_cells(gate) for gate in short_reasons(gates, next_command, instead)), NAMING)


def short_reasons(gates: Iterable[Gate], next_command: str | None, instead: str) -> list[Gate]:
    """The gates without the command that they wait for in each of their reasons.

    Args:
        gates: rows of the verdict table.
        next_command: what to type where the target's runtime is; it stands once beside the table.
        instead: words that say where, such as ``the command below``.
    """
    if not next_command:
        return list(gates)
    return [replace(gate, reason=gate.reason.replace(next_command, instead)) for gate in gates]


def without_commands(gates: Iterable[Gate]) -> list[Gate]:
    """The gates with nothing of what is typed next in the reasons of those that are PENDING."""
    return [
        replace(gate, reason=gate.reason.partition(NOT_MEASURED)[0].rstrip("; "))
        if gate.verdict is Verdict.PENDING
        else gate
        for gate in gates
    ]


def accuracy_text(record: BuildRecord) -> str:
    """What the accuracy of a build is of: dataset, split, images, and the loss with its interval."""
    engine = record.stages.engine.facts
    found, drop = engine.accuracy.accuracy, engine.accuracy_drop
    chosen = {"test": "no epoch was chosen on it", "val": "it chose the best epoch too"}.get(found.split, "")
    if found.split == "test" and found.chosen_on:
        chosen = f"{found.chosen_on} of them chose the best epoch too"
    chosen = "; ".join(filter(None, (chosen, trained_on_text(record))))
    text = f"Accuracy is that of {found.images} images, split {found.split} of {record.dataset.path}"
    text += f" ({chosen})" if chosen else ""
    if ran := what_ran(record.shipped_target, engine.accuracy):
        text += f", {ran}"
    if drop is None:
        return f"{text}."
    if drop.standard_error is None:
        return f"{text}; it changed by {change_text(drop.drop)}, without an interval: the images {drop.why_unknown}."
    text += f"; it changed by {change_text(drop.drop)}, {INTERVAL} {change_interval_text(drop)}"
    return f"{text}; the gate rests on one end alone, its bound is one-sided."


def trained_on_text(record: BuildRecord) -> str:
    """That images which judge a build were trained on; empty where none was."""
    found = record.stages.engine.facts.accuracy.accuracy
    if not (count := found.trained_on):
        return ""
    return f"{count} of the {found.images} images that judge were trained on, and tell nothing of images that were not"


def change_interval_text(drop: DropInterval) -> str:
    """The change that other images would show, from the worst to the best: both ends of 95 %. The gate rests on the
    worst alone, with 95 % for that one end, and so says a little more."""
    least, most = drop.ends
    return ends_text(-most, -least, digits=DIGITS, signed=True)


def deciding_gates(gates: Iterable[Gate], verdict: Verdict) -> list[Gate]:
    """The gates that made the verdict of a build what it is; none when all passed."""
    return [] if verdict is Verdict.PASS else [gate for gate in gates if gate.verdict is verdict]


def accuracy_warning(record: BuildRecord) -> str:
    """That the accuracy of what waits for its runtime is lost already, and what to do first; empty where it is not, and
    where the images leave it open: only a loss whose whole interval is over the limit counts."""
    facts = record.stages.engine.facts
    waits = any(gate.verdict is Verdict.PENDING and gate.metric.endswith(DROP) for gate in record.gates)
    if not waits or facts.accuracy_drop is None:
        return ""
    gate = drop_gate(record.shipped_target, record.stages.baseline.facts, facts)
    if gate.verdict is not Verdict.FAIL:
        return ""
    prune, less = record.stages.prune.facts, "ask for less"
    if prune.stand_in(record.target.budget):  # no budget changes the planning ratio
        planned = record.target.prune.planning_macs_speed_up
        less = f"prune less (prune.planning_macs_speed_up in the profile, now {planned:g})"
    ways = [] if prune.unpruned else ["train longer (--epochs)", less]
    ways += ["take another precision"] if record.precision.startswith("int8") or not ways else []
    _, metric, value, limit, *_ = gate_cells(gate)
    return (
        f"warning: the exported model already lost more accuracy than allowed ({metric} {value}, limit {limit}): it "
        f"will very likely fail on the device too; {' or '.join(ways)} first"
    )


@dataclass(frozen=True)
class NextStep:
    """What comes after a build.

    Attributes:
        words: under which conditions the command is typed, or what is needed where no command would help.
        command: to type; empty where the one that was given would give the same verdict for ever.
        connected: to type instead where the board can be reached: it does by itself what is carried by hand otherwise.
    """

    words: str
    command: str = ""
    connected: str = ""

    @property
    def said(self) -> tuple[tuple[str, str], ...]:
        """What is told, each sentence with the command behind it; without one where no command would help."""
        if self.connected:
            return (f"Next, {CONNECTED}:", self.connected), ("Or, carried by hand:", self.command)
        return ((f"Next, {self.words}:", self.command),) if self.command else ((f"Next: {self.words}", ""),)


def next_step(record: BuildRecord) -> NextStep | None:
    """What to do about a verdict, from the gates that made it what it is; None when all passed."""
    if record.next_command:
        return NextStep("where the target's runtime is", record.next_command, _connected(record))
    again = shell_line(record.command)
    if record.verdict is Verdict.FAIL:
        gates = deciding_gates(record.gates, record.verdict)
        failed = dict.fromkeys(_remedy(gate, record) for gate in gates)
        finished = "finished stages are taken as they are"
        if record.carried_by:
            finished += ", and what comes out is carried to the board again"
        if any(gate.metric.endswith(DROP) for gate in gates):
            again = _trained_longer(record)
        return NextStep(f"with {' and '.join(failed)} ({finished})", again)
    if record.verdict is Verdict.PENDING:
        return NextStep("where it can be measured", again)
    needs = " and ".join(dict.fromkeys(_need(gate, record) for gate in deciding_gates(record.gates, record.verdict)))
    if needs == QUIET and record.carried_by:  # the build's own command measures nothing without a connection
        return NextStep("once nothing else runs on the board", record.carried_by, _connected(record))
    if needs == QUIET:
        return NextStep(f"on {QUIET} (finished stages are taken as they are)", again)
    if needs == _more_images(record):
        return NextStep(f"with {_levers(record)}{needs}", _trained_longer(record))
    return NextStep(needs) if needs else None


def _connected(record: BuildRecord) -> str:
    """The build's command with a connection to its board; empty where the command to type next has one."""
    device = record.target.device
    carried = device.kind == "jetson" and record.target.runtime == "trtexec" and not device.host
    if not carried or "--device" in (record.next_command or "") or "--device" in record.command:
        return ""
    return shell_line([*record.command, "--device", "user@host"])


def _more_epochs(record: BuildRecord) -> int:
    """Epochs to try next: twice as many, and at least what a recovery takes on small datasets."""
    return max(2 * record.target.finetune.epochs, LEAST_EPOCHS)


def _trained_longer(record: BuildRecord) -> str:
    """The command with more epochs; the same one where nothing was trained."""
    argv = list(record.command)
    if record.stages.prune.facts.unpruned:
        return shell_line(argv)
    if "--epochs" in argv:
        del argv[(place := argv.index("--epochs")) : place + 2]
    return shell_line([*argv, "--epochs", str(_more_epochs(record))])


def _more_images(record: BuildRecord) -> str:
    return f"more images in split {record.stages.engine.facts.accuracy.accuracy.split} of {record.dataset.path}"


def _levers(record: BuildRecord) -> str:
    """What in the command may settle a loss that is near what is allowed; nothing where nothing was trained."""
    allowed = f"a larger --max-map-drop (now {record.target.accuracy.max_map_drop:g})"
    if record.stages.prune.facts.unpruned:
        return f"{allowed}, or "
    return f"{_more_epochs(record)} --epochs instead of {record.target.finetune.epochs}, {allowed}, or "


def _remedy(gate: Gate, record: BuildRecord) -> str:
    """What has to be another in the command, or in what it reads, for a gate that failed to pass."""
    budget, epochs = record.target.budget, record.target.finetune.epochs
    asked = f"--{budget.kind.replace('_', '-')}"
    less = "lower" if budget.kind != "latency_ms" else "larger"
    stand_in = bool(record.stages.prune.facts.stand_in(budget))  # then no budget changes the plan
    planned = f"prune.planning_macs_speed_up in the profile (now {record.target.prune.planning_macs_speed_up:g})"
    if gate.metric.endswith(DROP) and record.stages.prune.facts.unpruned:  # neither trained nor asked for too much
        return f"another precision (now {record.precision}), for accuracy fell too far"
    if gate.metric.endswith(DROP) and stand_in:
        return f"{_more_epochs(record)} --epochs instead of {epochs}, or a lower {planned}, for accuracy fell too far"
    if gate.metric.endswith(DROP):
        trained = f"{_more_epochs(record)} --epochs instead of {epochs}"
        return f"{trained}, or a {less} {asked} (now {budget.value:g}), for accuracy fell too far"
    if stand_in and ("latency" in gate.metric or "speed-up" in gate.metric):
        return f"a larger {planned}, by which this plan was made, or --device, where the search measures"
    if "latency" in gate.metric or "speed-up" in gate.metric:
        return f"a {less} {asked} (now {budget.value:g}), which this plan did not reach, or another search by --seed"
    return "what failed mended"


def _need(gate: Gate, record: BuildRecord) -> str:
    """What would settle a gate that is undecided."""
    if record.device is not None and record.device.simulated:
        return "a real device: a stand-in proves nothing"
    if "latency" in gate.metric or "speed-up" in gate.metric:
        return QUIET
    if gate.metric.endswith(DROP) and record.stages.baseline.facts.reference_accuracy > 0:
        return _more_images(record)
    if gate.metric.endswith(DROP) or "give a trained model" in gate.reason:
        return f"a trained model in place of {record.weights.path}"
    return f"see why in the row '{gate.metric}'"
