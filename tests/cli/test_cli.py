"""The command line: quick without torch, one clear line for every wrong input, nothing written then."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main

from edgeprune import cli
from edgeprune.target import shipped_targets

ROOT = Path(__file__).resolve().parents[2]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Run:
    """Run the command in this process; gives exit code, stdout, stderr."""

    def call(*argv: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgeprune", *map(str, argv)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


BARE = """
import sys
heavy = {"torch", "torchvision", "ultralytics", "onnx", "onnxruntime", "torch_pruning", "onnxsim"}
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in heavy:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoTorch())
sys.argv = ["edgeprune", *sys.argv[1:]]
from edgeprune.cli import main
main()
"""


LONG = """
import sys
from edgeprune import cli
def until_told():
    print("begun", flush=True)
    sys.stdin.readline()
    return 0
cli._run = until_told
cli.main()
"""


@pytest.mark.parametrize(("ignored", "code"), [("HUP", 0), ("TERM", 0), ("", 129)])
def test_a_signal_that_was_ignored_from_the_start_stays_so(ignored: str, code: int) -> None:
    number = signal.Signals[f"SIG{ignored or 'HUP'}"]
    argv = ["sh", "-c", f'trap "" {ignored}; exec "$@"', "sh", sys.executable, "-c", LONG]  # what nohup does
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        process.send_signal(number)
        time.sleep(0.2)
        process.communicate("go on\n")
    assert process.returncode == code


CLEANED_UP = """
import sys
from edgeprune import cli
def until_told():
    try:
        print("begun", flush=True)
        sys.stdin.readline()
    finally:
        print("ending", flush=True)
        sys.stdin.readline()
        print("put back", flush=True)
cli._run = until_told
cli.main()
"""


@pytest.mark.parametrize("again", [signal.SIGHUP, signal.SIGTERM])
def test_what_was_begun_is_put_back_though_the_signal_comes_twice(again: signal.Signals) -> None:
    argv = [sys.executable, "-c", CLEANED_UP]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "ending\n"
        process.send_signal(again)
        time.sleep(0.2)
        assert process.communicate("go on\n")[0] == "put back\n"
    assert process.returncode == 128 + signal.SIGHUP


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["--help"], 0, "build"),
        (["--version"], 0, "0."),
        (["targets"], 0, "jetson-orin"),
        (["targets", "show", "cpu"], 0, "speed_up"),
        (["build", "--help"], 0, "--latency-ms"),
        (["show", "/nowhere"], 2, "does not exist"),
        (["doctor"], 4, "pip install"),
    ],
)
def test_works_in_an_environment_without_torch(argv: list[str], code: int, text: str) -> None:
    ended = subprocess.run([sys.executable, "-c", BARE, *argv], capture_output=True, text=True, timeout=1200)
    assert ended.returncode == code, ended.stderr
    assert text in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


LOADED = """
import sys
before = set(sys.modules)  # what this environment imports into every interpreter
sys.argv = ["edgeprune", "--help"]
from edgeprune.cli import main
try:
    main()
finally:
    packages = {name.partition(".")[0] for name in set(sys.modules) - before}
    print(*sorted(packages - sys.stdlib_module_names), file=sys.stderr)
