"""The only reader and writer of ``.pt`` files.

Reading never runs code from the file: Ultralytics' restricted loader builds known classes and nothing else. Writing
gives what ``ultralytics.YOLO(path)`` loads in a process that has never heard of edgeprune: stock classes, FP32, and
plain metadata.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.artifact import sha256_of
from edgeprune.errors import DataError, StageError
from edgeprune.families import family_of

STOCK_PACKAGES = ("torch", "torchvision", "ultralytics")
PLAIN_PACKAGES = (
    "builtins",
    "collections",
    "numpy",
    "pathlib",
    "_codecs",
    "copyreg",
    "datetime",
    "__builtin__",
    "types",
)


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

    @property
    def imgsz(self) -> int:
        """Side of the images that it was trained on, in pixels; 640 where it does not say."""
        side = self.train_args.get("imgsz")
        return side if isinstance(side, int) else 640

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


def load(path: Path | str, *, trust: bool = False) -> Checkpoint:
    """Read an Ultralytics checkpoint without running code from it.

    Args:
        path: a file, or the name of published weights (``yolov8n.pt``), which Ultralytics then downloads.
        trust: build any class that the file names. Such a file can run any code; only for files of your own.

    Raises:
        DataError: missing, damaged, unsafe, not an Ultralytics checkpoint, of a class that does not run here, or one
            that says it was pruned but holds a model of other shapes; one line with the next command.
    """
    file = _find_file(path)
    data = _load_trusted(file) if trust else _load_restricted(file)
    if not isinstance(data, Mapping):
        raise DataError(f"{path} holds a {type(data).__name__}, not an Ultralytics checkpoint; pass a trained .pt file")
    model = data.get("ema") or data.get("model")
    if not isinstance(model, nn.Module):
        tensors = sum(isinstance(value, torch.Tensor) for value in data.values())
        seen = (
            f"a bare state dict of {tensors} tensors"
            if tensors
            else f"a file with {', '.join(map(str, list(data)[:4]))}"
        )
        raise DataError(f"{path} is {seen}, not an Ultralytics checkpoint; save it with model.save('weights.pt') first")
    family = family_of(model, path)
    checkpoint = _checkpoint_of(model.float().eval(), family.task, data, file)
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
) -> None:
    """Write a checkpoint that plain Ultralytics loads, whole or not at all; equal input gives equal bytes.

    Args:
        model: a stock model; it is not changed.
        like: take training arguments and the other small entries from this one.
        metadata: plain data for the key ``edgeprune``.
        train_args: instead of those of ``like``.

    Raises:
        StageError: the model holds a class that is not Ultralytics' or torch's own, or metadata is not plain data.
    """
    import ultralytics

    path = Path(path)
    refuse_foreign_classes(model)
    content = {
        "epoch": -1,
        "best_fitness": None,
        "date": None,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
        **(like.extra if like is not None else {}),
        "version": ultralytics.__version__,
        "model": _without_training_state(model),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": _plain_data(
            train_args if train_args is not None else (like.train_args if like else {}), "train_args"
        ),
        "edgeprune": _plain_copy(metadata if metadata is not None else (like.edgeprune if like else {})),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:  # an open file, not its name: torch writes the name into the archive
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        foreign = foreign_globals(temporary)
        if foreign:
            raise StageError(
                f"the model holds {foreign[0]}, which a process without edgeprune may not have; "
                f"remove it before saving {path.name}"
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def shape_signature(model: nn.Module) -> str:
    """SHA-256 over name and shape of every parameter and buffer.

    Equal for float, half and copies of a model, different after any change of a width, a class count or a block, and
    after ``fuse()``, which merges layers. A model rebuilt from its YAML therefore never passes for a pruned one.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return signature_of({name: tuple(tensor.shape) for name, tensor in tensors})


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


