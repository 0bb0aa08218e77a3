"""The verdict table: every gate as people read it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeprune.measure.bench import MAX_EFFORT
from edgeprune.records.gates import drop_gate, what_ran
from edgeprune.report.table import Table
from edgeprune.report.text import INTERVAL, number_text, shell_line
from edgeprune.samples.conditions import WHOLE_CORES, may_end_otherwise
from edgeprune.samples.gates import ACCURACY_CONFIDENCE, MORE_SAMPLES, NOT_MEASURED, TOO_NEAR, Gate, Verdict
from edgeprune.samples.telemetry import causes_of, remedy_of
from edgeprune.samples.text import DIGITS, ends_text, signed_text, told_apart
from edgeprune.settings import Measuring

if TYPE_CHECKING:
    from edgeprune.records.build import BuildRecord
    from edgeprune.samples.average_precision import DropInterval

DROP = " drop"
QUIET = "a quiet machine"
AT_RUNTIME = "where the target's runtime is"
WHAT_FAILED = "what failed mended"
CONNECTED = "over a connection to the board, which builds and measures there by itself"
COLUMNS = ("stage", "metric", "value", "limit", "verdict", "reason")
NAMING = 2  # a stage has several gates: what names a row is the stage and the metric
SPEED = ("latency", "speed-up")  # one is in the metric of every gate on a time
UNTIL, EPOCHS, MACS = "--until", "--epochs", "--macs-speed-up"
ROUNDING = 1e-5  # figures of an epoch are written with six digits
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
    less, ways = "ask for less", list[str]()
    if record.stages.prune.facts.stand_in(record.target.budget):  # no budget changes the planning ratio
        planned = record.target.prune.planning_macs_speed_up
        less = f"prune less (prune.planning_macs_speed_up in the profile, now {planned:g})"
    if (longer := _longer(record)) is not None:
        ways += [f"train longer ({longer.setting})", less]
    if _plainer_precision(record):
        ways.append("take another precision")
    _, metric, value, limit, *_ = gate_cells(gate)
    return (
        f"warning: the exported model already lost more accuracy than allowed ({metric} {value}, limit {limit}): it "
        "will very likely fail on the device too" + (f"; {' or '.join(ways)} first" if ways else "")
    )


@dataclass(frozen=True)
class NextStep:
    """What comes after a build.

    Attributes:
        words: under which conditions the command is typed, or what is needed where no command would help.
        command: to type; empty where the one that was given would give the same verdict for ever.
        connected: to type instead where the board can be reached: it does by itself what is carried by hand otherwise.
        later: what to type after it where the target's runtime is, since rows wait for that too.
    """

    words: str
    command: str = ""
    connected: str = ""
    later: str = ""

    @property
    def said(self) -> tuple[tuple[str, str], ...]:
        """What is told, each sentence with the command behind it; without one where no command would help."""
        if self.connected:
            way = ", ".join(filter(None, (self.words, CONNECTED)))
            return (f"Next, {way}:", self.connected), ("Or, carried by hand:", self.command)
        first = (f"Next, {self.words}:", self.command) if self.command else (f"Next: {self.words}", "")
        return (first, (f"Then, {AT_RUNTIME}:", self.later)) if self.later else (first,)


def next_step(record: BuildRecord) -> NextStep | None:
    """What to do about a verdict, from the gates that made it what it is; None when all passed."""
    gates = deciding_gates(record.gates, record.verdict)
    if record.verdict is Verdict.FAIL:  # before what waits: nothing that is measured elsewhere makes it pass
        failed = dict.fromkeys(_remedy(gate, record) for gate in gates)
        words = f"with {' and '.join(failed)} ({_finished(record)})"
        return NextStep(words, _mended(gates, record), later=record.next_command or "")
    if record.next_command:
        connected = _connected(record)
        return NextStep("" if connected else AT_RUNTIME, record.next_command, connected)
    if record.verdict is Verdict.PENDING:
        return NextStep("where it can be measured", shell_line(record.command))
    needs = list(dict.fromkeys(_need(gate, record) for gate in gates))
    if len(needs) != 1:
        return NextStep(" and ".join(need.words for need in needs)) if needs else None
    (need,) = needs
    if need.on_board and record.carried_by:  # the build's own command measures nothing without a connection
        return NextStep(need.on_board, record.carried_by, _connected(record))
    return NextStep(need.when, need.command) if need.command else NextStep(need.words)


def _connected(record: BuildRecord) -> str:
    """The build's command with a connection to its board; empty where the command to type next has one."""
    device = record.target.device
    carried = device.kind == "jetson" and record.target.runtime == "trtexec" and not device.host
    if not carried or "--device" in (record.next_command or "") or "--device" in record.command:
        return ""
    return shell_line([*record.command, "--device", "user@host"])


