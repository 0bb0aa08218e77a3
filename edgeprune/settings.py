"""Settings that a target's YAML, the command line and Python share, each described once.

A class of settings is a frozen dataclass: a field's type holds the allowed range, its docstring the help. From it
derive a section of a target's YAML and of its JSON Schema (:mod:`edgeprune.target`), the options of a command
(:mod:`edgeprune.cli.settings`), and what a function in Python takes.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypedDict, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Le

from edgeprune.errors import SettingError
from edgeprune.input_size import DEFAULT_SIDE, LARGEST_SIDE, Pixels, Size, plain
from edgeprune.options import named
from edgeprune.reading import shown

if TYPE_CHECKING:
    from pydantic import TypeAdapter

S = TypeVar("S", bound="Settings")

Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Ratio = Annotated[float, Ge(1), Le(1000)]
Share = Annotated[float, Ge(0), Le(1)]
Count = Annotated[int, Ge(0)]
Side = Annotated[int, Ge(1), Le(LARGEST_SIDE)]
"""In pixels, of what is run: a classifier takes any."""
LARGEST_COUNT = 65_536
"""Of images a run, channels or keypoints."""
MOST_SEED = 2**31 - 1
"""What NumPy takes, 32 bits, less what training adds: a number for every process and epoch."""
Seed = Annotated[int, Ge(0), Le(MOST_SEED)]

RuntimeName = Literal[
    "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx", "tensorrt", "trtexec"
]
Precision = Literal["fp32", "fp16", "int8", "int8-fp16"]
"""Number format of a graph or an engine; each part of the name is one that it holds besides FP32."""
HeadOfTwo = Literal["end-to-end", "raw"]
"""The heads of a model with two, one-to-one and one-to-many."""
ExportedHead = Literal[HeadOfTwo, "nms"]
"""What an exported graph ends in; with NMS inside, behind the raw one."""
Head = Literal["auto", ExportedHead]
"""What can be asked for: ``auto`` takes the one-to-one head where there is one, ``raw`` and ``nms`` the other."""


@dataclass(frozen=True)
class AsPath:
    """Makes pydantic read text as the path of a file, and keep that."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.read, handler(source))

    @staticmethod
    def read(value: Any) -> Any:
        """The path; ValueError says what else is allowed."""
        if isinstance(value, (str, Path)):
            return Path(value)
        raise ValueError(f"the path of a file is allowed, as text or a pathlib.Path; seen: {value!r}")


File = Annotated[Path | str, AsPath()]
"""Of this machine: a path, or text, which becomes one."""

YAML_KEYS = {"strength": "lambda", "bias_strength": "bias_lambda"}
"""Fields that are called otherwise in YAML and on the command line; ``lambda`` cannot be a name in Python."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the classes of settings: checks every field on construction.

    Raises:
        SettingError: a value is of another type or out of range; names the field, the value and what is allowed.
    """

    # pydantic reads a section of a target's YAML by this
    __pydantic_config__: ClassVar[Mapping[str, Any]] = {
        "extra": "forbid",
        "allow_inf_nan": False,
        "alias_generator": lambda name: YAML_KEYS.get(name, name),
        "serialize_by_alias": True,
    }

    def __post_init__(self) -> None:
        from pydantic import ValidationError

        for name, adapter in _adapters(type(self)).items():
            value = getattr(self, name)
            try:
                read = adapter.validate_python(value)
            except ValidationError as error:
                message = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise SettingError(f"{named(name, repr(value))}: {message[0].lower()}{message[1:]}") from error
            if read != value:  # what may be written in several ways is kept in one
                object.__setattr__(self, name, read)

    @classmethod
    def of(cls: type[S], *sources: Settings, **values: Any) -> S:
        """The fields of this class that ``sources`` have, of the last that has one, and ``values``."""
        known = {
            name: getattr(source, name) for source in sources for name in field_names(cls) if hasattr(source, name)
        }
        return cls(**{**known, **values})

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        schema = handler(core_schema)
        for name, text in descriptions(cls).items():
            key = YAML_KEYS.get(name, name)  # a schema may be asked for by the names of fields
            schema["properties"][key if key in schema["properties"] else name]["description"] = text
        return schema


def field_names(cls: type[Settings]) -> list[str]:
    """Names of a class's fields."""
    return [item.name for item in fields(cls)]