def _find_file(path: Path | str) -> Path:
    """An existing file; a bare name of published weights is downloaded by Ultralytics where it keeps its weights."""
    file = Path(path)
    if file.suffix != ".pt":
        raise DataError(f"{path} is not a .pt file; pass a checkpoint")
    if file.is_file():
        return file
    if file.name == str(path):
        from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

        if file.name in GITHUB_ASSETS_NAMES:
            try:
                file = Path(attempt_download_asset(file.name))
            except Exception as error:
                raise DataError(
                    f"{path} is not here and cannot be downloaded ({_line(error)}); put the file here, or go online"
                ) from error
            if file.is_file():
                return file
            raise DataError(f"{path} is not here and cannot be downloaded; put the file here, or go online")
    raise DataError(f"cannot read {path}: no such file; check the path")


def _load_restricted(path: Path) -> Any:
    from ultralytics.nn.tasks import torch_safe_load

    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        raise DataError("this torch cannot load weights safely; install torch 2.6 or newer")
    try:
        return torch_safe_load(str(path), safe_only=True)[0]
    except Exception as error:
        text = " ".join(str(cause) for cause in _causes(error))
        foreign_class = re.search(r"GLOBAL (\S+)", text)
        other_object = re.search(r"'(\w+)' object has no attribute 'model'", text)
        if "TorchScript" in text:
            message = f"{path} is a TorchScript archive; pass the .pt checkpoint it was exported from"
        elif other_object is not None:
            message = f"{path} holds a {other_object[1]}, not an Ultralytics checkpoint; pass a trained .pt file"
        elif foreign_class is not None:
            message = (
                f"{path} needs {foreign_class[1]}, a class outside Ultralytics and torch, and loading it could run any "
                "code; pass --trust if the file is your own"
            )
        else:
            message = f"{path} is empty, truncated or no checkpoint ({_line(error)}); copy or train it again"
        raise DataError(message) from error


def _load_trusted(path: Path) -> Any:
    """Everything the file asks for; still nothing is installed when a module is missing."""
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        raise DataError(f"{path} needs the module {error.name}; install it and try again") from error
    except Exception as error:
        raise DataError(
            f"{path} is empty, truncated or no checkpoint ({_line(error)}); copy or train it again"
        ) from error


def _checkpoint_of(model: Any, task: str, data: Mapping[str, Any], path: Path) -> Checkpoint:
    """What a file says about its model, which gets the attributes that Ultralytics' own loader sets."""
    from ultralytics.utils import DEFAULT_CFG_DICT

    train_args = dict(data.get("train_args") or {})
    model.args = {**DEFAULT_CFG_DICT, **train_args}
    model.task = task
    if not hasattr(model, "stride"):
        model.stride = torch.tensor([32.0])  # classifiers of old versions
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = True
        elif isinstance(module, nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
            module.recompute_scale_factor = None  # saved by torch before 1.11
    names = getattr(model, "names", None) or {}
    names = dict(enumerate(names)) if isinstance(names, (list, tuple)) else names
    heavy = ("model", "ema", "optimizer", "train_args", "edgeprune", "scaler", "updates", "train_results")
    return Checkpoint(
        model=model,
        task=task,
        names={int(index): str(name) for index, name in names.items()},
        stride=int(model.stride.max()),
        path=path,
        sha256=sha256_of(path),
        train_args=train_args,
        edgeprune=dict(data.get("edgeprune") or {}),
        extra={key: value for key, value in data.items() if key not in heavy},
    )


def _without_training_state(model: nn.Module) -> nn.Module:
    """A float32 copy without what training left on it; the EMA and the loss hold references to half a trainer."""
    memo: dict[int, Any] = {}
    if getattr(model, "criterion", None) is not None:
        memo[id(model.criterion)] = None
    result: Any = copy.deepcopy(model, memo).float().cpu().eval()
    result.criterion = None
    result.__dict__.pop("pt_path", None)  # where it lay on this machine
    result.__dict__.pop("_trainer", None)
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


def foreign_globals(path: Path) -> list[str]:
    """Globals named in a checkpoint's pickle that are neither Ultralytics', torch's nor plain data; loads nothing."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    return [name for name in names if name.partition(".")[0] not in (*STOCK_PACKAGES, *PLAIN_PACKAGES)]


def _causes(error: BaseException | None) -> list[BaseException]:
    """An exception and those that it was raised from."""
    causes = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def _line(error: BaseException) -> str:
    text = re.sub(r"[^\x20-\x7e]+", " ", str(error)).strip() or "no details"
    return f"{type(error).__name__}: {text[:160]}"
