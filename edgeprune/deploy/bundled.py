"""Which files of other tools go into a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from edgeprune.deploy.deepstream import deepstream_files
from edgeprune.deploy.shipped import ShippedModel
from edgeprune.deploy.triton import triton_files
from edgeprune.errors import TargetError
from edgeprune.target import Target

DEEPSTREAM, TRITON = "deepstream", "triton"


def files_for_tools(
    model: ShippedModel, target: Target, unserved: Callable[[str], object] | None = None
) -> dict[str, bytes | Path]:
    """``triton/``, and ``deepstream/`` where the target runs TensorRT.

    A tool that has no way for this model is left out, which ``unserved`` hears.

    Args:
        model: what ships.
        target: what it was built for, in the number format that ships.
        unserved: called with a line for each tool that is left out.

    Returns:
        Name in the bundle to content, or to the file that it is a copy of.
    """
    makers: dict[str, Callable[[ShippedModel], Mapping[str, bytes | Path]]] = {TRITON: triton_files}
    if target.runtime in ("tensorrt", "trtexec"):
        makers[DEEPSTREAM] = deepstream_files
    model = replace(model, target=target)
    found: dict[str, bytes | Path] = {}
    for folder, make in makers.items():
        try:
            found |= {f"{folder}/{name}": content for name, content in make(model).items()}
        except TargetError as error:
            if unserved is not None:
                unserved(f"no {folder}/ in the bundle: {error}")
    return found
