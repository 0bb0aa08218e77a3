"""Target profiles: a device plus a runtime plus a budget, read from YAML once and frozen from then on.

This is the only module that reads a profile. Whatever it refuses it names by file, key and what is allowed, as a
:class:`~edgeprune.errors.TargetError`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from edgeprune.errors import TargetError

OLDEST_TENSORRT = "10.3"  # JetPack 6.1; older releases are refused, and it is assumed where no range is given
STRIDE = 32  # the coarsest stride of every Ultralytics detector; an imgsz off it is padded behind the user's back

Statistic = Literal["p50", "p90", "p95", "p99"]
RuntimeName = Literal[
    "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx", "tensorrt", "trtexec"
]
Precision = Literal["fp32", "fp16", "int8", "int8-fp16"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Budget(_Part):
    """How fast the model must be: exactly one of ``latency_ms``, ``speed_up`` and ``macs_speed_up``."""

    latency_ms: Positive | None = None
    """Latency on the target in milliseconds, of the statistic below."""
    speed_up: Ratio | None = None
    """Measured latency of the unpruned model divided by that of the pruned one, on the target."""
    macs_speed_up: Ratio | None = None
    """MACs of the unpruned model divided by those of the pruned one; needs no device."""
    statistic: Statistic = "p95"
    """Which statistic of the latency ``latency_ms`` speaks of."""
    scope: Literal["model", "end_to_end"] = "model"
    """What is timed: ``model`` alone (input in memory to output in memory), or ``end_to_end`` (a frame in memory to the
    boxes in it: letterbox, model, non-maximum suppression), through ONNX Runtime and for detectors."""

    @model_validator(mode="after")
    def _one(self) -> Budget:
        given = [key for key in ("latency_ms", "speed_up", "macs_speed_up") if getattr(self, key) is not None]
        if len(given) != 1:
            seen = " and ".join(given) if given else "none of them"
            raise ValueError(f"exactly one of latency_ms, speed_up, macs_speed_up is allowed; seen: {seen}")
        return self

    @property
    def kind(self) -> str:
        """Name of the one key that is set."""
        return next(k for k in ("latency_ms", "speed_up", "macs_speed_up") if getattr(self, k) is not None)

    @property
    def value(self) -> float:
        """Value of the one key that is set."""
        return getattr(self, self.kind)

    def __str__(self) -> str:
        whole = "end-to-end " if self.scope == "end_to_end" else ""
        if self.kind == "latency_ms":
            return f"{self.statistic} {whole}latency ≤ {self.value:g} ms"
        return f"{whole + 'latency' if self.kind == 'speed_up' else 'MACs'} speed-up ≥ ×{self.value:g}"


class AccuracyFloor(_Part):
    """How much accuracy the pruned artifact may lose."""

    max_map_drop: Share = 0.02
    """Largest drop of mAP50-95 against the unpruned model's artifact, absolute (0.02 is two points). For a precision
    below FP32, against its FP32 form where that is the better one: what the precision alone loses counts too."""
    split: Literal["val", "test", "train"] = "val"
    """Dataset split on which both are measured."""


class Pruning(_Part):
    """How channels are chosen."""

    importance: str = "auto"
    """Channel importance criterion; ``auto`` is the one that kept most accuracy in ``benchmarks/``; after sparsify it
    is ``bn_scale``."""
    min_width: Annotated[int, Field(ge=1)] = 8
    """No layer gets narrower than this many channels."""
    ignore: tuple[str, ...] = ()
    """Globs of module names that keep their width."""
    max_ratio: dict[str, Share] = Field(default_factory=dict)
    """Glob of module names to the largest share of channels that may go there."""
    max_probes: Annotated[int, Field(ge=1, le=50)] = 6
    """Most measurements that the budget search may take on the target."""
    planning_macs_speed_up: Ratio = 2.0
    """MACs ratio that stands in for a latency budget while the target's runtime is not at hand (verdict PENDING)."""


class Training(_Part):
    """Settings of a training stage; ``train`` takes every other Ultralytics training argument."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 50
    """Epochs over the training split."""
    time_h: Positive | None = None
    """Stop after this many hours instead of after ``epochs``."""
    batch: Annotated[int, Field(ge=1, le=4096)] = 16
    """Images a batch."""
    lr0: Positive = 0.001
    """Initial learning rate."""
    optimizer: Literal["AdamW", "SGD", "Adam", "NAdam", "RAdam", "RMSprop", "MuSGD"] = "AdamW"
    """Optimiser; never ``auto``, which ignores ``lr0``."""
    patience: Annotated[int, Field(ge=0)] = 50
    """Epochs without improvement after which training stops; 0 never stops."""
    device: str = ""
    """Where to train, as Ultralytics names it (``cpu``, ``0``, ``0,1``); empty takes a GPU when there is one."""
    workers: Annotated[int, Field(ge=0)] = 4
    """Data loader processes."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Further Ultralytics training arguments, by their names."""


