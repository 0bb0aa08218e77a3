"""Situations by kind: inputs that people really have, and what is right for a command that meets one.

The letters are those of the kinds of faults: A finished work, B files that are not data, C channels, D few samples,
E models with a validator of their own, F datasets that do not match, G single_cls, H old and foreign files, I masks and
NaN, J INT8 with NMS inside, K structures, L TensorRT's plugins, M sizes. ``good`` has nothing wrong in it.

A check takes what a command came to and gives the fault, or None; one of the three allowed outcomes is asked for
without any check.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from tests.situations import datasets, graphs, models, reference
from tests.situations.commands import Inputs
from tests.situations.driver import REFUSALS, VERDICTS, Outcome, printed_json
from tests.situations.profiles import profile

Check = Callable[[Outcome, Inputs], str | None]
Make = Callable[[Path], Inputs]
MAP_TOLERANCE = 5e-3  # another forward pass of the same numbers, six images


@dataclass(frozen=True)
class Situation:
    """One situation.

    Attributes:
        kind: its letter.
        make: writes it into an empty folder.
        subject: attributes of :class:`Inputs` that it is about; a command that uses none of them is not asked.
        right: what a command has to come to beyond the three allowed outcomes; ``*`` is for every command.
        without: attributes of :class:`Inputs` that it has not.
    """

    kind: str
    make: Make
    subject: frozenset[str]
    right: Mapping[str, Check] = field(default_factory=dict)
    without: frozenset[str] = frozenset()


SITUATIONS: dict[str, Situation] = {}


def situation(
    kind: str, name: str, subject: str, right: Mapping[str, Check] | None = None, without: str = ""
) -> Callable[[Make], Make]:
    """Register a function that writes a situation."""

    def register(make: Make) -> Make:
        assert name not in SITUATIONS, name
        SITUATIONS[name] = Situation(kind, make, frozenset(subject.split()), right or {}, frozenset(without.split()))
        return make

    return register


# Checks


NOT_JSON = "prints more than one JSON object"


def runs(outcome: Outcome, inputs: Inputs) -> str | None:
    """No reason to refuse; a budget out of this machine's reach, or what a task or a tool has not, is one."""
    reasons = (
        "out of reach",
        "end-to-end time is known for detectors",
        "DeepStream files are written for",
        "Gst-nvinfer",
    )
    legitimate = any(text in outcome.last_line for text in reasons)
    return None if outcome.code in VERDICTS or legitimate else f"refused: {outcome.last_line}"


def refused(*words: str) -> Check:
    """It has to be refused, in a line that has one of the words."""

    def check(outcome: Outcome, inputs: Inputs) -> str | None:
        if outcome.code not in REFUSALS:
            return f"was accepted: {outcome.last_line}"
        line = (outcome.refusal or "").lower()
        return None if not words or any(word.lower() in line for word in words) else f"refused without a reason: {line}"

    return check


def either(*checks: Check) -> Check:
    """One of several is enough."""

    def check(outcome: Outcome, inputs: Inputs) -> str | None:
        faults = [one(outcome, inputs) for one in checks]
        return None if None in faults else "; ".join(str(fault) for fault in faults)

    return check


def counts(split: str, most: int = 100) -> Check:
    """Where it runs, it sees as many images as Ultralytics' own loader takes (of which it may draw ``most``)."""

    def check(outcome: Outcome, inputs: Inputs) -> str | None:
        if outcome.code not in VERDICTS:
            return None
        assert inputs.data is not None
        seen, taken = printed_json(outcome).get("images"), reference.image_count(inputs.data, split)
        if seen is None:
            return NOT_JSON
        return None if seen == min(taken, most) else f"{seen} images where Ultralytics takes {taken}"

    return check


def as_ultralytics(**options: Any) -> Check:
    """Where it runs, its accuracy is what the validator of Ultralytics gives for the checkpoint."""

    def check(outcome: Outcome, inputs: Inputs) -> str | None:
        if outcome.code not in VERDICTS:
            return None
        assert inputs.data is not None
        seen = printed_json(outcome).get("map50_95")
        if seen is None:
            return NOT_JSON
        theirs = reference.accuracy(_path(inputs), inputs.data, imgsz=inputs.imgsz, **options)
        return None if abs(seen - theirs) <= MAP_TOLERANCE else f"mAP {seen:.4f} where Ultralytics gives {theirs:.4f}"

    return check


def _path(inputs: Inputs) -> Path:
    return (inputs.cwd or Path()) / str(inputs.weights)


def agrees(outcome: Outcome, inputs: Inputs) -> str | None:
    """Where it runs, two forms of one model agree on detections, and there are some."""
    if outcome.code not in VERDICTS:
        return None
    seen = printed_json(outcome)
    if not seen:
        return NOT_JSON
    if not seen["detections_reference"] and outcome.code == 0:
        return "passed though nothing was compared"
    good = seen["max_abs_box_px"] < 0.05 and seen["detections_agreement"] > 0.98
    return None if good else f"two forms of one model differ: {seen['max_abs_box_px']:.3g} px"


