"""Models that are described by YAML instead of weights."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from edgeprune.errors import NOT_OF_THE_INPUT, DataError, first_line
from edgeprune.families import family_of, refuse_foreign_head
from edgeprune.limited_yaml import read_yaml
from edgeprune.serial import digest_of
from edgeprune.unpickle import known_classes_only

SCALE = re.compile(r"(\d+)([nslmx])(.+)?$")  # of a name: Ultralytics reads yolo11.yaml where yolo11n.yaml is asked for


@dataclass(frozen=True)
class ModelDescription:
    """What a model YAML describes.

    Attributes:
        path: the YAML as Ultralytics takes it: a file, or a name such as ``yolo11n.yaml``.
        digest: SHA-256 of its resolved content, scale included.
        task: ``detect``, ``segment``, ``pose``, ``obb`` or ``classify``.
        stride: coarsest stride in pixels.
        model: what is built from it, with random weights, for the classes and channels that the YAML says: those of the
            data set that it is trained on take their place.
    """

    path: Path
    digest: str
    task: str
    stride: int
    model: nn.Module = field(repr=False, compare=False)


def read_model_yaml(source: str | Path) -> ModelDescription:
    """Read a model YAML and build the model once, which tells its task and stride and that it can be built.

    Raises:
        DataError: no such YAML, one that Ultralytics cannot build a model from, or of a family that does not run here.
    """
    from ultralytics import YOLO
    from ultralytics.nn.tasks import yaml_model_load

    for name in (str(source), SCALE.sub(r"\1\3", str(source))):
        if os.path.lexists(name):  # Ultralytics' own reader waits for a pipe and builds whatever aliases stand for
            read_yaml(Path(name), unique_keys=False, as_ultralytics=True)
    try:
        content: dict[str, Any] = yaml_model_load(str(source))
        head = str(content["head"][-1][2])
    except NOT_OF_THE_INPUT:
        raise
    except Exception as error:
        raise _no_model(source, error) from error
    refuse_foreign_head(head)
    try:
        with known_classes_only():
            network: Any = YOLO(str(source), verbose=False).model
        stride = int(network.stride.max())
    except NOT_OF_THE_INPUT:
        raise
    except Exception as error:  # Ultralytics raises whatever its parser met
        raise _no_model(source, error) from error
    content.pop("yaml_file", None)
    task = family_of(network, source).task
    return ModelDescription(Path(source), digest_of(content), task, max(stride, 32), network.float().eval())


def _no_model(source: str | Path, error: Exception) -> DataError:
    return DataError(
        f"--weights {source}: no model can be built from it ({first_line(error)}); "
        "give a checkpoint (.pt) or a model YAML such as yolo11n.yaml"
    )