def _finished(record: BuildRecord) -> str:
    """What the same command costs once more."""
    text = "finished stages are taken as they are"
    return f"{text}, and what comes out is carried to the board again" if record.carried_by else text


def _without(argv: Sequence[str], option: str) -> tuple[str, ...]:
    """A command without an option and its value."""
    if option not in argv:
        return tuple(argv)
    place = argv.index(option)
    return (*argv[:place], *argv[place + 2 :])


def _either(ways: Sequence[str]) -> str:
    return ", or ".join(filter(None, (", ".join(ways[:-1]), ways[-1])))


@dataclass(frozen=True)
class _Longer:
    """How fine-tuning would take longer, by what ended it.

    Attributes:
        by: what is another then, as it stands behind ``with``.
        setting: what to change, with its value where that is no option of the command.
        command: that trains longer, one item an argument; where only the profile can say it, the one that was given.
    """

    by: str
    setting: str
    command: tuple[str, ...]


def _longer(record: BuildRecord) -> _Longer | None:
    """How to train for longer than the build did; None where nothing was trained.

    More epochs alone would train for less where the profile's hours decide, since a number of epochs takes their place,
    and for no longer where a goal, or patience, ended the training before.
    """
    tuned, section, argv = record.stages.finetune, record.target.finetune, record.command
    if tuned is None or record.stages.prune.facts.unpruned:
        return None
    training, ran = tuned.facts.training, tuned.facts.training.epochs_run
    by, settings = list[str](), list[str]()
    if (goal := tuned.facts.goal) is not None and _reached_goal(record):
        said = UNTIL in argv
        argv = _without(argv, UNTIL)
        key = f"no {UNTIL}" if said else "finetune.until: null in the profile"
        other = "a smaller one" if said else f"a smaller {UNTIL}"
        by.append(f"{key} (now {goal.max_drop:g}, at which training ended after {ran} epochs), or {other}")
        settings.append(f"without {UNTIL if said else 'finetune.until in the profile'}, now {goal.max_drop:g}")
    elif 0 < section.patience <= ran - training.best_epoch and (section.time_h is not None or ran < section.epochs):
        by.append(
            f"a larger finetune.patience in the profile (now {section.patience}, by which training ended after {ran} "
            "epochs)"
        )
        settings.append(f"finetune.patience in the profile, now {section.patience}")
    elif section.time_h is not None:
        by.append(f"a larger finetune.time_h in the profile (now {section.time_h:g})")
        settings.append(f"finetune.time_h in the profile, now {section.time_h:g}")
    if section.time_h is None and (not by or ran >= section.epochs):
        epochs = max(2 * max(section.epochs, ran), LEAST_EPOCHS)
        by.insert(0, f"{epochs} {EPOCHS} instead of {section.epochs}")
        settings.insert(0, EPOCHS)
        argv = (*_without(argv, EPOCHS), EPOCHS, str(epochs))
    return _Longer(" and ".join(by), " and ".join(settings), tuple(argv))


def _reached_goal(record: BuildRecord) -> bool:
    """Whether the last epoch was as accurate as the goal at which fine-tuning was to end."""
    tuned = record.stages.finetune
    if tuned is None or (goal := tuned.facts.goal) is None or not (epochs := tuned.facts.training.epochs):
        return False
    figure = epochs[-1].figures.get(record.stages.engine.facts.accuracy.accuracy.fitness_key)
    return figure is not None and goal.baseline - figure <= goal.max_drop - goal.margin + ROUNDING


