"""What a path that was given for a model is: there or not, a file or a folder, a checkpoint, a graph or an engine.

Asked by every command before it reads the model, so that each says the same of the same mistake.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from edgeprune.errors import DataError
from edgeprune.reading import exists, is_address, is_file, shown

KINDS = {".pt": "a checkpoint", ".onnx": "an ONNX file", ".engine": "an engine"}
MODELS_OF_A_FOLDER = (  # as builds, bundles and trainings leave them, the one to give first
    "bundle/model.onnx",
    "model.onnx",
    "best.pt",
    "weights/best.pt",
    "bundle/model.pt",
    "model.pt",
)


def require_model(path: Path | str, *allowed: str, closed: bool = False) -> None:
    """Refuse what is no file of one of these kinds, by its name.

    Args:
        path: as it was given.
        allowed: suffixes out of :data:`KINDS`.
        closed: refuse a suffix that is none of any kind too; it may be anything otherwise.

    Raises:
        DataError: nothing is there, or a folder, a pipe, a device; a file of another kind. Says what to give instead.
    """
    path = Path(path)
    if not is_file(path):
        raise DataError(missing_model(path, *allowed))
    suffix = path.suffix  # as it is written: nobody who reads the file takes another spelling for it
    if suffix in allowed or not (closed or suffix in KINDS):
        return
    seen = f"is {KINDS[suffix]}, and" if suffix in KINDS else "is no model by its name;"
    raise DataError(f"{shown(path)} {seen} {_expected(allowed)} was expected; {_instead(path, suffix, allowed)}")


def missing_model(path: Path, *allowed: str) -> str:
    """What to say where no file is at a path that was given for a model."""
    if not exists(path):
        if is_address(path):
            return f"{shown(path)} is an address; download the file, and give its path"
        return f"{shown(path)} does not exist; {_expected(allowed)} was expected"
    if not path.is_dir():
        kind = "a pipe or a device" if path.exists() else "a link to nowhere"
        return f"{shown(path)} is {kind}; {_expected(allowed)} was expected"
    return f"{shown(path)} is a folder; {_in_folder(path, allowed)}"


def _in_folder(folder: Path, allowed: tuple[str, ...]) -> str:
    for name in MODELS_OF_A_FOLDER:
        if Path(name).suffix in allowed and is_file(folder / name):
            return f"give {shown(folder / name)}"
    return f"{_expected(allowed)} was expected"


def _expected(allowed: tuple[str, ...]) -> str:
    *others, last = (f"{KINDS[suffix]} ({suffix})" for suffix in allowed)
    return f"{', '.join(others)} or {last}" if others else last


def _instead(path: Path, suffix: str, allowed: tuple[str, ...]) -> str:
    if suffix == ".pt" and ".onnx" in allowed:
        return f"next: {shlex.join(['edgeprune', 'export', str(path), '-o', str(path.with_suffix('.onnx'))])}"
    if suffix in KINDS and ".onnx" in allowed:
        return "give the ONNX file that it was built from"
    if suffix in KINDS and ".engine" in allowed:
        return "give the engine that was built from it"
    return "give the .pt that it was exported from" if suffix in KINDS else "give one of those"