@cache
def descriptions(cls: type) -> dict[str, str]:
    """Field to docstring, of a class and its bases, each on one line."""
    texts: dict[str, str] = {}
    for base in reversed([base for base in cls.__mro__ if base.__module__ != "builtins"]):
        [tree] = ast.parse(inspect.getsource(base)).body
        assert isinstance(tree, ast.ClassDef)
        for statement, following in pairwise(tree.body):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                texts[ast.unparse(statement.target)] = " ".join(ast.literal_eval(following.value).split())
    return {name: texts[name] for name in get_type_hints(cls) if name in texts}


@cache
def _adapters(cls: type[Settings]) -> dict[str, TypeAdapter[Any]]:
    from pydantic import ConfigDict, TypeAdapter

    strict, hints = ConfigDict(strict=True, allow_inf_nan=False), get_type_hints(cls, include_extras=True)
    return {name: TypeAdapter(hints[name], config=strict) for name in field_names(cls)}


class Overrides(TypedDict, total=False):
    """What a command may say instead of the target's YAML. A budget replaces the target's, but not its statistic."""

    latency_ms: float | None
    """Budget: latency on the target in milliseconds, at most."""
    speed_up: float | None
    """Budget: measured latency of the unpruned model over that of the pruned one, at least."""
    macs_speed_up: float | None
    """Budget: MACs of the unpruned model over those of the pruned one, at least; needs no device."""
    max_map_drop: float | None
    """Largest loss of mAP50-95 (a classifier's top-1 accuracy), 0 to 1 (0.02 is two points)."""
    imgsz: Size | None
    """Input in pixels, multiples of 32: a side, or HEIGHT,WIDTH; the profile's, or what the weights were trained at."""
    epochs: int | None
    """Epochs of fine-tuning."""
    until: str | None
    """End fine-tuning early: ``map_drop <= 0.01``."""
    device: str | None
    """Where engines are built and timed: ``user@host[:port]``, or ``local`` for this machine."""


@dataclass(frozen=True)
class _ReadBy:
    """In the annotation of a field: what may also be written for its value, and the function that reads it.

    Pydantic's own ``BeforeValidator`` would have it imported for ``--help``.
    """

    read: Callable[[Any], Any]
    written: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        written = handler.generate_schema(self.written)
        return core_schema.no_info_before_validator_function(
            self.read, handler(source), json_schema_input_schema=written
        )


def _comma_separated(value: Any) -> Any:
    """GPUs as they may be written, ``0`` or ``[0, 1]``, as Ultralytics names them."""
    if isinstance(value, str):
        return value
    numbers = value if isinstance(value, list) else [value]
    if numbers and all(type(number) is int for number in numbers):
        return ",".join(map(str, numbers))
    raise ValueError(
        f"a name (cpu), a number of a GPU, or a list of those numbers is allowed; seen: {shown(repr(value))}"
    )


PlainOptimizer = Literal["AdamW", "SGD", "Adam", "Adamax", "NAdam", "RAdam", "RMSprop"]
Optimizer = Literal[PlainOptimizer, "MuSGD"]
"""``MuSGD`` alone rescales gradients, so that what is added to them loses its size."""


@dataclass(frozen=True, kw_only=True)
class Training(Settings):
    """Settings of a training stage; ``train`` takes every other Ultralytics training argument."""

    epochs: Annotated[int, Ge(1), Le(100_000)] = 50
    """Passes over the training split."""
    time_h: Positive | None = None
    """Hours that training takes, whatever ``epochs`` says."""
    batch: Annotated[int, Ge(1), Le(4096)] = 16
    """Images in one optimiser step, over all devices."""
    lr0: Positive = 0.002
    """Learning rate after warm-up."""
    optimizer: Optimizer = "AdamW"
    """Optimiser; never ``auto``, which would ignore ``lr0``."""
    patience: Count = 50
    """Epochs without improvement after which training ends; 0 never."""
    device: Annotated[str, _ReadBy(_comma_separated, str | int | list[int])] = ""
    """Where to train, as Ultralytics names it (``cpu``, ``0``, ``0,1``); empty takes a GPU when there is one."""
    workers: Count = 4
    """Data loader processes per device; a CPU has none."""
    train: dict[str, Any] = field(default_factory=dict)
    """Further Ultralytics training arguments, by their names."""

    def __post_init__(self) -> None:
        if self.optimizer == "auto":
            optimizer = named("optimizer", repr(self.optimizer))
            raise SettingError(f"{optimizer} would ignore {named('lr0')}; allowed is the name of one")
        super().__post_init__()
        own = {"time": "time_h", "distill_model": "teacher", "dis": "feature"} | {
            name: name for name in field_names(TrainSettings)
        }
        for key in self.train:
            if key in own:
                raise SettingError(f"train argument {key!r} has a setting of its own: use {named(own[key])}")
            if key in SET_HERE:
                raise SettingError(f"train argument {key!r} is set by edgeprune itself; {SET_HERE[key]}")