"""
# typer, rich, annotated-types and what they bring: what the help costs. Everything else waits for its command.
LIGHT = {
    "typer", "shellingham", "annotated_doc", "click", "rich", "pygments", "markdown_it", "mdurl", "attr", "attrs",
    "annotated_types", "typing_extensions",
}  # fmt: skip


def test_help_imports_only_what_it_prints_with() -> None:
    ended = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=1200, check=True)
    packages = {name for name in ended.stderr.split() if not name.startswith("_")}
    assert packages - LIGHT == {"edgeprune"}


def test_every_command_has_help_and_is_in_the_readme(run: Run) -> None:
    code, out, _ = run("--help")
    commands = re.findall(r"^│ ([a-z]+) ", out, re.MULTILINE)
    assert code == 0
    assert {"build", "show", "doctor", "targets", "data"} <= set(commands)
    readme = (ROOT / "README.md").read_text()
    for command in commands:
        assert f"edgeprune {command}" in readme or f"`{command}`" in readme, command
        assert run(command, "--help")[0] == 0


def test_targets_show_prints_a_profile_that_loads(run: Run, tmp_path: Path) -> None:
    from edgeprune.target import load_target

    for name in shipped_targets():
        code, out, _ = run("targets", "show", name)
        assert code == 0
        path = tmp_path / f"{name}.yaml"
        path.write_text(out)
        assert load_target(path) == load_target(name)


def test_doctor_finds_the_cpu_runtime_and_says_how_to_get_the_rest(run: Run) -> None:
    code, out, _ = run("doctor")
    assert code == 0
    flat = re.sub(r"\s+", " ", out)
    assert "runtime onnxruntime" in flat
    assert "trtexec" in flat


@pytest.mark.parametrize("version", ["3.9.19", "3.99.0"])
def test_doctor_says_which_python_is_wanted_in_place_of_another(
    version: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.python_version", lambda: version)
    code, out, _ = run("doctor")
    flat = re.sub(r"\s+", " ", out)
    assert code == 4
    assert version in flat
    assert re.search(r"make an environment of a Python [<>=.,\d]+: make install PYTHON=/path/to/python3", flat)


def scene(folder: Path, split: str = "train", label: str = "0 .5 .5 .4 .4") -> None:
    """One image with one box, in Ultralytics' layout."""
    from PIL import Image

    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64)).save(folder / "images" / split / "a.png")
    (folder / "labels" / split / "a.txt").write_text(f"{label}\n")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of two classes and a dataset that fits it."""
    from ultralytics import YOLO

    from edgeprune import checkpoint

    folder = tmp_path_factory.mktemp("good")
    for split in ("train", "val"):
        scene(folder, split)
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: {0: a, 1: b}\n")
    (folder / "two.yaml").write_text("nc: 2\nscales: {n: [0.33, 0.25, 1024]}\n" + _backbone())
    network = YOLO(str(folder / "two.yaml"), task="detect").model
    network.names = {0: "a", 1: "b"}
    checkpoint.save(network, folder / "w.pt", like=None)
    return folder


def _backbone() -> str:
    import yaml
    from ultralytics.utils import ROOT as ultralytics_root

    content = yaml.safe_load((ultralytics_root / "cfg/models/v8/yolov8.yaml").read_text())
    return yaml.safe_dump({key: content[key] for key in ("backbone", "head")})


class Danger:
    """Runs code when it is unpickled without restriction."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def _truncated(folder: Path) -> list[str]:
    whole = (folder / "w.pt").read_bytes()
    (folder / "w.pt").write_bytes(whole[: len(whole) // 2])
    return ["not|damaged|truncated|corrupt"]


def _foreign(folder: Path) -> list[str]:
    import torch

    torch.save({"model": Danger(folder / "executed")}, folder / "w.pt")
    return ["--trust", "touch|Path"]


def _raw_pickle(folder: Path) -> list[str]:
    (folder / "w.pt").write_bytes(pickle.dumps(Danger(folder / "executed")))
    return ["w.pt"]


def _no_weights(folder: Path) -> list[str]:
    (folder / "w.pt").unlink()
    return ["w.pt"]


def _no_val(folder: Path) -> list[str]:
    (folder / "data.yaml").write_text("train: images/train\nnames: {0: a, 1: b}\n")
    return ["val", "data.yaml"]


def _val_folder_gone(folder: Path) -> list[str]:
    shutil.rmtree(folder / "images" / "val")
    return ["val"]


def _three_classes(folder: Path) -> list[str]:
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: {0: a, 1: b, 2: c}\n")
    return ["3 classes", "has 2"]


def _no_data(folder: Path) -> list[str]:
    (folder / "data.yaml").unlink()
    return ["data.yaml"]


BROKEN = [_truncated, _foreign, _raw_pickle, _no_weights, _no_val, _val_folder_gone, _three_classes, _no_data]


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__.strip("_"))
def test_bad_input_is_one_line_and_changes_nothing(
    good: Path, tmp_path: Path, run: Run, damage: Callable[[Path], list[str]]
) -> None:
    folder = tmp_path / "in"
    shutil.copytree(good, folder)
    expected = damage(folder)
    before = snapshot(tmp_path)
    code, out, err = run(
        "build",
        "--target",
        "cpu",
        "--weights",
        folder / "w.pt",
        "--data",
        folder / "data.yaml",
        "--out",
        tmp_path / "out",
    )
    assert code == 2, err
    message = err.strip()
    assert message.startswith("edgeprune: ")
    assert "\n" not in message
    assert out == ""
    for part in expected:
        assert re.search(part, message), message
    assert snapshot(tmp_path) == before
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--imgsz", "321"], ["imgsz", "multiple of 32", "321"]),
        (["--speed-up", "0.5"], ["--speed-up", "0.5"]),
        (["--speed-up", "2", "--latency-ms", "3"], ["--latency-ms and --speed-up", "one of them"]),
        (["--epochs", "0"], ["epochs"]),
        (["--max-map-drop", "-1"], ["command line: --max-map-drop"]),
        (["--macs-speed-up", "nan"], ["--macs-speed-up"]),
    ],
)
def test_bad_arguments_are_one_line_and_change_nothing(
    good: Path, tmp_path: Path, run: Run, argv: list[str], parts: list[str]
) -> None:
    inputs = ["--target", "cpu", "--weights", good / "w.pt", "--data", good / "data.yaml", "--out", tmp_path / "out"]
    code, _, err = run("build", *inputs, *argv)
    assert code == 2
    assert "\n" not in err.strip()
    for part in parts:
        assert part in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["prune", "w.pt", "--dry-run"],
            "give one of --macs-speed-up 2, --params-ratio 0.5, --ratio 0.3 or --plan FILE; seen: none",
        ),
        (["prune", "w.pt", "--dry-run", "--params-ratio", "0.5", "--ratio", "0.3"], "seen: --params-ratio, --ratio"),
        (["prune", "w.pt", "--dry-run", "--macs-speed-up", "0.5"], "--macs-speed-up must be at least 1"),
        (["prune", "w.pt", "--dry-run", "--macs-speed-up", "900"], "--macs-speed-up 900 is out of reach"),
        (["prune", "w.pt", "--dry-run", "--params-ratio", "2"], "--params-ratio must lie between 0 and 1"),
        (["prune", "w.pt", "--dry-run", "--ratio", "0.3", "--drop-blocks", "1"], "give --data DATA.yaml"),
        (["prune", "w.pt", "--dry-run", "--ratio", "0.3", "--importance", "taylor"], "give --data DATA.yaml"),
        (["prune", "w.pt", "--dry-run", "--ratio", "0.3", "--max-ratio", "model.1=2"], "--max-ratio "),
        (
            ["prune", "w.pt", "--dry-run", "--ratio", "0.3", "--data", "data.yaml", "--images", "1"]
            + ["--drop-blocks", "900", "--max-ratio", "model.2.*=0.5"],
            "that --ignore and --max-ratio keep",
        ),
        (["prune", "w.pt", "--dry-run", "--plan", "plan.json", "--macs-speed-up", "2"], "leave out --macs-speed-up"),
        (
            ["prune", "w.pt", "--dry-run", "--plan", "plan.json", "--data", "data.yaml", "--min-width", "8"],
            "ignored: --data, --min-width;",
        ),
        (["sensitivity", "w.pt", "--data", "data.yaml", "--images", "1", "--ratios", "2"], "--ratios lie between"),
        (["iterate", "w.pt", "--data", "data.yaml", "--out", "o", "--macs-speed-up", "1"], "--macs-speed-up 1.0: "),
        (
            ["iterate", "w.pt", "--data", "data.yaml", "--out", "o", "--macs-speed-up", "900"],
            "; lower --align, or ask for less",
        ),
        (
            ["iterate", "w.pt", "--data", "data.yaml", "--out", "o", "--macs-speed-up", "2"]
            + ["--rounds", "3", "--epochs", "2"],
            "--rounds 3 with --epochs 2: ",
        ),
        (["finetune", "w.pt", "--data", "data.yaml", "--out", "o", "--train", "time=1"], "use --time"),
        (
            ["sparsify", "w.pt", "--data", "data.yaml", "--out", "o", "--optimizer", "MuSGD"],
            "Invalid value for '--optimizer': 'MuSGD' is not one of 'AdamW', ",
        ),
        (
            ["search", "w.pt", "--target", "cpu", "--speed-up", "2", "--latency-ms", "3", "-o", "o.pt"],
            "command line: several budgets: --latency-ms and --speed-up;",
        ),
        (["search", "w.pt", "--target", "cpu", "--speed-up", "0.5", "-o", "o.pt"], "command line: --speed-up: "),
    ],
)
def test_what_a_command_refuses_is_called_by_its_options(
    good: Path, run: Run, monkeypatch: pytest.MonkeyPatch, argv: list[str], said: str
) -> None:
    from edgeprune.options import named
    from edgeprune.pruning.api import prune

    monkeypatch.chdir(good)
    if "plan.json" in argv and not Path("plan.json").exists():
        prune("w.pt", ratio=0.3).plan.save("plan.json")
    code, _, err = run(*argv)
    assert code == 2
    assert said in err
    commands = getattr(typer.main.get_command(cli.app), "commands")  # noqa: B009
    arguments = {param.name for param in commands[argv[0]].params if "_" in param.name}
    assert not arguments & set(re.findall(r"[a-z]+_[a-z_]+", err))
    assert named("macs_speed_up", "2") == "macs_speed_up=2"  # the command is over


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "give one of macs_speed_up=2, params_ratio=0.5, ratio=0.3 or plan=FILE; seen: none"),
        ({"macs_speed_up": 0.5}, "macs_speed_up must be at least 1"),
        ({"macs_speed_up": 900}, "macs_speed_up=900 is out of reach: .* .align=8, min_width=8.;"),
        ({"ratio": 0.3, "drop_blocks": -1}, "drop_blocks=-1: "),
        ({"ratio": 0.3, "drop_blocks": 1}, "drop_blocks ranks blocks by the loss: pass batches="),
    ],
)
def test_what_a_call_from_python_refuses_is_called_by_its_arguments(good: Path, asked: dict, said: str) -> None:
    from edgeprune.errors import TargetError
    from edgeprune.pruning.api import prune

    with pytest.raises(TargetError, match=said):
        prune(good / "w.pt", **asked)


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/edgeprune"])
def test_no_place_to_write_is_one_line(good: Path, tmp_path: Path, run: Run, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    inputs = ["--target", "cpu", "--weights", good / "w.pt", "--data", good / "data.yaml"]
    code, _, err = run("build", *inputs, "--out", tmp_path / out)
    assert code == 2
    assert err.startswith(f"edgeprune: {tmp_path / out}: ") and err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_an_unknown_target_lists_the_known_ones(run: Run) -> None:
    code, _, err = run("build", "--target", "jetson-orn", "--weights", "w.pt", "--data", "d.yaml")
    assert code == 2
    assert "did you mean jetson-orin or " in err and "edgeprune targets" in err


def test_the_wheel_has_the_profiles_and_the_schema(tmp_path: Path) -> None:
    import zipfile

    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=1200,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert {f"edgeprune/targets/{name}.yaml" for name in shipped_targets()} <= names
    assert {"edgeprune/py.typed", "edgeprune/records/build.schema.json"} <= names
    assert not any(name.startswith("tests/") for name in names)
    found = subprocess.run(  # the installed package reads its own copy, far from any checkout
        [
            sys.executable,
            "-c",
            "import sys; sys.argv = ['edgeprune', 'targets']; from edgeprune.cli import main; main()",
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert "jetson-agx-orin" in found.stdout, found.stderr


def test_the_committed_build_schema_is_the_generated_one() -> None:
    from edgeprune.records.build import build_schema

    committed = json.loads((ROOT / "edgeprune/records/build.schema.json").read_text())
    assert committed == build_schema(), "run: make schemas"


def test_an_exception_that_nobody_expected_is_a_bug_and_no_missed_gate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(cli, "app", broken)
    assert cli._run() == 70
    *trace, last = capsys.readouterr().err.splitlines()
    assert trace[0].startswith("Traceback") and trace[-1] == "RuntimeError: unforeseen"
    assert last == "edgeprune: this is a bug of edgeprune; please report it with the lines above"


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        (["bench", "m.onnx", "--json", "x", "--csv", "./x"], "--json and --csv are both"),
        (["bench", "m.onnx", "--csv", "-", "--json", "-"], "--json and --csv are both -"),
        (["history", "runs", "-o", "x.html", "--json", "x.html"], "--output and --json are both x.html"),
        (["prune", "m.pt", "-o", "x.pt", "--save-plan", "x.pt"], "what is written there ends in .json"),
        (
            ["compare", "m.onnx", "--data", "d", "-o", "x", "--json", "x/compare.html"],
            "the page of --output goes there",
        ),
    ],
)
def test_two_outputs_of_one_command_have_each_a_place_of_its_own(
    run: Run, argv: list[str], options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if argv[0] == "compare":
        (tmp_path / "x").mkdir()
    code, out, err = run(*argv)
    assert code == 2 and options in err and not out and err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "words", "command"),
    [
        (["build", "--latency-ms", "4ms"], ["--latency-ms", "4ms", "number"], "edgeprune build --help"),
        (["build", "--latency-ms=4ms"], ["--latency-ms", "4ms", "number"], "edgeprune build --help"),
        (["bench", "a.onnx", "--batch", "0"], ["--batch", "0", "1"], "edgeprune bench --help"),
        (["build"], ["--target"], "edgeprune build --help"),
        (["bench"], ["models"], "edgeprune bench --help"),
        (["lint", "a", "b"], ["(b)"], "edgeprune lint --help"),
        (["export", "best.pt", "--imgz", "3"], ["--imgz", "--imgsz"], "edgeprune export --help"),
        (["export", "best.pt", "--imgsz", "abc"], ["abc", "allowed is 640"], "edgeprune export --help"),
        (["buidl"], ["buidl", "build"], "edgeprune --help"),
        (["targets", "shwo"], ["shwo", "show"], "edgeprune targets --help"),
    ],
)
def test_what_the_parser_refuses_is_one_line_with_the_help_to_ask_for(
    run: Run, argv: list[str], words: list[str], command: str
) -> None:
    code, out, err = run(*argv)
    assert code == 2 and not out and err.startswith("edgeprune: ") and err.count("\n") == 1
    assert all(word.lower() in err.lower() for word in words) and err.endswith(f"; next: {command}\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["push", "runs/a", "--to", ""], "--to is empty"),
        (["push", "runs/a", "--to="], "--to is empty"),
        (["device", "probe", ""], "an argument is empty"),
        (["build", "--target", "cpu", "--weights", "", "--data", "d.yaml"], "--weights is empty"),
        (["bench", "caf\udce9/m.onnx"], r"'caf\xe9/m.onnx' is not text in UTF-8; rename"),
        (["build", "--target", "cpu", "--weights", "m.pt", "--out=caf\udce9"], r"caf\xe9' is not text in UTF-8"),
    ],
)
def test_a_word_that_is_empty_or_no_text_is_refused_before_anything_runs(words, says, monkeypatch, capsys):
    import sys

    from edgeprune.cli import main

    monkeypatch.setattr(sys, "argv", ["edgeprune", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["build", "--target", "cpu", "--weights", "m.pt", "--data", "d.yaml", "--out=~/runs"], "--out $HOME/runs"),
        (["data", "digits", "--out", "~"], "--out $HOME"),
        (["export", "m.pt", "-o~/m.onnx"], "-o $HOME/m.onnx"),
        (["export", "m.pt", "-o", "~/my models/m.onnx"], "-o $HOME/my models/m.onnx"),
        (["profile", "m.pt", "--target", "cpu", "--cache=~/c"], "--cache $HOME/c"),
        (["push", "runs/a", "--to=~/models"], "--to $HOME/models"),
        (["push", "runs/a", "--to=mlflow:~/models"], "--to mlflow:$HOME/models"),
        (["lint", "~/m.onnx"], "$HOME/m.onnx"),
        (["bench", "m.onnx", "--vs=~/m.onnx"], "--vs $HOME/m.onnx"),
        (["lint", "~root/m.onnx"], f"{Path('~root').expanduser()}/m.onnx"),
    ],
)
def test_a_tilde_that_no_shell_replaced_makes_no_folder_of_that_name(
    run: Run, words: list[str], meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*words)
    assert code == 2 and not out and err.count("\n") == 1 and not list(tmp_path.iterdir())
    assert f": the shell did not expand ~; write {meant} (what is called so: ./~" in err


