"""The check on a GPU, up to the missing GPU: refusals, its judgement, its page, and all of it on a stand-in."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import gpu_check
from edgeprune.agent.facts import Gpu
from edgeprune.records.build import BuildRecord, DeviceRow
from edgeprune.runtimes.precision_truth import PrecisionShare
from edgeprune.samples.gates import Gate, Verdict
from edgeprune.serial import to_json, write_json
from edgeprune.target import Budget, load_target
from tests.devices.models import digits_and_detector
from tests.records.sample import accuracy, build_record
from tests.runtimes import fake_trtexec

HERE = "extends: desktop-tensorrt\n"
STAND_IN = "extends: jetson-orin-nano\ndescription: a stand-in\ndevice: {host: 'fake:orin-nano'}\n"


def profile(folder: Path, text: str) -> Path:
    path = folder / "profile.yaml"
    path.write_text(text)
    return path


def checked(folder: Path, *more: object, target: Path) -> int:
    argv = ("--weights", folder / "w.pt", "--data", folder / "digits" / "data.yaml", "--out", folder / "out")
    return gpu_check.main([str(word) for word in (*argv, "--target", target, *more)])


def test_trtexec_without_a_gpu_ends_with_4_in_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    fake_trtexec.install(programs)
    monkeypatch.setenv("PATH", str(programs))  # no nvidia-smi on it, whatever this machine has
    assert checked(tmp_path, target=profile(tmp_path, HERE)) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and "no NVIDIA GPU: nvidia-smi lists none; next:" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), "--page benchmarks/tensorrt_gpu.md"),
        (("TARGET=mine.yaml",), '--target "mine.yaml"'),  # the page of this project is about one GPU
    ],
)
def test_the_makefile_s_verb_takes_a_profile(given: tuple[str, ...], words: str) -> None:
    argv = ["make", "-n", "gpu-check", "WEIGHTS=w.pt", "DATA=d.yaml", *given]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=Path(gpu_check.__file__).parents[1])
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.replace("\\\n", " ").splitlines() if "benchmarks.gpu_check" in line]
    assert words in line and ("--page" in line) == (not given)


def test_a_phase_s_profile_starts_from_the_shipped_one_beside_a_file_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "cpu.yaml").write_text("extends: cpu\nbatch: 3\n")
    options = gpu_check._options(["--weights", "w.pt", "--data", "d.yaml", "--out", str(tmp_path), "--target", "cpu"])
    assert load_target(gpu_check._profile(options, "int8")).batch == load_target("cpu").batch != 3


def test_a_phase_that_is_none_and_a_table_of_nothing_end_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = profile(tmp_path, STAND_IN)
    assert checked(tmp_path, "--phases", "batch-2", target=target) == 2
    assert "--phases batch-2: allowed are batch-1, batch-16, int8, files, table" in capsys.readouterr().err
    for phase, words in (("table", "no build with a finished search"), ("int8", "batch-1 is not finished")):
        assert checked(tmp_path, "--phases", phase, target=target) == 2
        assert words in capsys.readouterr().err


def record(asked: float = 1.5) -> BuildRecord:
    """Medians of 20 and 12.5 ms: ×1.6."""
    made = build_record()
    budget = made.target.model_copy(update={"budget": Budget(speed_up=asked), "precision": "fp16"})
    rows = [("fp16 in the engine", 0.97, 0.5), ("agreement with the ONNX", 0.99, 0.9)]
    gates = tuple(Gate("engine", name, value, limit, "", Verdict.PASS, "") for name, value, limit in rows)
    return replace(made, target=budget, gates=gates, device=DeviceRow("local", False, {}, made.host))


@pytest.mark.parametrize(
    ("asked", "verdict"),
    [(1.5, Verdict.PASS), (1.65, Verdict.FAIL), (1.4, Verdict.FAIL)],
    ids=["hit", "missed", "too much"],
)
def test_a_budget_is_hit_from_1_00_to_1_09(asked: float, verdict: Verdict) -> None:
    budget, precision, agreement = gpu_check.build_checks("batch-1", record(asked))
    assert budget.verdict is verdict and budget.value == pytest.approx(1.6 / asked, rel=0.01)
    assert (precision.verdict, agreement.verdict) == (Verdict.PASS, Verdict.PASS)


def test_a_stand_in_passes_nothing_and_what_is_missing_is_open() -> None:
    made = record()
    assert made.device is not None
    simulated = replace(made, gates=(), device=replace(made.device, simulated=True))
    budget, *others = gpu_check.build_checks("batch-1", simulated)
    assert budget.verdict is Verdict.INCONCLUSIVE and budget.reason.startswith("SIMULATED")
    assert [row.verdict for row in others] == [Verdict.PENDING, Verdict.PENDING]
    [missing] = gpu_check.build_checks("batch-16", None)
    assert missing.verdict is Verdict.PENDING
    [missing] = gpu_check.int8_checks(None)
    assert missing.verdict is Verdict.PENDING


def test_an_engine_that_ignored_int8_fails() -> None:
    made = record()
    before, after = (row.measurement for row in made.measurements)
    shares = PrecisionShare({"fp16": 1.0}, {"fp16": 1.0}, {"fp16": 60}, None, 0, ())
    agreement = made.stages.export.facts.parity
    found = gpu_check.Int8Facts(
        "int8-fp16", replace(accuracy(0.5), agreement=agreement), shares, before, after, 1.0, False
    )
    precision, agreed = gpu_check.int8_checks(found)
    assert precision.verdict is Verdict.FAIL and agreed.verdict is Verdict.PASS
    assert {row.verdict for row in gpu_check.int8_checks(replace(found, simulated=True))} == {Verdict.INCONCLUSIVE}


def test_the_page_of_a_gpu_goes_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = record()
    gpu = Gpu("NVIDIA Made-up", "9.0", "580.1", 81559)
    facts = replace(made.host, gpus=(gpu,))
    monkeypatch.setattr(gpu_check, "find_device", lambda options: (facts, "trtexec 8.6.0 at trtexec on local", False))
    bundle = tmp_path / "out" / "batch-1" / "bundle"
    bundle.mkdir(parents=True)
    write_json(bundle / "build.json", made)
    page = tmp_path / "page.md"
    target = profile(tmp_path, HERE)
    assert checked(tmp_path, "--batch=1", f"--page={page}", "--phases", "table", target=target) == 5  # INT8 is missing
    text = page.read_text()
    assert text == (tmp_path / "out" / "tensorrt_gpu.md").read_text()
    assert "SIMULATED" not in text
    for words in (
        "NVIDIA Made-up (driver 580.1); trtexec 8.6.0",
        "→ 12.495 ms (×1.60) | ×1.598 (1.573 to 1.622) | ×2.00 |",
        "| batch-1 | 2, kept | ×1.90 | 98.0% | 95.2% | +2.9% |",
        "| int8: engine | —  | — | PENDING: not finished; run this phase |",
        "20 layers took 3.598 ms, 18 take 1.748 ms",
    ):
        assert words in text


def test_a_build_that_was_stopped_behind_its_search_shows_what_that_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = record(asked=1.5)
    facts = replace(made.host, gpus=(Gpu("NVIDIA Made-up", "9.0", "580.1", 81559),))
    monkeypatch.setattr(gpu_check, "find_device", lambda options: (facts, "trtexec 8.6.0", False))
    target = profile(tmp_path, HERE)
    table = ("--batch=1", "--phases", "table")  # the budget is that of the build, whatever is asked for now
    for name, stage in (("baseline", made.stages.baseline), ("prune", made.stages.prune)):
        assert checked(tmp_path, *table, target=target) == 2  # a search has no result yet
        folder = tmp_path / "out" / "batch-1" / f"{name}-0123456789ab"
        folder.mkdir(parents=True)
        inputs = {"source.baseline.model": "a", "params.budget.speed_up": 1.5}
        artifacts = {"model": {"file": "model.pt", "sha256": "a"}}
        write_json(folder / "record.json", {"inputs": inputs, "artifacts": artifacts, "facts": to_json(stage.facts)})
    assert checked(tmp_path, *table, target=target) == 5
    text = (tmp_path / "out" / "tensorrt_gpu.md").read_text()
    kept = next(probe for probe in made.stages.prune.facts.probes if probe.kept)
    assert kept.latency is not None
    for words in (
        "| batch-1: build | —  | — | PENDING: not finished; run this phase |",
        f"| batch-1, search: measured over asked | {kept.latency.speed_up / 1.5:.4g}  | 1.00 to 1.09 |",
        "| batch-1 | 2, kept | ×1.90 | 98.0% | 95.2% | +2.9% |",
        "## batch-1, stopped behind its search",
        "; not trained yet.",
    ):
        assert words in text
    assert "## The builds" not in text
    monkeypatch.setattr(gpu_check, "find_device", lambda options: (facts, "trtexec 8.6.0", True))
    assert checked(tmp_path, *table, target=target) == 5
    assert "PASS:" not in (tmp_path / "out" / "simulated.md").read_text()


@pytest.mark.slow
def test_on_a_stand_in_it_runs_to_the_end_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, name in (  # what is timed is a script
        ("edgeprune.runtimes.trtexec_", "MIN_PROCESSES"),
        ("edgeprune.runtimes.trtexec_", "MAX_PROCESSES"),
        ("edgeprune.search.profile", "RANDOM_COPIES"),
    ):
        monkeypatch.setattr(import_module(module), name, 1)
    digits_and_detector(tmp_path)
    page = tmp_path / "page.md"
    few = ("--batch=1", "--epochs=1", "--probes=1", "--per-round=2", "--retries=0")
    options = ("--imgsz=64", "--speed-up=1.1", *few, f"--page={page}")
    target = profile(tmp_path, STAND_IN)
    assert checked(tmp_path, *options, "--phases", "batch-1", target=target) == 0
    assert checked(tmp_path, *options, "--phases", "int8", "files", "table", target=target) == 5
    printed = capsys.readouterr().out
    assert "SIMULATED NVIDIA Jetson Orin Nano" in printed
    out = tmp_path / "out"
    text = (out / "simulated.md").read_text()
    assert text.startswith("# SIMULATED") and "PASS:" not in text
    for words in ("| batch-1 | 1, kept |", "## INT8", "## Layers, batch-1", "int8: agreement with the ONNX"):
        assert words in text
    assert not page.exists() and not list(out.rglob("tensorrt_gpu.md"))
    kept = {file.name for file in (out / "files").iterdir()}
    assert kept == {
        "build.log",
        *(f"{name}.{kind}" for name in ("layers", "times", "profile") for kind in ("json", "log")),
    }
