"""Hostile records: plans, run directories, results archives and engines' facts with values of any type in them."""

from __future__ import annotations

import copy
import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hostile.registry import LONG_NAME, Prepare, Try, in_turns, refused
from tests.situations.commands import Inputs
from tests.situations.datasets import replaced
from tests.situations.driver import Outcome

WRONG: dict[str, Any] = {
    "null": None,
    "a number": 7,
    "a word": "hello",
    "a list": [1, "a", None],
    "a mapping": {"a": {"b": 1}},
    "nothing in a list": [],
    "nothing in a mapping": {},
    "true": True,
    "negative": -1.5,
    "huge": 10**40,
    "long": LONG_NAME,
    "markup": "[/][red]\x1b[31m",
    "NUL": "a\0b",
}
TEXTS: dict[str, str] = {
    "empty": "",
    "a word": "hello",
    "a list": "[]",
    "null": "null",
    "a number": "7",
    "cut": '{"schema": 1, "dimens',
    "nested": "[" * 100_000,
    "mappings in mappings": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "a huge number": '{"schema": ' + "9" * 5000 + "}",
    "NaN": '{"schema": NaN}',
    "two": "{} {}",
    "a byte-order mark": "\ufeff{}",
    "a key twice": '{"schema": 1, "schema": 2}',
    "surrogates": '{"schema": "\\ud800"}',
    "a newer schema": '{"schema": 99, "schema_version": 99}',
}
PLACES = ("folder", "fifo", "loop", "link", "device")


@dataclass(frozen=True)
class Finished:
    """What the tool itself wrote, to be spoiled.

    Attributes:
        plan: of ``prune --save-plan``.
        run: a finished run directory.
        carried: a run directory whose build waits for a board.
        results: what the board gave, as a tar.
    """

    plan: Path
    run: Path
    carried: Path
    results: Path


FINISHED: list[Finished] = []
"""Set by the harness before any of these is prepared."""


