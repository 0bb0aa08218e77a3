"""What a checkpoint's pickle may build: the classes of Ultralytics and torch under today's names and older ones.

Reading never runs code from the file. A class that is not built is refused by a line that says what it is and what to
do: that a class is torch's own does not make it part of a checkpoint, and that it is unknown does not make it hostile.
"""

from __future__ import annotations

import errno
import logging
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from types import ModuleType
from typing import Any
from zipfile import is_zipfile

import torch

from edgeprune.errors import NOT_OF_THE_INPUT, DamagedError, DataError, first_line
from edgeprune.quiet import one_thread, quiet

# where Ultralytics 8.0 had what it has today: the map of its own loader, which its restricted form does not go by
MOVED_MODULES = {
    "ultralytics.yolo.utils": "ultralytics.utils",
    "ultralytics.yolo.v8": "ultralytics.models.yolo",
    "ultralytics.yolo.data": "ultralytics.data",
}
PLAIN_CLASSES = ("ultralytics.utils.IterableSimpleNamespace",)  # training arguments of version 8.0
LOSS_MODULES = ("ultralytics.utils.loss", "ultralytics.utils.tal")
# hooks and wrappers of torch that are built to say what is in the file: data, and code of torch alone
TORCH_MODULES = ("torch.nn.utils.prune", "torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm")
WRAPPERS = ("torch.nn.parallel.data_parallel.DataParallel",)
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
READ_BYTES = 2**20
PLACES_OF_LINKS = ("/tmp", "/var/tmp")  # where the folder for temporary files has a quote in its own name
SWITCH = "ULTRALYTICS_SAFE_LOAD"
OWN_FILE = "If the file is your own, give --trust"
# C2f_v2, C2f_infer, PrunableC2f and the like: the stock block, and what other pruners add to its name; pruning/adopt.py
SPLIT_FORM = re.compile(r"(?P<halves>Prunable)?(?P<block>\w+?)(?P<suffix>_v2|_infer)?")
YOLOV5_PACKAGES = ("models", "utils")  # of the repositories of YOLOv5 and YOLOv7


def content_of(path: Path, *, trust: bool, aliases: Mapping[str, type] | None = None) -> Any:
    """What ``torch.load`` gives for a checkpoint, on the CPU.

    Args:
        path: an existing file, which is read itself whatever its name is.
        trust: build any class that the file names, by running what it says.
        aliases: stock classes to build where the file names others, by those names.

    Raises:
        DamagedError: empty, truncated, or no checkpoint at all.
        DataError: it cannot be read, is TorchScript, or needs a class which is not built.
        MemoryError: there is no room for it.
    """
    if _is_empty(path):
        raise DamagedError(f"{path} is empty; copy or train it again")
    return _trusted(path) if trust else _restricted(path, aliases or {})


@contextmanager
def _refusals(path: Path, *, trust: bool, aliases: Mapping[str, type]) -> Iterator[None]:
    """Around the one call that reads a file: what the file makes it raise, as a line about it."""
    try:
        yield
    except ImportError as error:
        # a module that the file names and nobody has; anything else is a fault of the installation
        missing = [cause.name or "" for cause in _causes(error) if isinstance(cause, ModuleNotFoundError)]
        stock = next((name for name in missing if name.startswith("ultralytics.")), None)
        if stock is not None and not trust:
            raise DataError(f"{path} needs {stock}, {_what_it_is(stock)}") from error
        if not (missing and trust):
            raise
        raise DataError(_needed_class(path, error)) from error
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make a pickle call anything that it may name with anything
        raise _refusal(path, error, trust=trust, aliases=aliases) from error


def _refusal(path: Path, error: Exception, *, trust: bool, aliases: Mapping[str, type]) -> Exception:
    """What reading a file that ended in an error is told as."""
    text = " ".join(str(cause) for cause in _causes(error))
    foreign_class = re.search(r"GLOBAL (\S+)", text)
    other_object = re.search(r"'(\w+)' object has no attribute 'model'", text)
    if "DefaultCPUAllocator" in text:  # torch has no class of its own for it
        return MemoryError(f"no room to read {path}: {first_line(error)}")
    if (unreadable := _unreadable(path, error)) is not None:
        return DataError(f"{path} cannot be read: {unreadable.strerror or first_line(unreadable)}")
    kind = DataError
    if "TorchScript" in text:
        message = f"{path} is a TorchScript archive; pass the .pt checkpoint it was exported from"
    elif other_object is not None:
        message = f"{path} holds a {other_object[1]}, not an Ultralytics checkpoint; pass a trained .pt file"
    elif isinstance(error, AttributeError) and trust:
        message = _needed_class(path, error)
    elif _is_before_archives(path, text, foreign_class and foreign_class[1]):
        message = (
            f"{path} has the format of torch before 1.6, whose layers cannot be built without running what it "
            f"says; save it again: torch.save(torch.load(path, weights_only=False), path). {OWN_FILE}"
        )
    elif foreign_class is not None:
        message = f"{path} needs {foreign_class[1]}, {_what_it_is(foreign_class[1])}"
    else:
        kind = DamagedError
        message = f"{path} is empty, truncated or no checkpoint ({_line(error)}); copy or train it again"
    if aliases:  # who names the classes to build has no --trust to give
        message = message.replace(f". {OWN_FILE}", "")
    return kind(message)


