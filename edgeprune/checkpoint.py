"""The only reader and writer of ``.pt`` files.

Reading never runs code from the file: Ultralytics' restricted loader builds known classes and nothing else. Writing
gives what ``ultralytics.YOLO(path)`` loads in a process that has never heard of edgeprune: stock classes, FP32, and
plain metadata.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from edgeprune.artifact import naming, sha256_of, temporary_of
from edgeprune.errors import NOT_OF_THE_INPUT, DataError, StageError, first_line
from edgeprune.families import family_of, network_of
from edgeprune.input_size import InputSize, Size, both_sides, input_size, plain
from edgeprune.model_file import missing_model
from edgeprune.model_metadata import count_of, is_plain, mapping_of, names_of, refused, size_of, stride_of
from edgeprune.reading import exists, is_address, is_file, shown
from edgeprune.unpickle import STOCK_PACKAGES, content_of, globals_of, is_foreign, ultralytics_reads

RECTANGLE = "imgsz"  # key of our own metadata: height and width that a model was trained at, where it is no square
EXPORTED = (".onnx", ".engine", ".plan", ".torchscript")  # what is made from a checkpoint
OF_THE_WEIGHTS = ("train_metrics", "best_fitness", "stopper")  # entries that other weights must not carry on
CLOSE_NAME = 0.8  # of two names, by difflib: yolo8n.pt is close to yolov8n.pt, last.pt to none
SEVERAL = ("fraction", "scale")  # training arguments that are one number, or one for each split or bound
LEFT_BY_A_RUN = frozenset(
    {"training", "inplace", "shape", "anchors", "strides", "dynamic", "export", "format", "xyxy"}
    | {"max_det", "agnostic_nms"}  # how many detections are kept, and which; validation writes both on a head
)
"""Attributes of blocks that loading, a forward pass, a validation or an export sets."""
RGB = 3  # channels that Ultralytics counts where a model does not say them
MOST_NUMBERS = 64  # of a tensor that is no weight and belongs to an architecture: strides, not anchors
GIVEN = "the model"  # in messages, what was given in Python and has no file's name
SMALLEST_PX = 64  # side of an image that every model of stride 32 and 64 takes


@dataclass(frozen=True)
class Training:
    """What a checkpoint says of its training.

    Attributes:
        train_args: the arguments it was trained with, as the file has them.
        edgeprune: metadata that :func:`save` wrote.
    """

    train_args: Mapping[str, object] = field(default_factory=dict)
    edgeprune: Mapping[str, object] = field(default_factory=dict)

    def imgsz(self, what: str) -> Size | None:
        """Size of the images that were trained on, in pixels; None where nothing says it. ``what`` says it, for
        messages."""
        if (rectangle := self.edgeprune.get(RECTANGLE)) is not None:
            return plain(size_of(rectangle, what, key=f"edgeprune.{RECTANGLE}"))
        side = self.train_args.get("imgsz")
        return None if side is None else max(size_of(side, what))

    @property
    def rectangle(self) -> Mapping[str, object]:
        """The metadata of a model that is made of this one: the rectangle that it was trained at, if it was."""
        return {key: value for key, value in self.edgeprune.items() if key == RECTANGLE}


def training_of(model: object) -> Training:
    """What the checkpoint says that a model was read from, where it is an Ultralytics interface (``YOLO("best.pt")``),
    which keeps that; a bare network tells nothing, for its ``args`` are filled up with defaults.

    Raises:
        DataError: it says what cannot be.
    """
    from ultralytics.engine.model import Model

    kept = model.ckpt if isinstance(model, Model) else None
    if not isinstance(kept, Mapping):
        return Training()
    own = mapping_of(kept.get("edgeprune"), GIVEN, "edgeprune")
    return Training(_train_args(kept.get("train_args"), GIVEN), own)


def size_for_given(model: object, *, command: Size | None = None, plan: Size | None = None) -> InputSize:
    """As :meth:`Checkpoint.size_for`, of a model that was given in Python; see :func:`training_of`."""
    network = network_of(model)
    stride = int(max(getattr(network, "stride", [32])))
    trained = training_of(model).imgsz(GIVEN)
    return input_size(trained, stride, family_of(network).task, command=command, plan=plan)


@dataclass
class Checkpoint:
    """A model as it was read, with what the file says about it.

    Attributes:
        model: float32, evaluation mode, on the CPU; the EMA where the file has one.
        task: ``detect``, ``segment``, ``pose``, ``obb`` or ``classify``.
        names: class names by index.
        stride: largest stride in pixels; image sides must be multiples of it.
        path: the file that was read.
        sha256: digest of its bytes.
        train_args: the arguments it was trained with, as the file has them.
        edgeprune: metadata that :func:`save` wrote; empty for any other checkpoint.
        extra: the file's other small entries (epoch, metrics, date, version, licence).
        quantizers: state of the INT8 fake quantizers that training left beside the model (Ultralytics' ``modelopt``);
            empty for a float model. ``model`` is without them.
        says_its_task: False where the file calls its model another task's than the class is, which decides.
        says_its_channels: False where Ultralytics would take its images for RGB, which they are not; ``model`` says it.
    """

    model: nn.Module
    task: str
    names: dict[int, str]
    stride: int
    path: Path
    sha256: str
    train_args: Mapping[str, object] = field(default_factory=dict)
    edgeprune: Mapping[str, object] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)
    quantizers: Mapping[str, object] = field(default_factory=dict)
    says_its_task: bool = True
    says_its_channels: bool = True

    @property
    def trained_imgsz(self) -> Size | None:
        """Size of the images that it was trained on, in pixels; None where it does not say.

        Ultralytics knows the side of a square; height and width of a rectangle are in our own metadata.
        """
        return Training(self.train_args, self.edgeprune).imgsz(str(self.path))

    @property
    def single_cls(self) -> bool:
        """Whether it was trained to see every object as of one class, whatever that is called."""
        return bool(self.train_args.get("single_cls"))

    def size_for(
        self, *, command: Size | None = None, plan: Size | None = None, profile: Size | None = None
    ) -> InputSize:
        """The size to run it at, in pixels, by what each of these says (:mod:`edgeprune.input_size`)."""
        said = {"command": command, "plan": plan, "profile": profile}
        return input_size(self.trained_imgsz, self.stride, self.task, **said)

    @property
    def channels(self) -> int:
        """Of the images that it takes."""
        return input_channels(self.model)

    @property
    def kpt_shape(self) -> tuple[int, ...]:
        """Keypoints and numbers a keypoint that it gives; empty for a model without."""
        return keypoint_shape(self.model)

    @property
    def signature(self) -> str | None:
        """Shape signature that it was pruned to; None where it does not say that it was pruned."""
        signature = self.edgeprune.get("shape_signature") or self.edgeprune.get("signature")  # builds of version 0.1
        return signature if isinstance(signature, str) else None

    @property
    def plan_digest(self) -> str | None:
        """Digest of the plan that it was pruned by, where it says so."""
        digest = self.edgeprune.get("plan_digest") or self.edgeprune.get("plan")  # in builds of version 0.1
        return digest if isinstance(digest, str) else None


def load(path: Path | str, *, trust: bool = False, aliases: Mapping[str, type] | None = None) -> Checkpoint:
    """Read an Ultralytics checkpoint without running code from it.

    Args:
        path: a file, or the name of published weights (``yolov8n.pt``), which Ultralytics then downloads.
        trust: build any class that the file names. Such a file can run any code; only for files of your own.
        aliases: stock classes to build where the file names others, by those names; such a model is not run yet
            (:func:`require_running`).

    Raises:
        DataError: missing, damaged, unsafe, not an Ultralytics checkpoint, of a class that does not run here, of layers
            that do not run one after the other, or one that says it was pruned but holds a model of other shapes; one
            line with the next command.
    """
    file = _find_file(path)
    data = content_of(file, trust=trust, aliases=aliases or {})
    if not isinstance(data, Mapping):
        raise DataError(f"{path} holds a {type(data).__name__}, not an Ultralytics checkpoint; pass a trained .pt file")
    own = data.get("edgeprune")
    if isinstance(own, Mapping) and own.keys() >= {"weights", "mosaic", "ended"}:  # training/trainers.py writes those
        raise DataError(
            f"{path} is a training in progress: run the same command again to go on with it, or take best.pt beside it"
        )
    given = (data.get("ema"), data.get("model"))
    model = next((one for one in given if isinstance(one, (nn.Module, Mapping)) and one), None)
    if isinstance(model, nn.DataParallel):
        model = vars(model).get("_modules", {}).get("module")
    if not isinstance(model, nn.Module):
        held = model if isinstance(model, Mapping) else data
        tensors = sum(isinstance(value, torch.Tensor) for value in held.values())
        seen = (
            f"a bare state dict of {tensors} tensors"
            if tensors
            else f"a file with {', '.join(map(str, list(data)[:4]))}"
        )
        raise DataError(f"{path} is {seen}, not an Ultralytics checkpoint; save it with model.save('weights.pt') first")
    _refuse_broken_modules(model, str(path))
    family = family_of(model, path)
    layers = getattr(model, "model", None)
    if not isinstance(layers, nn.Sequential) or not len(layers) or getattr(model, "yaml", None) is None:
        raise DataError(f"{path} holds a {type(model).__name__}, not an Ultralytics model; pass a YOLO checkpoint")
    refuse_broken_weights(model, str(path))
    try:
        model = in_file_order(model.float().eval())
    except RecursionError:
        raise DataError(f"{path} holds a model whose layers contain themselves; train it again") from None
    except NOT_OF_THE_INPUT:
        raise
    except Exception as error:  # of an attribute that Ultralytics converts along
        raise _damaged(str(path), "the model", error) from error
    checkpoint = _checkpoint_of(model, family.task, data, file)
    if not aliases:
        require_running(checkpoint)
    signature = shape_signature(model)
    if checkpoint.signature is not None and checkpoint.signature != signature:
        raise DataError(
            f"{path} says it was pruned to the shapes {checkpoint.signature[:12]}, but holds a model of the shapes "
            f"{signature[:12]} with {parameter_count(model)} parameters: it was rebuilt or exchanged; start again from "
            "the pruned checkpoint"
        )
    return checkpoint


def save(
    model: nn.Module,
    path: Path | str,
    *,
    like: Checkpoint | None = None,
    metadata: Mapping[str, object] | None = None,
    train_args: Mapping[str, object] | None = None,
    quantizers: Mapping[str, object] | None = None,
    same_weights: bool = False,
) -> None:
    """Write a checkpoint that plain Ultralytics loads, whole or not at all; equal input gives equal bytes.

    Args:
        model: a stock model; it is not changed.
        like: take training arguments and the other small entries from this one, without what its training measured.
        metadata: plain data for the key ``edgeprune``; the rectangle that ``like`` was trained at is added.
        train_args: instead of those of ``like``.
        quantizers: fake quantizers of INT8 beside the model; those of ``like`` are left out.
        same_weights: the model has the weights of ``like``, so that what its training measured is true of it too.

    Raises:
        StageError: the model holds a class that is not Ultralytics' or torch's own, or metadata is not plain data.
    """
    import ultralytics

    path = Path(path)
    refuse_foreign_classes(model)
    own = metadata if metadata is not None else (like.edgeprune if like else {})
    if RECTANGLE not in own and like is not None and RECTANGLE in like.edgeprune:
        own = {**own, RECTANGLE: like.edgeprune[RECTANGLE]}
    extra = like.extra if like is not None else {}
    content = {
        "epoch": -1,
        "best_fitness": None,
        "date": None,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
        **{key: value for key, value in extra.items() if same_weights or key not in OF_THE_WEIGHTS},
        "version": ultralytics.__version__,
        "model": _without_training_state(model),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": _plain_data(
            train_args if train_args is not None else (like.train_args if like else {}), "train_args"
        ),
        "edgeprune": _plain_copy(own),
        **({"modelopt": quantizers} if quantizers else {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path)
    try:
        archive = io.BytesIO()  # torch would write a file's name into it, and tell a full disk as a fault of its own
        torch.save(content, archive)
        with naming(path), temporary.open("wb") as file:
            file.write(archive.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        foreign = foreign_globals(temporary)
        if foreign:
            raise StageError(
                f"the model holds {foreign[0]}, which a process without edgeprune may not have; "
                f"remove it before saving {path.name}"
            )
        with naming(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def in_file_order(model: nn.Module) -> nn.Module:
    """The same module, its weights laid out as checkpoints have them: NCHW, not the ``channels_last`` that training on
    CUDA leaves. Released versions of Ultralytics merge layers by ``view``, which fails on any other order."""
    return model.to(memory_format=torch.contiguous_format)


def for_ultralytics(source: Checkpoint, copy_to: Path) -> Path:
    """A file that ``YOLO(file)`` reads as :func:`load` read the source: the source itself, or a copy of today's names.

    Ultralytics' restricted loader takes neither modules of version 8.0 nor some names of files, it believes what a file
    says of its task and its channels, and puts fake quantizers back; ``copy_to`` is written for those, with equal bytes
    each time.

    Raises:
        StageError: the source has classes that no stock checkpoint can hold.
    """
    says_what_it_is = source.says_its_task and source.says_its_channels
    if says_what_it_is and not source.quantizers and ultralytics_reads(source.path):
        return source.path
    save(source.model, copy_to, like=source, same_weights=True)
    return copy_to


def shape_signature(model: nn.Module) -> str:
    """SHA-256 over name and shape of every parameter and buffer.

    Equal for float, half and copies of a model, different after any change of a width, a class count or a block, and
    after ``fuse()``, which merges layers. A model rebuilt from its YAML therefore never passes for a pruned one.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return signature_of({name: tuple(tensor.shape) for name, tensor in tensors})


def architecture_digest(model: nn.Module) -> str:
    """SHA-256 over what a model computes but for the values of its weights: its blocks with their numbers, and shapes.

    Two models can have one :func:`shape_signature` and take different times: activations, strides, pooling and heads of
    attention are in no weight. What an image or an export leaves on a block is left out, so that a model has one digest
    before and after.
    """
    lines = [shape_signature(model)]
    for name, module in model.named_modules(remove_duplicate=False):  # one activation serves many layers
        kind = type(module)
        numbers = {
            key: plain
            for key, value in (vars(module) if name else {}).items()
            if not key.startswith("_") and key not in LEFT_BY_A_RUN and (plain := _architecture_of(value)) is not None
        }
        lines.append(f"{name} {kind.__module__}.{kind.__qualname__} {sorted(numbers.items())}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _architecture_of(value: Any) -> str | None:
    """A block's number, word or function in words; None for what is none."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    if isinstance(value, torch.Tensor):  # strides of a head
        return str(value.detach().cpu().tolist()) if value.numel() <= MOST_NUMBERS and not value.is_meta else None
    if isinstance(value, (list, tuple)):
        parts = [_architecture_of(one) for one in value]
        return None if None in parts else f"({', '.join(map(str, parts))})"
    return getattr(value, "__qualname__", None) if callable(value) and not isinstance(value, nn.Module) else None


def signature_of(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The signature of a model whose parameters and buffers have these shapes."""
    lines = (f"{name}:{','.join(map(str, shape))}\n" for name, shape in sorted(shapes.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def require_shapes(model: nn.Module, signature: str, stage: str) -> None:
    """Raise StageError when a model is not the one that was pruned: rebuilt from its YAML, or another file.

    Args:
        signature: what :func:`shape_signature` gave after pruning; a plan and a pruned checkpoint carry it.
        stage: what was done last, for the message: ``training``, ``resume``.
    """
    seen = shape_signature(model)
    if seen != signature:
        raise StageError(
            f"after {stage} the model has other shapes ({seen[:12]}, {parameter_count(model)} parameters) than after "
            f"pruning ({signature[:12]}); it was rebuilt or exchanged, so start again from the pruned checkpoint"
        )


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, buffers not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def refuse_foreign_classes(model: nn.Module) -> None:
    """Raise StageError for the first module whose class is not from ``torch``, ``torchvision`` or ``ultralytics``."""
    for name, module in model.named_modules():
        if type(module).__module__.partition(".")[0] not in STOCK_PACKAGES:
            kind = f"{type(module).__module__}.{type(module).__qualname__}"
            raise StageError(
                f"block {kind} at {name or 'the top'} is not one of Ultralytics' own, so a stock checkpoint cannot "
                "hold it; replace it by a stock block first"
            )


def the_checkpoint_instead(path: Path | str) -> str:
    """What to give where a checkpoint is asked for and this file is none by its name."""
    if Path(path).suffix.lower() in EXPORTED:
        return "give the .pt that it was exported from"
    meant = published_name(path)
    return f"did you mean {meant}?" if meant else "give a checkpoint, a .pt file"


def published_name(path: Path | str) -> str:
    """The name of published weights that somebody may have meant by a bare name; empty where there is none."""
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    text = str(path)
    if Path(text).name != text:
        return ""
    names = [name for name in GITHUB_ASSETS_NAMES if name.endswith(".pt")]
    wanted = text if text.endswith(".pt") else f"{text}.pt"
    return next(iter(difflib.get_close_matches(wanted, names, n=1, cutoff=CLOSE_NAME)), "")


def require_checkpoint(path: Path | str) -> None:
    """Refuse what no checkpoint can be by its name, or a folder; nothing is read.

    Raises:
        DataError: it is such, and what to give instead.
    """
    file = Path(path)
    if exists(file) and not is_file(file):
        raise DataError(missing_model(file, ".pt"))
    if file.suffix != ".pt":
        raise DataError(f"{shown(path)} is not a .pt file; {the_checkpoint_instead(path)}")


def _find_file(path: Path | str) -> Path:
    """An existing file; a bare name of published weights is downloaded by Ultralytics where it keeps its weights."""
    file = Path(path)
    require_checkpoint(path)
    if is_file(file):
        return file
    if file.name == str(path):
        from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

        if file.name in GITHUB_ASSETS_NAMES:
            try:
                file = Path(attempt_download_asset(file.name))
            except NOT_OF_THE_INPUT:
                raise
            except Exception as error:
                raise DataError(
                    f"{path} is not here and cannot be downloaded ({first_line(error)}); put it here, or go online"
                ) from error
            if file.is_file():
                return file
            raise DataError(f"{path} is not here and cannot be downloaded; put the file here, or go online")
    if is_address(path):
        raise DataError(missing_model(file, ".pt"))
    if meant := published_name(path):
        raise DataError(
            f"cannot read {shown(path)}: no such file, and no published weights have this name; did you mean {meant}?"
        )
    raise DataError(f"cannot read {shown(path)}: no such file; check the path")


def _checkpoint_of(model: Any, task: str, data: Mapping[str, Any], path: Path) -> Checkpoint:
    """What a file says about its model, which gets the attributes that Ultralytics' own loader sets."""
    from ultralytics.utils import DEFAULT_CFG_DICT

    what = str(path)
    train_args = _train_args(data.get("train_args"), what)
    told = getattr(model, "task", task)
    says_its_task = isinstance(told, str) and told == task
    model.task = task
    yaml = mapping_of(model.yaml, what, "yaml")
    for key in ("nc", "ch", "channels"):
        if key in yaml:
            count_of(yaml[key], what, f"yaml.{key}")
    says_its_channels = not _say_channels(model)
    stride = stride_of(getattr(model, "stride", 32), what)  # classifiers of old versions have none
    if not isinstance(getattr(model, "stride", None), torch.Tensor):
        model.stride = torch.tensor([float(stride)])
    head = model.model[-1]
    classes = getattr(head, "nc", None)
    if classes is None:
        classes = getattr(getattr(head, "linear", None), "out_features", None)
    classes = None if classes is None else count_of(classes, what, "head.nc")
    names = getattr(model, "names", None)
    if names is None and classes is not None:
        names = [str(index) for index in range(classes)]  # as Ultralytics numbers what has no names
    model.names = names_of(names, what, count=classes)
    model.args = {**DEFAULT_CFG_DICT, **train_args}
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = True
        elif isinstance(module, nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
            module.recompute_scale_factor = None  # saved by torch before 1.11
    own = mapping_of(data.get("edgeprune"), what, "edgeprune")
    for key in ("shape_signature", "signature", "plan_digest"):
        if not isinstance(own.get(key, ""), str):
            raise refused(what, f"edgeprune.{key}", own[key], "a digest")
    quantizers = data.get("modelopt")
    quantizers = {} if quantizers is None else quantizers
    if not isinstance(quantizers, Mapping):
        raise refused(what, "modelopt", quantizers, "a mapping of fake quantizers")
    fields_of_their_own = ("model", "modelopt", "train_args", "edgeprune")
    heavy = (*fields_of_their_own, "date", "ema", "optimizer", "scaler", "updates", "train_results")
    return Checkpoint(
        model=model,
        task=model.task,
        names=dict(model.names),
        stride=stride,
        path=path,
        sha256=sha256_of(path),
        train_args=train_args,
        edgeprune=own,
        extra={key: value for key, value in data.items() if key not in heavy and is_plain(value)},
        quantizers=quantizers,
        says_its_task=says_its_task,
        says_its_channels=says_its_channels,
    )


def _train_args(value: object, what: str) -> dict[str, Any]:
    """Arguments that a model was trained with; early versions wrote a namespace."""
    from ultralytics.utils import DEFAULT_CFG_DICT

    arguments = mapping_of(vars(value) if isinstance(value, SimpleNamespace) else value, what, "train_args")
    if arguments.get("imgsz") is not None:
        size_of(arguments["imgsz"], what, key="train_args.imgsz")
    for key, given in arguments.items():
        numbers = given if key in SEVERAL and isinstance(given, list | tuple) else [given]
        wrong = any(type(number) not in (int, float, bool) for number in numbers)
        if given is not None and type(DEFAULT_CFG_DICT.get(key)) is float and wrong:
            raise refused(what, f"train_args.{key}", given, "a number")
    if arguments.get("single_cls") not in (None, True, False):
        raise refused(what, "train_args.single_cls", arguments["single_cls"], "true or false")
    return arguments


def refuse_broken_weights(model: nn.Module, what: str) -> None:
    """Raise DataError for the first tensor that is no plain, finite weight, with its name and what mends it.

    Args:
        model: any module.
        what: its file, for the message.
    """
    for name, module in model.named_modules():
        for tensor, means, mend in _computed_tensors(module):
            raise DataError(f"{what}: {name}.{tensor} is computed by {means}; make it plain with {mend} and save again")
    tensors = [*model.named_parameters(), *model.named_buffers()]
    if not tensors:
        raise DataError(f"{what} holds a model without weights; train it first")
    for name, tensor in tensors:
        if tensor.is_meta or tensor.is_complex():
            raise DataError(f"{what}: {name} has {'no' if tensor.is_meta else 'complex'} numbers; save trained weights")
        if isinstance(tensor, nn.Parameter) and not tensor.is_floating_point():
            raise DataError(f"{what}: {name} holds integers; pass the checkpoint from before it was quantised")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            seen = "NaN" if bool(torch.isnan(tensor).any()) else "infinity"
            raise DataError(
                f"{what}: {name} has {seen} in it, as when training diverged; take an earlier checkpoint, or train "
                "again with a lower lr0"
            )


def keypoint_shape(model: nn.Module) -> tuple[int, ...]:
    """Keypoints and numbers a keypoint that a model's head gives, or that the model says where it has no layers of its
    own (a graph's session); empty for one without."""
    layers: Any = getattr(model, "model", None)
    head = layers[-1] if isinstance(layers, nn.Sequential) and len(layers) else model
    told: Any = getattr(head, "kpt_shape", None)
    return tuple(int(number) for number in told) if told else ()


def input_channels(model: nn.Module) -> int:
    """Channels of the image that a model takes: what its description says, else what its first convolution reads.

    Raises:
        DataError: neither says it.
    """
    yaml: Any = getattr(model, "yaml", None)
    told = (yaml.get("channels") or yaml.get("ch")) if isinstance(yaml, Mapping) else None
    if told:
        return int(told)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise DataError("the model has no convolution, so nothing says how many channels its images have")


def _say_channels(model: Any) -> bool:
    """Whether Ultralytics would take a model's images for RGB that are not; its description then says so from here on.

    It reads the entry ``channels``, and older versions wrote ``ch``.
    """
    yaml = getattr(model, "yaml", None)
    if not isinstance(yaml, Mapping) or yaml.get("channels") or (channels := input_channels(model)) == RGB:
        return False
    model.yaml = {**yaml, "channels": channels}
    return True


def require_running(checkpoint: Checkpoint) -> None:
    """Raise DataError for a model that does not run: layers or attributes that are missing, or of another type.

    What a pickle holds needs no constructor to have run, so any part of it can be absent. One small image through the
    whole model meets them all; one of the size of its training is tried where small maps may be the reason.
    """
    model: Any = checkpoint.model
    for name, layer in model.named_modules():
        try:
            _require_own_numbers(layer)
        except (AttributeError, TypeError, ValueError, ArithmeticError) as error:
            raise _damaged(str(checkpoint.path), name, error) from error
    side = max(SMALLEST_PX, checkpoint.stride)
    failure, where = _run_once(model, side)
    if failure is not None and (trained := max(both_sides(checkpoint.size_for().side))) > side:
        failure, where = _run_once(model, trained)
    if failure is not None:
        raise _damaged(str(checkpoint.path), where, failure) from failure


def _refuse_broken_modules(model: nn.Module, what: str) -> None:
    """Raise DataError where torch's own parts of a module are missing or of another type: nothing can be asked of it.

    Looked at without torch's iterators, which need what is looked for; a module that contains itself is met once.
    """
    parts = {key: type(value) for key, value in vars(nn.Module()).items() if value is not None}
    kinds = {"_parameters": nn.Parameter, "_buffers": torch.Tensor, "_modules": nn.Module}
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("the model", model)]
    while waiting:
        where, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        for key, kind in parts.items():
            if not isinstance(vars(module).get(key), kind):
                raise _damaged(what, where, TypeError(f"its {key} is no {kind.__name__}"))
        for key, kind in kinds.items():
            for name, value in vars(module)[key].items():
                if not isinstance(name, str) or not (value is None or isinstance(value, kind)):
                    raise _damaged(what, where, TypeError(f"its {name!s} is a {type(value).__name__}"))
        waiting += [(name, child) for name, child in module._modules.items() if child is not None]


def _require_own_numbers(layer: Any) -> None:
    """Raise unless a layer of torch says the sizes that its weight has: narrowing and merging go by what it says."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        inner, outer = layer.in_channels, layer.out_channels
        sides = (inner, outer // layer.groups) if layer.transposed else (outer, inner // layer.groups)
        said, has = (*sides, *layer.kernel_size), layer.weight.shape
    elif isinstance(layer, nn.Linear):
        said, has = (layer.out_features, layer.in_features), layer.weight.shape
    elif isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
        said, has = (layer.num_features,), layer.running_mean.shape
    else:
        return
    for name in (*layer.__constants__, *(("num_batches_tracked",) if isinstance(layer, nn.BatchNorm2d) else ())):
        getattr(layer, name)
    if said != tuple(has):
        raise ValueError(f"it says the sizes {said} and has {tuple(has)}")


def _damaged(what: str, where: str, error: Exception) -> DataError:
    """The refusal of a model that torch or Ultralytics cannot run."""
    return DataError(
        f"{what} holds a model that does not run: {shown(where, 60)}: {type(error).__name__}: {first_line(error)}; it "
        "was damaged or changed by hand: train it again, or take an earlier file"
    )


def _run_once(model: Any, side: int) -> tuple[Exception | None, str]:
    """What one empty image of ``side`` pixels leads to, and the layer where; the model is left as it was."""
    where = ["the model"]
    before = [(module, dict(module.__dict__)) for module in model.modules()]  # heads keep the anchors of the last image
    handles = [
        layer.register_forward_pre_hook(
            lambda layer, _, number=number: where.append(f"from layer {number} ({type(layer).__name__}) on")
        )
        for number, layer in enumerate(model.model)
    ]
    try:
        with torch.no_grad():
            model(torch.zeros(1, input_channels(model), side, side))
    except NOT_OF_THE_INPUT:
        raise
    except Exception as error:  # whatever the missing part leads to
        return error, where[-1]
    finally:
        for handle in handles:
            handle.remove()
        for module, attributes in before:
            module.__dict__.clear()
            module.__dict__.update(attributes)
    return None, ""


def _computed_tensors(module: nn.Module) -> Iterator[tuple[str, str, str]]:
    """Tensors that a layer computes from others before it runs: their names, by what, and the call that ends it."""
    if is_parametrized(module):
        parametrizations: Any = module.parametrizations
        for name in parametrizations:
            yield name, "a parametrization", f"torch.nn.utils.parametrize.remove_parametrizations(layer, '{name}')"
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, torch_prune.BasePruningMethod):
            name = hook._tensor_name
            yield name, f"a pruning mask ({name}_mask)", f"torch.nn.utils.prune.remove(layer, '{name}')"
        elif isinstance(hook, WeightNorm):
            yield hook.name, "weight norm", f"torch.nn.utils.remove_weight_norm(layer, '{hook.name}')"
        elif isinstance(hook, SpectralNorm):
            yield hook.name, "spectral norm", f"torch.nn.utils.remove_spectral_norm(layer, '{hook.name}')"


def _without_training_state(model: nn.Module) -> nn.Module:
    """A float32 copy without what training left on it; the EMA and the loss hold references to half a trainer."""
    memo: dict[int, Any] = {}
    if getattr(model, "criterion", None) is not None:
        memo[id(model.criterion)] = None
    result: Any = in_file_order(copy.deepcopy(model, memo).float().cpu().eval())
    _say_channels(result)  # of a model that was given in Python
    result.criterion = None
    result.__dict__.pop("pt_path", None)  # where it lay on this machine
    result.__dict__.pop("_trainer", None)
    result.__dict__.pop("class_weights", None)  # for the loss of the training that counted its labels (cls_pw)
    args = getattr(result, "args", None)
    if args is not None and not isinstance(args, dict):
        result.args = dict(vars(args))
    return result


def _plain_copy(metadata: Mapping[str, object]) -> Mapping[str, object]:
    """Plain data without shared objects, which pickle would write differently for equal content."""
    return json.loads(json.dumps(_plain_data(metadata, "metadata")))


def _plain_data(value: Any, where: str) -> Any:
    """The same data as dictionaries, lists, strings and numbers; anything else is refused by its place."""
    if isinstance(value, Mapping):
        return {_plain_key(key, where): _plain_data(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_data(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise StageError(f"{where} is a {type(value).__name__}; a checkpoint's metadata holds plain data only")


def _plain_key(key: Any, where: str) -> Any:
    if type(key) in (str, int):
        return key
    raise StageError(f"{where} has a {type(key).__name__} as a key; use strings or integers")


def named_globals(path: Path | str) -> list[str]:
    """Classes and functions that a checkpoint names and a restricted load would not build; loads nothing.

    Raises:
        DataError: there is no such file.
    """
    return globals_of(_find_file(path))


def foreign_globals(path: Path) -> list[str]:
    """Globals named in a checkpoint's pickle that are neither Ultralytics', torch's nor plain data; loads nothing."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    return [name for name in names if is_foreign(name)]