def until_drop(value: Any) -> Any:
    """The number in ``map_drop <= 0.01`` or ``0.01``; a value that is no text as it is, for the type's own check.

    Raises:
        ValueError: a text that says something else.
    """
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*(?:map_drop\s*<=)?\s*(\d*\.?\d+(?:[eE]-?\d+)?)\s*", value)
    if found is None:
        raise ValueError(f"{value!r} is no condition; allowed is 'map_drop <= 0.01', with a number of 0 to 1")
    return float(found[1])


class Finetuning(Training):
    """Settings of the fine-tune stage."""

    distill: bool = True
    """Use the unpruned model as teacher: +.004 mAP50-95 at MACs ×4 (``benchmarks/training_distillation.md``) for epochs
    that take half as long again."""
    response: NotNegative = 1.0
    """Weight of the distance to the teacher's answers; 1 is as strong as the labels, 0 leaves it out."""
    feature: NotNegative = 0.0
    """Weight of Ultralytics' own distillation of the head's inputs (its ``dis``); alone it cost .03."""
    until: Annotated[Share | None, BeforeValidator(until_drop, json_schema_input_type=float | str | None)] = None
    """``map_drop <= 0.01``: end as soon as mAP50-95 on the validation split is that close to the unpruned model's, with
    margin, both by Ultralytics' validator. The gate on the artifact is held as ever."""

    @model_validator(mode="after")
    def _taught(self) -> Finetuning:
        if self.distill and not (self.response or self.feature):
            raise ValueError("distill with response 0 and feature 0 teaches nothing; raise one or set distill to false")
        return self


class Sparsifying(Training):
    """Settings of the sparsify stage: training with a penalty on the scales of batch normalisation, before pruning."""

    model_config = ConfigDict(serialize_by_alias=True)

    strength: Annotated[Positive, Field(alias="lambda")] = 0.001
    """Weight of the penalty on scales at the start."""
    bias_strength: Annotated[NotNegative, Field(alias="bias_lambda")] = 0.0
    """The same for the biases of these channels; 0 leaves them alone."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How both fall over the run."""
    final: Share = 0.1
    """What is left of both at the end."""
    tied: Literal["group", "exempt"] = "group"
    """Scales tied by shortcuts: penalised as one, or left alone."""
    lr0: Positive = 0.003
    """Initial learning rate. The rates of all steps must add up to more than 1 for scales to reach zero."""
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 20
    """Epochs over the training split."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Epochs without improvement after which training stops; 0, the default, never: scales shrink for longer."""

    @model_validator(mode="after")
    def _plain_gradients(self) -> Sparsifying:
        if self.optimizer == "MuSGD":
            raise ValueError("optimizer: MuSGD rescales gradients, which undoes the sparsity term; allowed: SGD, AdamW")
        return self


class Export(_Part):
    """What the ONNX file looks like."""

    opset: Annotated[int, Field(ge=11, le=25)] = 17
    """ONNX opset; 17 is read by every TensorRT from 10.3 on."""
    dynamic: bool = False
    """Dynamic batch and size; a latency budget speaks of one shape, so the default is static."""
    nms: bool = False
    """Embed non-maximum suppression in the graph."""
    head: Literal["auto", "end-to-end", "raw"] = "auto"
    """Which head of a model with two (YOLOv10, YOLO26) is exported. ``auto`` takes the end-to-end one, whose output
    needs no NMS, but the raw one for INT8 where the range of TensorRT reaches down to 10.3, which cannot build it."""


class Calibration(_Part):
    """How INT8 ranges are found; used only by an int8 precision."""

    images: Annotated[int, Field(ge=16, le=100_000)] = 256
    """Images of the training split; fewer than 64 is a warning."""
    method: Literal["entropy", "percentile", "minmax"] = "entropy"
    """How a range is chosen from the values seen."""
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    """Share of the values that a range covers, in percent, for ``percentile``."""