def says(*words: str) -> Check:
    """What it prints has one of the words."""

    def check(outcome: Outcome, inputs: Inputs) -> str | None:
        text = (outcome.out + outcome.err).lower()
        return None if any(word.lower() in text for word in words) else f"does not say {' or '.join(words)}"

    return check


def not_zero(outcome: Outcome, inputs: Inputs) -> str | None:
    """Accuracy on the model's own labels is far from nothing."""
    if outcome.code not in VERDICTS:
        return None
    seen = printed_json(outcome).get("map50_95", 0.0)
    return None if seen > 0.1 else f"mAP {seen:.4f} on labels that the model itself gave"


def all_of(*checks: Check) -> Check:
    """Every one."""
    return lambda outcome, inputs: next((fault for one in checks if (fault := one(outcome, inputs))), None)


# What situations start from, made once


@cache
def _store() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="edgeprune-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _base(head: str, channels: int) -> Inputs:
    place = _store() / f"{head}-{channels}"
    task = {"end-to-end": "detect"}.get(head, head)
    made = models.answering(models.model(head, channels=channels), channels)
    weights = models.saved(made, place / "w.pt")
    data = datasets.dataset(place / "data", task, channels=channels)
    if task == "detect":
        reference.self_labelled(weights, data)
    return Inputs(weights, graphs.stock(made, place / "w.onnx"), data, profile(place / "quick.yaml"))


def good(folder: Path, head: str = "detect", channels: int = 3) -> Inputs:
    """A copy of inputs in which nothing is wrong: a detector on its own labels, or another task."""
    base = _base(head, channels)
    assert base.weights and base.onnx and base.data and base.profile
    folder.mkdir(parents=True, exist_ok=True)
    copies = [Path(shutil.copy(path, folder)) for path in (base.weights, base.onnx, base.profile)]
    return Inputs(copies[0], copies[1], datasets.copied(base.data, folder / "data"), copies[2])


def _on_good(change: Callable[[Path], Any], head: str = "detect") -> Make:
    """The good inputs with their data changed."""

    def make(folder: Path) -> Inputs:
        inputs = good(folder, head)
        assert inputs.data is not None
        change(inputs.data)
        return inputs

    return make


def _weights(made: Callable[[], Any], **train_args: Any) -> Make:
    """The good inputs with another model in the checkpoint."""

    def make(folder: Path) -> Inputs:
        inputs = good(folder)
        models.saved(made(), Path(str(inputs.weights)), train_args=train_args)
        return inputs

    return make


def _profile(changes: Mapping[str, Any]) -> Make:
    """The good inputs with another profile."""

    def make(folder: Path) -> Inputs:
        inputs = good(folder)
        assert inputs.profile is not None
        profile(inputs.profile, changes)
        return inputs

    return make


COUNTED: dict[str, Check] = {
    "val": counts("val"),
    "val onnx": counts("val"),
    "parity onnx": counts("val"),
    "quantize int8 cpu": counts("train"),
}
RIGHT: dict[str, Check] = {
    "*": runs,
    "val": all_of(runs, as_ultralytics(), not_zero),
    "val onnx": all_of(runs, as_ultralytics(), not_zero),
    "parity": all_of(runs, agrees),
}

situation("good", "good", "weights onnx data profile", RIGHT)(good)
for _head in ("segment", "pose", "obb", "classify", "end-to-end"):
    situation("good", f"good {_head}", "weights onnx data profile", {"*": runs, "val": all_of(runs, as_ultralytics())})(
        lambda folder, head=_head: good(folder, head)
    )

# A. An image that cannot be read, found after hours; and B. files that are not data

for _split in ("train", "val", "test"):
    situation("A", f"truncated in {_split}", "data", COUNTED)(
        _on_good(lambda data, split=_split: datasets.truncated(data, split))
    )
situation("A", "nearly whole in val", "data", COUNTED)(_on_good(lambda data: datasets.truncated(data, "val", 2, 0.98)))
situation("A", "empty image in val", "data", COUNTED)(_on_good(lambda data: datasets.emptied(data, "val", 1)))
situation("A", "empty image in train", "data", COUNTED)(_on_good(lambda data: datasets.emptied(data, "train", 3)))
situation("A", "web page in val", "data", COUNTED)(_on_good(lambda data: datasets.no_image(data, "val", 5)))
situation("A", "all of val truncated", "data", {"val": refused(), "val onnx": refused(), "build": refused()})(
    _on_good(lambda data: [datasets.truncated(data, "val", number, 0.3) for number in range(6)])
)


@situation("A", "dead link in val", "data", COUNTED)
def _(folder: Path) -> Inputs:
    inputs = good(folder)
    assert inputs.data is not None
    datasets.replaced(datasets.images_of(inputs.data, "val")[0], "link")
    return inputs


