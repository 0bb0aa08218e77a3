"""The whole build on a small model: what it leaves, what it reuses, what survives a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from math import exp, log
from pathlib import Path
from statistics import median

import jsonschema
import pytest

from edgeprune.artifact import sha256_of
from edgeprune.carry.back import import_results
from edgeprune.devices.fake import FakeBoard, fake_device
from edgeprune.records.build import build_schema
from edgeprune.records.verify import verify_build
from tests.shipped.test_sample import ALONE

PROFILE = """
extends: cpu
description: small and quick, for tests
imgsz: 96
budget: {speed_up: 1.15, statistic: p50}
accuracy: {max_map_drop: 1.0}
pretrain: {epochs: 1, batch: 8}
finetune: {epochs: 2, batch: 8, distill: false}
measure: {warmup_s: 0.1, rounds: 40, per_round: 4, retries: 1}
"""
PER_ROUND = 4
STAGES = ["pretrain", "baseline", "prune", "finetune", "export", "simplify", "engine"]
# A quick machine is not what is tested here: any verdict but a crash shows that the flow holds.
VERDICTS = {0, 1, 5}

WITHOUT_EDGEPRUNE = """
import json, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "edgeprune":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
from ultralytics import YOLO
model = YOLO(sys.argv[1])
metrics = model.val(data=sys.argv[2], imgsz=int(sys.argv[3]), batch=1, rect=False, plots=False, verbose=False,
                    device="cpu", workers=0, project=sys.argv[4], name="val")