@dataclass(frozen=True, kw_only=True)
class Pretraining(Training):
    """Settings of the pretrain stage, which trains from random weights: only where a model YAML is given."""

    epochs: Annotated[int, Ge(1), Le(100_000)] = 100
    """Passes over the training split."""


SET_HERE = {
    **dict.fromkeys(
        ("model", "data", "mode", "task", "project", "name", "exist_ok", "save_dir", "resume", "pretrained", "save")
        + ("val", "cfg", "profile"),
        "remove it",
    ),
    "split": "epochs are chosen on val, and edgeprune val judges on another split",
    "nms": "use head",
    "classes": "give a data set of these classes",
    **dict.fromkeys(("save_json", "save_txt"), "edgeprune val looks at a model's predictions"),
    "augmentations": "give Ultralytics' own augmentations, which are numbers",
}
"""Ultralytics arguments that edgeprune sets itself, or does not take, and what to do instead."""


@dataclass(frozen=True, kw_only=True)
class Teaching(Settings):
    """How much a teacher, the unpruned model, is heard."""

    response: NotNegative = 1.0
    """Weight of the distance to the teacher's answers; 1 is as strong as the labels, 0 leaves it out."""
    feature: NotNegative = 0.0
    """Weight of Ultralytics' own distillation of the head's inputs (its ``dis``); alone it cost .03."""

    def teaches(self) -> bool:
        """Whether a teacher would be heard at all."""
        return bool(self.response or self.feature)


@dataclass(frozen=True, kw_only=True)
class Run(Settings):
    """What a training takes besides a section of a target's YAML; in a build the target and the command say it."""

    imgsz: Annotated[Size, Pixels()] | None = None
    """Training images in pixels: a side, or HEIGHT,WIDTH; what the weights were trained at when not given."""
    seed: Seed = 0
    """Seed of everything random."""
    head: Head = "auto"
    """Of a model with two heads, the one that will be exported: epochs are judged by it."""
    quiet: bool = False
    """Hide Ultralytics' log and progress bars."""

    @property
    def side(self) -> Size:
        """``imgsz``, or Ultralytics' own 640; every training has it put in, by the task of its model."""
        return DEFAULT_SIDE if self.imgsz is None else plain(self.imgsz)


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Run, Teaching, Training):
    """Everything that one training run is asked to do."""

    teacher: File | None = None
    """Weights of a teacher with the same classes, usually the unpruned model."""

    def for_int8(self) -> TrainSettings:
        """The same for quantization-aware training: INT8 is simulated in every step."""
        return replace(self, train={**self.train, "quantize": 8})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher and not self.teaches():
            neither = f"{named('response', '0')} and {named('feature', '0')}"
            raise SettingError(f"a teacher with {neither} teaches nothing; raise one or name no teacher")


def check_seed(seed: int) -> None:
    """Refuse a seed that a library would stumble over in the middle of the work, as :class:`Run` does for its own.

    Raises:
        SettingError: it is no whole number, or out of range.
    """
    if type(seed) is not int or not 0 <= seed <= MOST_SEED:
        raise SettingError(f"{named('seed', repr(seed))}: allowed is a whole number from 0 to {MOST_SEED}")


def check_count(count: int, name: str, *, least: int = 0) -> None:
    """Refuse what is no count, for an argument that no class of settings has.

    Raises:
        SettingError: it is no whole number, or less than ``least``.
    """
    if type(count) is not int or count < least:
        raise SettingError(f"{named(name, repr(count))}: allowed is a whole number from {least} on")