UNREADABLE = refused("cannot be read")  # Ultralytics' check lets it pass, and its loader stops at it
for _split, _commands in {
    "train": ("finetune", "sparsify", "iterate", "build", "prune --data", "quantize int8 cpu"),
    "val": ("finetune", "build", "val", "val onnx", "parity onnx"),
}.items():
    situation("A", f"truncated TIFF in {_split}", "data", dict.fromkeys(_commands, UNREADABLE))(
        _on_good(
            lambda data, split=_split: [
                _converted(data, lambda image: image, ".tif"),
                datasets.truncated(data, split),
            ]
        )
    )


@situation("A", "JPEG with bytes behind its end", "data", {"*": runs, **COUNTED})
def _(folder: Path) -> Inputs:
    inputs = good(folder)
    assert inputs.data is not None
    _converted(inputs.data, lambda image: image, ".jpg")
    for split in ("train", "val"):  # Ultralytics writes such a file anew
        image = datasets.images_of(inputs.data, split)[0]
        image.write_bytes(image.read_bytes() + b"\0\0")
        image.chmod(0o444)
    return inputs


@situation("A", "truncated in test, which is judged", "data profile")
def _(folder: Path) -> Inputs:
    inputs = _profile({"accuracy": {"max_map_drop": 1.0, "split": "test"}})(folder)
    assert inputs.data is not None
    datasets.truncated(inputs.data, "test")
    return inputs


@situation("A", "truncated classify", "data")
def _(folder: Path) -> Inputs:
    inputs = good(folder, "classify")
    assert inputs.data is not None
    datasets.truncated(inputs.data, "val")
    datasets.truncated(inputs.data, "train", 1)
    return inputs


situation("B", "AppleDouble images", "data", {"*": runs, **COUNTED})(
    _on_good(lambda data: datasets.apple_doubles(data, "train", "val", "test"))
)
situation("B", "AppleDouble images and labels", "data", {"*": runs, **COUNTED})(
    _on_good(lambda data: datasets.apple_doubles(data, "train", "val", labels=True))
)
situation("B", "AppleDouble classify", "data", {"*": runs})(
    _on_good(lambda data: datasets.apple_doubles(data, "train", "val"), "classify")
)


for _kind in ("fifo", "device", "folder"):
    situation("B", f"a {_kind} among the images", "data", {"*": runs, **COUNTED})(
        _on_good(
            lambda data, kind=_kind: [
                datasets.replaced(datasets.images_of(data, split)[0].with_name("a.png"), kind)
                for split in ("train", "val")
            ]
        )
    )
    situation("B", f"a {_kind} among the labels", "data", {"*": runs, **COUNTED})(
        _on_good(lambda data, kind=_kind: datasets.replaced(datasets.labels_of(data, "val")[0], kind))
    )


@situation("B", "hidden folder of images", "data", {"*": runs, **COUNTED})
def _(folder: Path) -> Inputs:
    inputs = good(folder)
    assert inputs.data is not None
    for split in ("train", "val"):
        image = datasets.images_of(inputs.data, split)[0]
        hidden = image.parent / ".ipynb_checkpoints"
        hidden.mkdir()
        shutil.copy(image, hidden / f"{image.stem}-checkpoint.png")
        (image.parent / ".DS_Store").write_bytes(b"\0\0\0\1Bud1" + bytes(64))
        (image.parent / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(64))
    return inputs


@situation("B", "hidden class folder", "data")
def _(folder: Path) -> Inputs:
    inputs = good(folder, "classify")
    assert inputs.data is not None
    for split in ("train", "val"):
        (inputs.data / split / ".ipynb_checkpoints").mkdir()
        (inputs.data / split / ".DS_Store").write_bytes(b"Bud1")
    return inputs


LABELS = {
    "Latin-1": "0 0.5 0.5 0.2 0.2 # Äpfel\n".encode("latin-1"),
    "UTF-16": "0 0.5 0.5 0.2 0.2\n".encode("utf-16"),
    "binary": bytes(range(256)),
    "zeros": b"0 0.5 0.5 0.2 0.2\n\0\0\0\0",
}
for _name, _label in LABELS.items():
    situation("B", f"{_name} label in val", "data", COUNTED)(
        _on_good(lambda data, content=_label: datasets.label_bytes(data, "val", content))
    )
    situation("B", f"{_name} label in train", "data", COUNTED)(
        _on_good(lambda data, content=_label: datasets.label_bytes(data, "train", content, 2))
    )
situation("B", "label with a byte-order mark", "data", {"*": runs, **COUNTED})(
    _on_good(lambda data: datasets.label_bytes(data, "val", b"\xef\xbb\xbf0 0.5 0.5 0.2 0.2\r\n"))
)


@situation("B", "a list of images with a byte-order mark", "data", {"*": runs, **COUNTED})
def _(folder: Path) -> Inputs:
    inputs = good(folder)
    assert inputs.data is not None
    for split in ("train", "val"):
        lines = [f"./images/{split}/{image.name}" for image in datasets.images_of(inputs.data, split)]
        (inputs.data.parent / f"{split}.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")
    datasets.rewritten(inputs.data, train="train.txt", val="val.txt")
    return inputs