def _mended(gates: Iterable[Gate], record: BuildRecord) -> str:
    """The command with what :func:`_remedy` says in it, as far as that is no choice."""
    argv = record.command
    for gate in gates:
        if gate.metric.endswith(DROP) and (longer := _longer(record)) is not None:
            argv = longer.command
    if any(_is_of_macs(gate, record) for gate in gates):
        argv = _without(argv, MACS)
    return shell_line(argv)


def _is_of_macs(gate: Gate, record: BuildRecord) -> bool:
    """Whether a gate holds the latency of a model whose budget asks for fewer MACs: no slower than the unpruned one."""
    asked = record.target.budget.kind == "macs_speed_up"
    return asked and any(word in gate.metric for word in SPEED) and not gate.metric.startswith("MACs")


def _plainer_precision(record: BuildRecord) -> str:
    """Another number format, where the one that ships may be what costs accuracy: INT8, and every one below FP32 where
    nothing else was done to the model; empty where it is not."""
    changed = not record.stages.prune.facts.unpruned
    if record.precision == "fp32" or (changed and not record.precision.startswith("int8")):
        return ""
    named = "" if record.levers is None else ", with levers: named"
    return f"another precision in the profile (now {record.precision}){named}"


def _more_images(record: BuildRecord) -> str:
    return f"more images in split {record.stages.engine.facts.accuracy.accuracy.split} of {record.dataset.path}"


def _planned(record: BuildRecord) -> str:
    return f"prune.planning_macs_speed_up in the profile (now {record.target.prune.planning_macs_speed_up:g})"


def _asked(record: BuildRecord, how: str) -> str:
    """Another budget than the one that was asked for, such as ``a lower --speed-up (now 2)``."""
    budget = record.target.budget
    return f"{how} --{budget.kind.replace('_', '-')} (now {budget.value:g})"


def _measured_budget(record: BuildRecord, seen: str) -> str:
    """A budget of latency, where one of MACs gave a model that is no faster; ``seen``: what the gate says of that."""
    where = ", with --device, where the search measures," if record.carried_by else ""
    return (
        f"a measured budget (--speed-up or --latency-ms){where} in place of ×{record.target.budget.value:g} fewer "
        f"MACs, which are {seen} on this target"
    )


def _remedy(gate: Gate, record: BuildRecord) -> str:
    """What has to be another in the command, or in what it reads, for a gate that failed to pass."""
    budget = record.target.budget
    less = _asked(record, "a lower" if budget.kind != "latency_ms" else "a larger")
    stand_in = bool(record.stages.prune.facts.stand_in(budget))  # then no budget changes the plan
    if gate.metric.endswith(DROP):
        longer, precision = _longer(record), _plainer_precision(record)
        trained = [] if longer is None else [longer.by, f"a lower {_planned(record)}" if stand_in else less]
        ways = [*trained, *filter(None, [precision])]
        return f"{_either(ways)}, for accuracy fell too far" if ways else WHAT_FAILED
    if not any(word in gate.metric for word in SPEED):
        return WHAT_FAILED
    if record.device is not None and record.device.simulated:
        return "a real device, for a stand-in proves nothing"
    if _is_of_macs(gate, record):
        return _measured_budget(record, "not faster")
    if stand_in:
        return f"a larger {_planned(record)}, by which this plan was made, or --device, where the search measures"
    if budget.kind == "macs_speed_up":  # MACs are counted: no search would find others
        return f"{less}, which this plan did not reach"
    return f"{less}, which this plan did not reach, or another search by --seed"


@dataclass(frozen=True)
class _Need:
    """What would settle a gate that is undecided.

    Attributes:
        words: as it stands beside what settles other gates, or where no command would help.
        command: that settles it; empty where none does.
        when: under which conditions the command is typed.
        on_board: the same where the results were carried from a board, and only have to be measured there once more;
            empty where the build has to be another.
    """

    words: str
    command: str = ""
    when: str = ""
    on_board: str = ""


