"""Hostile YAML: dataset descriptions and target profiles of any type, bombs, cycles, tags that build objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tests.hostile.registry import LONG_NAME, Prepare, Try, in_turns, refused
from tests.situations.commands import Inputs, arguments
from tests.situations.datasets import replaced, rewritten
from tests.situations.profiles import QUICK

COMMANDS_OF_DATA = (
    *("val onnx", "parity onnx", "quantize int8 cpu", "prune --data", "finetune", "sensitivity", "build", "val"),
    *("compare onnx", "sparsify", "iterate", "search", "sweep", "quantize int8 tensorrt", "parity"),
)
COMMANDS_OF_PROFILES = (
    *("targets show", "build", "bench --target", "val --target", "compare --target", "profile", "search", "sweep"),
)
EXECUTES = {
    "a tag that calls": "!!python/object/apply:os.system ['touch CANARY']\n",
    "a tag that makes": "names: !!python/object/new:subprocess.Popen [['touch', 'CANARY']]\n",
    "a tag of a name": "names: !!python/name:os.system\n",
    "a tag of a module": "names: !!python/module:antigravity\n",
}
TEXTS = {
    "empty": "",
    "null": "null\n",
    "a word": "hello\n",
    "a list": "- 1\n- 2\n",
    "tabs": "a:\n\tb: 1\n",
    "unclosed": "names: [a, b\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "a directive": "%YAML 9.9\n---\na: 1\n",
    "an unknown tag": "names: !mine [a]\n",
    "a control character": "names: [a\x07b]\n",
    "NUL": "names: [a\0b]\n",
    "numbers for keys": "1: 2\n3.5: 4\nnull: 5\ntrue: 6\n",
    "lists for keys": "? [a, b]\n: 1\n",
    "mappings for keys": "? {a: b}\n: 1\n",
    "a key twice": "path: a\npath: b\n",
    "an alias of itself": "&a [*a]\n",
    "an alias in its mapping": "names: &a {0: *a}\ntrain: x\nval: x\n",
    "an unknown alias": "names: *nothing\n",
    "a merge of a word": "<<: hello\nnames: [a]\n",
    "a huge number": f"nc: {'9' * 5000}\n",
    "a number to the base 60": "nc: 190:20:30\n",
    "a date": "names: 2024-01-01\n",
    "a date that is none": "names: 2024-99-99\n",
    "a set": "names: !!set {a, b}\n",
    "binary": "names: !!binary aGVsbG8=\n",
    "binary that is none": "names: !!binary '***'\n",
    "a float that is none": "names: !!float hello\n",
    "an integer that is none": "names: !!int hello\n",
    "pairs": "names: !!omap [a, b]\n",
}
BOMBS = {
    "aliases": "".join(
        [
            f"a0: &a0 [{', '.join(['x'] * 9)}]\n",
            *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)),
        ]
    ),
    "aliases in names": "x0: &x0 {a: lol}\n"
    + "".join(f"x{n}: &x{n} {{{', '.join(f'k{k}: *x{n - 1}' for k in range(9))}}}\n" for n in range(1, 9))
    + "names: *x8\ntrain: images/train\nval: images/val\n",
    "merges": "a0: &a0 {k: v}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9)),
    "nesting by the thousand": "names: " + "[" * 5000 + "]" * 5000 + "\n",
    "mappings by the thousand": "names: " + "{a: " * 3000 + "1" + "}" * 3000 + "\n",
    "blocks by the thousand": "".join(f"{' ' * n}a:\n" for n in range(1500)),
    "a million lines": "k: 1\n" * 1_000_000,
    "a million entries": "names: [" + "a, " * 300_000 + "a]\n",
    "one long word": "names: [" + "a" * 20_000_000 + "]\n",
}
NUMBERS: dict[str, Any] = {
    "None": None,
    "a word": "many",
    "a list": [1],
    "a mapping": {"a": 1},
    "negative": -1,
    "zero": 0,
    "huge": 10**30,
    "infinite": float("inf"),
    "NaN": float("nan"),
    "yes": True,
}
PLACES: dict[str, Any] = {
    "a number": 5,
    "a list of numbers": [1, 2],
    "a list of None": [None],
    "nothing": [],
    "a mapping": {"a": "b"},
    "NUL": "a\0b",
    "long": LONG_NAME,
    "deep": "/".join(["a"] * 2000),
    "beyond the root": "../" * 100,
    "a home": "~/images",
    "an address": "https://example.invalid/images",
    "a variable": "$HOME/images",
    "a glob": "images/*",
    "a device": "/dev/zero",
    "the system": "/proc/self/fd",
    "a date": "2024-01-01",
}


def dataset_changes() -> dict[str, dict[str, Any]]:
    """Entries that replace those of a good dataset's YAML, by name."""
    made: dict[str, dict[str, Any]] = {}
    for key in ("path", "train", "val"):
        made |= {f"{key}: {name}": {key: value} for name, value in PLACES.items()}
    for key in ("nc", "channels"):
        made |= {f"{key}: {name}": {key: value} for name, value in NUMBERS.items()}
    names: dict[str, Any] = {
        "a number": 3,
        "a word": "circle",
        "None": None,
        "None inside": [None, None, None],
        "lists inside": [["circle"], ["square"], ["bar"]],
        "words for keys": {"a": "circle", "b": "square", "c": "bar"},
        "a gap": {0: "circle", 2: "square", 7: "bar"},
        "the same": ["circle"] * 3,
        "long": [LONG_NAME, "square", "bar"],
        "escapes": ["\x1b[31mred", "a\nb", "[/]"],
        "too many": [f"c{number}" for number in range(20_000)],
    }
    made |= {f"names: {name}": {"names": value} for name, value in names.items()}
    shapes = {
        "a number": 17,
        "a word": "17x3",
        "one": [17],
        "negative": [-1, 3],
        "words": ["a", "b"],
        "huge": [10**9, 3],
    }
    made |= {f"kpt_shape: {name}": {"kpt_shape": value} for name, value in shapes.items()}
    made |= {
        "flip_idx: a word": {"kpt_shape": [2, 3], "flip_idx": "ab"},
        "masks_dir: outside": {"masks_dir": "/etc"},
        "download: a number": {"download": 5, "val": "images/gone"},
        "val of train's": {"val": "images/train"},
    }
    return made