@pytest.mark.parametrize("name", ["./~/m.onnx", "~nobody-is-called-so.onnx", "m.onnx~"])
def test_a_name_with_a_tilde_is_a_name(run: Run, name: str) -> None:
    code, _, err = run("lint", name)
    assert code == 2 and "did not expand" not in err and name.removeprefix("./") in err


def run_where_the_folder_is_gone(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in a current folder that was removed before."""
    (tmp_path / "gone").mkdir()
    code = (
        f"import os, sys; os.rmdir('../gone'); sys.path.insert(0, {str(ROOT)!r}); import edgeprune.cli as c; c.main()"
    )
    argv = [sys.executable, "-c", code, *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path / "gone", timeout=300)


@pytest.mark.parametrize("words", ["data digits --out x", "prune /m.pt --macs-speed-up 2 -o x.pt", "doctor", "show x"])
def test_a_current_folder_that_was_removed_is_told_and_is_no_bug(words: str, tmp_path: Path) -> None:
    done = run_where_the_folder_is_gone(tmp_path, *words.split())
    assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1, done.stderr
    assert "the current folder was removed; cd to another" in done.stderr


def test_help_is_given_where_the_current_folder_was_removed(tmp_path: Path) -> None:
    done = run_where_the_folder_is_gone(tmp_path, "build", "--help")
    assert done.returncode == 0 and "--weights" in done.stdout and not done.stderr


def test_a_current_folder_that_is_removed_while_a_command_runs_is_no_bug(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeprune.measure import doctor

    def examine() -> None:
        (tmp_path / "gone").rmdir()
        Path("x").resolve()

    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    monkeypatch.setattr(doctor, "examine", examine)
    code, out, err = run("doctor")
    monkeypatch.chdir(tmp_path)
    assert code == 2 and not out and err.count("\n") == 1 and "the current folder was removed" in err


def test_a_current_folder_that_is_no_text_is_refused_and_help_is_given_there(tmp_path, monkeypatch, capsys):
    import sys

    from edgeprune.cli import main

    (tmp_path / "caf\udce9").mkdir()
    monkeypatch.chdir(tmp_path / "caf\udce9")
    for words, code in (["lint", "m.onnx"], 2), (["lint", "--help"], 0):
        monkeypatch.setattr(sys, "argv", ["edgeprune", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
        assert (r"caf\xe9' is not text in UTF-8" in capsys.readouterr().err) == bool(code)
