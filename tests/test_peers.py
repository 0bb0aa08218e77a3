"""benchmarks.peers: a peer that works, one whose program fails, one that is absent, and what the page says of them."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.kept import MadeOf
from benchmarks.peers import __main__ as peers
from benchmarks.peers import registry
from benchmarks.peers.registry import PEERS, Peer
from benchmarks.references import __main__ as references
from edgeprune import checkpoint
from tests.export.helpers import saved, stock_model

# what a peer's own program does, in a checkout that a test writes
PRUNES = "import shutil\ndef prune(source, out):\n    shutil.copyfile(source, out)\n"
FAILS = "def prune(source, out):\n    raise RuntimeError(f'no such layer in {source}')\n"
SPLITS = """
import sys, torch
from types import ModuleType
from torch import nn
from ultralytics import YOLO

class C2f_v2(nn.Module):
    pass

def prune(source, out):
    model = YOLO(source).model.float()
    block = model.model[2]
    theirs = C2f_v2()
    theirs.__dict__.update({name: value for name, value in block.__dict__.items() if not name.startswith('_')})
    c = block.c
    for name, keep in (('cv0', slice(0, c)), ('cv1', slice(c, 2 * c))):
        conv = type(block.cv1)(block.cv1.conv.in_channels, c, 1)
        conv.conv.weight = nn.Parameter(block.cv1.conv.weight.data[keep])
        for part in ('weight', 'bias', 'running_mean', 'running_var'):
            getattr(conv.bn, part).data.copy_(getattr(block.cv1.bn, part).data[keep])
        conv.bn.eps = block.cv1.bn.eps
        setattr(theirs, name, conv)
    theirs.cv2, theirs.m = block.cv2, block.m
    model.model[2] = theirs
    torch.save({'model': model}, out)
"""
UNKNOWN = SPLITS.replace("C2f_v2", "Something")
DRIVER = """
import argparse
given = argparse.ArgumentParser()
for name in ('checkout', 'weights', 'data', 'imgsz', 'setting', 'out'):
    given.add_argument('--' + name)
given = given.parse_args()
from their_code import prune
prune(given.weights, given.out)
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = stock_model("yolov8", "detect", random_norms=True)
    return saved(model, tmp_path_factory.mktemp("peers") / "w.pt")