parameters = sum(p.numel() for p in YOLO(sys.argv[1]).model.parameters())
dtypes = sorted({str(p.dtype) for p in YOLO(sys.argv[1]).model.parameters()})
print("RESULT " + json.dumps({"map": float(metrics.box.map), "parameters": parameters, "dtypes": dtypes}))
"""


def build(folder: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "edgeprune", "build", "--target", str(folder / "small.yaml")),
        *("--weights", "yolov8n.yaml", "--data", str(folder / "digits" / "data.yaml"), "--out", str(folder / "run")),
        *options,
    ]


def run(argv: list[str]) -> subprocess.CompletedProcess:
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=1200)
    assert ended.returncode in VERDICTS, ended.stdout + ended.stderr
    return ended


def digests(folder: Path) -> dict[str, str]:
    """Artifacts of every finished stage, by path."""
    found = {}
    for record in (folder / "run").glob("*/record.json"):
        for item in json.loads(record.read_text())["artifacts"].values():
            path = record.parent / item["file"]
            found[str(path)] = sha256_of(path)
    return found


def settle(folder: Path) -> None:
    """Have the plan stay, whatever a disturbed machine left open of it: that is then searched for again."""
    for record in (folder / "run").glob("prune-*/record.json"):
        record.write_text(json.dumps({**json.loads(record.read_text()), "held": True}))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build that was killed once in every stage on its way."""
    from edgeprune.data.digits import write_digits

    folder = tmp_path_factory.mktemp("build")
    write_digits(folder / "digits", train=24, val=16, test=8, imgsz=96)
    (folder / "small.yaml").write_text(PROFILE)
    survived: dict[str, str] = {}
    for number, stage in enumerate(STAGES, 1):
        process = subprocess.Popen(
            build(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if line.startswith(f"[{number}/") and stage in line:
                break
        else:
            pytest.fail(f"stage {stage} never began:\n{''.join(seen)}")
        assert "reused" not in line, f"{stage} was finished before it was killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        settle(folder)
        now = digests(folder)
        assert survived.items() <= now.items(), "a finished stage's artifacts changed"
        survived = now
    ended = run(build(folder))
    (folder / "printed.txt").write_text(ended.stdout)
    assert survived.items() <= digests(folder).items()
    return folder


def record_of(folder: Path) -> dict:
    return json.loads((folder / "run" / "bundle" / "build.json").read_text())


@pytest.mark.slow
def test_a_build_killed_in_every_stage_still_finishes(built: Path) -> None:
    record = record_of(built)
    assert [name for name, row in record["stages"].items() if row is not None] == STAGES
    assert not list((built / "run").glob(".partial-*"))
    assert not list((built / "run" / ".scratch").glob("*"))


@pytest.mark.slow
def test_the_record_satisfies_its_schema_and_names_what_is_there(built: Path) -> None:
    record = record_of(built)
    jsonschema.validate(record, build_schema())
    assert record["artifacts"]
    for item in record["artifacts"]:
        assert sha256_of(built / "run" / item["path"]) == item["sha256"]
    for name, digest in record["bundle"].items():
        assert sha256_of(built / "run" / "bundle" / name) == digest
    assert {"model.pt", "model.onnx", "engine.onnx", "plan.json", "sample.py"} <= set(record["bundle"])
    assert "cpp/sample.cpp" in record["bundle"]
    sample = [sys.executable, "-c", ALONE, "sample.py", str(next((built / "digits").rglob("*.jpg")))]
    assert (
        "found, drawn in" in subprocess.run(sample, cwd=built / "run" / "bundle", capture_output=True, text=True).stdout
    )
    assert (built / "run" / "bundle" / "labels.txt").read_text().split() == [str(digit) for digit in range(10)]


@pytest.mark.slow
def test_every_passed_gate_has_a_measured_figure(built: Path) -> None:
    record = record_of(built)
    rows = record["gates"]
    assert {"baseline", "prune", "finetune", "export", "simplify", "engine", "bundle"} <= {row["stage"] for row in rows}
    assert all(row["value"] is not None for row in rows if row["verdict"] == "PASS")
    speed = next(row for row in rows if row["stage"] == "engine" and row["metric"] == "speed-up")
    pair = {row["role"]: row["measurement"]["values"] for row in record["measurements"] if row["stage"] == "engine"}
    assert len(pair["baseline"]) == len(pair["candidate"]) >= 100
    rounds = [
        log(median(pair["baseline"][i : i + PER_ROUND]) / median(pair["candidate"][i : i + PER_ROUND]))
        for i in range(0, len(pair["baseline"]), PER_ROUND)
    ]
    assert speed["value"] == pytest.approx(exp(median(rounds)), rel=1e-6)


@pytest.mark.slow
def test_the_pruned_structure_is_kept_to_the_end(built: Path) -> None:
    from edgeprune import checkpoint

    record = record_of(built)
    pruned = record["stages"]["prune"]["facts"]
    shipped = checkpoint.load(built / "run" / "bundle" / "model.pt")
    assert pruned["parameters"]["after"] < pruned["parameters"]["before"]
    assert checkpoint.parameter_count(shipped.model) == pruned["parameters"]["after"]
    assert checkpoint.shape_signature(shipped.model) == pruned["signature"]


@pytest.mark.slow
def test_the_bundle_works_without_edgeprune_and_gives_what_was_measured(built: Path) -> None:
    record = record_of(built)
    model, data = built / "run" / "bundle" / "model.pt", built / "digits" / "data.yaml"
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_EDGEPRUNE, str(model), str(data), "96", str(built / "val")],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert "RESULT" in ended.stdout, ended.stderr
    seen = json.loads(ended.stdout.split("RESULT ")[1])
    stages = record["stages"]
    assert seen["map"] == pytest.approx(stages["engine"]["facts"]["accuracy"]["accuracy"]["map50_95"], abs=1e-3)
    assert seen["parameters"] == stages["prune"]["facts"]["parameters"]["after"]
    assert seen["dtypes"] == ["torch.float32"]


@pytest.mark.slow
def test_the_terminal_and_the_report_say_what_the_record_says(built: Path) -> None:
    record = record_of(built)
    assert f"verdict: {record['verdict']}" in (built / "printed.txt").read_text()
    report = (built / "run" / "report.md").read_text()
    assert report.startswith(f"# small: {record['verdict']}")
    assert "edgeprune build --target" in report


@pytest.mark.slow
def test_a_second_run_only_measures_and_another_budget_starts_at_prune(built: Path) -> None:
    settle(built)
    before = digests(built)
    again = run(build(built))
    stages = [line for line in again.stdout.splitlines() if line.startswith("[")]
    assert [line.split()[1] for line in stages if "reused" in line] == STAGES
    assert digests(built) == before
    first, second = (record_of(built)["measurements"], json.loads((built / "run" / "state.json").read_text()))
    assert all(row["reused"] for row in second["stages"])
    assert first

    changed = run(build(built, "--macs-speed-up", "1.6", "--epochs", "1"))
    stages = [line for line in changed.stdout.splitlines() if line.startswith("[")]
    assert [line.split()[1] for line in stages if "reused" in line] == ["pretrain", "baseline"]
    assert before.items() <= digests(built).items()
    row = next(row for row in record_of(built)["gates"] if row["metric"] == "MACs speed-up")
    assert 1.6 <= row["value"] <= 1.6 * 1.03
    assert row["verdict"] == "PASS"


@pytest.mark.slow
def test_an_unreachable_budget_is_found_before_training_and_names_the_floor(built: Path) -> None:
    folders = {path.name for path in (built / "run").iterdir()}
    ended = subprocess.run(build(built, "--speed-up", "900"), capture_output=True, text=True, timeout=1200)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "out of reach" in ended.stderr
    assert "the floor measured here is ×" in ended.stderr
    # what the stage had printed is kept
    assert {path.name for path in (built / "run").iterdir()} - {"failed"} == folders - {"failed"}


@pytest.mark.slow
def test_a_target_without_its_runtime_is_pending_and_says_what_to_type(built: Path) -> None:
    weights = next((built / "run").glob("pretrain-*/best.pt"))
    argv = build(built, "--imgsz", "96", "--epochs", "1")
    argv[argv.index("--target") + 1] = "jetson-orin"
    argv[argv.index("--weights") + 1] = str(weights)
    argv[argv.index("--out") + 1] = str(built / "jetson")
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=1200)
    assert ended.returncode == 5, ended.stdout + ended.stderr
    record = json.loads((built / "jetson" / "bundle" / "build.json").read_text())
    assert record["verdict"] == "PENDING"
    pending = {(row["stage"], row["metric"].split()[0]) for row in record["gates"] if row["verdict"] == "PENDING"}
    assert {("prune", "latency"), ("engine", "latency"), ("engine", "mAP50-95")} <= pending
    assert "run-on-device.sh" in record["next_command"]
    assert "edgeprune import-results" in record["next_command"]
    assert (built / "jetson" / "bundle" / "device" / "run-on-device.sh").stat().st_mode & 0o111
    assert (built / "jetson" / "bundle" / "model.onnx").is_file()
    assert not (built / "jetson" / "bundle" / "engine.onnx").exists()

    # what a board measured outlives the same command
    shutil.copytree(built / "jetson" / "bundle" / "device", built / "there")
    board = fake_device("orin-nano").channel
    assert isinstance(board, FakeBoard)
    subprocess.run(["sh", built / "there" / "run-on-device.sh"], env=board.env, check=True, capture_output=True)
    imported, bundle = import_results(built / "there" / "results.tar", built / "jetson")
    engine = (bundle / "engine.engine").read_bytes()
    again = subprocess.run(argv, capture_output=True, text=True, timeout=1200)
    assert "stays, for this build asks the same of it" in " ".join(again.stdout.split()), again.stdout + again.stderr
    kept = verify_build(bundle)
    kept.require_as_built()
    assert again.returncode == imported.verdict.exit_code and (bundle / "engine.engine").read_bytes() == engine
    assert (kept.record.gates, kept.record.measurements) == (imported.gates, imported.measurements)
    assert kept.record.carried_by == imported.carried_by and kept.record.next_command is None