def hours_from(text: str) -> float:
    """A time as it is typed, in hours: ``2h``, ``30m``, ``1h30m``, or a number of hours.

    Raises:
        ValueError: it is something else, or no time at all.
    """
    match = re.fullmatch(r"(?:(\d*\.?\d+)h)?(?:(\d*\.?\d+)m)?|(\d*\.?\d+)", text.strip().lower())
    hours, minutes, plain = match.groups() if match else (None, None, None)
    found = float(plain or hours or 0) + float(minutes or 0) / 60
    if not 0 < found < math.inf:
        raise ValueError(f"{text!r} is no time; allowed is 2h, 30m, 1h30m, or a number of hours")
    return found


def read_map_drop(value: Any) -> Any:
    """The number in ``map_drop <= 0.01`` or ``0.01``; a number, or None, is given back.

    Raises:
        ValueError: it is something else.
    """
    if value is None or type(value) in (int, float):
        return value
    text = value if isinstance(value, str) else ""
    match = re.fullmatch(r"\s*(?:map_drop\s*<=)?\s*(\d*\.?\d+(?:[eE]-?\d+)?)\s*", text)
    if match is None:
        seen = shown(repr(value))
        raise ValueError(f"{seen} is no condition; allowed is 'map_drop <= 0.01', with a number of 0 to 1")
    return float(match[1])


@dataclass(frozen=True, kw_only=True)
class Finetuning(Teaching, Training):
    """Settings of the fine-tune stage."""

    teacher: str | None = None
    """Weights of another teacher of the same task and classes, such as the same model one scale up; the unpruned model
    where it is left out. A path from the folder of the profile that states it, else from the working directory."""
    distill: bool = True
    """Use the unpruned model as teacher, for epochs that take half as long again; what it brought:
    ``benchmarks/training_distillation.md``."""
    until: Annotated[Share | None, _ReadBy(read_map_drop, float | str | None)] = None
    """``map_drop <= 0.01``: end as soon as mAP50-95 (a classifier's top-1 accuracy) on the validation split is that
    close to the unpruned model's, with margin, both by Ultralytics' validator. The gate on the artifact is held as
    ever."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distill and not self.teaches():
            raise SettingError(
                "distill with response 0 and feature 0 teaches nothing; raise one or set distill to false"
            )
        if self.teacher is not None and not self.distill:
            raise SettingError(f"teacher {self.teacher} is not heard with distill false; leave one of them out")


@dataclass(frozen=True, kw_only=True)
class Qat(Teaching, Training):
    """Settings of the qat stage: INT8 that is trained (quantization-aware training), after fine-tuning."""

    epochs: Annotated[int, Ge(1), Le(100_000)] = 5
    """Passes over the training split."""
    lr0: Positive = 0.0001
    """Learning rate after warm-up; far below fine-tuning's, since the ranges of INT8 stay as they were found."""


@dataclass(frozen=True, kw_only=True)
class AccuracyGoal(Settings):
    """When fine-tuning may end early: once an epoch's accuracy has come within a drop of the unpruned model's."""

    baseline: Share
    """Accuracy of the unpruned model on the validation split, by the trainer's own validation."""
    max_drop: Share
    """Allowed drop."""
    margin: Share = 0.002
    """How far below ``max_drop`` the drop must be, since the gate measures the artifact on another runtime."""


Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class SparsitySettings(Settings):
    """How hard sparsity training pushes the scales of batch normalisation towards zero.

    A scale starts near 1. With AdamW it moves by up to the learning rate a step wherever ``strength`` is above its
    gradient, so the learning rates of all steps must add up to more than 1 for channels to switch off; a ``strength``
    far above the gradients only costs accuracy. With SGD it moves by learning rate x strength / (1 - momentum).
    Measured on the digits demo, three quarters of the scales' gradients (root mean square) were below 3e-4 and 5 % were
    above 0.03, hence the default. Reference implementations, which train with SGD, use 1e-2.
    """

    strength: Positive = 0.001
    """Weight of the penalty on scales at the start."""
    bias_strength: NotNegative = 0.0
    """The same for the biases of these channels; 0 leaves them alone."""
    schedule: Schedule = "linear"
    """How both fall over the run: not at all, linearly, or along a half cosine."""
    final: Share = 0.1
    """What is left of both at the end, 0 to 1."""
    tied: Literal["group", "exempt"] = "group"
    """Scales tied by shortcuts: penalised as one, or left alone."""

    def factor(self, epoch: int, epochs: int) -> float:
        """What is left of the strength in ``epoch`` (from 0) of ``epochs``: 1 in the first, ``final`` in the last."""
        if self.schedule == "constant" or epochs < 2:
            return 1.0
        progress = min(epoch / (epochs - 1), 1.0)
        if self.schedule == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return 1.0 - (1.0 - self.final) * progress