def _need(gate: Gate, record: BuildRecord) -> _Need:
    """What would settle a gate that is undecided; what is told agrees with the reason in its row."""
    if record.device is not None and record.device.simulated:
        return _Need("a real device: a stand-in proves nothing")
    if any(word in gate.metric for word in SPEED):
        return _latency_need(gate, record)
    if gate.metric.endswith(DROP) and record.stages.baseline.facts.reference_accuracy > 0:
        return _accuracy_need(gate, record)
    if gate.metric.endswith(DROP) or "give a trained model" in gate.reason:
        return _Need(f"a trained model in place of {record.weights.path}")
    return _Need(f"see why in the row '{gate.metric}'")


def _latency_need(gate: Gate, record: BuildRecord) -> _Need:
    """The same of a gate on latency. A quiet machine is the answer only where nothing else is known to have disturbed
    the run: a quota stops the next one as often, a hot board throttles again, and what lies on its limit stays there.
    """
    again, finished = shell_line(record.command), _finished(record)
    if not may_end_otherwise(gate.reason):
        words = f"{WHOLE_CORES}, and measure again"
        return _Need(words, again, f"{words} ({finished})")
    both = "speed-up" in gate.metric
    judged = [
        row.measurement for row in record.latencies if row.stage == gate.stage and (both or row.role != "baseline")
    ]
    remedy = remedy_of(causes_of([measurement.conditions.device for measurement in judged]))
    if remedy and remedy in gate.reason:
        words = f"as the row '{gate.metric}' says of the device, {remedy}"
        return _Need(words, again, f"{words} ({finished})", words)
    if TOO_NEAR in gate.reason:
        return _limit_need(gate, record)
    if MORE_SAMPLES in gate.reason and (setting := _more_samples(record)):
        words = f"more samples ({setting} in the profile)"
        return _Need(words, again, f"with {words}, or on {QUIET} ({finished})")
    return _Need(QUIET, again, f"on {QUIET} ({finished})", "once nothing else runs on the board")


def _more_samples(record: BuildRecord) -> str:
    """The setting that has more samples taken, as far as there is one. Those of trtexec tell more by more processes
    alone, of which another look has more, and a board that is visited once only in whole steps of rounds."""
    rounds, usual = record.target.measure.rounds, Measuring().rounds
    if record.carried_by:
        more = max(2, rounds // usual + 1) * usual
        return f"measure.rounds: {more}" if more <= MAX_EFFORT * usual else ""
    if record.target.runtime == "trtexec":
        return "measure.retries" if 2**record.target.measure.retries < MAX_EFFORT else ""
    return "measure.rounds or measure.retries"


def _limit_need(gate: Gate, record: BuildRecord) -> _Need:
    """The same where a latency lies so near to its limit that no number of samples tells on which side."""
    why = "for no number of samples tells this plan from it"
    if _is_of_macs(gate, record):
        words = _measured_budget(record, "not clearly faster")
    elif record.stages.prune.facts.stand_in(record.target.budget):
        words = f"a larger {_planned(record)}, by which this plan was made, or {_asked(record, 'another')}, {why}"
    else:
        words = f"{_asked(record, 'another')}, {why}, or another search by --seed"
    return _Need(words, _mended([gate], record), f"with {words} ({_finished(record)})")


def _accuracy_need(gate: Gate, record: BuildRecord) -> _Need:
    """The same of a loss of accuracy: whether its interval holds what is allowed, or its images give none."""
    drop, images, longer = record.stages.engine.facts.accuracy_drop, _more_images(record), _longer(record)
    if drop is not None and drop.standard_error is None:  # no training and no limit makes an interval of these
        return _Need(images)
    allowed = f"a larger --max-map-drop (now {record.target.accuracy.max_map_drop:g})"
    ways = [] if longer is None else [longer.by]
    ways += [*filter(None, [_plainer_precision(record)]), allowed]
    limit = gate.limit
    if drop is None or limit is None or drop.images_to_settle(limit, ACCURACY_CONFIDENCE) is not None:
        ways.append(images)
    command = shell_line(record.command if longer is None else longer.command)
    return _Need(ways[-1], command, f"with {_either(ways)}")
