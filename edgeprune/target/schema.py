"""What a target is: a device plus a runtime plus a budget, and how its models are made, typed and frozen."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edgeprune.errors import TargetError, first_line
from edgeprune.input_size import DEFAULT_SIDE, STRIDE, Pixels, Size
from edgeprune.options import is_command_running, named, options_of_command, plain_number, without_none
from edgeprune.reading import shown
from edgeprune.settings import (
    ALIGN,
    LEAST_INT8_OPSET,
    Calibration,
    Finetuning,
    HeadOfTwo,
    Measuring,
    Overrides,
    Positive,
    Precision,
    Pretraining,
    PruneSettings,
    Qat,
    Ratio,
    RuntimeName,
    Share,
    Sparsifying,
)
from edgeprune.target.address import why_no_device
from edgeprune.target.cpus import needs_reduced_range
from edgeprune.target.releases import (
    DLA_WORDS,
    KNOWN_VERSIONS,
    NEWEST_WEAK_OPSET,
    OLDEST_TENSORRT,
    builds_int8_top_k,
    has_level,
    is_weakly_typed,
    oldest_in,
    precision_in_graph,
    profile_has_dla,
    range_has_dla,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails
    from typing_extensions import Unpack

BUDGETS = ("latency_ms", "speed_up", "macs_speed_up")
"""The ways to state a budget; a target has exactly one."""
LATENCY_BUDGETS = ("latency_ms", "speed_up")
"""Those of them that speak of latency, the only ones that several budgets side by side are asked by."""
Statistic = Literal["p50", "p90", "p95", "p99"]
CAPTURING: tuple[RuntimeName, ...] = ("tensorrt", "trtexec", "onnxruntime-cuda", "onnxruntime-tensorrt")
"""Runtimes that replay an inference from a CUDA graph."""


NAME = r"^[^/\\\x00-\x1f.][^/\\\x00-\x1f]*$"
TACTIC_SOURCE = r"^[+-][A-Za-z_]+$"
ALLOWED_BY = {
    NAME: "a name without slashes and control characters that does not begin with a dot, as line-camera",
    TACTIC_SOURCE: "+ or - and the name of a source, as -CUDNN",
}
"""What a pattern allows, for people."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


BUDGET_WINDOW = (0.92, 1.0)
"""A search accepts a candidate that takes a share of the budget between these: 1 takes all of it, more misses it."""


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
    def _exactly_one(self) -> Budget:
        given = [key for key in BUDGETS if getattr(self, key) is not None]
        if len(given) != 1:
            stated = " and ".join(given) or "none of them"
            raise ValueError(f"exactly one of latency_ms, speed_up, macs_speed_up is allowed; seen: {stated}")
        return self

    @property
    def kind(self) -> str:
        """Name of the one key that is set."""
        return next(key for key in BUDGETS if getattr(self, key) is not None)

    @property
    def value(self) -> float:
        """Value of the one key that is set."""
        return getattr(self, self.kind)

    @property
    def judged_statistic(self) -> Statistic:
        """The percentile that latencies are told by: ``statistic`` in ms; a ratio is one of medians."""
        return self.statistic if self.kind == "latency_ms" else "p50"

    @property
    def asks_nothing(self) -> bool:
        """Whether the unpruned model meets it, whatever a clock says."""
        return self.kind != "latency_ms" and self.value <= 1

    def __str__(self) -> str:
        scope = "end-to-end " if self.scope == "end_to_end" else ""
        if self.kind == "latency_ms":
            return f"{self.statistic} {scope}latency ≤ {self.value:g} ms"
        return f"{scope + 'latency' if self.kind == 'speed_up' else 'MACs'} speed-up ≥ ×{self.value:g}"


class AccuracyFloor(_Part):
    """How much accuracy the pruned artifact may lose."""

    max_map_drop: Share = 0.02
    """Largest drop of mAP50-95, for a classifier of top-1 accuracy, against the unpruned model's artifact, absolute
    (0.02 is two points). For a precision below FP32, against its FP32 form where that is the better one: what the
    precision alone loses counts too."""
    split: Literal["auto", "val", "test", "train"] = "auto"
    """Dataset split on which both are measured; ``auto`` is test where the dataset has one with labelled images, of
    which val holds none, since training chose no epoch on it, else val; a test split that cannot be used is told in a
    warning, and one that is named here is refused."""


