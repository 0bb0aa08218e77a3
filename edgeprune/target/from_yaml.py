"""Read a target from its YAML, the only place where that is done: names, ``extends``, and keys written twice.

Whatever is refused is named by file, key and what is allowed, as a :class:`~edgeprune.errors.TargetError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from edgeprune.errors import TargetError
from edgeprune.limited_yaml import read_yaml
from edgeprune.reading import is_file, shown
from edgeprune.target.schema import Target, target_from

PROFILE = "profile.yaml"
"""In a folder of results: the target that they are of, where no profile elsewhere is it."""
MODELS = (".pt", ".onnx", ".engine")


def load_target(name_or_path: str | Path | Target) -> Target:
    """Read a target by the name of a shipped one (``cpu``) or by the path of its YAML (``my/board.yaml``); a target is
    given back as it is.

    Raises:
        TargetError: no such target, not YAML, an unknown key, an impossible or contradictory value, a cycle in
            ``extends``; the message names file, key and what is allowed.
    """
    if isinstance(name_or_path, Target):
        return name_or_path
    path = _path_of(name_or_path)
    return target_from(_read_with_parents(path, ()), str(path))


def shipped_targets() -> dict[str, Path]:
    """Name to file of every target that ships with edgeprune."""
    return {path.stem: path for path in sorted(targets_dir().glob("*.yaml"))}


def is_shipped(target: Target) -> bool:
    """Whether a target is, key by key, the shipped one of its name."""
    return target.name in shipped_targets() and load_target(target.name).as_profile() == target.as_profile()


def profile_yaml(target: Target) -> str:
    """A target as the text of a YAML that :func:`load_target` reads as the same one."""
    return yaml.safe_dump(target.as_profile(), sort_keys=False, allow_unicode=True)


def targets_dir() -> Path:
    """Folder of the shipped targets: inside the installed package, or the repository's own in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "targets"
    return inside if inside.is_dir() else package.parent / "targets"


def _path_of(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    shipped = shipped_targets()
    if text in shipped:
        return shipped[text]
    path = Path(text)
    if is_file(path):
        if path.suffix.lower() in MODELS:
            raise TargetError(f"{shown(path)} is a model, and a target is a profile: {', '.join(shipped)}, or a .yaml")
        return path
    close = difflib.get_close_matches(text, shipped, n=1)
    hint = f"; did you mean {close[0]}?" if close else "."
    raise TargetError(f"no target {shown(text)!r}{hint} Allowed: {', '.join(shipped)}, or the path of a .yaml profile.")


def _read_with_parents(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in children:
        raise TargetError(f"{path}: extends: goes in a circle: {' → '.join(p.stem for p in (*children, path))}")
    data = _read_yaml(path)
    if "extends" not in data:
        return {"name": path.stem, **data}
    parent_name = data.pop("extends")
    if not isinstance(parent_name, str):
        raise TargetError(f"{path}: extends: {shown(repr(parent_name))} is not the name or path of one profile")
    beside = [path.parent / parent_name, path.parent / f"{parent_name}.yaml"]
    try:
        parent = next((p for p in beside if is_file(p)), None) or _path_of(parent_name)
    except TargetError as error:
        raise TargetError(f"{path}: extends: {error}") from error
    return _merged(_read_with_parents(parent, (*children, path)), {"name": path.stem, **data})


def _merged(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(parent)
    for key, value in child.items():
        # A budget is one statement: half of the parent's and half of the child's would contradict itself.
        if key != "budget" and isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merged(merged[key], cast("Mapping[str, Any]", value))
        else:
            merged[key] = value
    return merged


def _read_yaml(path: Path) -> dict[str, Any]:
    data = read_yaml(path, error=TargetError)
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise TargetError(f"{path}: a profile is a mapping of keys to values, seen: {type(data).__name__}")
    return data