@situation("B", "a list that names images twice, and none", "data", COUNTED)
def _(folder: Path) -> Inputs:
    inputs = good(folder)
    assert inputs.data is not None
    images = [str(image) for image in datasets.images_of(inputs.data, "val")]
    (inputs.data.parent / "val.txt").write_text("\n".join([*images, images[0], str(folder / "gone.png"), ""]))
    datasets.rewritten(inputs.data, val="val.txt")
    return inputs


@situation("B", "names beyond ASCII", "data", {"*": runs, **COUNTED})
def _(folder: Path) -> Inputs:
    inputs = good(folder)
    assert inputs.data is not None
    for number, name in enumerate(("été 1", "日本", "a[1]*", "naïve's")):
        for path in (datasets.images_of(inputs.data, "val")[0], datasets.labels_of(inputs.data, "val")[0]):
            path.rename(path.with_name(f"z{number} {name}{path.suffix}"))
    return inputs


# C. Channels


def _channels(channels: int, head: str = "detect") -> Make:
    def make(folder: Path) -> Inputs:
        return good(folder, head, channels)

    return make


for _channel_count in (1, 4):
    situation("C", f"{_channel_count} channels", "weights onnx data profile", RIGHT)(_channels(_channel_count))
    for _head in ("segment", "classify") if _channel_count == 1 else ("obb",):
        # Ultralytics has no loader of a classifier's images in another number of channels than three
        allowed = either(runs, refused("channels", "NMS is for detectors")) if _head == "classify" else runs
        situation("C", f"{_channel_count} channels {_head}", "weights onnx data profile", {"*": allowed})(
            _channels(_channel_count, _head)
        )
situation("C", "model of 1 channel on colour", "weights onnx", {"val": either(refused("channel"), as_ultralytics())})(
    lambda folder: replace(good(folder, channels=1), data=good(folder / "other").data)
)
situation("C", "model of 3 channels on data of 1", "data", {"val": either(refused("channel"), as_ultralytics())})(
    lambda folder: replace(good(folder), data=good(folder / "other", channels=1).data)
)


def _converted(data: Path, convert: Callable[[Image.Image], Image.Image], suffix: str = ".png") -> None:
    for split in ("train", "val", "test"):
        for path in datasets.images_of(data, split):
            image = convert(Image.open(path))
            path.unlink()
            image.save(path.with_suffix(suffix))


CONVERTED: dict[str, tuple[Callable[[Image.Image], Image.Image], str]] = {
    "grey files": (lambda image: image.convert("L"), ".png"),
    "files with alpha": (lambda image: image.convert("RGBA"), ".png"),
    "palette files": (lambda image: image.convert("P"), ".png"),
    "CMYK files": (lambda image: image.convert("CMYK"), ".jpg"),
    "files of 16 bits": (lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), ".png"),
    "TIFF files": (lambda image: image, ".tif"),
}
for _name, (_convert, _suffix) in CONVERTED.items():
    situation(
        "C",
        f"3 channels, {_name}",
        "data",
        {
            "*": runs,
            "val": all_of(runs, as_ultralytics()),
            **{name: all_of(runs, check) for name, check in COUNTED.items() if name != "val"},
        },
    )(_on_good(lambda data, c=_convert, s=_suffix: _converted(data, c, s)))

# D. Few samples

MEASURES: dict[str, dict[str, Any]] = {
    "4 rounds": {"rounds": 4, "per_round": 5},
    "4 rounds of one": {"rounds": 4, "per_round": 1},
    "8 rounds": {"rounds": 8, "per_round": 5},
    "16 rounds": {"rounds": 16, "per_round": 5},
    "no time": {"rounds": 60, "time_limit_s": 0.001},
    "one sample a round": {"rounds": 16, "per_round": 1},
    "no warm-up": {"rounds": 16, "warmup_s": 0},
}
BUDGETS: dict[str, dict[str, Any]] = {
    "speed_up": {"speed_up": 1.01, "statistic": "p50"},
    "p99": {"latency_ms": 50.0, "statistic": "p99"},
}
for _budget_name, _budget in BUDGETS.items():
    for _name, _measure in MEASURES.items():
        situation("D", f"{_name}, {_budget_name}", "profile")(_profile({"budget": _budget, "measure": _measure}))
situation("D", "batch 4, speed_up", "profile")(_profile({"batch": 4, "budget": BUDGETS["speed_up"]}))
situation("D", "batch 4, 8 rounds", "profile")(_profile({"batch": 4, "measure": {"rounds": 8}}))
situation("D", "batch 4, end to end", "profile", {"*": refused("batch")})(
    _profile({"batch": 4, "budget": {**BUDGETS["speed_up"], "scope": "end_to_end"}})
)
situation("D", "4 rounds, end to end", "profile")(
    _profile({"budget": {**BUDGETS["speed_up"], "scope": "end_to_end"}, "measure": {"rounds": 4}})
)
situation("D", "8 rounds, half precision", "profile")(
    _profile({"precision": "fp16", "budget": BUDGETS["speed_up"], "measure": {"rounds": 8}})
)

