"""Pruners of other people, run from their own code, and the search of this project at the latencies that they reach.

    python -m benchmarks.peers --weights W.pt --data data.yaml --checkouts DIR --imgsz 320 --epochs 20 --seeds 0 \\
        --work runs/peers --out benchmarks/peers.md

``--checkouts`` has a folder per peer; the page and ``--list`` say how to get each. A peer whose folder is absent, at
another commit, or whose program fails, is a row that says so, and is tried again by the next call. Each peer's code
runs in a process of its own and leaves a checkpoint, which is read restricted like any file of a stranger; a split
block of its own class is made stock by ``edgeprune adopt``. Every model is then fine-tuned by Ultralytics' training
defaults, and so is the one of the search at the same measured latency. Finished rows are kept in ``--work``, a JSON
each; the same command goes on after them, and the page is written after every row. ``--print-only`` only writes the
page from what is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from time import time
from typing import Any

from benchmarks.equal_latency import Bench
from benchmarks.kept import made_here, made_of, origins
from benchmarks.page import publish, table
from benchmarks.peers.registry import PEERS, Peer, runs
from benchmarks.peers_int8 import bare_loop
from benchmarks.references import __main__ as references
from edgeprune import checkpoint
from edgeprune.artifact import write_atomically
from edgeprune.errors import EdgepruneError
from edgeprune.export.simplify import simplify_onnx
from edgeprune.pruning.adopt import adopt
from edgeprune.pruning.pruner import Pruner

RECIPE = "ultralytics"
OURS = references.OURS[RECIPE]
NOT_CONFIRMED = "latency not confirmed by the bare loop"  # in the place of ahead, level or behind
LONGEST_S = 7200  # of a peer's program
COLUMNS = (
    *("run", "seeds", "parameters", "MACs", "latency ratio", "bare loop", "its own graph", "mAP before", "mAP after"),
    *("after, 95 %", "pruned in", "opens in stock Ultralytics"),
)


class NotRunError(Exception):
    """Why a peer has no figures, in one line."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="unpruned checkpoint of YOLOv8")
    parser.add_argument("--data", type=Path, help="dataset YAML with a test split")
    parser.add_argument("--checkouts", type=Path, help="folder with a folder per peer")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=20, help="of the fine-tunes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the fine-tunes")
    parser.add_argument("--only", nargs="+", default=[], help="names of peers")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/.runs/peers"), help="finished rows, models")
    parser.add_argument("--device", default="cpu", help="that trains")
    parser.add_argument("--out", type=Path, help="the page")
    parser.add_argument("--print-only", action="store_true")
    parser.add_argument("--list", action="store_true", help="say how to get every peer, and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(peer.how_to_get for peer in PEERS))
        return
    if wrong := set(options.only) - {peer.name for peer in PEERS}:
        known = ", ".join(peer.name for peer in PEERS)
        parser.error(f"--only {wrong.pop()}: no such peer; known are {known}")
    needed = ("weights", "data", "out", *(() if options.print_only else ("checkouts",)))
    if lacking := [name for name in needed if getattr(options, name) is None]:
        parser.error(f"--{lacking[0]} is needed")
    of = made_of(options.weights, options.data, options.imgsz)
    folder = options.work / of.folder(epochs=options.epochs)
    if not options.print_only:
        folder.mkdir(parents=True, exist_ok=True)
        for row in rows(options, Bench(options.weights, options.imgsz, folder), folder):
            print(f"{row['approach']} seed {row['seed']}: {row.get('why') or row['speed_up']}", flush=True)
            publish(options.out, "peers", page(references.kept_in(folder), options))
    text = page(references.kept_in(folder), options)
    publish(options.out, "peers", text)
    print(text)


def rows(options: argparse.Namespace, bench: Bench, folder: Path) -> Iterator[dict[str, Any]]:
    """Every row that is missing, each followed by the search's; each is kept when it is done."""
    for seed in options.seeds:
        for peer, setting in runs(options.only):
            path = folder / f"{_name(peer, setting)}-{seed}.json"
            row = json.loads(path.read_text()) if path.is_file() else None
            if row is None or "why" in row:
                row = peer_row(peer, setting, seed, options, bench, path)
                yield row
            ours = folder / f"{_name(peer, setting)}-{RECIPE}-{seed}.json"
            if "why" in row:
                continue
            found = json.loads(ours.read_text()) if ours.is_file() else None
            if found is None:
                found = references.our_row(row, OURS, RECIPE, options, bench, ours)
            elif "why" in found or "bare" in found:
                continue
            if "why" not in found:
                engine = ours.with_suffix("") / "candidate" / "engine.onnx"
                found["bare"] = ratio_by_bare_loop(bench.baseline, engine)
                write_atomically(ours, json.dumps(found, indent=1))
            yield found


def _name(peer: Peer, setting: str) -> str:
    return f"{peer.name}-{setting}"


def peer_row(
    peer: Peer, setting: str, seed: int, options: argparse.Namespace, bench: Bench, path: Path
) -> dict[str, Any]:
    """Prune by the peer's code once for all seeds, time, fine-tune."""
    row: dict[str, Any] = {"approach": _name(peer, setting), "method": _name(peer, setting), "seed": seed}
    pruned, work = path.parent / f"pruned-{_name(peer, setting)}", path.with_suffix("")
    try:
        row |= facts_of(peer, setting, options, bench, pruned)
        work.mkdir(parents=True, exist_ok=True)
        row["epochs"] = options.epochs
        if row["opened"] == "no":
            row |= from_its_graph(pruned / "graph.onnx", work, options, bench)
        else:
            shutil.copyfile(pruned / "stock.pt", work / "pruned.pt")
            row |= references.finished(row, work, options.epochs, RECIPE, options, bench)
            row["bare"] = ratio_by_bare_loop(bench.baseline, work / "candidate" / "engine.onnx")
        row["total_s"] = row["prune_s"] + row.get("tuned_s", 0.0)
    except (NotRunError, EdgepruneError) as error:
        row["why"] = without_places(str(error).splitlines()[0])
    row["by"] = made_here()
    write_atomically(path, json.dumps(row, indent=1))
    return row


def facts_of(peer: Peer, setting: str, options: argparse.Namespace, bench: Bench, folder: Path) -> dict[str, Any]:
    """What the peer's program left: run once, read restricted; what is known of it is kept.

    Raises:
        NotRunError: it is not there, is another commit, failed, or left no model that can be run in any way.
    """
    kept = folder / "facts.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    theirs, seconds = run_program(peer, setting, options, folder)
    facts: dict[str, Any] = {"prune_s": seconds, "version": version_of(peer, options), "foreign": [], "refused": ""}
    facts["foreign"] = sorted({name.rpartition(".")[2] for name in checkpoint.foreign_globals(theirs)})
    facts["opened"] = opened(theirs, folder / "stock.pt", facts)
    graph = theirs.with_suffix(".onnx")
    if graph.is_file():
        simplify_onnx(graph, folder / "graph.onnx")
        bench.runtime.engine_from_onnx(folder / "graph.onnx", folder / "graph-engine.onnx")
        facts["own_graph"] = ratio_by_bare_loop(bench.baseline, folder / "graph-engine.onnx")
    else:
        facts["no_graph"] = last_line(theirs.parent / "log.txt")
        if facts["opened"] == "no":
            raise NotRunError(f"its checkpoint is refused ({facts['refused']}), and it left no ONNX")
    if facts["opened"] != "no":
        model = checkpoint.load(folder / "stock.pt").model
        before = Pruner(checkpoint.load(options.weights).model, options.imgsz).macs()
        facts["macs"] = before / Pruner(model, options.imgsz).macs()
        facts["parameters"] = checkpoint.parameter_count(model)
    write_atomically(kept, json.dumps(facts, indent=1))
    return facts


def opened(theirs: Path, stock: Path, facts: dict[str, Any]) -> str:
    """How the checkpoint was opened: ``as it is``, ``adopted``, or ``no``; written as a stock one where it was."""
    try:
        given = checkpoint.load(theirs)
        checkpoint.save(given.model, stock, like=given)
    except EdgepruneError as refused:
        facts["refused"] = without_places(str(refused).splitlines()[0])
        try:
            facts["own_parameters"] = adopt(theirs, stock).parameters[0]
        except EdgepruneError:
            return "no"
        return "adopted"
    return "as it is"


def run_program(peer: Peer, setting: str, options: argparse.Namespace, folder: Path) -> tuple[Path, float]:
    """Run the driver in a folder of its own; the checkpoint that it left, and the seconds until it was written.

    Raises:
        NotRunError: with the last line that it printed.
    """
    place = (options.checkouts / peer.name).resolve()
    require_code(peer, place, version_of(peer, options))
    shutil.rmtree(folder, ignore_errors=True)
    work = (folder / "theirs").resolve()
    work.mkdir(parents=True)
    shutil.copyfile(options.weights, work / "given.pt")
    environment = {
        # its process is one of stock Ultralytics: this one's restriction would refuse the peer's own classes there
        **{name: value for name, value in os.environ.items() if name != "ULTRALYTICS_SAFE_LOAD"},
        "PYTHONPATH": os.pathsep.join(str(place / part) for part in peer.code),
        "YOLO_AUTOINSTALL": "false",
        "YOLO_OFFLINE": "true",
        "OMP_NUM_THREADS": "1",
    }
    out = work / "pruned.pt"
    words = {
        "checkout": place,
        "weights": work / "given.pt",
        "data": options.data.resolve(),
        "imgsz": options.imgsz,
        "setting": json.dumps(peer.settings[setting]),
        "out": out,
    }
    command = [sys.executable, str(peer.driver), *(f"--{name}={word}" for name, word in words.items())]
    began = time()
    with (work / "log.txt").open("w") as log:
        try:
            code = subprocess.run(
                command, cwd=work, env=environment, stdout=log, stderr=log, timeout=LONGEST_S
            ).returncode
        except subprocess.TimeoutExpired:
            raise NotRunError(f"its program did not end within {LONGEST_S} s") from None
    if not out.is_file():
        raise NotRunError(f"its program ended with exit code {code}: {last_line(work / 'log.txt')}")
    return out, out.stat().st_mtime - began


def require_code(peer: Peer, place: Path, found: str) -> None:
    """Raise NotRunError where a peer's code is absent, or other than the registry names."""
    if not place.is_dir():
        raise NotRunError(f"no folder {peer.name} in --checkouts; get it by: {peer.how_to_get}")
    if peer.commit and found != peer.commit:
        raise NotRunError(f"its checkout is at {found[:12] or 'no commit'}, and not at {peer.commit[:12]}")
    if not peer.commit and not found:
        raise NotRunError(f"its folder has no package {peer.name}; get it by: {peer.how_to_get}")


def version_of(peer: Peer, options: argparse.Namespace) -> str:
    """Commit of a checkout, or version of a package in its folder; empty where there is none."""
    place = options.checkouts / peer.name
    if not peer.commit:
        found = [one.version for one in distributions(name=peer.name, path=[str(place)])]
        return found[0] if found else ""
    argv = ["git", "-C", str(place), "rev-parse", "HEAD"]
    ended = subprocess.run(argv, capture_output=True, text=True)
    return ended.stdout.strip() if ended.returncode == 0 else ""


def last_line(log: Path) -> str:
    """The last line of what a program printed, without places of this machine."""
    lines = [line.strip() for line in log.read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    return without_places(lines[-1])[:200] if lines else "it printed nothing"


def without_places(text: str) -> str:
    """A line with the names of files alone, not their folders."""
    return re.sub(r"(?:/[\w.+@-]+)+/", "", text)


def ratio_by_bare_loop(unpruned: Path, engine: Path) -> float:
    """Latency of the unpruned model over that of another, without anything of the bench."""
    first, second = bare_loop([unpruned, engine])
    return first / second


def from_its_graph(graph: Path, work: Path, options: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """What can be measured of a model that only its own process can open: latency and accuracy of its ONNX."""
    raced = bench.raced_engine(graph.with_name("graph-engine.onnx"))
    before, spread = references._accuracy(graph, work, options)
    return {
        "speed_up": [raced.low, raced.ratio, raced.high],
        "before": before,
        "spread": spread,
        "bare": ratio_by_bare_loop(bench.baseline, graph.with_name("graph-engine.onnx")),
        "load": round(os.getloadavg()[0], 1),
    }


def page(found: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Markdown of what there is."""
    loads = [row["load"] for row in found if "load" in row]
    seeds = sorted({row["seed"] for row in found}) or options.seeds
    epochs = f"{options.epochs} epoch{'s' * (options.epochs != 1)}"
    under = f"; load {min(loads):g} to {max(loads):g}" if loads else ""
    lines = [
        "# Other pruners from their own code, and the search at their latencies",
        "",
        f"`python -m benchmarks.peers --weights {options.weights.name} --data {options.data.parent.name}/"
        f"{options.data.name} --checkouts DIR --imgsz {options.imgsz} --epochs {options.epochs} "
        f"--seeds {' '.join(map(str, seeds))} --out benchmarks/peers.md`",
        "",
        f"{origins(row['by'] for row in found)}{under}. A peer may bring a Torch-Pruning of its own.",
        "",
        "Each peer's own program prunes, in a process of its own. What it leaves is read without running anything of "
        "the file; a split block of its own class is made stock by `edgeprune adopt`, with equal outputs. mAP50-95 on "
        f"**test** at {options.imgsz} px, before and after {epochs} by Ultralytics' training defaults "
        "(AdamW 0.001, batch 16; the best epoch is chosen on val, the pruned model itself is epoch 0). Latency ratio: "
        "the unpruned model's over this one's, ONNX Runtime on one thread, interleaved, with its 95 % interval; bare "
        "loop: the same files by a loop of a few lines that shares nothing with the first; its own graph: the ONNX of "
        "the model as the peer left it, by the same loop. The interval of mAP is over the images of test for one "
        f"seed, over seeds by Student's t for more. `{OURS}` looks for the latency ratio that the peer reached and is "
        "fine-tuned by the same recipe. Times are of this shared machine, from the start of the program to its file.",
        "",
        *about_peers(found),
        "",
    ]
    if options.epochs < 20 or len(seeds) < 3:
        lines += [
            f"**{epochs}, {len(seeds)} seed{'s' * (len(seeds) != 1)}.** One seed's interval is of the "
            "images alone: what another seed would give is not in it.",
            "",
        ]
    every = [_name(peer, setting) for peer, setting in runs([])]
    body = [
        _line(method, [row for row in found if (row["approach"], row["method"]) == (name, method)])
        for name in every
        for method in (name, OURS)
    ]
    lines += [*table(COLUMNS, body, right=1), ""]
    lines += without_figures(found)
    compared = [line for name in every if (line := comparison(name, found))]
    lines += ["What follows:", "", *compared, ""] if compared else []
    if any(NOT_CONFIRMED in line for line in compared):
        lines += [
            "Where the bare loop's ratio lies outside the interval of the bench, for one of the two models, the "
            "latency may not be equal, and nothing is said of accuracy at it.",
            "",
        ]
    return "\n".join(lines)


def without_figures(found: list[dict[str, Any]]) -> list[str]:
    """Why a row has none, or lacks one."""
    reasons = {}
    for row in found:
        name = f"`{row['approach']}`" + (f", {OURS}" if row["method"] == OURS else "")
        if "why" in row:
            reasons[name] = row["why"]
        elif row.get("opened") == "no":
            reasons[name] = f"fine-tune: not possible, its checkpoint is refused ({row['refused']})"
        elif "no_graph" in row:
            reasons[name] = f"its program left no graph of its own: {row['no_graph']}"
    return ["Without figures:", "", *(f"- {name}: {why}." for name, why in reasons.items()), ""] if reasons else []


def about_peers(found: list[dict[str, Any]]) -> list[str]:
    """A line a peer: what it is, where from, and what was amended."""
    lines = []
    for peer in PEERS:
        seen = {row["version"] for row in found if row["approach"].startswith(peer.name) and "version" in row}
        which = f"commit `{peer.commit[:12]}`" if peer.commit else f"version {', '.join(seen) or 'not run'}"
        settings = "; ".join(
            f"`{name}`: {', '.join(f'{key} {value}' for key, value in given.items()) or 'as it comes'}"
            for name, given in peer.settings.items()
        )
        amended = "; ".join(peer.amendments)
        lines.append(
            f"- `{peer.name}` ({peer.source.split()[0]}, {which}): {peer.about}. {settings}. Amended: {amended}."
        )
    return lines


def _line(method: str, group: list[dict[str, Any]]) -> list[str]:
    """One row over its seeds."""
    name = f"→ {method}" if method == OURS else f"`{method}`"
    whole = [row for row in group if "why" not in row]
    if not whole:
        return [name, str(len(group)), *["–"] * (len(COLUMNS) - 3), "not run: see below" if group else "not run yet"]

    def mean(key: str, form: str, factor: float = 1.0) -> str:
        values = [row[key] * factor for row in whole if row.get(key) is not None]
        return form.format(statistics.mean(values)) if values else "–"

    low, middle, high = (statistics.mean(row["speed_up"][i] for row in whole) for i in range(3))
    tuned = all("after" in row for row in whole)
    ends = references.interval(whole) if tuned else None
    return [
        name,
        str(len(whole)),
        mean("parameters", "{:.2f} M", 1e-6),
        mean("macs", "×{:.2f}"),
        f"×{middle:.2f} ({low:.2f} to {high:.2f})",
        mean("bare", "×{:.2f}"),
        mean("own_graph", "×{:.2f}"),
        mean("before", "{:.3f}"),
        mean("after", "{:.3f}") if tuned else "not possible",
        " to ".join(f"{end:.3f}" for end in ends) if ends else "–",
        mean("prune_s", "{:.0f} s"),
        how_it_opens(whole[0]) if method != OURS else "yes",
    ]


def how_it_opens(row: dict[str, Any]) -> str:
    """Whether the checkpoint that a peer left opens in stock Ultralytics."""
    foreign = ", ".join(f"`{name}`" for name in row["foreign"])
    if row["opened"] == "as it is":
        return "yes"
    if row["opened"] != "adopted":
        return f"no, {foreign}"
    added = row["parameters"] - row["own_parameters"]
    return f"no, {foreign}; once adopted, yes" + (f", with {added} parameters of zero added" if added else "")


def comparison(name: str, found: list[dict[str, Any]]) -> str:
    """What the seeds say of the search against a peer; empty where one of them has no accuracy.

    They are held against each other only at a latency that both clocks tell: elsewhere it may not be equal.
    """
    theirs, ours = (
        [row for row in found if (row["approach"], row["method"]) == (name, method) and "after" in row]
        for method in (name, OURS)
    )
    if not ours or not theirs:
        return ""
    if unsure := [row for row in (*theirs, *ours) if not is_confirmed(row)]:
        seen = "; ".join(f"{row['method']} {clocks(row)}" for row in unsure)
        return f"- {OURS} against `{name}`: {NOT_CONFIRMED} ({seen})."
    return f"- {OURS} against `{name}`: {references.told(ours, theirs)}."


def is_confirmed(row: dict[str, Any]) -> bool:
    """Whether the bare loop's ratio lies in the interval of the bench."""
    low, _, high = row["speed_up"]
    return "bare" in row and low <= row["bare"] <= high


def clocks(row: dict[str, Any]) -> str:
    """What both clocks said."""
    low, _, high = row["speed_up"]
    return f"×{row['bare']:.2f}, outside {low:.2f} to {high:.2f}" if "bare" in row else "was not timed by it"


if __name__ == "__main__":
    main()