DOWNLOADS = {
    "a shell": "bash -c touch${IFS}CANARY",
    "a script": "bash CANARY.sh",
    "Python": "open('CANARY', 'w').close()\n",
    "Python that imports": "import os\nos.system('touch CANARY')\n",
    "an archive of a file": "file://CANARY.zip",
    "Python with an encoded question mark": "http=open('CANARY','w').close()#%3f.zip",
    "Python with a question mark": "http=open('CANARY','w').close()#.zip?",
    "Python that ends as an archive": "http=open('CANARY','w').close()#.zip",
    "Python after a label": "http://x/%0aopen('CANARY','w').close()#%3f.zip",
    "Python in a second line": "http://x/\nopen('CANARY','w').close()#.zip",
}


def profile_changes() -> dict[str, dict[str, Any]]:
    """Entries that replace those of a good profile, by name."""
    made: dict[str, dict[str, Any]] = {}
    for key in ("imgsz", "batch", "channel_alignment"):
        made |= {f"{key}: {name}": {key: value} for name, value in NUMBERS.items()}
    for key in ("budget", "accuracy", "prune", "finetune", "measure", "export", "calibration", "device", "sparsify"):
        made |= {f"{key}: {name}": {key: value} for name, value in list(NUMBERS.items())[:4]}
    for key in ("rounds", "per_round", "warmup_s", "time_limit_s", "threads", "retries"):
        made |= {f"measure.{key}: {name}": {"measure": {key: value}} for name, value in list(NUMBERS.items())[5:9]}
    made |= {
        "name: outside": {"name": "../../../outside"},
        "name: absolute": {"name": "OUTSIDE/run"},
        "name: NUL": {"name": "a\0b"},
        "name: long": {"name": LONG_NAME},
        "name: nothing": {"name": ""},
        "name: escapes": {"name": "\x1b[31mred[/]"},
        "description: long": {"description": LONG_NAME * 20},
        "description: markup": {"description": "[/][red]"},
        "runtime: unknown": {"runtime": "magic"},
        "extends: itself": {"extends": "hostile"},
        "extends: a list": {"extends": ["cpu"]},
        "extends: nothing": {"extends": "no such profile"},
        "extends: a folder": {"extends": "/tmp"},
        "extends: a device": {"extends": "/dev/zero"},
        "extends: NUL": {"extends": "a\0b"},
        "extends: long": {"extends": LONG_NAME},
        "importance: unknown": {"prune": {"importance": "magic"}},
        "ignore: a bad glob": {"prune": {"ignore": ["[", "**/**", LONG_NAME]}},
        "max_ratio: a word": {"prune": {"max_ratio": {"model.*": "all"}}},
        "train: its model": {"finetune": {"train": {"model": "evil.pt"}}},
        "train: resume": {"finetune": {"train": {"resume": "evil.pt"}}},
        "train: a project outside": {"finetune": {"train": {"project": "OUTSIDE"}}},
        "train: a list": {"finetune": {"train": [1, 2]}},
        "train: unknown": {"finetune": {"train": {"no_such_argument": 1}}},
        "train: another tracker": {"finetune": {"train": {"tracker": "../evil.yaml"}}},
        "train: augmentations": {"finetune": {"train": {"augmentations": "__import__('os').system('touch CANARY')"}}},
        "train: images cached on the disk": {"finetune": {"train": {"cache": "disk"}}},
        "train: NaN": {"finetune": {"train": {"mosaic": float("nan")}}},
        "train: compile": {"finetune": {"train": {"freeze": "everything"}}},
        "host: an option of ssh": {"device": {"kind": "cpu", "host": "-oProxyCommand=touch CANARY"}},
        "host: a shell": {"device": {"kind": "cpu", "host": "user@host.invalid;touch CANARY"}},
        "host: a command": {"device": {"kind": "cpu", "host": "user@$(touch CANARY)"}},
        "host: a port": {"device": {"kind": "cpu", "host": "user@host.invalid:99999999"}},
        "host: NUL": {"device": {"kind": "cpu", "host": "a\0b"}},
        "host: long": {"device": {"kind": "cpu", "host": LONG_NAME}},
        "python: a shell": {"device": {"kind": "cpu", "python": "touch CANARY;python3"}},
        "cpus: all": {"device": {"kind": "cpu", "compatible": "x"}},
        "tensorrt: no range": {"device": {"kind": "cuda", "tensorrt": "newest"}, "runtime": "tensorrt"},
    }
    return made