@dataclass(frozen=True, kw_only=True)
class Sparsifying(SparsitySettings, Training):
    """Settings of the sparsify stage: training with a penalty on the scales of batch normalisation, before pruning."""

    epochs: Annotated[int, Ge(1), Le(100_000)] = 20
    """Passes over the training split."""
    lr0: Positive = 0.003
    """Learning rate after warm-up. The rates of all steps must add up to more than 1 for scales to reach zero."""
    optimizer: PlainOptimizer = "AdamW"
    """Optimiser; not ``MuSGD``, which rescales gradients and so undoes the penalty, nor ``auto``, which would ignore
    ``lr0``."""
    patience: Count = 0
    """Epochs without improvement after which training ends; 0, the default, never: scales shrink for longer."""


FEWEST_IMAGES = 16
"""To calibrate on: published INT8 collapses trace to calibration on four images."""
ADVISED_IMAGES = 64
"""To calibrate on; on fewer there is a warning."""
LEAST_INT8_OPSET = 13
"""Of an ONNX graph: from it on a Q/DQ pair holds a scale a channel."""
CalibrationMethod = Literal["entropy", "percentile", "minmax"]


@dataclass(frozen=True, kw_only=True)
class Calibration(Settings):
    """How INT8 ranges are found, and on how many images a precision below FP32 is tried."""

    images: Annotated[int, Ge(FEWEST_IMAGES), Le(100_000)] = 256
    """Images of the training split that INT8 is calibrated on; fewer than 64 is a warning. Any precision below FP32 is
    tried on as many that do not judge, to choose layers and formats by; on the whole of val where test judges."""
    method: CalibrationMethod = "entropy"
    """How a range is chosen from the values seen: all of them (``minmax``), a share of them (``percentile``), or at
    least those of the first images and of the others what costs least by their distribution (``entropy``)."""
    percentile: Annotated[float, Gt(50), Le(100)] = 99.99
    """Share of the values that a range covers, in percent, for ``percentile``."""
    reduce_range: bool | None = None
    """Weights of 7 bits, for ONNX Runtime on a CPU alone: on x86 without VNNI sums of full ones do not fit its integer
    kernels, and are cut off. Null: where the CPU that runs it needs it."""


LAUNCHES = 3
"""Fresh processes that the rounds of a benchmark or of a build's gate are divided among."""
STABLE_RETRIES = 4
"""How often a benchmark that shall be stable is measured again, where nothing says how often."""
MOST_ROUNDS = 100_000
MOST_PER_ROUND = 10_000
"""Also of a measurement that is made again with more of them."""


Threads = Annotated[int, Ge(0), Le(1024)]


@dataclass(frozen=True, kw_only=True)
class Inference(Settings):
    """How a model is run on the images of a dataset."""

    batch: Annotated[int, Ge(1), Le(LARGEST_COUNT)] = 1
    """Images per inference, where the model leaves it free."""
    threads: Threads = 0
    """Threads of the runtime; 0 leaves the choice to it."""
    workers: Annotated[int, Ge(0), Le(1024)] = 0
    """Processes that read images; 0 reads in this one."""


@dataclass(frozen=True, kw_only=True)
class Sampling(Settings):
    """How latency is sampled, whoever asks for it."""

    threads: Threads = 1
    """Threads of the runtime; 0 leaves the choice to it."""
    warmup_s: Annotated[float, Ge(0), Le(600)] = 1.0
    """Least warm-up for each model, in seconds; of all models together a third of the longest run at most."""
    rounds: Annotated[int, Ge(1), Le(MOST_ROUNDS)] = 60
    """Interleaved rounds; in each every model has its turn, in an order that rotates."""
    per_round: Annotated[int, Ge(1), Le(MOST_PER_ROUND)] = 5
    """Samples of each model in a round."""
    time_limit_s: NotNegative = 60.0
    """Longest run of one measurement, in seconds: after it no further round begins; 0 for no limit."""
    copies: bool = True
    """On a GPU: whether copies of the inputs to the device and of the outputs from it are in the time; from frame to
    boxes they always are."""
    cuda_graph: bool = False
    """Capture an inference once and replay it, where it can be captured (not through ``onnxruntime-tensorrt-rtx``); the
    measurement says whether it was so. Through ONNX Runtime, which refuses what it cannot capture, it has not yet been
    measured on a GPU."""