# E. Models that need another validator or trainer


def _foreign_family(made: Callable[[], Any], **train_args: Any) -> Make:
    def make(folder: Path) -> Inputs:
        inputs = good(folder)
        assert inputs.data is not None
        weights = models.saved(made(), Path(str(inputs.weights)), train_args=train_args)
        reference.self_labelled(weights, inputs.data)
        return inputs

    return make


situation("E", "RT-DETR", "weights", {"*": refused("RTDETRDetectionModel")}, without="onnx")(
    _foreign_family(models.rt_detr)
)
situation("E", "YOLO-World", "weights", {"*": refused("WorldModel")}, without="onnx")(_foreign_family(models.world))
situation("E", "YOLOE", "weights", {"*": refused("YOLOEModel")}, without="onnx")(_weights(models.yoloe))
situation("E", "two heads", "weights", RIGHT, without="onnx")(lambda folder: good(folder, "end-to-end"))


@situation(
    "E",
    "RT-DETR as ONNX",
    "onnx",
    dict.fromkeys(("val onnx", "compare onnx", "parity onnx"), refused("RTDETRDecoder")),
    without="weights",
)
def _(folder: Path) -> Inputs:
    inputs = good(folder)
    return replace(inputs, onnx=graphs.stock(models.rt_detr(), folder / "detr.onnx"))


# F. Datasets that do not match

MISMATCH = refused("class", "label", "names")
READS_LABELS = (
    *("prune --data", "sensitivity", "search", "sweep", "build", "val", "val onnx"),
    *("parity", "parity onnx", "quantize int8 cpu", "quantize int8 tensorrt"),
)
WRONG_CLASSES: dict[str, Check] = {
    **dict.fromkeys((*READS_LABELS, "compare onnx"), MISMATCH),
    "finetune": runs,
}
UNLABELLED: dict[str, Check] = dict.fromkeys((*READS_LABELS, "finetune", "sparsify", "iterate"), refused("label"))


def _classes(names: dict[int, str]) -> Callable[[Path], Any]:
    return lambda data: datasets.rewritten(data, names=names)


situation("F", "more classes", "data", WRONG_CLASSES)(_on_good(_classes({**models.NAMES, 3: "star", 4: "cross"})))
situation("F", "more classes, used", "data", WRONG_CLASSES)(
    _on_good(
        lambda data: [
            datasets.rewritten(data, names={**models.NAMES, 3: "star"}),
            *(
                label.write_text("3 0.5 0.5 0.2 0.2\n")
                for s in ("train", "val")
                for label in datasets.labels_of(data, s)
            ),
        ]
    )
)
situation("F", "fewer classes", "data")(_on_good(_classes({0: "circle", 1: "square"})))
situation("F", "one class", "data")(_on_good(_classes({0: "circle"})))
situation("F", "other names", "data", dict.fromkeys(READS_LABELS, MISMATCH))(
    _on_good(_classes({0: "cat", 1: "dog", 2: "cow"}))
)
situation("F", "other order", "data", dict.fromkeys(READS_LABELS, MISMATCH))(
    _on_good(_classes({0: "square", 1: "circle", 2: "bar"}))
)
situation("F", "nc in words", "data")(_on_good(lambda data: datasets.rewritten(data, nc="3")))
situation("F", "no names", "data")(_on_good(lambda data: datasets.rewritten(data, names=None, nc=3)))
situation("F", "labels missing", "data", UNLABELLED)(_on_good(lambda data: shutil.rmtree(data.parent / "labels")))
situation(
    "F",
    "labels missing in train",
    "data",
    {name: refused("label") for name in ("prune --data", "sensitivity", "search", "build", "finetune", "sparsify")},
)(_on_good(lambda data: shutil.rmtree(data.parent / "labels" / "train")))
situation("F", "labels empty", "data", UNLABELLED)(
    _on_good(lambda data: [p.write_text("") for s in ("train", "val") for p in datasets.labels_of(data, s)])
)
situation("F", "class out of range", "data", {name: refused() for name in ("prune --data", "search", "build")})(
    _on_good(lambda data: datasets.label_bytes(data, "train", b"7 0.5 0.5 0.2 0.2\n"))
)
situation("F", "coordinates in pixels", "data", COUNTED)(
    _on_good(lambda data: datasets.label_bytes(data, "train", b"0 32 32 12 12\n"))
)
situation("F", "too few columns", "data", COUNTED)(
    _on_good(lambda data: datasets.label_bytes(data, "val", b"0 0.5 0.5\n"))
)
situation("F", "words for numbers", "data", COUNTED)(
    _on_good(lambda data: datasets.label_bytes(data, "val", b"circle 0.5 0.5 0.1 0.1\n"))
)
situation("F", "no test split, which is judged", "data profile", {"build": refused("test")})(
    lambda folder: _without_test(_profile({"accuracy": {"max_map_drop": 1.0, "split": "test"}})(folder))
)
situation("F", "val without images", "data", dict.fromkeys(("build", "val", "val onnx", "finetune"), refused()))(
    _on_good(lambda data: [path.unlink() for path in datasets.images_of(data, "val")])
)
for _task in ("pose", "segment", "obb"):
    situation("F", f"detector on {_task} data", "data")(
        lambda folder, task=_task: replace(good(folder), data=good(folder / "other", task).data)
    )
    situation("F", f"{_task} model on boxes", "data")(
        lambda folder, task=_task: replace(good(folder, task), data=good(folder / "other").data)
    )