def _data(write: Callable[[Path, Inputs], Path], command: str) -> Prepare:
    def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
        return arguments(command, replace(inputs, data=write(folder, inputs)), out)

    return prepare


def _model(write: Callable[[Path, Inputs], Path]) -> Prepare:
    def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
        return arguments("build", replace(inputs, weights=write(folder, inputs)), out)

    return prepare


def _described(folder: Path, inputs: Inputs, changes: dict[str, Any]) -> Path:
    assert inputs.data is not None
    path = folder / "hostile.yaml"
    path.write_bytes(inputs.data.read_bytes())
    return rewritten(path, **changes)


def _text(folder: Path, text: str) -> Path:
    path = folder / "hostile.yaml"
    path.write_text(text.replace("CANARY", str(folder.parent / "canary")))
    return path


def _downloading(folder: Path, inputs: Inputs, script: str) -> Path:
    canary = folder.parent / "canary"
    Path(f"{canary}.sh").write_text(f"touch {canary}\n")
    path = _described(folder, inputs, {"download": script.replace("CANARY", str(canary)), "path": str(folder)})
    return rewritten(path, train="images/gone", val="images/gone")


def _with_profile(write: Callable[[Path], Path], command: str) -> Prepare:
    def prepare(folder: Path, inputs: Inputs, out: Path) -> list[object]:
        return arguments(command, replace(inputs, profile=write(folder)), out)

    return prepare


def _profiled(folder: Path, changes: dict[str, Any]) -> Path:
    content = {key: dict(value) if isinstance(value, dict) else value for key, value in QUICK.items()}
    for key, value in changes.items():
        merged = isinstance(value, dict) and isinstance(content.get(key), dict)
        content[key] = {**content[key], **value} if merged else value  # pyright: ignore[reportGeneralTypeIssues]
    text = yaml.safe_dump(content, sort_keys=False).replace("CANARY", str(folder.parent / "canary"))
    text = text.replace("OUTSIDE", str(folder.parent.parent / "outside"))
    (folder / "hostile.yaml").write_text(text)
    return folder / "hostile.yaml"