def _needed_class(path: Path, error: Exception) -> str:
    return f"{path} needs {error}; install what defines it, in the version that wrote the file"


def _unreadable(path: Path, error: Exception) -> OSError | None:
    """Why the file cannot be read to its end, where it cannot: torch's reader tells that like damage."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno != errno.EINVAL:  # damage asks for places before the first byte
            return cause
    try:
        with path.open("rb") as file:
            while file.read(READ_BYTES):
                pass
    except OSError as failure:
        return failure
    return None


def _is_empty(path: Path) -> bool:
    """Whether it is a file of no bytes, as a full disk or a stopped copy leaves one."""
    return path.is_file() and path.stat().st_size == 0


def _is_before_archives(path: Path, text: str, refused: str | None) -> bool:
    """Whether it is the format of torch before 1.6 that a restricted load stumbles over, and no class of another's."""
    stock = "persistent_load of storage" in text if refused is None else not is_foreign(refused)
    return stock and not is_zipfile(path)


def _restricted(path: Path, aliases: Mapping[str, type]) -> Any:
    from ultralytics.nn.tasks import torch_safe_load

    entries: list[Any] = [(stock, name) for name, stock in aliases.items()]
    entries += [(found, name) for name in globals_of(path) if (found := _known_class(name)) is not None]
    with (
        torch.serialization.safe_globals(entries),
        own_name(path) as file,
        quiet(logging.ERROR),
        _refusals(path, trust=False, aliases=aliases),
    ):
        return torch_safe_load(str(file), safe_only=True)[0]


@contextmanager
def known_classes_only() -> Iterator[None]:
    """Around a call of Ultralytics: none of its own loads (resume, teacher, final validation) builds a class that it
    does not know, and no description of a model is run; nor in a process that it starts.

    Ultralytics reads its switch once, when it is first imported, perhaps before edgeprune was; and what the user loads
    afterwards is the user's affair. ``--trust`` concerns only the file that a user names.

    Raises:
        StageError: another thread of this process is in such a block (:func:`~edgeprune.quiet.one_thread`).
    """
    tasks: Any = import_module("ultralytics.nn.tasks")  # where it is read, though not exported
    with one_thread():  # a second one that ends first would switch it off for the other
        before, variable = tasks.SAFE_LOAD, os.environ.get(SWITCH)
        tasks.SAFE_LOAD, os.environ[SWITCH] = True, "1"
        try:
            yield
        finally:
            tasks.SAFE_LOAD = before
            if variable is None:
                os.environ.pop(SWITCH, None)
            else:
                os.environ[SWITCH] = variable


class _TodaysNames(pickle.Unpickler):
    """Builds what a file names by older names under today's.

    Ultralytics' own loader lends the old names to the new packages instead; below those, Python then imports every
    module a second time and leaves it in the first one's place: two classes of each name in one process.
    """

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(_name_of_today(module), name)


def _unpickling() -> Any:
    """What ``torch.load`` takes for a ``pickle_module``; it asks for no more of one."""
    found: Any = ModuleType(pickle.__name__)
    found.Unpickler = _TodaysNames
    found.load = lambda file, **given: _TodaysNames(file, **given).load()
    return found


def _trusted(path: Path) -> Any:
    """Everything the file asks for; still nothing is installed when a module is missing."""
    with _refusals(path, trust=True, aliases={}):
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_unpickling())