@pytest.mark.slow
def test_a_model_within_its_budget_ships_unpruned_and_untrained(built: Path) -> None:
    from edgeprune import checkpoint

    weights = next((built / "run").glob("pretrain-*/best.pt"))
    argv = build(built, "--latency-ms", "100000")
    argv[argv.index("--weights") + 1] = str(weights)
    argv[argv.index("--out") + 1] = str(built / "unpruned")
    ended = run(argv)
    record = json.loads((built / "unpruned" / "bundle" / "build.json").read_text())
    assert record["stages"]["finetune"] is None
    assert record["stages"]["prune"]["facts"]["unpruned"] and not record["stages"]["prune"]["facts"]["probes"]
    given, shipped = (checkpoint.load(path).model for path in (weights, built / "unpruned" / "bundle" / "model.pt"))
    assert checkpoint.shape_signature(given) == checkpoint.shape_signature(shipped)
    verdicts = {(row["stage"], row["metric"]): row["verdict"] for row in record["gates"] if row["limit"] is not None}
    drop = verdicts.pop(("engine", "mAP50-95 drop"))  # of a model that may find nothing after so few epochs
    assert set(verdicts.values()) == {"PASS"}, [row for row in record["gates"] if row["verdict"] != "PASS"]
    assert record["verdict"] == drop in ("PASS", "INCONCLUSIVE")
    for text in (
        ended.stdout,
        (built / "unpruned" / "report.md").read_text(),
        (built / "unpruned" / "report.html").read_text(),
        (built / "unpruned" / "bundle" / "README.md").read_text(),
    ):
        assert "met without pruning" in text