situation("F", "detector on class folders", "data", {"*": refused()})(
    lambda folder: replace(good(folder), data=good(folder / "other", "classify").data)
)
situation("F", "classifier on boxes", "data", {"*": refused()})(
    lambda folder: replace(good(folder, "classify"), data=good(folder / "other").data)
)


def _without_test(inputs: Inputs) -> Inputs:
    assert inputs.data is not None
    datasets.rewritten(inputs.data, test=None)
    return inputs


# G. single_cls


def _single(trained: bool) -> Make:
    def make(folder: Path) -> Inputs:
        inputs = good(folder)
        assert inputs.data is not None
        made = models.with_attribute(models.answering(models.model(nc=1)), names={0: "item"})
        if trained:
            weights = models.saved(made, Path(str(inputs.weights)), train_args={"single_cls": True})
            graph = graphs.stock(made, folder / "single.onnx")
        else:
            weights, graph = inputs.weights, inputs.onnx
        options = ("--train", "single_cls=true")
        more = () if trained else tuple((name, options) for name in ("finetune", "sparsify", "iterate"))
        return replace(inputs, weights=weights, onnx=graph, more=more)

    return make


situation(
    "G", "trained with single_cls", "weights onnx", {"*": runs, "val": all_of(runs, as_ultralytics(single_cls=True))}
)(_single(True))
situation("G", "asked for single_cls", "weights", dict.fromkeys(("finetune", "sparsify", "iterate"), runs))(
    _single(False)
)

# H. Old and foreign files

NOT_TRUSTED = {"*": refused()}


def _old(release: str) -> Make:
    def make(folder: Path) -> Inputs:
        inputs = good(folder)
        old = folder / "old.pt"
        models.old_modules(Path(str(inputs.weights)), old, models.OLD_PATHS[release])
        return replace(inputs, weights=old, onnx=inputs.onnx)

    return make


for _release in models.OLD_PATHS:
    situation("H", f"modules of {_release}", "weights", {"*": runs, "val": all_of(runs, as_ultralytics())})(
        _old(_release)
    )


def _content(content: Callable[[Any], Any], name: str = "w.pt", **options: Any) -> Make:
    """A checkpoint file that holds something else."""

    def make(folder: Path) -> Inputs:
        inputs = good(folder)
        path = Path(str(inputs.weights)).with_name(name)
        torch.save(content(models.answering(models.model())), path, **options)
        return replace(inputs, weights=path.name, cwd=path.parent) if name != "w.pt" else replace(inputs, weights=path)

    return make


def _checkpoint(made: Any, **entries: Any) -> dict[str, Any]:
    return {"epoch": -1, "model": made, "train_args": {"imgsz": 64, "task": "detect"}, **entries}


situation("H", "DataParallel", "weights", {"*": either(runs, refused("DataParallel"))})(
    _content(lambda made: _checkpoint(nn.DataParallel(made)))
)
situation("H", "DataParallel alone", "weights", {"*": either(runs, refused("DataParallel"))})(
    _content(lambda made: nn.DataParallel(made))
)
situation("H", "weights averaged by torch", "weights", {"*": refused("AveragedModel")})(
    _content(lambda made: _checkpoint(torch.optim.swa_utils.AveragedModel(made)))
)
situation("H", "model alone", "weights")(_content(lambda made: made))
situation("H", "state dict", "weights", {"*": refused("state dict")})(_content(lambda made: made.state_dict()))
situation("H", "state dict in a checkpoint", "weights", {"*": refused("state dict")})(
    _content(lambda made: _checkpoint(made.state_dict()))
)
situation("H", "half precision", "weights", {"*": runs})(_content(lambda made: _checkpoint(made.half())))
situation("H", "averaged alone", "weights", {"*": runs})(_content(lambda made: _checkpoint(None, ema=made)))
situation("H", "old archive format", "weights", {"*": refused("before 1.6")})(
    _content(_checkpoint, _use_new_zipfile_serialization=False)
)
situation("H", "no train_args", "weights", {"*": runs})(_content(lambda made: {"model": made}))
situation("H", "another model of torch", "weights", {"*": refused()})(
    _content(lambda made: {"model": nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())})
)
situation("H", "a list", "weights", {"*": refused()})(_content(lambda made: [1, 2, 3]))
situation("H", "a local yolov5n.pt", "weights", {"*": runs})(_content(_checkpoint, "yolov5n.pt"))
situation("H", "a local yolov8n.pt", "weights", {"*": runs})(_content(_checkpoint, "yolov8n.pt"))
situation("H", "a local rtdetr-l.pt", "weights", {"*": runs})(_content(_checkpoint, "rtdetr-l.pt"))
situation("H", "a suffix in capitals", "weights")(_content(_checkpoint, "W.PT"))