class Measuring(_Part):
    """How latency is sampled; the gate asks for more where the samples do not settle it."""

    threads: Annotated[int, Field(ge=0, le=1024)] = 1
    """Threads of the runtime; 0 leaves the choice to it."""
    warmup_s: Annotated[float, Field(ge=0, le=600)] = 1.0
    """Least warm-up for each model, in seconds."""
    rounds: Annotated[int, Field(ge=4, le=100_000)] = 60
    """Interleaved rounds."""
    per_round: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Samples of each model in a round."""
    time_limit_s: Positive = 60.0
    """Longest run of one measurement, in seconds."""
    copies: bool = True
    """On a GPU: whether copies of the inputs to the device and of the outputs from it are in the time."""
    cuda_graph: bool = False
    """Capture an inference once and replay it, where the engine can be captured (runtimes ``tensorrt`` and
    ``trtexec``); the measurement says whether it was so."""
    retries: Annotated[int, Field(ge=0, le=20)] = 2
    """How often an INCONCLUSIVE gate is measured again, with twice the samples each time."""


class Device(_Part):
    """The board that the target is about."""

    kind: Literal["cpu", "cuda", "jetson"]
    """Family of the device."""
    board: str = ""
    """Name for people."""
    compatible: tuple[str, ...] = ()
    """Ids from ``/proc/device-tree/compatible`` that are this board (``nvidia,p3767-0005``)."""
    power_mode: str | None = None
    """Power mode by its name in ``/etc/nvpmodel.conf``; ids differ between boards and releases."""
    jetpack: str | None = None
    """Range of JetPack releases, as a version specifier (``>=6.1``)."""
    tensorrt: str | None = None
    """Range of TensorRT versions, as a version specifier (``>=10.3,<12``)."""
    dla_cores: Annotated[int, Field(ge=0, le=2)] = 0
    """Deep-learning accelerator cores on the board."""
    host: str = ""
    """Where the device is: ``user@host[:port]``; empty is this machine. ``--device`` replaces it."""
    python: str = ""
    """Python on that device with NumPy and onnxruntime, for a runtime that needs one; found when empty."""
    lock_clocks: bool = True
    """Lock the board's clocks while something is built or timed, where the user may (``sudo -n``), and restore them."""
    dla_core: Annotated[int, Field(ge=0, le=1)] | None = None
    """Build engines for this DLA core; what it cannot take falls back to the GPU. Null for the GPU alone."""