@contextmanager
def own_name(path: Path) -> Iterator[Path]:
    """A name under which Ultralytics reads this very file, or checkpoints in this very folder, while the block lasts;
    what it is given by a name, files of edgeprune too, is given by this one.

    It drops quotes from a name (of a folder too), takes yolov5n.pt for yolov5nu.pt, and deletes a damaged file that is
    given by the bare name of published weights, to download it again.
    """
    whole = path.absolute()
    if _name_is_kept(whole / "checkpoint.pt" if whole.is_dir() else whole):
        yield whole
        return
    folders = [Path(gettempdir()).absolute(), *(Path(name) for name in PLACES_OF_LINKS)]
    place = next((one for one in folders if os.access(one, os.W_OK) and _name_is_kept(one / "checkpoint.pt")), None)
    if place is None:
        raise DataError(
            f"{path}: Ultralytics drops quotes from this name, and no folder for temporary files is without one; name "
            "one in $TMPDIR"
        )
    with TemporaryDirectory(prefix="edgeprune-load-", dir=place) as folder:
        link = Path(folder) / ("folder" if whole.is_dir() else "checkpoint.pt")
        link.symlink_to(whole)
        yield link


def _name_is_kept(path: Path) -> bool:
    from ultralytics.utils.checks import check_yolov5u_filename

    return check_yolov5u_filename(str(path).strip().replace("'", ""), verbose=False) == str(path)


def ultralytics_reads(path: Path) -> bool:
    """Whether ``YOLO(path)`` reads this very file, restricted as edgeprune has it read (:func:`known_classes_only`)."""
    if not _name_is_kept(path.absolute()):
        return False
    return not any(_known_class(name) is not None or is_foreign(name) for name in globals_of(path))


def is_foreign(name: str) -> bool:
    """Whether a global is neither Ultralytics', torch's nor plain data."""
    return name.partition(".")[0] not in (*STOCK_PACKAGES, *PLAIN_PACKAGES)


def globals_of(path: Path) -> list[str]:
    """Globals that a restricted load would refuse; none for a file that is no archive, which loading will refuse."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except NOT_OF_THE_INPUT:
        raise
    except Exception:  # whatever is wrong with it is said by loading it
        return []


def _name_of_today(name: str) -> str:
    """The name of a module of Ultralytics 8.0, or of something in one, as it is today; any other name as it is."""
    for old, new in MOVED_MODULES.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name


def _known_class(name: str) -> type | None:
    """The class that an old name, or a name of torch's utilities, stands for today; None for any other name."""
    today = _name_of_today(name)
    if today == name and name not in WRAPPERS and name.rpartition(".")[0] not in TORCH_MODULES:
        return None
    module, _, attribute = (name := today).rpartition(".")
    try:
        found = getattr(import_module(module), attribute, None)
    except ImportError:
        return None
    if not isinstance(found, type) or found.__module__ != module:
        return None
    return found if name in (*PLAIN_CLASSES, *WRAPPERS) or module in (*LOSS_MODULES, *TORCH_MODULES) else None


def split_block_of(name: str) -> str | None:
    """Name of the block that another pruner's class is a split form of; None for any other class."""
    found = SPLIT_FORM.fullmatch(name.rpartition(".")[2])
    return found["block"] if found is not None and bool(found["halves"]) != bool(found["suffix"]) else None


def _what_it_is(name: str) -> str:
    """What a class is and what to do, as the end of a sentence."""
    package = name.partition(".")[0]
    if split_block_of(name) is not None:
        return "a block of another pruner; edgeprune adopt makes such a checkpoint stock, where it knows the block"
    if name.startswith("torch.nn.parallel."):
        return "a wrapper of training on several GPUs; save what it wraps: torch.save({'model': model.module}, path)"
    if name.startswith("torch.optim.swa_utils."):
        return "an average of weights; save what it wraps: torch.save({'model': averaged.module}, path)"
    if name.startswith(("torch.nn.utils.", "torch.nn.modules.module.")):
        return (
            "which torch leaves on a layer whose weights it computes; make them plain where the model was made "
            "(torch.nn.utils.parametrize.remove_parametrizations) and save it again"
        )
    if package in ("torch", "torchvision"):
        return f"a class of {package} that no checkpoint of Ultralytics has; replace it by a stock block. {OWN_FILE}"
    if package == "ultralytics":
        from ultralytics import __version__

        return (
            f"which the installed Ultralytics {__version__} does not have; load it with the version that wrote it and "
            "save it again, or train it again"
        )
    if package in YOLOV5_PACKAGES:
        return (
            "a class of the repositories of YOLOv5 or YOLOv7, whose models Ultralytics does not load; train the model "
            "with Ultralytics (yolov5nu.pt and the like)"
        )
    return f"a class outside Ultralytics and torch, and loading it could run any code. {OWN_FILE}"


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
