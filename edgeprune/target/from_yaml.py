"""Read a target from its YAML, the only place where that is done: names, ``extends``, and keys written twice.

Whatever is refused is named by file, key and what is allowed, as a :class:`~edgeprune.errors.TargetError`.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from edgeprune.errors import TargetError
from edgeprune.limited_yaml import read_yaml, yaml_text
from edgeprune.reading import exists, is_file, shown
from edgeprune.target.schema import Target, defaulted_sections, free_mappings, target_from

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
    return target_from(_without_dropped(_read_with_parents(path, ())), str(path))


def shipped_targets() -> dict[str, Path]:
    """Name to file of every target that ships with edgeprune."""
    return {path.stem: path for path in sorted(targets_dir().glob("*.yaml"))}


def is_shipped(target: Target) -> bool:
    """Whether a target is, key by key, the shipped one of its name."""
    return target.name in shipped_targets() and load_target(target.name).as_profile() == target.as_profile()


def name_to_type(target: str | Path | Target, kept: str | Path) -> str:
    """What a command is told for a target: its name or path as it was given; of a target that was made in Python, which
    has no name, the file that it is kept in."""
    if not isinstance(target, Target):
        return str(target)
    return target.name if is_shipped(target) else str(kept)


def profile_yaml(target: Target) -> str:
    """A target as the text of a YAML that :func:`load_target` reads as the same one."""
    return yaml_text(target.as_profile())


def extending_yaml(base: str, keys: Mapping[str, Any]) -> str:
    """A profile that extends another one, as the text of a YAML.

    Args:
        base: name or path of the other one.
        keys: with dots between sections, and their values.
    """
    content: dict[str, Any] = {"extends": base}
    for key, value in sorted(keys.items(), key=lambda item: "." in item[0]):  # sections last
        *sections, name = key.split(".")
        part = content
        for section in sections:
            part = part.setdefault(section, {})
        part[name] = list(value) if isinstance(value, tuple) else value
    # None writes a section on one line, and the whole where it has no section
    flow = None if any(isinstance(value, dict) for value in content.values()) else False
    return yaml_text(content, default_flow_style=flow, width=sys.maxsize)


def name_to_extend(name_or_path: str, folder: Path) -> str:
    """What ``extends`` says in a profile of this folder to start from the one that :func:`load_target` reads by this
    name or path: the name of a shipped one, where no file of the folder is called so; the path from the folder to a
    profile inside it, which may go with it to another place; else an absolute path."""
    path = _path_of(name_or_path)
    bare = name_or_path in shipped_targets() and not _files_beside(folder / PROFILE, name_or_path)
    if bare:
        return name_or_path
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


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
            raise TargetError(
                f"{shown(path)} is a model, and a target is a profile: give the path of a .yaml, "
                "or a name from: edgeprune targets"
            )
        return path
    if path.suffix.lower() in (".yaml", ".yml") or len(path.parts) > 1:
        kind = "is a folder" if path.is_dir() else "is a pipe or a device"
        seen = kind if exists(path) and path.exists() else "no such file"  # a link to nowhere is none
        raise TargetError(f"{shown(text)}: {seen}; give the path of a profile, or a name from: edgeprune targets")
    close = difflib.get_close_matches(text, shipped, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "allowed is the name of a shipped one, or a .yaml."
    raise TargetError(f"no target {shown(text)!r}; {hint} All of them: edgeprune targets")


def _read_with_parents(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in children:
        raise _circle(path, (*children, path))
    data = _with_own_files(_read_yaml(path), path)
    if "extends" not in data:
        return {"name": path.stem, **data}
    parent_name = data.pop("extends")
    if not isinstance(parent_name, str):
        raise TargetError(f"{path}: extends: {shown(repr(parent_name))} is not the name or path of one profile")
    chain = (*children, path)
    beside = [file.resolve() for file in _files_beside(path, parent_name)]
    # a file that is called like a shipped profile may start from that one, and others beside from the file
    parent = next((file for file in beside if file not in chain), None)
    if parent is None and beside and parent_name not in shipped_targets():
        raise _circle(path, (*chain, beside[0]))
    try:
        parent = parent or _path_of(parent_name)
    except TargetError as error:
        raise TargetError(f"{path}: extends: {error}") from error
    return _merged(_read_with_parents(parent, chain), {"name": path.stem, **data})


def _with_own_files(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The same with files of this machine that it names beside itself by their absolute paths: whoever extends a
    profile, or starts from another folder, means the same ones. What is not beside it is left as it is."""
    section = data.get("finetune")
    teacher = section.get("teacher") if isinstance(section, Mapping) else None
    if not isinstance(section, Mapping) or not isinstance(teacher, str) or not is_file(path.parent / teacher):
        return dict(data)
    return {**data, "finetune": {**section, "teacher": str((path.parent / teacher).resolve())}}


def _files_beside(path: Path, name: str) -> list[Path]:
    """Files that a name or path in ``extends`` may mean, before the shipped profiles."""
    return [file for file in (path.parent / name, path.parent / f"{name}.yaml") if is_file(file)]


def _circle(path: Path, chain: Sequence[Path]) -> TargetError:
    way = " → ".join(shown(file) for file in chain)
    names = ", ".join(shipped_targets())
    return TargetError(
        f"{shown(path)}: extends: goes in a circle: {way}; allowed is a profile outside of it, such as a shipped one: "
        f"{names}"
    )


def _merged(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(parent)
    for key, value in child.items():
        # A budget is one statement: half of the parent's and half of the child's would contradict itself.
        if key != "budget" and isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merged(merged[key], cast("Mapping[str, Any]", value))
        else:
            merged[key] = value
    return merged


def _without_dropped(data: Mapping[str, Any]) -> dict[str, Any]:
    """The same without what null leaves out: a whole section, which is then the default one, and of mappings with keys
    of their own one entry, or all of them."""
    kept = {key: value for key, value in data.items() if value is not None or key not in defaulted_sections()}
    for (section, key), drops_null in free_mappings().items():
        part = kept.get(section)
        if not isinstance(part, Mapping) or key not in part:
            continue
        entries = {} if part[key] is None else part[key]
        if drops_null and isinstance(entries, Mapping):
            entries = {name: value for name, value in entries.items() if value is not None}
        kept[section] = {**part, key: entries}
    return kept


def _read_yaml(path: Path) -> dict[str, Any]:
    data = read_yaml(path, error=TargetError)
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise TargetError(f"{path}: a profile is a mapping of keys to values, seen: {type(data).__name__}")
    return data