@pytest.fixture(scope="module")
def bench(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The unpruned model compiled; a race is not run."""
    from benchmarks.equal_latency import Bench

    made = Bench(weights, 64, tmp_path_factory.mktemp("bench"))
    interval = SimpleNamespace(low=1.9, ratio=2.0, high=2.1)
    made.raced = lambda _, folder: made.compiled(weights, folder) and interval  # type: ignore[method-assign]
    made.raced_engine = lambda _: interval  # type: ignore[method-assign]
    return made


@pytest.fixture
def their(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Adds a peer whose checkout holds this code, at the commit that the registry names."""
    known: list[Peer] = []
    monkeypatch.setattr(peers, "PEERS", known)
    monkeypatch.setattr(registry, "PEERS", known)
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)

    def add(name: str, code: str | None, commit: str = "") -> Peer:
        place = tmp_path / "checkouts" / name
        if code is not None:
            place.mkdir(parents=True)
            (place / "their_code.py").write_text(code)
            author = ("-c", "user.name=a", "-c", "user.email=a@b")
            for words in (("init", "-q"), ("add", "."), (*author, "commit", "-q", "-m", "theirs")):
                subprocess.run(["git", "-C", str(place), *words], check=True, capture_output=True)
            head = subprocess.run(["git", "-C", str(place), "rev-parse", "HEAD"], capture_output=True, text=True)
            commit = commit or head.stdout.strip()
        made = Peer(name, "does it", "https://example.org/x", commit or "0" * 40, driver, {"as-it-is": {}})
        known.append(made)
        return made

    yield add


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Training, validation and search without work; the fine-tunes in order."""
    done: list[str] = []

    def trained(weights: Path, **_: Any) -> Any:
        done.append(Path(weights).parent.name)
        return SimpleNamespace(best=weights, summary=SimpleNamespace(best_epoch=0, seconds=1.0))

    def searched(_: str, weights: Path, *__: Any, output: Path, **___: Any) -> Any:
        output.write_bytes(Path(weights).read_bytes())
        plan = SimpleNamespace(params=(10, 4), macs_speed_up=2.1)
        return SimpleNamespace(plan=plan, gate=SimpleNamespace(verdict=SimpleNamespace(value="PASS")))

    monkeypatch.setattr(references, "finetune", trained)
    monkeypatch.setattr(references, "search", searched)
    monkeypatch.setattr(references, "_accuracy", lambda *_: (0.5, 0.01))
    monkeypatch.setattr(peers, "ratio_by_bare_loop", lambda *_: 1.95)
    return done


def options_for(folder: Path, weights: Path, **others: Any) -> argparse.Namespace:
    given = {"imgsz": 64, "epochs": 3, "seeds": [0], "device": "cpu", "only": [], "checkouts": folder / "checkouts"}
    return argparse.Namespace(weights=weights, data=Path("data/data.yaml"), **(given | others))


def test_peers_that_work_fail_and_are_absent_are_a_row_each(
    tmp_path: Path, weights: Path, bench: Any, their: Any, quick: list[str]
) -> None:
    for name, code in (("works", PRUNES), ("splits", SPLITS), ("fails", FAILS), ("unknown", UNKNOWN), ("absent", None)):
        their(name, code)
    their("moved", PRUNES, commit="1" * 40)
    options = options_for(tmp_path, weights)
    found = list(peers.rows(options, bench, tmp_path))
    by_name = {row["approach"]: row for row in found if row["method"] != peers.OURS}
    assert by_name["works-as-it-is"]["opened"] == "as it is"
    assert by_name["splits-as-it-is"]["opened"] == "adopted" and by_name["splits-as-it-is"]["foreign"] == ["C2f_v2"]
    assert checkpoint.foreign_globals(tmp_path / "splits-as-it-is-0" / "pruned.pt") == []
    assert by_name["works-as-it-is"]["macs"] == pytest.approx(1.0)
    assert "no such layer in given.pt" in by_name["fails-as-it-is"]["why"], "without its folder"
    assert "their_code.Something" in by_name["unknown-as-it-is"]["why"]
    assert "git clone" in by_name["absent-as-it-is"]["why"]
    assert "not at 111111111111" in by_name["moved-as-it-is"]["why"]
    assert [row["asked"] for row in found if row["method"] == peers.OURS] == [2.0, 2.0]
    assert len(quick) == 4, "two peers, and the search at the latency of each"

    text = peers.page(references.kept_in(tmp_path), options)
    assert "| `works-as-it-is` | 1 |" in text and "| `splits-as-it-is` | 1 |" in text
    assert "no, `C2f_v2`; once adopted, yes" in text
    assert "- `fails-as-it-is`: its program ended with exit code 1: RuntimeError: no such layer in given.pt." in text
    assert f"{peers.OURS} against `works-as-it-is`: not told: fewer than three seeds." in text
    assert "×1.95" in text and str(tmp_path) not in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1

    again = list(peers.rows(options, bench, tmp_path))
    assert {row["approach"] for row in again} == {
        f"{name}-as-it-is" for name in ("fails", "unknown", "absent", "moved")
    }, "what has figures is not run again, what has none is tried"


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        (1.95, 2.05, "ahead"),
        (1.9, 2.1, "ahead"),
        (3.1, 2.05, "latency not confirmed by the bare loop (peer ×3.10, outside 1.90 to 2.10"),
        (1.95, 1.8, f"latency not confirmed by the bare loop ({peers.OURS} ×1.80, outside 1.90 to 2.10"),
        (1.95, None, f"latency not confirmed by the bare loop ({peers.OURS} was not timed by it"),
    ],
)
def test_nobody_is_ahead_at_a_latency_that_the_second_clock_does_not_tell(
    theirs: float, ours: float | None, said: str
) -> None:
    found = [
        {"approach": "peer", "method": method, "after": after + seed / 1000, "speed_up": [1.9, 2.0, 2.1]}
        | ({} if bare is None else {"bare": bare})
        for method, after, bare in (("peer", 0.4, theirs), (peers.OURS, 0.5, ours))
        for seed in range(3)
    ]
    line = peers.comparison("peer", found)
    assert line.startswith(f"- {peers.OURS} against `peer`: {said}") and line.endswith(".")


def test_one_rule_says_who_is_ahead_and_it_needs_three_seeds_whatever_the_images_say() -> None:
    for count, said in ((1, "not told: fewer than three seeds"), (2, "not told: fewer than three seeds"), (3, "ahead")):
        groups = [
            [{"after": after + seed / 1000, "spread": 1e-6, "speed_up": [1.9, 2.0, 2.1]} for seed in range(count)]
            for after in (0.5, 0.4)
        ]
        assert references.told(*groups) == said
        groups[1][0]["speed_up"] = [3.9, 4.0, 4.1] if count == 1 else [1.9, 2.0, 2.1]
        assert references.told(*groups) == said + "; latency differs" * (count == 1)


def test_the_words_of_the_page_follow_from_its_table() -> None:
    """Of the page that is there: who is ahead, by the digits that it shows."""
    text = (Path(peers.__file__).parents[1] / "peers.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    found, name = [], ""
    for row in rows[2:]:
        name = row[0].strip("`") if row[0].startswith("`") else name
        if row[1] == "1":
            low, high = re.findall(r"[\d.]+", row[4])[1:]
            after = [float(end) for end in row[9].split(" to ")]
            spread = (after[1] - after[0]) / 2 / 1.96
            figures = {"speed_up": [float(low), 0, float(high)], "bare": float(row[5].strip("×")), "spread": spread}
            method = name if row[0].startswith("`") else peers.OURS
            found.append({"approach": name, "method": method, "after": sum(after) / 2, **figures})
    assert len(found) == 10
    for name in {row["approach"] for row in found}:
        assert peers.comparison(name, found) in text.splitlines()


def test_a_row_of_ours_that_was_stopped_before_the_second_clock_is_timed_by_it(
    tmp_path: Path, weights: Path, bench: Any, their: Any, quick: list[str]
) -> None:
    their("works", PRUNES)
    options = options_for(tmp_path, weights)
    _, found = peers.rows(options, bench, tmp_path)
    kept = tmp_path / f"works-as-it-is-{peers.RECIPE}-0.json"
    kept.write_text(json.dumps({name: value for name, value in found.items() if name != "bare"}))
    [again] = peers.rows(options, bench, tmp_path)
    assert again == found == json.loads(kept.read_text()) and list(peers.rows(options, bench, tmp_path)) == []


def test_a_second_seed_is_of_the_same_pruned_model(
    tmp_path: Path, weights: Path, bench: Any, their: Any, quick: list[str]
) -> None:
    peer = their("works", PRUNES)
    list(peers.rows(options_for(tmp_path, weights), bench, tmp_path))
    (tmp_path / "checkouts" / peer.name / "their_code.py").write_text(FAILS)
    found = list(peers.rows(options_for(tmp_path, weights, seeds=[0, 1]), bench, tmp_path))
    assert [(row["seed"], row.get("why")) for row in found] == [(1, None), (1, None)]


def test_a_model_that_only_its_own_program_opens_is_measured_by_its_graph(
    tmp_path: Path, weights: Path, bench: Any, their: Any, quick: list[str]
) -> None:
    from edgeprune.export.onnx import onnx_from_checkpoint

    onnx_from_checkpoint(weights, tmp_path / "theirs.onnx", imgsz=64)
    graph = f"    __import__('shutil').copyfile({str(tmp_path / 'theirs.onnx')!r}, out.replace('.pt', '.onnx'))\n"
    their("unknown", UNKNOWN + graph)
    options = options_for(tmp_path, weights)
    found = list(peers.rows(options, bench, tmp_path))
    assert found[0]["opened"] == "no" and found[0]["before"] == 0.5 and "after" not in found[0]
    assert quick == ["unknown-as-it-is-ultralytics-0"], "only the search's model can be trained"
    text = peers.page(references.kept_in(tmp_path), options)
    assert "| not possible |" in text and "fine-tune: not possible, its checkpoint is refused" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "nobody"], "no such peer"),
        (["--weights", "w.pt", "--data", "d/data.yaml", "--out", "p.md"], "--checkouts is needed"),
        ([], "--weights is needed"),
    ],
)
def test_wrong_options_end_in_one_line(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["peers", *words])
    with pytest.raises(SystemExit) as ended:
        peers.main()
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_print_only_writes_the_page_of_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{PEERS[0].name}-{next(iter(PEERS[0].settings))}"
    of = MadeOf("w", "1" * 12, "d", "2" * 12, 320)
    monkeypatch.setattr(peers, "made_of", lambda *_: of)
    kept = tmp_path / "work" / of.folder(epochs=20)
    kept.mkdir(parents=True)
    row = {"approach": name, "method": name, "seed": 0, "why": "it is gone", "by": "a machine; then"}
    (kept / f"{name}-0.json").write_text(json.dumps(row))
    words = ["--weights", "w.pt", "--data", "d/data.yaml", "--work", str(tmp_path / "work"), "--print-only"]
    monkeypatch.setattr(sys, "argv", ["peers", *words, "--out", str(tmp_path / "page.md")])
    peers.main()
    text = (tmp_path / "page.md").read_text()
    assert "a machine; then." in text
    assert f"- `{name}`: it is gone." in text and text.strip() == capsys.readouterr().out.strip()
    for peer in PEERS:
        assert all(f"`{peer.name}-{setting}`" in text for setting in peer.settings), "what was not run is said"


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_says_how_to_get_it(peer: Peer, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    assert peer.driver.is_file() and peer.amendments and peer.settings
    assert len(peer.commit) == 40 or "==" in peer.source
    compile(peer.driver.read_text(), peer.driver.name, "exec")
    monkeypatch.setattr(sys, "argv", ["peers", "--list"])
    peers.main()
    assert peer.how_to_get in capsys.readouterr().out.splitlines()
    with pytest.raises(peers.NotRunError, match="get it by"):
        peers.require_code(replace(peer, name="absent"), Path("absent"), "")