def spoiled(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy with the value at a place; ``...`` removes it."""
    changed = copy.deepcopy(content)
    owner = changed
    for step in place[:-1]:
        owner = owner[step]
    if value is ...:
        del owner[place[-1]]
    else:
        owner[place[-1]] = value
    return changed


def places_of(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in JSON data; of a list only the first two and the last entry."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield (*place, key)
            yield from places_of(value, (*place, key))
    elif isinstance(content, list):
        for index in sorted({0, 1, len(content) - 1} & set(range(len(content)))):
            yield (*place, index)
            yield from places_of(content[index], (*place, index))


def drawn(content: Any, count: int, seed: int) -> list[tuple[tuple[Any, ...], str, Any]]:
    """Places with what they become: every top-level entry once, and ``count`` others."""
    draw = random.Random(seed)
    everywhere = list(places_of(content))
    kinds = list(WRONG.items())
    chosen = [place for place in everywhere if len(place) == 1]
    chosen += draw.sample([place for place in everywhere if len(place) > 1], min(count, len(everywhere) - len(chosen)))
    made = [(place, *kinds[number % len(kinds)]) for number, place in enumerate(chosen)]
    return made + [(place, "nothing", ...) for place in chosen[:12]]


def _drawing(number: int, seed: int, content: Callable[[], Any], count: int) -> Any:
    """The nth spoiled copy; the content is there only once the harness has made it."""
    data = content()
    cases = drawn(data, count, seed)
    place, _, value = cases[number % len(cases)]
    return spoiled(data, place, value)


# plans


def _plan(write: Callable[[Path], Any], *options: object) -> Prepare:
    def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
        write(folder / "plan.json")
        return ["prune", inputs.weights, "--plan", folder / "plan.json", *(options or ("-o", out / "pruned.pt"))]

    return prepare


def _plan_content() -> Any:
    return json.loads(FINISHED[0].plan.read_text())


def _plan_changed(change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        content = _plan_content()
        line = next(one for one in content["dimensions"] if one["after"] != one["before"])
        change(content, line)
        path.write_text(json.dumps(content))

    return write


def _kept(line: dict[str, Any], change: Callable[[list[int]], list[Any]]) -> None:
    part = next(iter(line["kept"]))
    line["kept"][part] = change(line["kept"][part])


PLAN_CHANGES: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "indices beyond the end": lambda plan, line: _kept(line, lambda kept: [*kept[:-1], 10**6]),
    "negative indices": lambda plan, line: _kept(line, lambda kept: [-1, *kept[1:]]),
    "indices twice": lambda plan, line: _kept(line, lambda kept: [kept[0]] * len(kept)),
    "indices backwards": lambda plan, line: _kept(line, lambda kept: kept[::-1]),
    "no indices": lambda plan, line: _kept(line, lambda kept: []),
    "fewer indices": lambda plan, line: _kept(line, lambda kept: kept[:-1]),
    "fractions": lambda plan, line: _kept(line, lambda kept: [index + 0.5 for index in kept]),
    "words": lambda plan, line: _kept(line, lambda kept: [str(index) for index in kept]),
    "a million indices": lambda plan, line: _kept(line, lambda kept: list(range(10**6))),
    "an index of 400 digits": lambda plan, line: _kept(line, lambda kept: [*kept[:-1], 10**400]),
    "a width of nothing": lambda plan, line: line.update(after=0),
    "a negative width": lambda plan, line: line.update(after=-8),
    "a wider width": lambda plan, line: line.update(after=line["before"] * 2),
    "another part": lambda plan, line: line.update(kept={"model.99": [0, 1]}),
    "another name": lambda plan, line: line.update(name="model.99"),
    "a dimension twice": lambda plan, line: plan["dimensions"].append(dict(line)),
    "no dimensions": lambda plan, line: plan.update(dimensions=[]),
    "a removed block": lambda plan, line: plan.update(removed=["model.2"]),
    "a removed block that is none": lambda plan, line: plan.update(removed=["model.99", ""]),
    "another source": lambda plan, line: plan.update(source={"weights": "0" * 64, "shapes": "0" * 64}),
    "another result": lambda plan, line: plan.update(result_shapes="0" * 64),
    "no MACs": lambda plan, line: plan.update(macs=[0, 0]),
    "no settings": lambda plan, line: plan.update(settings={}),
    "an input side of nothing": lambda plan, line: plan["settings"].update(imgsz=0),
    "an alignment of nothing": lambda plan, line: plan["settings"].update(align=0),
}


def _plans() -> Iterator[Try]:
    for name, text in TEXTS.items():
        yield Try("plan", name, "prune --plan", _plan(lambda path, t=text: path.write_text(t)), right=refused)
    for kind in PLACES:
        yield Try("plan", f"a {kind}", "prune --plan", _plan(lambda path, k=kind: replaced(path, k)), right=refused)
    for name, change in PLAN_CHANGES.items():
        for command, options in (("prune --plan", ()), ("prune --plan --dry-run", ("--dry-run",))):
            yield Try("plan", name, command, _plan(_plan_changed(change), *options))
    for number in range(60):

        def write(path: Path, n: int = number) -> None:
            path.write_text(json.dumps(_drawing(n, 11, _plan_content, 60)))

        yield Try("plan", f"spoiled {number}", "prune --plan", _plan(write))


# run directories

READERS: dict[str, Callable[[Path, Path], list[object]]] = {
    "show": lambda run, out: ["show", run],
    "history": lambda run, out: ["history", run],
    "history -o": lambda run, out: ["history", run, "-o", out / "page.html", "--json", out / "history.json"],
    "history of two": lambda run, out: ["history", run, FINISHED[0].run, "-o", out / "page.html"],
    "import-results": lambda run, out: ["import-results", FINISHED[0].results, "--run", run],
}
WHY: Callable[[Path, Path], list[object]] = lambda run, out: ["show", run, "--why", "prune"]  # noqa: E731


def run_with(
    write: Callable[[Path], Any], argv: Callable[[Path, Path], list[object]], *, carried: bool = False
) -> Prepare:
    """A copy of what a finished run directory says of itself, spoiled."""

    def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
        source = FINISHED[0].carried if carried else FINISHED[0].run
        run = folder / "run"
        shutil.copytree(source / "bundle", run / "bundle")
        for path in source.iterdir():
            if path.is_file() and path.suffix in (".json", ".md"):
                shutil.copy(path, run)
            elif (path / "record.json").is_file():
                (run / path.name).mkdir()
                shutil.copy(path / "record.json", run / path.name)
        write(run)
        return argv(run, out)

    return prepare


def _json_of(name: str, *, carried: bool = False) -> Callable[[], Any]:
    def read() -> Any:
        run = FINISHED[0].carried if carried else FINISHED[0].run
        return json.loads(next(run.glob(name)).read_text())

    return read


def written(name: str, text: str) -> Callable[[Path], Any]:
    return lambda run: next(run.glob(name)).write_text(text)


def written_spoiled(name: str, number: int, seed: int, *, carried: bool = False) -> Callable[[Path], Any]:
    def write(run: Path) -> None:
        content = _drawing(number, seed, _json_of(name, carried=carried), 80)
        next(run.glob(name)).write_text(json.dumps(content))

    return write


def _all_pass(run: Path) -> None:
    """Gates and verdict edited, samples left: what somebody does who wants it to have passed."""
    path = run / "bundle" / "build.json"
    content = json.loads(path.read_text())
    for gate in content["gates"]:
        gate["verdict"] = "PASS"
    content["verdict"] = "PASS"
    path.write_text(json.dumps(content))


def _faster(run: Path) -> None:
    """Figures of the gates edited to what was asked."""
    path = run / "bundle" / "build.json"
    content = json.loads(path.read_text())
    for gate in content["gates"]:
        if gate["limit"] is not None:
            gate["value"], gate["verdict"] = gate["limit"], "PASS"
    content["verdict"] = "PASS"
    path.write_text(json.dumps(content))


def flipped(name: str) -> Callable[[Path], Any]:
    def write(run: Path) -> None:
        path = next(run.glob(name))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))

    return write


def noticed(outcome: Outcome) -> str | None:
    """An edit has to be seen: another exit code than that of PASS, or the word."""
    text = (outcome.out + outcome.err).lower()
    told = any(word in text for word in ("edited", "changed", "does not match", "other than"))
    return None if told or outcome.code in (2, 3, 4) else f"went unnoticed with exit code {outcome.code}"


def _runs() -> Iterator[Try]:
    for (name, text), command in in_turns(TEXTS.items(), READERS, 2):
        prepare = run_with(written("bundle/build.json", text), READERS[command], carried=command == "import-results")
        yield Try("run directory", f"build.json, {name}", command, prepare, right=refused)
    for (name, text), _ in in_turns(TEXTS.items(), ("show",)):
        yield Try("run directory", f"state.json, {name}", "show --why", run_with(written("state.json", text), WHY))
        prepare = run_with(written("prune-*/record.json", text), WHY)
        yield Try("run directory", f"record.json, {name}", "show --why", prepare)
    for kind in PLACES:
        for command in ("show", "history"):
            prepare = run_with(lambda run, k=kind: replaced(run / "bundle" / "build.json", k), READERS[command])
            yield Try("run directory", f"build.json, a {kind}", command, prepare, right=refused)
    for number, command in in_turns(range(100), ("show", "history", "history -o", "history of two")):
        prepare = run_with(written_spoiled("bundle/build.json", number, 3), READERS[command])
        yield Try("run directory", f"build.json, spoiled {number}", command, prepare)
    for number in range(20):
        prepare = run_with(
            written_spoiled("bundle/build.json", number * 3, 4, carried=True), READERS["import-results"], carried=True
        )
        yield Try("run directory", f"build.json, spoiled {number} before results", "import-results", prepare)
    for number in range(20):
        prepare = run_with(written_spoiled("state.json", number, 5), WHY)
        yield Try("run directory", f"state.json, spoiled {number}", "show --why", prepare)
        prepare = run_with(written_spoiled("prune-*/record.json", number, 6), WHY)
        yield Try("run directory", f"record.json, spoiled {number}", "show --why", prepare)
    for name, change in {"gates made to pass": _all_pass, "figures made to pass": _faster}.items():
        for command in ("show", "history"):
            yield Try("run directory", name, command, run_with(change, READERS[command]), right=noticed)
    for name in ("model.onnx", "model.pt", "plan.json"):
        prepare = run_with(flipped(f"bundle/{name}"), READERS["show"])
        yield Try("run directory", f"a byte of {name} flipped", "show", prepare, right=noticed)
    for name in ("nowhere", "a\x01b", LONG_NAME, "/dev/null", "/proc/self/mem"):
        for command in ("show", "history"):
            shown = name if len(name) < 50 else "a long name"
            yield Try("run directory", f"{shown!r}", command, lambda f, i, o, c=command, n=name: [c, n], right=refused)


# results of a board

ENTRIES: dict[str, Callable[[tarfile.TarInfo], Any]] = {
    "above": lambda item: setattr(item, "name", "results/../../evil"),
    "absolute": lambda item: setattr(item, "name", "/tmp/evil-of-a-test"),
    "a link out": lambda item: (setattr(item, "type", tarfile.SYMTYPE), setattr(item, "linkname", "/etc/passwd")),
    "a hard link out": lambda item: (setattr(item, "type", tarfile.LNKTYPE), setattr(item, "linkname", "/etc/passwd")),
    "a device inside": lambda item: setattr(item, "type", tarfile.CHRTYPE),
    "a fifo inside": lambda item: setattr(item, "type", tarfile.FIFOTYPE),
    "a terabyte": lambda item: setattr(item, "size", 1 << 40),
    "a negative size": lambda item: setattr(item, "size", -1),
    "a long name": lambda item: setattr(item, "name", f"results/{LONG_NAME}"),
    "no name": lambda item: setattr(item, "name", ""),
    "a dot": lambda item: setattr(item, "name", "."),
    "NUL": lambda item: setattr(item, "name", "results/a\0b"),
    "escapes": lambda item: setattr(item, "name", "results/\x1b[31m\n"),
    "a folder for a file": lambda item: setattr(item, "name", "results/results.json/x"),
}


def _archive(write: Callable[[Path], Any], run: bool = True) -> Prepare:
    def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
        path = folder / "results.tar"
        write(path)
        shutil.copytree(FINISHED[0].carried / "bundle", out / "run" / "bundle")
        return ["import-results", path, *(["--run", out / "run"] if run else [])]

    return prepare


def _with_entry(change: Callable[[tarfile.TarInfo], Any]) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        item = tarfile.TarInfo("results/extra")
        item.size = 5
        change(item)
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as packed:
            first = tarfile.TarInfo("results/results.json")
            first.size = 2
            packed.addfile(first, io.BytesIO(b"{}"))
            try:
                packed.addfile(item, io.BytesIO(b"hello"))
            except (OSError, ValueError):  # it says more than it has: the header is what counts
                content.write(item.tobuf())
        path.write_bytes(content.getvalue())

    return write


def _results_spoiled(name: str, number: int) -> Callable[[Path], Any]:
    """The board's files with one of them spoiled and its digest put right, as somebody does who edits them."""

    def write(path: Path) -> None:
        import hashlib

        with tarfile.open(FINISHED[0].results) as packed:
            files = {m.name: f.read() for m in packed if m.isfile() and (f := packed.extractfile(m)) is not None}
        chosen = next((one for one in sorted(files) if one.endswith(name)), "results/results.json")
        draw = random.Random(number)
        try:
            content = json.loads(files[chosen])
            cases = drawn(content, 60, number) if not isinstance(content, list) else []
            options = [spoiled(content, place, value) for place, _, value in cases]
            options += [
                *WRONG.values(),
                *([content[:1], [*content[:-1], None], [[]]] if isinstance(content, list) else []),
            ]
            files[chosen] = json.dumps(draw.choice(options)).encode()
        except ValueError:
            files[chosen] = draw.choice([b"", b"\xff\xfe", b"hello\n", files[chosen][:50], b"[I] === \n" * 50])
        if not chosen.endswith("results.json"):
            told = json.loads(files["results/results.json"])
            told["files"][chosen.removeprefix("results/")] = hashlib.sha256(files[chosen]).hexdigest()
            files["results/results.json"] = json.dumps(told).encode()
        with tarfile.open(path, "w") as packed:
            for one, content in files.items():
                item = tarfile.TarInfo(one)
                item.size = len(content)
                packed.addfile(item, io.BytesIO(content))

    return write


def _archives() -> Iterator[Try]:
    texts = {
        "empty": b"",
        "text": b"hello\n",
        "zip": b"PK\x03\x04" + bytes(60),
        "zeros": bytes(10240),
        "gzip": b"\x1f\x8b\x08",
    }
    for name, content in texts.items():
        yield Try(
            "archive", name, "import-results", _archive(lambda path, c=content: path.write_bytes(c)), right=refused
        )
        prepare = _archive(lambda path, c=content: path.write_bytes(c), run=False)
        yield Try("archive", f"{name}, no --run", "import-results", prepare, right=refused)
    for kind in PLACES:
        prepare = _archive(lambda path, k=kind: replaced(path, k))
        yield Try("archive", f"a {kind}", "import-results", prepare, {"timeout_s": 30}, refused)
    for name, change in ENTRIES.items():
        yield Try("archive", name, "import-results", _archive(_with_entry(change)), right=refused)
    for name, count in (
        ("results.json", 40),
        ("000.json", 12),
        ("000.log", 6),
        ("layers.json", 10),
        ("profile.json", 8),
    ):
        for number in range(count):
            prepare = _archive(_results_spoiled(name, number))
            yield Try("archive", f"{name} spoiled {number}", "import-results", prepare)


# engines


def _engine(facts: object, command: str) -> Prepare:
    def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
        path = folder / "model.engine"
        path.write_bytes(b"ftrt" + bytes(1000))
        if isinstance(facts, str):
            (folder / "model.engine.json").write_text(facts)
        elif facts is not None:
            (folder / "model.engine.json").write_text(json.dumps(facts))
        more: list[object] = ["--data", inputs.data] if command != "bench" else ["--rounds", 4]
        return [command, path, *([inputs.onnx] if command == "compare" else []), *more]

    return prepare


def _engines() -> Iterator[Try]:
    facts: dict[str, object] = {"nothing": None, "no facts": {}, "another engine": {"engine": "0" * 64, "layers": []}}
    facts |= {name: text for name, text in TEXTS.items() if name in ("empty", "a list", "nested", "NaN", "a number")}
    for (name, content), command in in_turns(facts.items(), ("bench", "val", "compare"), 2):
        yield Try("engine", name, command, _engine(content, command))


def tries() -> Iterator[Try]:
    """Every hostile record with the commands that it meets."""
    yield from _plans()
    yield from _runs()
    yield from _archives()
    yield from _engines()