@situation("H", "a damaged local yolov5n.pt", "weights", {"*": refused("damaged", "truncated", "no checkpoint")})
def _(folder: Path) -> Inputs:
    inputs = good(folder)
    path = folder / "yolov5n.pt"
    path.write_bytes(Path(str(inputs.weights)).read_bytes()[:5000])
    return replace(inputs, weights=path.name, cwd=folder)


@situation("H", "TorchScript", "weights", {"*": refused("TorchScript")})
def _(folder: Path) -> Inputs:
    inputs = good(folder)
    torch.jit.script(nn.Linear(2, 2)).save(str(inputs.weights))
    return inputs


class Attention(nn.Module):
    """A block of somebody's own project."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(32, 32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input, gated."""
        return x * self.gate(x).sigmoid()


def _with_attention() -> Any:
    made = models.answering(models.model())
    block = made.model[4]
    attention = Attention()
    made.model[4] = nn.Sequential(block, attention)
    for name in ("i", "f", "type", "np"):
        setattr(made.model[4], name, getattr(block, name))
    return made


situation("H", "a block of one's own", "weights", {"*": refused("Attention")})(_weights(_with_attention))

# I. Masks and NaN

for _name in ("unstructured", "structured"):
    situation("I", f"{_name} masks", "weights", {"*": refused("mask", "prune", "weight_orig")})(
        _weights(lambda kind=_name: models.with_masks(models.model(), kind=kind))
    )


def _normed(norm: Callable[[nn.Module], Any]) -> Callable[[], Any]:
    """With one of torch's older norms, which are hooks: its parametrizations cannot be saved with a model."""

    def made() -> Any:
        normed = models.answering(models.model())
        norm(normed.model[0].conv)
        return normed

    return made


situation("I", "weight norm", "weights", {"*": refused("remove_weight_norm")})(_weights(_normed(nn.utils.weight_norm)))
situation("I", "spectral norm", "weights", {"*": refused("torch.nn.utils", "hook")})(
    _weights(_normed(nn.utils.spectral_norm))
)
for _where in ("first", "statistic", "last", "whole"):
    situation("I", f"NaN in {_where}", "weights", {"*": refused("NaN", "finite")})(
        _weights(lambda where=_where: models.with_value(models.answering(models.model()), float("nan"), where=where))
    )
situation("I", "infinity in first", "weights", {"*": refused("infinity")})(
    _weights(lambda: models.with_value(models.answering(models.model()), float("inf")))
)


def _not_finite(outcome: Outcome, inputs: Inputs) -> str | None:
    return f"passed: {outcome.last_line}" if outcome.code == 0 else None


@situation(
    "I",
    "NaN in ONNX",
    "onnx",
    dict.fromkeys(("parity", "parity onnx", "simplify", "lint", "quantize fp16", "quantize int8 cpu"), _not_finite),
)
def _(folder: Path) -> Inputs:
    inputs = good(folder)
    assert inputs.onnx is not None
    return replace(inputs, onnx=graphs.with_nan(inputs.onnx, folder / "nan.onnx"))


@situation("I", "no detections", "weights onnx", {"parity": agrees, "parity onnx": agrees})
def _(folder: Path) -> Inputs:
    inputs = good(folder)
    made = models.answering(models.model())
    with torch.no_grad():
        for branch in made.model[-1].cv3:
            branch[-1].bias.fill_(-20.0)
    weights = models.saved(made, Path(str(inputs.weights)))
    return replace(inputs, weights=weights, onnx=graphs.stock(made, folder / "silent.onnx"))


# J. INT8 with NMS inside


def _sorted_head(head: str, **arguments: Any) -> Make:
    def make(folder: Path) -> Inputs:
        inputs = good(folder, head)
        made = models.answering(models.model(head))
        return replace(inputs, onnx=graphs.stock(made, folder / "sorted.onnx", **arguments))

    return make


for _head in ("detect", "segment", "pose", "obb"):
    situation("J", f"NMS inside {_head}", "onnx", {"*": runs})(_sorted_head(_head, nms=True))
situation("J", "end-to-end inside", "onnx", {"*": runs})(_sorted_head("end-to-end", nms=False))
for _precision in ("int8", "fp16", "fp32"):
    situation("J", f"NMS inside, {_precision} profile", "profile", {"build": runs})(
        _profile({"precision": _precision, "export": {"nms": True}})
    )