class Pruning(_Part):
    """How channels are chosen."""

    importance: str = "auto"
    """Channel importance criterion; ``auto`` is ``taylor``, which with ``fisher`` kept most accuracy in
    ``benchmarks/pruning_criteria.md``; after sparsify it is ``bn_scale``."""
    min_width: Annotated[int, Field(ge=1)] = PruneSettings.min_width
    """No layer gets narrower than this many channels."""
    ignore: tuple[str, ...] = ()
    """Globs of module names that keep their width."""
    max_ratio: dict[str, Share] = Field(default_factory=dict)
    """Glob of module names to the largest share of channels that may go there."""
    max_probes: Annotated[int, Field(ge=1, le=50)] = 6
    """Most candidates that the budget search measures on the target; up to two more where all of these miss, before it
    says what is out of reach."""
    diagnose: bool = True
    """Measure behind the search what of the latency pruning can take at all, and, where the budget is dear, what else
    would be faster: two to four more engines, which is long where a builder takes minutes for one."""
    least_used: Annotated[float, Field(ge=0.5, lt=1)] = BUDGET_WINDOW[0]
    """Share of a latency budget that a plan uses at least. Less leaves room between the plan and the budget, so that a
    machine that other work disturbs can still tell that it is met."""
    planning_macs_speed_up: Ratio = 2.0
    """Planning ratio: how many times fewer MACs are planned in place of a latency budget, while the
    target's runtime is not at hand (verdict PENDING)."""


class Export(_Part):
    """What the ONNX file looks like."""

    opset: Annotated[int, Field(ge=12, le=20)] = 17
    """ONNX opset; 17 is read by every TensorRT from 10.3 on, and INT8 needs 13 or more."""
    dynamic: bool = False
    """Dynamic batch and size; a latency budget speaks of one shape, so the default is static."""
    nms: bool = False
    """Embed non-maximum suppression in the graph."""
    head: Literal["auto", HeadOfTwo] = "auto"
    """Which head of a model with two (YOLOv10, YOLO26) is exported. ``auto`` takes the end-to-end one, whose output
    needs no NMS, but the raw one for INT8 where the device's TensorRT is 10.3, which cannot build it, or 8.5 or 8.6,
    which are not known to (without a device: where the range reaches down to them)."""