class Target(_Part):
    """A device plus a runtime plus a budget."""

    name: str
    """Name of the profile; the file's name without ``.yaml``."""
    description: str
    """One line for people."""
    device: Device
    runtime: RuntimeName
    """What runs the engine."""
    precision: Precision = "fp32"
    """Number format of the engine; made by a transform of the ONNX graph."""
    mixed_precision: bool = True
    """Where a precision below FP32 misses the accuracy floor, return those few layers to float that win most back."""
    imgsz: Annotated[int, Field(ge=STRIDE, le=8192, multiple_of=STRIDE)] = 640
    """Input height and width in pixels; a multiple of the model's stride."""
    batch: Annotated[int, Field(ge=1, le=1024)] = 1
    """Images per inference on the device."""
    channel_alignment: Literal[1, 2, 4, 8, 16, 32, 64] = 8
    """Widths are kept at multiples of this; tensor cores and vector units waste what lies between."""
    budget: Budget
    accuracy: AccuracyFloor = Field(default_factory=AccuracyFloor)
    prune: Pruning = Field(default_factory=Pruning)
    pretrain: Training = Field(default_factory=lambda: Training(epochs=100, lr0=0.002))
    """Used only when the weights are a model YAML."""
    sparsify: Sparsifying | None = None
    """Sparsity training between the baseline and pruning; left out by default."""
    finetune: Finetuning = Field(default_factory=Finetuning)
    export: Export = Field(default_factory=Export)
    calibration: Calibration = Field(default_factory=Calibration)
    measure: Measuring = Field(default_factory=Measuring)

    @model_validator(mode="after")
    def _possible(self) -> Target:
        if self.device.kind == "cpu" and self.runtime != "onnxruntime":
            raise ValueError(f"runtime: {self.runtime} needs an NVIDIA GPU; a cpu device allows onnxruntime")
        if self.device.kind == "cpu" and self.precision == "int8-fp16":
            raise ValueError("precision: int8-fp16 is for TensorRT; a cpu device allows fp32, fp16, int8")
        core = self.device.dla_core
        if core is not None and core >= self.device.dla_cores:
            raise ValueError(f"device: dla_core {core} is not one of the board's {self.device.dla_cores} DLA cores")
        if core is not None and self.runtime not in ("tensorrt", "trtexec"):
            raise ValueError(f"device: dla_core needs the runtime tensorrt or trtexec; seen: {self.runtime}")
        if self.measure.cuda_graph and self.device.kind == "cpu":
            raise ValueError("measure: cuda_graph needs an NVIDIA GPU; a cpu device allows false")
        if self.measure.cuda_graph and self.runtime.startswith("onnxruntime"):
            raise ValueError(f"measure: cuda_graph needs the runtime tensorrt or trtexec; seen: {self.runtime}")
        if self.runtime == "onnxruntime-tensorrt-rtx" and not self.measure.copies:
            raise ValueError("measure: copies must be true for onnxruntime-tensorrt-rtx, which is timed with them only")
        if self.measure.cuda_graph and core is not None:
            raise ValueError("measure: cuda_graph and device.dla_core exclude each other; a DLA cannot be captured")
        if self.budget.scope == "end_to_end":
            if not self.runtime.startswith("onnxruntime"):
                raise ValueError(f"budget.scope: end_to_end is timed through ONNX Runtime; {self.runtime} allows model")
            if self.batch != 1:
                raise ValueError(f"budget.scope: end_to_end times one frame at a time; batch {self.batch} allows model")
            if self.budget.kind == "macs_speed_up":
                raise ValueError("budget.scope: end_to_end speaks of latency; macs_speed_up allows model")
        if self.device.kind != "jetson" and (self.device.power_mode or self.device.jetpack):
            raise ValueError(f"device: power_mode and jetpack belong to a jetson, this is a {self.device.kind}")
        if self.export.nms and self.export.head != "auto":
            raise ValueError(f"export: nms and head {self.export.head} contradict each other; leave one of them out")
        if self._no_sorted_head and (self.export.nms or self.export.head == "end-to-end"):
            raise ValueError(
                "export: TensorRT 10.3 (JetPack 6.1, 6.2) cannot build INT8 with top-k or NMS inside; allowed: "
                "head raw, precision fp16, or a device.tensorrt from 10.4 on"
            )
        return self

    @property
    def exported_head(self) -> str:
        """The head to export: ``auto``, ``end-to-end``, ``raw`` or ``nms``."""
        if self.export.nms:
            return "nms"
        return "raw" if self._no_sorted_head else self.export.head

    @property
    def oldest_tensorrt(self) -> str | None:
        """Oldest TensorRT release in the device's range; None for a runtime without TensorRT."""
        if "tensorrt" not in self.runtime and self.runtime != "trtexec":
            return None
        from packaging.specifiers import InvalidSpecifier, SpecifierSet
        from packaging.version import Version

        try:
            asked = SpecifierSet(self.device.tensorrt or "")
        except InvalidSpecifier:
            raise ValueError(
                f"device: tensorrt: {self.device.tensorrt!r} is not a version specifier; allowed: like '>=10.3,<12'"
            ) from None
        lowest = (Version(one.version.rstrip(".*")) for one in asked if one.operator in (">=", ">", "==", "~="))
        return str(max(lowest, default=Version(OLDEST_TENSORRT)))

    @property
    def _no_sorted_head(self) -> bool:
        """Whether INT8 would meet a TensorRT that cannot build top-k or NMS in it."""
        oldest = self.oldest_tensorrt if self.precision.startswith("int8") else None
        return oldest is not None and oldest.split(".")[:2] == OLDEST_TENSORRT.split(".")

    def with_overrides(
        self,
        *,
        latency_ms: float | None = None,
        speed_up: float | None = None,
        macs_speed_up: float | None = None,
        max_map_drop: float | None = None,
        imgsz: int | None = None,
        epochs: int | None = None,
        device: str | None = None,
        until: str | None = None,
    ) -> Target:
        """The same target with command-line values in place; raises ``TargetError`` like a profile does.

        A budget on the command line replaces the profile's whole budget but keeps its ``statistic``.
        """
        data = self.model_dump(mode="json")
        budgets = {"latency_ms": latency_ms, "speed_up": speed_up, "macs_speed_up": macs_speed_up}
        given = {key: value for key, value in budgets.items() if value is not None}
        if given:
            scope = "model" if macs_speed_up is not None else self.budget.scope
            data["budget"] = {"statistic": self.budget.statistic, "scope": scope, **given}
        if max_map_drop is not None:
            data["accuracy"]["max_map_drop"] = max_map_drop
        if imgsz is not None:
            data["imgsz"] = imgsz
        if epochs is not None:
            data["finetune"]["epochs"] = epochs
        if device is not None:
            data["device"]["host"] = "" if device == "local" else device
        if until is not None:
            data["finetune"]["until"] = until
        return _validated(data, "command line")