situation("J", "int8 profile", "profile", {"build": runs})(_profile({"precision": "int8"}))
situation("J", "int8 profile, entropy", "profile", {"build": runs})(
    _profile({"precision": "int8", "calibration": {"images": 16, "method": "entropy"}})
)

# K. Structures


def _narrow() -> Any:
    backbone = [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 1, 1]]]
    return models.model(backbone=[*backbone, *([-1, 1, "Conv", [8, 3, 2]] for _ in range(3))])


def _depthwise() -> Any:
    return models.model(backbone=[*models.BACKBONE[:1], [-1, 1, "DWConv", [16, 3, 2]], *models.BACKBONE[2:]])


def _ghost() -> Any:
    return models.model(backbone=[*models.BACKBONE[:1], [-1, 1, "GhostConv", [16, 3, 2]], *models.BACKBONE[2:]])


K_RIGHT: dict[str, Check] = {"*": either(runs, refused("focus", "channel", "block"))}
situation("K", "Focus stem", "weights", K_RIGHT)(_weights(models.with_focus))
NOTHING: dict[str, Check] = {
    "prune": either(runs, refused("nothing can be pruned", "no channel can be pruned")),
    "prune --dry-run": either(runs, refused("nothing can be pruned", "no channel can be pruned")),
}
situation("K", "PReLU", "weights", NOTHING)(_weights(lambda: models.with_activation("torch.nn.PReLU()")))
situation("K", "LeakyReLU", "weights", {"*": runs})(_weights(lambda: models.with_activation("torch.nn.LeakyReLU(0.1)")))
situation("K", "Hardswish", "weights", {"*": runs})(_weights(lambda: models.with_activation("torch.nn.Hardswish()")))
situation("K", "least width everywhere", "weights", NOTHING)(_weights(_narrow))
situation("K", "depthwise stem", "weights", {"*": runs})(_weights(_depthwise))
situation("K", "GhostConv", "weights", {"*": runs})(_weights(_ghost))
situation("K", "everything ignored", "weights", NOTHING)(
    lambda folder: replace(
        good(folder), more=(("prune", ("--ignore", "model.*")), ("prune --dry-run", ("--ignore", "model.*")))
    )
)

# L. TensorRT's plugins

PLUGIN: dict[str, Check] = {
    **dict.fromkeys(("val onnx", "parity onnx", "bench onnx"), refused("TensorRT")),
    "lint": all_of(runs, says("_TRT")),
}


def _plugin(op: str, domain: str) -> Make:
    def make(folder: Path) -> Inputs:
        inputs = good(folder)
        assert inputs.onnx is not None
        return replace(inputs, onnx=graphs.with_plugin(inputs.onnx, folder / "plugin.onnx", op=op, domain=domain))

    return make


for _op in ("EfficientNMS_TRT", "EfficientNMS_ONNX_TRT", "BatchedNMSDynamic_TRT"):
    situation("L", f"{_op} in TRT", "onnx", PLUGIN)(_plugin(_op, "TRT"))
situation("L", "EfficientNMS_TRT in the standard domain", "onnx", PLUGIN)(_plugin("EfficientNMS_TRT", ""))
situation("L", "EfficientNMS_TRT in trt.plugins", "onnx", PLUGIN)(_plugin("EfficientNMS_TRT", "trt.plugins"))

# M. Sizes


def _rectangle(height: int, width: int, **arguments: Any) -> Make:
    def make(folder: Path) -> Inputs:
        inputs = good(folder)
        assert inputs.data is not None
        made = models.answering(models.model())
        path = graphs.stock(made, folder / "rectangle.onnx", imgsz=[height, width], **arguments)
        for split in ("train", "val", "test"):
            for image in datasets.images_of(inputs.data, split):
                Image.open(image).resize((width, height)).save(image)
        reference.self_labelled(path, inputs.data, imgsz=(height, width))
        return replace(inputs, onnx=path)

    return make


SIZES: dict[str, Check] = {"*": runs, "val onnx": all_of(runs, not_zero), "parity onnx": all_of(runs, agrees)}
situation("M", "64 × 96", "onnx", SIZES, without="weights")(_rectangle(64, 96))
situation("M", "96 × 64", "onnx", SIZES, without="weights")(_rectangle(96, 64))
situation("M", "32 × 128", "onnx", {"*": runs}, without="weights")(_rectangle(32, 128))
situation("M", "free size", "onnx", SIZES, without="weights")(_rectangle(64, 96, dynamic=True))


@situation("M", "metadata of another size", "onnx", without="weights")
def _(folder: Path) -> Inputs:
    inputs = good(folder)
    assert inputs.onnx is not None
    return replace(inputs, onnx=graphs.with_metadata(inputs.onnx, folder / "odd.onnx", imgsz="[96, 96]"))


@situation("M", "batch 4 in the file", "onnx", {"*": runs}, without="weights")
def _(folder: Path) -> Inputs:
    inputs = good(folder)
    made = models.answering(models.model())
    return replace(inputs, onnx=graphs.stock(made, folder / "four.onnx", batch=4))