class Board(_Part):
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
    """Where the device is: ``user@host[:port]``, or ``local`` for this machine, which then has to be of the board's
    family; empty is this machine, whatever it is. ``--device`` replaces it."""
    python: str = ""
    """Python on that device with NumPy and onnxruntime, for a runtime that needs one: a path, absolute or below the
    home of its user, or a name on the ``PATH``; found when empty."""
    lock_clocks: bool = True
    """Lock the board's clocks while something is built or timed, where the user may (``sudo -n``), and restore them."""
    dla_core: Annotated[int, Field(ge=0, le=1)] | None = None
    """Build engines for this DLA core (runtime ``trtexec``, FP16 or INT8, TensorRT 8.5, 8.6, 10.3 to 10.7 or 11.4.1 and
    newer); what it cannot take falls back to the GPU. Null for the GPU alone."""
    trtexec: str | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] | None = None
    """TensorRT's program on the device: its absolute path, a name on the ``PATH``, or a list that starts it (``[docker,
    run, ..., trtexec]``), in which case the folders of the device's temporary files have to be the same inside. Found
    where NVIDIA's packages put it when null."""

    @field_validator("host")
    @classmethod
    def _names_a_device(cls, host: str) -> str:
        if reason := why_no_device(host):
            raise ValueError(reason)
        return host

    @field_validator("trtexec", mode="before")
    @classmethod
    def _starts_a_program(cls, program: object) -> object:
        words = program if isinstance(program, (list, tuple)) else (program,)
        if program is not None and not (words and all(isinstance(word, str) and word for word in words)):
            allowed = "a path, a name, or a list of the words that start it"
            raise ValueError(f"{allowed} is allowed; seen: {shown(repr(program))}")
        return tuple(words) if isinstance(program, list) else program  # JSON, and the mode is strict

    @field_validator("trtexec")
    @classmethod
    def _runs_from_anywhere(cls, program: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        first = program[0] if isinstance(program, tuple) else program or ""
        if first.startswith("~") or ("/" in first and not first.startswith("/")):
            raise ValueError(
                f"{first}: is another file in every folder, and for every user; allowed: an absolute path of the "
                "device, or a name on its PATH"
            )
        return program


TAKES_OUT = "takes out what an extended profile says"


class Builder(_Part):
    """How TensorRT's builder works (runtime ``trtexec``); what is left out is its own default."""

    optimization_level: Annotated[int, Field(ge=0, le=5)] | None = None
    """How long it searches for faster kernels (TensorRT 8.6 and newer, whose default is 3)."""
    workspace_mib: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    """Most memory in MiB that a kernel may use as scratch; without it all of the device's, which a small board that
    also holds the builder has not."""
    tactic_sources: tuple[Annotated[str, Field(pattern=TACTIC_SOURCE)], ...] = ()
    """Sources of kernels to add or to leave out (``-CUDNN``)."""


class Target(_Part):
    """A device plus a runtime plus a budget."""

    name: Annotated[str, Field(pattern=NAME, max_length=100)]
    """Name of the profile; the file's name without ``.yaml``.
    It names the run directory too: no slash, no leading dot."""
    description: str
    """One line for people."""
    device: Board
    runtime: RuntimeName
    """What runs the engine."""
    precision: Precision = "fp32"
    """Number format of the engine; made by a transform of the ONNX graph, and by TensorRT 8.5 and 8.6 themselves. In
    ``fp32`` a GPU from Ampere on multiplies in TF32, as its runtimes do by default; the row of a TensorRT engine says
    how much of it."""
    levers: Literal["named", "auto"] = "named"
    """``auto`` times the number formats below ``precision`` before a build, without training, and takes one that costs
    at most half of the accuracy that may be lost: only what is left to gain is pruned. For a budget in ``latency_ms``;
    with the scope ``end_to_end`` the fastest output form is taken too."""
    mixed_precision: bool = True
    """Where a precision below FP32 misses the accuracy floor, return those few layers to float that win most back."""
    keep_precision: bool = False
    """Ship INT8 also where it is not faster on the target than FP16 (FP32 on a CPU), or misses the accuracy floor that
    the other one holds."""
    imgsz: Annotated[Size, Pixels(step=STRIDE)] = DEFAULT_SIDE
    """Input in pixels, multiples of the model's stride: a side, or height and width (``[384, 640]``). Left out, it is
    what the weights were trained at, and 640 (a classifier's is 224) for weights that do not say and for a model
    description (.yaml)."""
    batch: Annotated[int, Field(ge=1, le=1024)] = 1
    """Images per inference on the device."""
    channel_alignment: Literal[1, 2, 4, 8, 16, 32, 64] = ALIGN
    """A width that is pruned becomes a multiple of this; tensor cores and vector units waste what lies between."""
    budget: Budget
    accuracy: AccuracyFloor = Field(default_factory=AccuracyFloor)
    prune: Pruning = Field(default_factory=Pruning)
    pretrain: Pretraining = Field(default_factory=Pretraining)
    """Used only when the weights are a model YAML."""
    sparsify: Sparsifying | None = None
    """Sparsity training between the baseline and pruning; left out by default."""
    finetune: Finetuning = Field(default_factory=Finetuning)
    qat: Qat | None = None
    """Train INT8 after fine-tuning (extra ``[qat]``); left out by default, where its ranges are calibrated alone. The
    trained one ships where it is as accurate, or holds the floor with no layer in float."""
    export: Export = Field(default_factory=Export)
    builder: Builder = Field(default_factory=Builder)
    calibration: Calibration = Field(default_factory=Calibration)
    measure: Measuring = Field(default_factory=Measuring)

    @model_validator(mode="after")
    def _possible(self) -> Target:
        for key, example in (
            ("jetpack", ">=6.1"),
            ("tensorrt", ">=10.3,<12"),
        ):  # whatever the runtime: the board has it
            _version_range(key, getattr(self.device, key), example)
        if self.device.kind == "cpu" and self.runtime != "onnxruntime":
            raise ValueError(f"runtime: {self.runtime} needs an NVIDIA GPU; a cpu device allows onnxruntime")
        if self.on_cpu and self.precision == "int8-fp16":
            raise ValueError("precision: int8-fp16 is for TensorRT; the runtime onnxruntime allows fp32, fp16, int8")
        if self.calibration.reduce_range is not None and not self.on_cpu:
            raise ValueError(
                "calibration: reduce_range is for INT8 by the runtime onnxruntime, on a CPU; "
                f"{self.runtime} allows null: leave it out"
            )
        core = self.device.dla_core
        if core is not None and core >= self.device.dla_cores:
            raise ValueError(f"device: dla_core {core} is not one of the board's {self.device.dla_cores} DLA cores")
        said = [name for name, value in self.builder if value != getattr(Builder(), name)]
        of_trtexec = {
            "device: dla_core": core is not None and "device: {dla_core: null}",
            "device: trtexec": self.device.trtexec and "device: {trtexec: null}",
            f"builder: {', '.join(said)}": said and "builder: null",
        }
        for key, without in of_trtexec.items():  # whoever takes another runtime may have extended who said so
            if without and self.runtime != "trtexec":
                raise ValueError(f"{key} needs the runtime trtexec; seen: {self.runtime}; {without} {TAKES_OUT}")
        if self.weakly_typed and self.export.opset > NEWEST_WEAK_OPSET:
            raise ValueError(
                f"export: TensorRT {self.oldest_tensorrt} reads opset {NEWEST_WEAK_OPSET} at most; "
                f"seen: {self.export.opset}"
            )
        if self.graph_precision.startswith("int8") and self.export.opset < LEAST_INT8_OPSET:
            raise ValueError(
                f"export: opset: precision {self.precision}, a scale a channel, needs opset {LEAST_INT8_OPSET} or more"
                f"; seen: {self.export.opset}"
            )
        if core is not None and self.precision == "fp32":
            raise ValueError("device: dla_core computes in half precision or INT8; allowed: precision fp16, int8")
        if core is not None and not range_has_dla(self._tensorrt_range, self.device.compatible):
            raise ValueError(f"device: dla_core: no release in tensorrt {self.device.tensorrt!r} has one; {DLA_WORDS}")
        if self.oldest_tensorrt is not None and oldest_in(self._tensorrt_range) is None:
            raise ValueError(
                f"device: tensorrt: no release in {self.device.tensorrt!r} is known; known are {KNOWN_VERSIONS}"
            )
        if self.oldest_tensorrt is not None and oldest_in(self._tensorrt_range, self._built_by) is None:
            raise ValueError(
                f"builder: optimization_level: no release in tensorrt {self.device.tensorrt!r} has one; it is there "
                f"from 8.6 on: leave it out; builder: {{optimization_level: null}} {TAKES_OUT}"
            )
        if self.measure.cuda_graph and self.device.kind == "cpu":
            raise ValueError("measure: cuda_graph needs an NVIDIA GPU; a cpu device allows false")
        if self.measure.cuda_graph and self.runtime not in CAPTURING:
            raise ValueError(f"measure: cuda_graph needs a runtime of {', '.join(CAPTURING)}; seen: {self.runtime}")
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
        if self.qat is not None and not self.graph_precision.startswith("int8"):
            raise ValueError(
                f"qat: trains INT8; a graph in {self.graph_precision} allows none: leave it out; qat: null {TAKES_OUT}"
            )
        if self.device.kind != "jetson" and (self.device.power_mode or self.device.jetpack):
            raise ValueError(
                f"device: power_mode and jetpack belong to a jetson, this is a {self.device.kind}; device: "
                f"{{power_mode: null, jetpack: null}} {TAKES_OUT}"
            )
        if self.export.nms and self.export.head != "auto":
            raise ValueError(f"export: nms and head {self.export.head} contradict each other; leave one of them out")
        if self._no_sorted_head and (self.export.nms or self.export.head == "end-to-end"):
            raise ValueError(
                "export: TensorRT 10.3 (JetPack 6.1, 6.2) cannot build INT8 with top-k or NMS inside; allowed: "
                "head raw, precision fp16, or a device.tensorrt from 10.4 on"
            )
        return self

    @property
    def stated_imgsz(self) -> Size | None:
        """``imgsz`` where the profile, or who started the command, says one; None where it was left out."""
        return self.imgsz if "imgsz" in self.model_fields_set else None

    def as_profile(self) -> dict[str, Any]:
        """Its keys and plain values as a profile states them: ``imgsz`` only where it was stated."""
        return self.model_dump(mode="json", exclude=None if self.stated_imgsz else {"imgsz"})

    @property
    def on_cpu(self) -> bool:
        """Whether ONNX Runtime's CPU provider runs the engine, whatever else the device has: it decides how INT8 is
        made, and what is faster than what."""
        return self.runtime == "onnxruntime"

    @property
    def weakly_typed(self) -> bool:
        """Whether engines are built by a TensorRT that chooses precisions itself (8.5, 8.6)."""
        return self.runtime == "trtexec" and is_weakly_typed(self.oldest_tensorrt or OLDEST_TENSORRT)

    @property
    def graph_precision(self) -> str:
        """The number format of the graph that is compiled; below FP32 that of the engine, but for a weakly typed
        builder."""
        return precision_in_graph(self.precision, self.oldest_tensorrt if self.weakly_typed else None)

    @property
    def trtexec_program(self) -> tuple[str, ...]:
        """The command that starts the profile's own trtexec; empty where it is looked for."""
        program = self.device.trtexec or ()
        return (program,) if isinstance(program, str) else program

    @property
    def exported_head(self) -> str:
        """The head to export: ``auto``, ``end-to-end``, ``raw`` or ``nms``."""
        if self.export.nms:
            return "nms"
        return "raw" if self._no_sorted_head or self._leaves_raw_head else self.export.head

    @property
    def possible_heads(self) -> tuple[str, ...]:
        """What :attr:`exported_head` may come to once the release of the device's TensorRT is known, that of the oldest
        first."""
        own = self.exported_head
        if self.oldest_tensorrt is None:
            return (own,)
        newer = oldest_in(self._tensorrt_range, lambda release: self.at_tensorrt(release).exported_head != own)
        return (own,) if newer is None else (own, self.at_tensorrt(newer).exported_head)

    def head_note(self, *, known: bool) -> str:
        """Why a model with two heads is exported with its raw one; empty where ``auto`` leaves the choice to it.

        Args:
            known: whether the release is that of a device, and not the oldest of the profile's range.
        """
        if not (self._no_sorted_head or self._leaves_raw_head) or self.export.nms or self.export.head != "auto":
            return ""
        whose = "the device's" if known else f"the oldest that the profile allows, {self.device.tensorrt or 'any'}"
        fault = "cannot" if self._no_sorted_head else "is not known to"
        release = f"TensorRT {self.oldest_tensorrt} ({whose})"
        return f"{release} {fault} build INT8 with top-k inside: a model with two heads is exported with its raw one"

    @property
    def oldest_tensorrt(self) -> str | None:
        """Oldest TensorRT release in the device's range that can do what the profile asks; None for a runtime without
        TensorRT."""
        if "tensorrt" not in self.runtime and self.runtime != "trtexec":
            return None
        # a device whose release cannot, or is not known, says so itself
        return oldest_in(self._tensorrt_range, self._built_by) or oldest_in(self._tensorrt_range) or OLDEST_TENSORRT

    def _built_by(self, release: str) -> bool:
        """Whether this release of TensorRT has what the profile asks of its builder."""
        if self.device.dla_core is not None and not profile_has_dla(release, self.device.compatible):
            return False
        return has_level(release, self.builder.optimization_level)

    def changed(self, keys: Mapping[str, Any]) -> Target:
        """The same with other values of some keys, as a profile would state them: ``{"measure.cuda_graph": True}``.

        Raises:
            TargetError: the target does not allow it.
        """
        data = self.as_profile()
        for key, value in keys.items():
            *sections, name = key.split(".")
            part = data
            for section in sections:
                part[section] = {} if part[section] is None else part[section]  # one that is left out by default
                part = part[section]
            part[name] = value
        return target_from(data, ", ".join(f"{key}: {value}" for key, value in keys.items()))

    def in_precision(self, precision: Precision) -> Target:
        """The same in another number format, with the head that this one exports; a plainer one leaves out what belongs
        to INT8 alone."""
        if precision == self.precision:
            return self
        keys: dict[str, Any] = {"precision": precision}
        if self.exported_head == "raw":  # by ``auto`` the other format would have another graph
            keys["export.head"] = "raw"
        if self.qat is not None and not precision.startswith("int8"):
            keys["qat"] = None
        return self.changed(keys)

    @property
    def lower_precisions(self) -> tuple[Precision, ...]:
        """Number formats below its own that its runtime may compute faster in: on a CPU none is faster but INT8."""
        if self.on_cpu:
            return () if self.precision == "int8" else ("int8",)
        order: tuple[Precision, ...] = ("fp32", "fp16", "int8-fp16")
        return order[order.index(self.precision) + 1 :] if self.precision in order else ("int8-fp16",)

    @property
    def plainer_precision(self) -> Precision | None:
        """What INT8 has to be faster than to be worth it; None for the other number formats."""
        if not self.precision.startswith("int8"):
            return None
        return "fp32" if self.on_cpu else "fp16"

    def at_tensorrt(self, version: str) -> Target:
        """The same target where the device's TensorRT is known: what depends on the release follows this one; as it is
        where a runtime tells none."""
        if not version:
            return self
        return self.model_copy(update={"device": self.device.model_copy(update={"tensorrt": f"=={version}"})})

    def at_cpu(self, machine: str, isa: str) -> Target:
        """The same target where the CPU that runs it is known: INT8 whose range nobody states is made for this one.

        Args:
            machine, isa: as in :func:`~edgeprune.target.cpus.needs_reduced_range`.
        """
        if self.calibration.reduce_range is not None:
            return self
        found = replace(self.calibration, reduce_range=needs_reduced_range(machine, isa))
        return self.model_copy(update={"calibration": found})

    @property
    def _tensorrt_range(self) -> SpecifierSet:
        return SpecifierSet(self.device.tensorrt or "")

    @property
    def _no_sorted_head(self) -> bool:
        """Whether INT8 would meet a TensorRT that cannot build top-k or NMS in it."""
        oldest = self.oldest_tensorrt if self.precision.startswith("int8") else None
        return oldest is not None and not builds_int8_top_k(oldest)

    @property
    def _leaves_raw_head(self) -> bool:
        """Whether nobody has seen this TensorRT build INT8 with top-k in it; who knows better states the head."""
        return self.weakly_typed and self.precision.startswith("int8") and self.export.head == "auto"

    def with_overrides(self, **overrides: Unpack[Overrides]) -> Target:
        """The same target with what is not None in ``overrides`` in place.

        A budget replaces the target's whole budget but keeps its ``statistic``, and its ``scope`` where it is one of
        latency. A number of epochs takes the place of the target's ``finetune.time_h``, which would decide instead.

        Raises:
            TargetError: a value is impossible, as in a target's YAML.
        """
        given = without_none(overrides)
        data = self.as_profile()
        source = "command line" if is_command_running() else "arguments"
        if budget := {key: given.pop(key) for key in BUDGETS if key in given}:
            if len(budget) > 1:
                raise TargetError(f"{source}: several budgets: {' and '.join(map(named, budget))}; give one of them")
            scope = "model" if "macs_speed_up" in budget else self.budget.scope
            data["budget"] = {"statistic": self.budget.statistic, "scope": scope, **budget}
        for key, value in given.items():
            section, name = OVERRIDDEN.get(key, ("", key))
            (data[section] if section else data)[name] = value
        if "epochs" in given:
            data["finetune"]["time_h"] = None
        places = OVERRIDDEN | {key: ("budget", key) for key in BUDGETS}
        return target_from(data, source, {".".join(places.get(key, (key,))): named(key) for key in overrides})

    def with_budget(self, kind: str, value: float) -> Target:
        """The same target with a budget of latency in place of its own, whose statistic and scope stay.

        Args:
            kind: one of :data:`LATENCY_BUDGETS`.
            value: in ms, or a ratio.

        Raises:
            TargetError: another kind, or an impossible value.
        """
        if kind not in LATENCY_BUDGETS:
            allowed = " and ".join(LATENCY_BUDGETS)
            raise TargetError(f"{shown(repr(kind))} is no kind of a latency budget; allowed are {allowed}")
        return self.with_overrides(latency_ms=value) if kind == "latency_ms" else self.with_overrides(speed_up=value)


def _version_range(key: str, text: str | None, example: str) -> None:
    try:
        SpecifierSet(text or "")
    except InvalidSpecifier:
        raise ValueError(
            f"device: {key}: {text!r} is not a version specifier; allowed: like {example!r}, or one as '==6.2'"
        ) from None


OVERRIDDEN = {
    "max_map_drop": ("accuracy", "max_map_drop"),
    "epochs": ("finetune", "epochs"),
    "until": ("finetune", "until"),
    "device": ("device", "host"),
}
"""Override to the section and key that it replaces; every other one is a key of the target itself."""


def default_target() -> Target:
    """What a model is measured with when nobody names a target: ONNX Runtime on this machine's CPU, one thread."""
    return Target(
        name="this machine",
        description="ONNX Runtime on this machine's CPU, one thread",
        device=Board(kind="cpu"),
        runtime="onnxruntime",
        budget=Budget(speed_up=1.0),
        measure=Measuring(retries=0),
    )


def target_schema() -> dict[str, Any]:
    """JSON Schema of a target's YAML, for editors; committed as ``targets/schema.json``."""
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
    for section in defaulted_sections():  # null takes out what an extended profile says
        value = schema["properties"][section]
        value["anyOf"] = [{"$ref": value.pop("$ref")}, {"type": "null"}]
    for (section, key), drops_null in free_mappings().items():  # null empties it, and drops an entry that it has
        value = part_of(schema, schema["properties"][section])["properties"][key]
        value["type"] = ["object", "null"]
        if drops_null and "anyOf" not in value["additionalProperties"]:  # two sections may share a part
            value["additionalProperties"] = {"anyOf": [value["additionalProperties"], {"type": "null"}]}
    return schema


def defaulted_sections() -> tuple[str, ...]:
    """Sections that a profile need not have, as they are without one."""
    return tuple(name for name, field in Target.model_fields.items() if field.default_factory is not None)


@cache
def free_mappings() -> Mapping[tuple[str, str], bool]:
    """Section and key of each mapping whose keys are the profile's own (``prune``, ``max_ratio``), to whether null is
    never the value of an entry: what ``train`` hands to Ultralytics may be one."""
    schema = Target.model_json_schema()
    return {
        (section, key): isinstance(value.get("additionalProperties"), dict)
        for section in schema["properties"]
        if (part := part_of(schema, schema["properties"][section]))
        for key, value in part["properties"].items()
        if value.get("type") == "object"
    }


def target_from(data: Mapping[str, Any], source: str, said: Mapping[str, str] | None = None) -> Target:
    """A target from the mapping that its YAML holds.

    Args:
        data: keys and values, after ``extends``.
        source: where they come from, for messages.
        said: key to what it is called where it was not read from a file.

    Raises:
        TargetError: unknown keys, or impossible or contradictory values; names every key and what is allowed.
    """
    try:
        content = json.dumps(data, default=_plain)
    except (TypeError, ValueError) as error:  # YAML has keys that JSON has not: dates, lists
        raise TargetError(f"{source}: every key is a word: {first_line(error)}") from error
    try:
        # JSON mode is the strict one that still lets a list be a tuple; `batch: yes` must not become batch 1.
        with options_of_command(None):  # what a section refuses is called by its keys
            return Target.model_validate_json(content, strict=True)
    except ValidationError as error:
        reasons = "; ".join(_explanation(item, said or {}) for item in error.errors())
        raise TargetError(f"{source}: {reasons}") from error


def _plain(value: object) -> object:
    """A number of NumPy as JSON has it, anything else that JSON has not as text."""
    number = plain_number(value)
    return str(value) if number is value else number


def _explanation(item: ErrorDetails, said: Mapping[str, str]) -> str:
    place = ".".join(str(part) for part in item["loc"])
    key = said.get(place) or shown(place) or "profile"
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        allowed = _keys_of_part(item["loc"][:-1])
        close = difflib.get_close_matches(str(item["loc"][-1]), allowed, n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        return f"{key}: unknown key{hint} Allowed: {', '.join(allowed)}"
    if item["type"] == "missing":
        return f"{key}: is missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{key}: {message}" if item["loc"] else message
    value = json.dumps(item["input"], default=str, ensure_ascii=False)
    if item["type"] == "string_pattern_mismatch":
        pattern = item.get("ctx", {}).get("pattern", "")
        return f"{key}: allowed is {ALLOWED_BY.get(pattern, pattern)}; seen: {shown(value)}"
    return f"{key}: {message[0].lower()}{message[1:]}; seen: {shown(value)}"


def _keys_of_part(location: tuple[str | int, ...]) -> list[str]:
    schema = target_schema()
    part = schema
    for step in location:
        part = part_of(schema, part["properties"][step])
    return list(part["properties"])


def part_of(schema: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """The section that a key of a schema holds; empty for a plain value."""
    references = [choice["$ref"] for choice in (value, *value.get("anyOf", ())) if "$ref" in choice]
    return schema["$defs"][references[0].rpartition("/")[2]] if references else {}