@dataclass(frozen=True, kw_only=True)
class Measuring(Sampling):
    """How latency is sampled; the gate asks for more where the samples do not settle it."""

    quiet_wait_s: Annotated[float, Ge(0), Le(3600)] = 0.0
    """Longest wait for other work on this machine to end before an INCONCLUSIVE gate is measured again, in seconds."""
    retries: Annotated[int, Ge(0), Le(20)] = 2
    """How often an INCONCLUSIVE gate is measured again, with twice the samples each time, 16 times as many at most."""


@dataclass(frozen=True, kw_only=True)
class Benching(Sampling):
    """How one benchmark is sampled: what a target says, and what only a command says."""

    batch: Annotated[int, Ge(0), Le(LARGEST_COUNT)] = 0
    """Images per inference, where the model leaves it free; 0 takes what the model fixes, else 1."""
    launches: Annotated[int, Ge(1), Le(1000)] = 1
    """Fresh processes that the rounds are divided among. Where a model's memory lies is drawn anew in each, so that its
    share of a ratio averages away; within one process it does not."""
    warmup_runs: Annotated[int, Ge(0), Le(1_000_000)] = 0
    """Least warm-up for each model, in runs."""
    priority: bool = True
    """Go before other work on the machine where this user may; the samples' conditions tell whether it did."""


Scope = Literal["global", "local"]
ALIGN: Final = 8
"""Widths are multiples of it unless somebody says otherwise: what vector units take at once."""


@dataclass(frozen=True, kw_only=True)
class PruneSettings(Settings):
    """How channels are chosen, and on which images they are ranked; how many go is a request of its own."""

    images: Annotated[int, Ge(1)] = 64
    """Images of the training split that channels are ranked on."""
    batch: Annotated[int, Ge(1), Le(LARGEST_COUNT)] = 4
    """Images in one sample of the gradient; as many pass together as have the pixels of 4 images of 640 px."""
    importance: str = "auto"
    """Channel importance criterion; ``auto`` is taylor with labelled images, lamp without."""
    normalisation: str | None = None
    """Of the scores within a group; the criterion's own when None."""
    scope: Scope = "global"
    """``global`` ranks across the model, ``local`` takes the same share everywhere."""
    iterative_steps: Annotated[int, Ge(1), Le(10_000)] = 1
    """Rank anew this many times on the way."""
    drop_blocks: Annotated[int, Ge(0)] = 0
    """Drop this many whole blocks first, those whose absence costs least loss."""
    ignore: tuple[str, ...] = ()
    """Globs of module names that keep their width."""
    max_ratio: Mapping[str, Share] = field(default_factory=dict)
    """Glob of module names to the largest share of channels that may go there."""
    align: Annotated[int, Ge(1), Le(LARGEST_COUNT)] = ALIGN
    """A width that is pruned becomes a multiple of this; 8 and 16 are usual."""
    min_width: Annotated[int, Ge(1), Le(LARGEST_COUNT)] = 8
    """No layer gets narrower than this many channels."""
    head: Head = "auto"
    """Of a model with two heads, the one that will be exported: MACs are counted and channels ranked for it."""
    seed: Seed = 0
    """Seed of the random criterion and of the draw of images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unused_normalisation(self.scope, self.normalisation)


def refuse_unused_normalisation(scope: Scope, normalisation: str | None) -> None:
    """Refuse a normalisation that changes nothing.

    Raises:
        SettingError: scores are compared within a group alone, where a common scale moves no channel.
    """
    if scope == "local" and normalisation is not None:
        raise SettingError(
            f"{named('normalisation', normalisation)} brings groups to a common scale, and {named('scope', 'local')} "
            "compares none with another; leave one of them out"
        )
