"""Rows of the verdict table as people read them."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgeprune.cli.console import print_next_step, print_verdict
from edgeprune.export.result import PrecisionInfo
from edgeprune.records.build import BuildRecord, DeviceRow
from edgeprune.records.facts import (
    BaselineFacts,
    Change,
    FallbackFacts,
    PrecisionChoice,
    QatFacts,
    QuantizeFacts,
    TrainedInt8,
)
from edgeprune.records.gates import agreement_gate, drop_gate, macs_gate
from edgeprune.report.build import build_markdown, build_page
from edgeprune.report.notebook import build_html
from edgeprune.report.verdict import _need, accuracy_text, accuracy_warning, gate_cells, gate_text
from edgeprune.samples.average_precision import DropInterval
from edgeprune.samples.conditions import Conditions, CoreState, DeviceState
from edgeprune.samples.gates import Gate, Verdict, accuracy_gate, budget_gate, pending_gate, simulated_gate
from edgeprune.settings import AccuracyGoal, Finetuning
from edgeprune.stages.bundle_readme import readme
from edgeprune.target import Budget, load_target
from edgeprune.target.schema import Precision
from edgeprune.training.result import Epoch
from tests.records.sample import CONDITIONS, PARITY, accuracy, build_record, row, samples

ROOT = Path(__file__).parents[2]
AGAIN = "edgeprune build --weights 'a b.pt'"  # the command of the record
UNSTEADY = Gate("engine", "latency p95", 9.0, 10.0, "ms", Verdict.INCONCLUSIVE, "it drifts")
SLOWER = Gate("engine", "end-to-end speed-up", 1.0, 1.5, "×", Verdict.INCONCLUSIVE, "it drifts")
FEW_IMAGES = accuracy_gate("engine", 0.55, 0.54, 0.02, interval=DropInterval(0.01, None, 8, 0), split="val")
LOST_GATE = Gate("engine", "mAP50-95 drop", 0.0, 0.0, "", Verdict.FAIL, "")
FINDS_NOTHING = agreement_gate("engine", replace(PARITY, detections_reference=0))


def test_a_gain_and_a_loss_read_as_what_they_are() -> None:
    gained, lost = accuracy_gate("engine", 0.5646, 0.5712, 0.03), accuracy_gate("engine", 0.5646, 0.4550, 0.03)
    assert gate_cells(gained)[1:5] == ("mAP50-95 change", "+0.0066", "-0.0300", "PASS")
    assert gate_text(lost) == "mAP50-95 change -0.1096 (limit -0.0300)"
    waiting = pending_gate("engine", "mAP50-95 drop", 0.02, "mAP50-95", "run-on-device.sh")
    assert gate_text(waiting) == "mAP50-95 change – (limit -0.0200)"


def test_a_stand_in_budget_is_announced_in_the_rows_of_the_gates(capsys: pytest.CaptureFixture[str]) -> None:
    record = build_record("PENDING")
    pruned = replace(record.stages.prune.facts, probes=(), macs=Change(2_000, 1_000))
    words = pruned.stand_in(Budget(latency_ms=4.0))
    price = "×2.00 fewer MACs, which costs 60% of the parameters"
    assert words == f"pruned to the planning ratio, {price}, whatever 4 ms means on the device"
    assert macs_gate(pruned, 2.0).reason.endswith(price)  # nothing else says what such a budget costs
    assert words.replace("4 ms", "20 ms") in (ROOT / "docs" / "jetson.md").read_text()
    command = "run-on-device.sh"
    gate = pending_gate("prune", "latency p95", 4.0, "ms", command, but=words)
    waiting = replace(record, gates=(gate,), next_command=command)
    print_verdict(waiting)
    shown = " ".join(capsys.readouterr().out.split())
    assert words in shown and command not in shown
    for text in (build_markdown(waiting), build_page(waiting), readme(waiting, Path("model.onnx"))):
        assert words in text and text.count(command) == 1
    assert words in build_page(waiting).partition("</header>")[0]  # in the banner too, without the command


def test_what_was_searched_or_asked_in_macs_stands_in_for_nothing() -> None:
    searched = build_record().stages.prune.facts
    assert searched.stand_in(Budget(speed_up=1.5)) == ""
    assert replace(searched, probes=()).stand_in(Budget(macs_speed_up=2.0)) == ""
    met_unpruned = replace(searched, probes=(), macs=Change(1_000, 1_000))
    assert met_unpruned.stand_in(Budget(latency_ms=50.0)) == ""


def undecided(*gates: Gate) -> BuildRecord:
    return replace(build_record("INCONCLUSIVE"), gates=gates)


def next_words(record: BuildRecord, capsys: pytest.CaptureFixture[str]) -> str:
    """What a terminal says last; the page says the same in its banner."""
    print_verdict(record)
    assert "\nnext" not in capsys.readouterr().out
    print_next_step(record)
    shown = capsys.readouterr().out
    banner = build_page(record).partition("</header>")[0]
    assert shown.count("next") == banner.count("<p>Next") == 1
    assert (AGAIN in shown) == ("<span>edgeprune</span> <span>build</span>" in banner)
    for text in (build_markdown(record), build_html(SimpleNamespace(record=record))):  # so do the report and a notebook
        assert text.count("Next") == 1
    return " ".join(shown.split())


@pytest.mark.parametrize("gates", [(UNSTEADY,), (SLOWER,), (UNSTEADY, SLOWER)])
def test_what_the_same_command_may_settle_ends_with_that_command(
    gates: tuple[Gate, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    words = next_words(undecided(*gates), capsys)
    assert words.startswith("next, on a quiet machine") and words.endswith(AGAIN)


def test_what_the_same_command_can_never_settle_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    model, images = "a trained model in place of a b.pt", "more images in split val of data.yaml"
    assert next_words(undecided(FINDS_NOTHING), capsys) == f"next: {model}"
    assert next_words(undecided(UNSTEADY, FEW_IMAGES), capsys) == f"next: a quiet machine and {images}"
    record = undecided(accuracy_gate("engine", 0.0, 0.0, 0.02))
    nothing = replace(
        record.stages.baseline, facts=BaselineFacts(accuracy(0.0), None, 3_000_000, "s", 12_000_000, None)
    )
    record = replace(record, stages=replace(record.stages, baseline=nothing))
    assert next_words(record, capsys) == f"next: {model}"
    crashed = Gate("export", "NVIDIA's parser", None, 0.0, "errors", Verdict.INCONCLUSIVE, "gave no answer: it crashed")
    assert next_words(undecided(crashed), capsys) == "next: see why in the row 'NVIDIA's parser'"
    passed = simulated_gate(replace(UNSTEADY, verdict=Verdict.PASS))
    record = replace(undecided(passed), device=DeviceRow("fake:orin", True, {}, record.host))
    assert next_words(record, capsys) == "next: a real device: a stand-in proves nothing"
    too_slow = replace(record, gates=(replace(UNSTEADY, verdict=Verdict.FAIL),), verdict=Verdict.FAIL)
    assert next_words(too_slow, capsys).startswith("next, with a real device, for a stand-in proves nothing")


def test_a_loss_near_what_is_allowed_is_settled_by_training_by_the_limit_or_by_images(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = undecided(accuracy_gate("engine", 0.55, 0.54, 0.02, interval=DropInterval(0.01, 0.02, 87, 0), split="val"))
    trained, limit = record.target.finetune.epochs, record.target.accuracy.max_map_drop
    words = next_words(record, capsys)
    assert words.startswith(
        f"next, with {2 * trained} --epochs instead of {trained}, a larger --max-map-drop (now {limit:g}), or more "
        "images in split val of data.yaml:"
    )
    assert words.endswith(f"{AGAIN} --epochs {2 * trained}"), "not the very command that gave this verdict"
    prune = record.stages.prune
    unpruned = replace(prune, facts=replace(prune.facts, unpruned=True))
    words = next_words(replace(record, stages=replace(record.stages, prune=unpruned)), capsys)
    assert words.startswith("next, with a larger --max-map-drop") and "--epochs" not in words.partition(AGAIN)[0]


def with_drop(record: BuildRecord, drop: DropInterval | None) -> BuildRecord:
    """The record of a build whose artifact lost this much."""
    engine = record.stages.engine
    engine = replace(engine, facts=replace(engine.facts, accuracy_drop=drop))
    return replace(record, stages=replace(record.stages, engine=engine))


@pytest.mark.parametrize(
    ("drop", "split_tells", "trains"),
    [(DropInterval(0.01, None, 8, 0), True, False), (DropInterval(0.02, 0.01, 100, 0), False, True)],
    ids=["too few images", "the loss is the limit"],
)
def test_what_would_settle_a_loss_is_what_its_row_says(
    drop: DropInterval, split_tells: bool, trains: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    record = with_drop(build_record("INCONCLUSIVE"), drop)
    gate = accuracy_gate("engine", 0.55, 0.55 - drop.drop, 0.02, interval=drop, split="val")
    gate = replace(gate, limit=drop.drop if trains else 0.02)
    words = next_words(replace(record, gates=(gate,)), capsys)
    assert ("more images in split val" in words) == split_tells
    assert (AGAIN in words) == ("--epochs" in words) == ("--max-map-drop" in words) == trains


HOT = replace(CONDITIONS, device=DeviceState(throttled=True, throttled_why="cpu-throttle was at work"))
STARVED = replace(CONDITIONS, device=DeviceState(throttled=True, throttled_why="oc1_event_cnt rose by 7"))
STOPPED = replace(
    CONDITIONS, core=CoreState(share=0.5, contended=True, cpu_ms=(5.0,) * 300, others=0.0, quota=0.5, stopped=0.49)
)
BUSY = replace(CONDITIONS, core=CoreState(share=0.5, contended=True, cpu_ms=(10.0,) * 300, others=0.5))
AS_SAYS = "as the row '{}' says of the device, give it a {} or a lower power mode, and measure again"
CORES = "give the container whole cores (--cpuset-cpus), not a quota of processor time (--cpus), and measure again ("
ON_LIMIT = "for no number of samples tells this plan from it, or another search by --seed ("
MORE = "with more samples (measure.rounds or measure.retries in the profile), or on a quiet machine ("
FEWER = "with a measured budget (--speed-up or --latency-ms) in place of ×2 fewer MACs, which are not {}faster on this "
RATIO, MACS, MS = Budget(speed_up=1.5), Budget(macs_speed_up=2.0), Budget(latency_ms=11, statistic="p50")
OPEN_LATENCIES: dict[str, tuple[Budget, float, Conditions, str]] = {
    "heat": (RATIO, 12.0, HOT, AS_SAYS.format("speed-up", "fan")),
    "heat, in ms": (MS, 10.9, HOT, AS_SAYS.format("latency p50", "fan")),
    "supply": (RATIO, 12.0, STARVED, AS_SAYS.format("speed-up", "stronger supply")),
    "heat, of MACs": (MACS, 22.0, HOT, AS_SAYS.format("speed-up", "fan")),
    "quota": (RATIO, 12.8, STOPPED, CORES),
    "quota, in ms": (MS, 12.8, STOPPED, CORES),
    "other work": (RATIO, 13.3, BUSY, "on a quiet machine ("),
    "on the limit": (RATIO, 13.3, CONDITIONS, f"with another --speed-up (now 1.5), {ON_LIMIT}"),
    "on the limit, in ms": (MS, 11.0, CONDITIONS, f"with another --latency-ms (now 11), {ON_LIMIT}"),
    "on the limit, of MACs": (MACS, 19.95, CONDITIONS, FEWER.format("clearly ")),
    "few samples": (RATIO, 13.13, CONDITIONS, MORE),
    "few samples, in ms": (MS, 10.86, CONDITIONS, MORE),
}


def timed(budget: Budget, candidate_ms: float, conditions: Conditions = CONDITIONS) -> BuildRecord:
    """The record of a build whose engine was timed beside an unpruned one of 20 ms, judged by the gate itself."""
    generator, record = np.random.default_rng(0), build_record()
    target = record.target.model_copy(update={"budget": budget})
    before = samples("baseline", 20.0, generator, conditions)
    after = samples("candidate", candidate_ms, generator, conditions)
    gate = budget_gate(target, "engine", before.measurement, after.measurement)
    return replace(record, target=target, measurements=(before, after), gates=(gate,), verdict=gate.verdict)


@pytest.mark.parametrize(("budget", "level", "conditions", "words"), OPEN_LATENCIES.values(), ids=OPEN_LATENCIES)
def test_what_would_settle_a_latency_is_what_its_row_says(
    budget: Budget, level: float, conditions: Conditions, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = timed(budget, level, conditions)
    assert record.verdict is Verdict.INCONCLUSIVE, record.gates
    told = next_words(record, capsys)
    assert told.startswith(f"next, {words}") and told.endswith(AGAIN)
    assert ("quiet" in told) == ("quiet" in record.gates[0].reason or "more samples would" in record.gates[0].reason)


def test_fewer_macs_that_are_no_faster_ask_for_a_measured_budget(capsys: pytest.CaptureFixture[str]) -> None:
    record = timed(MACS, 22.0)
    assert record.verdict is Verdict.FAIL
    record = replace(record, command=(*record.command, "--macs-speed-up", "2", "--seed", "1"))
    told = next_words(record, capsys)
    assert told.startswith(f"next, {FEWER.format('')}target (finished stages")
    assert told.endswith(f"{AGAIN} --seed 1"), "two budgets in one command are refused"
    counted = replace(record, gates=(replace(record.gates[0], stage="prune", metric="MACs speed-up"),))
    assert "with a lower --macs-speed-up (now 2), which this plan did not reach (" in next_words(counted, capsys)


def test_a_plan_by_a_stand_in_on_its_limit_is_moved_by_what_made_it(capsys: pytest.CaptureFixture[str]) -> None:
    record = timed(RATIO, 13.3)
    prune = replace(record.stages.prune, facts=replace(record.stages.prune.facts, probes=()))
    told = next_words(replace(record, stages=replace(record.stages, prune=prune)), capsys)
    assert "with a larger prune.planning_macs_speed_up in the profile (now 2), by which this plan was made, or" in told
    assert "or another --speed-up (now 1.5), for no number of samples tells" in told


def test_what_was_undecided_on_its_board_is_carried_there_only_where_measuring_again_may_settle_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def told(record: BuildRecord) -> str:
        record = replace(record, carried_by="scp -r there", device=None)
        target = load_target("jetson-orin-nano").model_copy(update={"budget": record.target.budget})
        print_next_step(replace(record, target=target))
        return " ".join(capsys.readouterr().out.split())

    hot = told(timed(RATIO, 12.0, HOT))
    assert hot.startswith(f"next, {AS_SAYS.format('speed-up', 'fan')} when it is cool, over a connection")
    assert hot.endswith("or, carried by hand: scp -r there")
    near = told(timed(RATIO, 13.3))
    assert near.startswith("next, with another --speed-up") and near.endswith(AGAIN) and "scp" not in near
    assert "and what comes out is carried to the board again" in near
    few = told(timed(RATIO, 13.13))
    assert few.startswith("next, with more samples (measure.rounds: 120 in the profile)") and few.endswith(AGAIN)


@pytest.mark.parametrize(
    ("carried", "rounds", "retries", "words"),
    [
        (False, 60, 3, "more samples (measure.retries in the profile), or on a quiet machine ("),
        (False, 60, 4, "a quiet machine ("),  # whose last look has as many samples as any further one
        (True, 4, 2, "more samples (measure.rounds: 120 in the profile), or on a quiet machine ("),
        (True, 179, 2, "more samples (measure.rounds: 180 in the profile), or on a quiet machine ("),
        (True, 900, 2, "more samples (measure.rounds: 960 in the profile), or on a quiet machine ("),
        (True, 960, 2, "a quiet machine ("),
    ],
)
def test_more_samples_of_trtexec_are_asked_for_by_what_adds_processes(
    carried: bool, rounds: int, retries: int, words: str
) -> None:
    record = timed(RATIO, 13.13)
    measure = replace(record.target.measure, rounds=rounds, retries=retries)
    target = record.target.model_copy(update={"runtime": "trtexec", "measure": measure})
    record = replace(record, target=target, carried_by="scp -r there" if carried else None)
    assert _need(record.gates[0], record).when.startswith(f"{'on' if words.startswith('a quiet') else 'with'} {words}")


def test_what_failed_before_the_board_was_asked_is_mended_first(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = pending_gate("engine", "latency p95", 10.0, "ms", "run-on-device.sh")
    refused = Gate("engine", "graph lint for TensorRT", 1.0, 0.0, "errors", Verdict.FAIL, "no such operator")
    record = replace(build_record("FAIL"), gates=(waiting, refused), next_command="run-on-device.sh")
    print_next_step(record)
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith("next, with what failed mended (finished stages are taken as they are): edgeprune build")
    assert told.endswith("then, where the target's runtime is: run-on-device.sh")
    for text in (build_page(record), build_markdown(record)):
        assert text.index("what failed mended") < text.index("Then, where the target")
        assert text.count("run-on-device.sh") == 1


def test_an_undecided_build_that_waits_too_says_one_thing_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = pending_gate("engine", "latency p95", 10.0, "ms", "run-on-device.sh")
    record = replace(undecided(FINDS_NOTHING, waiting), next_command="run-on-device.sh")
    words = next_words(record, capsys)
    assert words == "next, where the target's runtime is: run-on-device.sh"


def test_what_failed_names_what_would_change_it(capsys: pytest.CaptureFixture[str]) -> None:
    def failed(*metrics: str) -> str:
        gates = tuple(Gate("engine", metric, 0.0, 0.0, "", Verdict.FAIL, "") for metric in metrics)
        return next_words(replace(build_record("FAIL"), gates=gates), capsys)

    target = build_record("FAIL").target
    flag, epochs = f"--{target.budget.kind.replace('_', '-')}", target.finetune.epochs
    words = failed("mAP50-95 drop")
    assert words.startswith(
        f"next, with {2 * epochs} --epochs instead of {epochs}, or a lower {flag} (now {target.budget.value:g})"
    )
    assert words.endswith(f"{AGAIN} --epochs {2 * epochs}")
    short = replace(
        build_record("FAIL"), command=("edgeprune", "build", "--weights", "a b.pt", "--epochs", "1", "--seed", "2")
    )
    short = replace(short, target=target.with_overrides(epochs=1))
    lost = Gate("engine", "mAP50-95 drop", 0.0, 0.0, "", Verdict.FAIL, "")
    assert next_words(replace(short, gates=(lost,)), capsys).endswith("'a b.pt' --seed 2 --epochs 10")
    assert f"a lower {flag} (now" in failed("speed-up") and failed("size").startswith("next, with what failed mended")
    assert failed("speed-up", "mAP50-95 drop").count(AGAIN) == 1


def test_an_unpruned_build_that_lost_too_much_is_told_to_take_another_precision(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = build_record("FAIL")
    prune = replace(record.stages.prune, facts=replace(record.stages.prune.facts, unpruned=True))
    record = replace(record, gates=(LOST_GATE,), stages=replace(record.stages, prune=prune))
    assert next_words(record, capsys).startswith("next, with what failed mended")  # nothing is plainer than FP32
    halved = replace(record, target=record.target.model_copy(update={"precision": "fp16"}))
    words = next_words(halved, capsys)
    assert words.startswith("next, with another precision in the profile (now fp16), for") and "--epochs" not in words
    chosen = next_words(replace(halved, levers="levers auto: fp16"), capsys)
    assert chosen.startswith("next, with another precision in the profile (now fp16), with levers: named, for")


def test_int8_that_lost_too_much_is_told_of_another_precision_beside_the_pruning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = replace(build_record("FAIL"), gates=(LOST_GATE,))
    words = next_words(replace(record, target=record.target.model_copy(update={"precision": "int8"})), capsys)
    assert "or another precision in the profile (now int8), for accuracy fell too far" in words
    assert "precision" not in next_words(record, capsys)


def trained(
    record: BuildRecord, section: dict[str, object], ran: int, best: int, goal: AccuracyGoal | None = None
) -> BuildRecord:
    """The record of a build that was trained by these settings, for so many epochs; the last has 0.54."""
    tuned = record.stages.finetune
    assert tuned is not None
    epochs = tuple(Epoch(number, float(number), {"metrics/mAP50-95(B)": 0.54}) for number in range(1, ran + 1))
    training = replace(tuned.facts.training, epochs_run=ran, best_epoch=best, epochs=epochs)
    tuned = replace(tuned, facts=replace(tuned.facts, training=training, goal=goal))
    target = record.target.model_copy(update={"finetune": replace(record.target.finetune, **section)})
    return replace(record, target=target, stages=replace(record.stages, finetune=tuned))


GOAL = AccuracyGoal(baseline=0.55, max_drop=0.015)
FAR_GOAL = AccuracyGoal(baseline=0.55, max_drop=0.01)
UNTIL = ("--until", "map_drop <= 0.015")
ENDED = "(now 0.015, at which training ended after 7 epochs)"
TRAININGS: dict[str, tuple[dict[str, object], int, int, AccuracyGoal | None, tuple[str, ...], str, str, str]] = {
    "epochs": ({"epochs": 50}, 50, 40, None, (), "100 --epochs instead of 50", "--epochs", " --epochs 100"),
    "hours": (
        *({"time_h": 8.0}, 300, 290, None, ()),
        *("a larger finetune.time_h in the profile (now 8)", "finetune.time_h in the profile, now 8", ""),
    ),
    "more epochs than asked": (
        *({"epochs": 50}, 300, 290, None, ("--epochs", "50")),
        *("600 --epochs instead of 50", "--epochs", " --epochs 600"),
    ),
    "goal of the command": (
        *({"epochs": 50, "until": 0.015}, 7, 7, GOAL, UNTIL),
        *(f"no --until {ENDED}, or a smaller one", "without --until, now 0.015", ""),
    ),
    "goal of the command, in hours": (
        *({"time_h": 8.0, "until": 0.015}, 7, 7, GOAL, UNTIL),
        *(f"no --until {ENDED}, or a smaller one", "without --until, now 0.015", ""),
    ),
    "goal of the profile": (
        *({"epochs": 50, "until": 0.015}, 7, 7, GOAL, ()),
        f"finetune.until: null in the profile {ENDED}, or a smaller --until",
        *("without finetune.until in the profile, now 0.015", ""),
    ),
    "goal in the last epoch": (
        *({"epochs": 7, "until": 0.015}, 7, 7, GOAL, (*UNTIL, "--epochs", "7")),
        f"14 --epochs instead of 7 and no --until {ENDED}, or a smaller one",
        *("--epochs and without --until, now 0.015", " --epochs 14"),
    ),
    "goal that was not reached": (
        *({"epochs": 7, "until": 0.01}, 7, 7, FAR_GOAL, ("--until", "0.01")),
        *("14 --epochs instead of 7", "--epochs", " --until 0.01 --epochs 14"),
    ),
    "patience": (
        *({"epochs": 300, "patience": 50}, 120, 70, None, ()),
        "a larger finetune.patience in the profile (now 50, by which training ended after 120 epochs)",
        *("finetune.patience in the profile, now 50", ""),
    ),
    "no patience": ({"epochs": 60, "patience": 0}, 60, 1, None, (), "120 --epochs", "--epochs", " --epochs 120"),
}


@pytest.mark.parametrize(
    ("section", "ran", "best", "goal", "options", "by", "setting", "typed"), TRAININGS.values(), ids=TRAININGS
)
def test_training_longer_is_by_what_ended_it(
    section: dict[str, object],
    ran: int,
    best: int,
    goal: AccuracyGoal | None,
    options: tuple[str, ...],
    by: str,
    setting: str,
    typed: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def of(record: BuildRecord) -> BuildRecord:
        record = replace(record, command=(*record.command, *options))
        return trained(record, section, ran, best, goal)

    failed = next_words(of(replace(build_record("FAIL"), gates=(LOST_GATE,))), capsys)
    assert failed.startswith(f"next, with {by}") and failed.endswith(f"{AGAIN}{typed}")
    near = accuracy_gate("engine", 0.55, 0.54, 0.02, interval=DropInterval(0.01, 0.02, 87, 0), split="val")
    open_still = next_words(of(undecided(near)), capsys)
    assert open_still.startswith(f"next, with {by}") and open_still.endswith(f"{AGAIN}{typed}")
    assert f"train longer ({setting}) or ask for less first" in accuracy_warning(of(lossy(LOST)))


def test_hours_of_the_profile_are_not_replaced_by_fewer_epochs() -> None:
    target = build_record().target
    target = target.model_copy(update={"finetune": Finetuning(time_h=8.0)})
    assert target.with_overrides(epochs=100).finetune.time_h is None  # why no --epochs is told where hours decide


WAITING = pending_gate("engine", "mAP50-95 drop", 0.02, "mAP50-95", "run-on-device.sh")
LOST = DropInterval(0.0443, 0.006, 87, 200)


def lossy(drop: DropInterval | None, gate: Gate = WAITING) -> BuildRecord:
    """A build that waits for its board, and whose ONNX lost this much."""
    record = build_record("PENDING")
    after = accuracy(0.55 - (0.0443 if drop is None else drop.drop))
    facts = replace(record.stages.engine.facts, accuracy=after, accuracy_drop=drop)
    engine = replace(record.stages.engine, facts=facts)
    stages = replace(record.stages, engine=engine)
    return replace(record, gates=(gate,), stages=stages, next_command="run-on-device.sh")


def test_a_loss_that_is_certain_already_is_said_before_the_way_to_the_board(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = lossy(LOST)
    words = accuracy_warning(record)
    assert "more accuracy than allowed (mAP50-95 change -0.0443, limit -0.0200)" in words
    assert words.endswith("train longer (--epochs) or ask for less first")  # its budget was searched
    print_next_step(record)
    shown = " ".join(capsys.readouterr().out.split())
    banner = build_page(record).partition("</header>")[0]
    for text in (shown, banner, build_markdown(record), readme(record, Path("model.onnx"))):
        assert text.count(words) == 1 and text.index(words) < text.rindex("run-on-device.sh")


def test_what_would_mend_a_certain_loss_is_what_the_build_obeys() -> None:
    record = lossy(LOST)
    prune = replace(record.stages.prune, facts=replace(record.stages.prune.facts, unpruned=True))
    unpruned = replace(record, stages=replace(record.stages, prune=prune))
    assert accuracy_warning(unpruned).endswith("will very likely fail on the device too")
    halved = replace(unpruned, target=record.target.model_copy(update={"precision": "fp16"}))
    assert accuracy_warning(halved).endswith("; take another precision first")
    guessed = replace(record.stages.prune, facts=replace(record.stages.prune.facts, probes=()))
    stood_in = replace(record, stages=replace(record.stages, prune=guessed))
    assert "or prune less (prune.planning_macs_speed_up in the profile, now 2) first" in accuracy_warning(stood_in)
    target = record.target.model_copy(update={"precision": "int8"})
    assert "ask for less or take another precision first" in accuracy_warning(replace(record, target=target))


@pytest.mark.parametrize(
    ("metric", "words"), [("speed-up", "a larger prune.planning"), ("mAP50-95 drop", "or a lower prune.planning")]
)
def test_a_plan_by_a_stand_in_is_mended_by_what_made_it(metric, words, capsys: pytest.CaptureFixture[str]) -> None:
    record = build_record("FAIL")
    prune = replace(record.stages.prune, facts=replace(record.stages.prune.facts, probes=()))
    gate = Gate("engine", metric, 0.0, 0.0, "", Verdict.FAIL, "")
    record = replace(record, gates=(gate,), stages=replace(record.stages, prune=prune))
    said = next_words(record, capsys)
    assert f"{words}_macs_speed_up in the profile (now 2)" in said
    assert "--speed-up (now" not in said and "--latency-ms (now" not in said


@pytest.mark.parametrize(
    "drop",
    [None, DropInterval(0.0443, None, 8, 0), DropInterval(0.0443, 0.02, 87, 200), DropInterval(0.01, 0.001, 87, 200)],
    ids=["older record", "too few images", "limit in the interval", "within the limit"],
)
def test_a_loss_that_is_not_certain_warns_of_nothing(drop: DropInterval | None) -> None:
    assert accuracy_warning(lossy(drop)) == ""


def test_a_loss_that_was_judged_needs_no_warning() -> None:
    judged = accuracy_gate("engine", 0.55, 0.5057, 0.02, interval=LOST)
    assert judged.verdict is Verdict.FAIL and accuracy_warning(lossy(LOST, judged)) == ""


@pytest.mark.parametrize("verdict", ["FAIL", "PENDING"])
def test_other_verdicts_end_with_the_command(verdict: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert next_words(build_record(verdict), capsys).endswith(AGAIN)


def test_what_passed_has_no_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    print_next_step(build_record("PASS"))
    assert not capsys.readouterr().out


WORDS = {
    "test": ("test", {}, True, "no epoch was chosen on it", "(95%, 87 images of test)"),
    "val": ("val", {}, True, "it chose the best epoch too", "(95%, 87 images of val, which also chose the best epoch)"),
    "val that is train": (
        "val",
        {"train": 16},
        False,
        "it chose the best epoch too; 16 of the 16 images that judge were trained on",
        "which also chose the best epoch); 16 of the 16 were trained on, and tell nothing of images that were not",
    ),
    "test that holds some of val": (
        "test",
        {"val": 3},
        True,
        "3 of them chose the best epoch too",
        "images of test, 3 of which chose the best epoch too)",
    ),
    "test that holds some of train": (
        "test",
        {"train": 4},
        False,
        "4 of the 16 images that judge were trained on",
        "images of test); 4 of the 16 were trained on, and tell nothing of images that were not",
    ),
    "train": ("train", {}, False, "16 of the 16 images that judge were trained on", "16 of the 16 were trained on"),
}


@pytest.mark.parametrize(("split", "also_in", "others", "text", "reason"), WORDS.values(), ids=WORDS)
@pytest.mark.parametrize("drop", [0.0, 0.0443, 0.02], ids=["PASS", "FAIL", "INCONCLUSIVE"])
def test_nothing_is_said_of_other_images_where_those_that_judge_were_trained_on(
    drop: float, split: str, also_in: dict[str, int], others: bool, text: str, reason: str
) -> None:
    record = build_record()
    judged = record.stages.engine.facts.accuracy
    judged = replace(judged, accuracy=replace(judged.accuracy, split=split, also_in=also_in))
    facts = replace(record.stages.engine.facts, accuracy=judged, accuracy_drop=replace(LOST, drop=drop))
    record = replace(record, stages=replace(record.stages, engine=replace(record.stages.engine, facts=facts)))
    gate = drop_gate(record.target, record.stages.baseline.facts, facts)
    assert ("on other images" in gate.reason) == others
    assert reason.replace("95%,", "95% for each end,") in gate.reason or gate.verdict is not Verdict.INCONCLUSIVE
    assert reason in gate.reason or gate.verdict is Verdict.INCONCLUSIVE
    assert text in accuracy_text(record)
    page = build_page(record)
    assert ("were trained on, and tell nothing of images that were not." in page) != others
    few = replace(facts, accuracy_drop=DropInterval(0.01, None, 8, 0))
    undecided = drop_gate(record.target, record.stages.baseline.facts, few)
    assert undecided.verdict is Verdict.INCONCLUSIVE and ("were trained on" in undecided.reason) != others


def test_a_build_that_waits_for_its_board_is_offered_a_connection_before_the_way_by_hand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chain = "scp -r bundle/device user@orin:edgeprune-device && edgeprune import-results results.tar"
    waiting = replace(build_record("PENDING"), target=load_target("jetson-orin"), next_command=chain)
    print_next_step(waiting)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].strip().startswith("edgeprune build ") and lines[1].endswith(" --device user@host")
    assert lines[2] == "or, carried by hand:" and lines[3].strip() == chain
    for text in (build_page(waiting), build_markdown(waiting), readme(waiting, Path("model.onnx"))):
        plain = html.unescape(re.sub("<[^>]+>", "", text))
        place = plain.index("--device user@host")
        assert plain.rindex("over a connection to the board, which builds and measures there", 0, place) < place
        assert place < plain.index("Or, carried by hand:") < plain.index(chain)
        assert plain.count("--device user@host") == plain.count(chain) == 1
    for other in (replace(waiting, target=load_target("cpu")), replace(waiting, next_command="x --device user@board")):
        print_next_step(other)
        texts = [capsys.readouterr().out, build_page(other), build_markdown(other), readme(other, Path("model.onnx"))]
        assert not any("carried by hand" in text for text in texts)


@pytest.mark.parametrize("digits", [4, 5])
def test_no_loss_reads_as_none_and_a_near_miss_as_a_miss(digits: int) -> None:
    least = 10**-digits
    kept = accuracy_gate("engine", 0.5, 0.5, 0.0, interval=DropInterval(0.0, 0.0, 72, 0))
    assert gate_cells(kept)[2:4] == ("0.0000", "0.0000")
    assert gate_cells(accuracy_gate("engine", 0.5, 0.5 + 0.3e-4, 0.02))[2] == "0.0000"
    for value, limit, unit in ((1.5 - least, 1.5, "×"), (8 + 1e-2 * least, 8.0, "ms"), (0.02 + least / 2, 0.02, "mAP")):
        metric = "mAP drop" if unit == "mAP" else "latency"
        _, _, shown, allowed, verdict, _ = gate_cells(Gate("engine", metric, value, limit, unit, Verdict.FAIL, ""))
        assert shown != allowed and verdict == "FAIL"
    assert gate_cells(Gate("engine", "latency", 8.0, 8.0, "ms", Verdict.PASS, ""))[2:4] == ("8 ms", "8 ms")


def test_what_was_carried_to_its_board_is_carried_there_again(capsys: pytest.CaptureFixture[str]) -> None:
    board = load_target("jetson-orin-nano")
    record = replace(undecided(UNSTEADY), target=board)
    record = replace(record, carried_by="scp -r there && edgeprune import-results results.tar --run runs/x")
    print_next_step(record)
    told = " ".join(capsys.readouterr().out.split())
    assert "--device user@host or, carried by hand: scp -r there && edgeprune import-results" in told
    failed = replace(UNSTEADY, verdict=Verdict.FAIL)
    print_next_step(replace(record, gates=(failed,), verdict=Verdict.FAIL))
    assert "carried to the board again" in " ".join(capsys.readouterr().out.split())


def test_the_checkpoint_of_a_bundle_is_called_what_it_is() -> None:
    record = build_record("PASS")
    record = replace(record, bundle={**record.bundle, "model.pt": "0" * 64})
    told = readme(record, Path("model.onnx"))
    assert "its checkpoint, pruned and fine-tuned, for plain" in told
    assert "`edgeprune finetune` trains it on, Ultralytics' own `train` undoes the pruning" in told
    stages = record.stages
    unpruned = replace(stages.prune, facts=replace(stages.prune.facts, unpruned=True))
    given = replace(record, stages=replace(stages, prune=unpruned, finetune=None))
    told = readme(given, Path("model.onnx"))
    assert "its checkpoint, as it was given, for plain" in told and "undoes the pruning" not in told


@pytest.mark.parametrize(
    ("ships", "shipped", "best_epoch", "told"),
    [
        (True, "int8", 3, "pruned and fine-tuned and trained in INT8"),
        (False, "int8", 3, "pruned and fine-tuned"),  # the calibrated graph went on
        (True, "fp16", 3, "pruned and fine-tuned"),  # which was as fast
        (True, "int8", 0, "pruned and fine-tuned"),  # no epoch was better than the ranges alone
    ],
)
def test_a_checkpoint_is_trained_in_int8_only_where_that_one_ships(
    ships: bool, shipped: Precision, best_epoch: int, told: str
) -> None:
    record = build_record("PASS")
    target = record.target.model_copy(update={"precision": "int8"})
    record = replace(record, bundle={**record.bundle, "model.pt": "0" * 64}, target=target)
    stages, tuned = record.stages, record.stages.finetune
    assert tuned is not None
    training = replace(tuned.facts.training, best_epoch=best_epoch)
    choice = PrecisionChoice("int8", "fp16", 1.0, 0.5, 0.5, shipped, "it is as fast")
    facts = QuantizeFacts(
        PrecisionInfo("int8", "tensorrt", 9, (), 64, "entropy", 2, 1),
        FallbackFacts(0.5, "mAP50-95", 0.4, None, "it reaches the floor"),
        1,
        choice,
        TrainedInt8(0.5, 0.5, ships),
    )
    stages = replace(stages, qat=row(QatFacts(training, "", 1, 1)), quantize=row(facts))
    assert f"its checkpoint, {told}, for plain" in readme(replace(record, stages=stages), Path("model.onnx"))