def _inside(text: str) -> str:
    """A text beside the entries of a good profile, so that it is not refused for what it lacks."""
    return yaml.safe_dump(QUICK, sort_keys=False) + text


def tries() -> Iterator[Try]:
    """Every hostile YAML with the commands that it meets."""
    long = {"timeout_s": 40}
    accepted = ("two documents", "a key twice", "an alias in its mapping", "numbers for keys")
    for (name, text), command in in_turns({**TEXTS, **BOMBS}.items(), COMMANDS_OF_DATA, 2):
        right = None if name in accepted else refused
        yield Try("dataset", name, command, _data(lambda f, i, t=text: _text(f, t), command), long, right)
    for (name, text), command in in_turns(EXECUTES.items(), COMMANDS_OF_DATA, 4):
        yield Try("code", f"dataset, {name}", command, _data(lambda f, i, t=text: _text(f, t), command), long, refused)
    for (name, script), command in in_turns(
        DOWNLOADS.items(), ("finetune", "sparsify", "build", "val", "prune --data"), 4
    ):
        write: Any = lambda f, i, s=script: _downloading(f, i, s)  # noqa: E731
        yield Try("code", f"download, {name}", command, _data(write, command), long, refused)
    for (name, changes), command in in_turns(dataset_changes().items(), COMMANDS_OF_DATA):
        write = lambda f, i, c=changes: _described(f, i, c)  # noqa: E731
        yield Try("dataset", name, command, _data(write, command), long)
    for kind in ("folder", "fifo", "loop", "link", "device"):
        for command in ("val onnx", "finetune", "build"):
            write = lambda f, i, k=kind: replaced(f / "hostile.yaml", k)  # noqa: E731
            yield Try("dataset", f"a {kind}", command, _data(write, command), long, refused)
    for kind in ("folder", "fifo", "loop", "device"):
        write = lambda f, i, k=kind: replaced(f / "hostile.yaml", k)  # noqa: E731
        yield Try("checkpoint", f"a model description that is a {kind}", "build", _model(write), long, refused)
    for name, text in BOMBS.items():
        write = lambda f, i, t=text: _text(f, t)  # noqa: E731
        yield Try("checkpoint", f"a model description: {name}", "build", _model(write), long, refused)
    for name in ("NUL", "long", "latin"):
        word = {"NUL": "a\x01.yaml", "long": f"{LONG_NAME}.yaml", "latin": "\udce9.yaml"}[name]
        for command in ("val onnx", "finetune", "build"):
            yield Try(
                "dataset", f"{name} as its name", command, _data(lambda f, i, w=word: f / w, command), long, refused
            )

    for (name, text), command in in_turns({**TEXTS, **BOMBS}.items(), COMMANDS_OF_PROFILES):
        right = None if name in ("empty", "null", "a directive") else refused
        write = lambda f, t=text: _text(f, _inside(t))  # noqa: E731
        yield Try("profile", name, command, _with_profile(write, command), long, right)
    for (name, text), command in in_turns(EXECUTES.items(), COMMANDS_OF_PROFILES, 2):
        yield Try(
            "code", f"profile, {name}", command, _with_profile(lambda f, t=text: _text(f, t), command), long, refused
        )
    for (name, changes), command in in_turns(profile_changes().items(), COMMANDS_OF_PROFILES):
        write = lambda f, c=changes: _profiled(f, c)  # noqa: E731
        reader = "code" if "CANARY" in str(changes) else "profile"
        yield Try(
            reader, f"profile, {name}" if reader == "code" else name, command, _with_profile(write, command), long
        )
    for kind in ("folder", "fifo", "loop", "link", "device"):
        for command in ("targets show", "build"):
            write = lambda f, k=kind: replaced(f / "hostile.yaml", k)  # noqa: E731
            yield Try("profile", f"a {kind}", command, _with_profile(write, command), long, refused)