def load_target(name_or_path: str | Path) -> Target:
    """Read a profile by the name of a shipped one (``cpu``) or by path (``my/board.yaml``).

    Raises:
        TargetError: no such profile, not YAML, an unknown key, an impossible or contradictory value, a cycle in
            ``extends``; the message names file, key and what is allowed.
    """
    path = _find(name_or_path)
    return _validated(_resolved(path, ()), str(path))


def shipped_targets() -> dict[str, Path]:
    """Name to file of every profile that ships with edgeprune."""
    return {path.stem: path for path in sorted(targets_dir().glob("*.yaml"))}


def targets_dir() -> Path:
    """Folder of the shipped profiles: inside the installed package, or the repository's own in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "targets"
    return inside if inside.is_dir() else package.parent / "targets"


def profile_schema() -> dict[str, Any]:
    """JSON Schema of a profile file, for editors; committed as ``targets/schema.json``."""
    schema = Target.model_json_schema()
    schema["title"] = "edgeprune target profile"
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"] = {
        "extends": {"type": "string", "description": "Name or path of the profile that this one starts from."},
        **schema["properties"],
    }
    # A profile that extends another may leave anything out, also within a part; one that stands alone needs these. The
    # name is the file's own.
    schema["if"] = {"not": {"required": ["extends"]}}
    schema["then"] = {"required": [key for key in schema.pop("required") if key != "name"]}
    for part in schema["$defs"].values():
        part.pop("required", None)
    return schema


def _find(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    shipped = shipped_targets()
    if text in shipped:
        return shipped[text]
    path = Path(text)
    if path.is_file():
        return path
    close = difflib.get_close_matches(text, shipped, n=1)
    hint = f"; did you mean {close[0]}?" if close else "."
    raise TargetError(f"no target {text!r}{hint} Allowed: {', '.join(shipped)}, or the path of a .yaml profile.")


def _resolved(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise TargetError(f"{path}: extends: goes in a circle: {' → '.join(p.stem for p in (*seen, path))}")
    data = _read_yaml(path)
    if "extends" not in data:
        return {"name": path.stem, **data}
    parent_name = data.pop("extends")
    if not isinstance(parent_name, str):
        raise TargetError(f"{path}: extends: {parent_name!r} is not the name or path of one profile")
    beside = [path.parent / parent_name, path.parent / f"{parent_name}.yaml"]
    try:
        parent = next((p for p in beside if p.is_file()), None) or _find(parent_name)
    except TargetError as error:
        raise TargetError(f"{path}: extends: {error}") from error
    return _merged(_resolved(parent, (*seen, path)), {"name": path.stem, **data})


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        # A budget is one statement: half of the parent's and half of the child's would contradict itself.
        if key != "budget" and isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merged(merged[key], value)
        else:
            merged[key] = value
    return merged


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's own safe loader, but a key written twice is an error instead of the last one silently winning."""


def _mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for position, key in enumerate(keys):
        if key in keys[:position]:
            line = node.value[position][0].start_mark.line + 1
            raise TargetError(f"{loader.name}: line {line}: {key}: is written twice")
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            data = yaml.load(file, Loader=_UniqueKeyLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise TargetError(f"{path}: {where}not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise TargetError(f"{path}: a profile is a mapping of keys to values, seen: {type(data).__name__}")
    return data


def _validated(data: Mapping[str, Any], source: str) -> Target:
    try:
        # JSON mode is the strict one that still lets a list be a tuple; `batch: yes` must not become batch 1.
        return Target.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise TargetError(f"{source}: {'; '.join(_explained(item) for item in error.errors())}") from error


def _explained(item: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "profile"
    if item["type"] == "extra_forbidden":
        fields = _part_at(item["loc"][:-1]).model_fields
        allowed = [field.alias or name for name, field in fields.items()]
        if len(item["loc"]) == 1:
            allowed.append("extends")
        close = difflib.get_close_matches(str(item["loc"][-1]), allowed, n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        return f"{key}: unknown key{hint} Allowed: {', '.join(allowed)}"
    if item["type"] == "missing":
        return f"{key}: is missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{key}: {message}" if item["loc"] else message
    seen = json.dumps(item["input"], default=str, ensure_ascii=False)
    return f"{key}: {message[0].lower()}{message[1:]}; seen: {seen}"


def _part_at(location: tuple[str | int, ...]) -> type[BaseModel]:
    part: type[BaseModel] = Target
    for step in location:
        annotation = part.model_fields[str(step)].annotation
        for one in (annotation, *get_args(annotation)):  # a part, or a part that may be left out
            if isinstance(one, type) and issubclass(one, BaseModel):
                part = one
    return part
