"""Which classes of models run here, and what Ultralytics predicts, validates and trains each of them with.

The one registry of both is Ultralytics' own: the task maps of its public classes (``YOLO``, ``RTDETR``, ``YOLOWorld``,
``YOLOE``). A model of a class that another validator judges, or another trainer trains, than a plain ``YOLO`` is not
run with the wrong one: it is refused by the name of its class.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgeprune.errors import DataError

TASKS = ("detect", "segment", "pose", "obb", "classify")
"""Tasks whose models are pruned, trained, exported and judged here."""


BOXES_ALONE = ("detect", "obb")
"""Tasks that Ultralytics too chooses the best epoch of by the one figure that they are judged by."""


@dataclass(frozen=True)
class Family:
    """How Ultralytics runs one class of models.

    Attributes:
        interface: its public class that runs them: ``YOLO``, ``RTDETR``, ``YOLOWorld``, ``YOLOE``.
        task: ``detect``, ``segment``, ...
        model: class of the network.
        predictor, validator, trainer: classes.
    """

    interface: str
    task: str
    model: type[Any]
    predictor: type[Any]
    validator: type[Any]
    trainer: type[Any]

    @property
    def supported(self) -> bool:
        """Whether its models run here."""
        return self.interface == "YOLO" and self.task in TASKS


@cache
def families() -> tuple[Family, ...]:
    """Every family that this Ultralytics has, from its task maps."""
    from ultralytics import RTDETR, YOLO, YOLOE, YOLOWorld

    return tuple(
        Family(interface.__name__, task, **entry)
        for interface in (YOLO, RTDETR, YOLOWorld, YOLOE)
        for task, entry in interface.__new__(interface).task_map.items()  # the map needs no model
    )


def family_for(task: str) -> Family:
    """The family of a task of :data:`TASKS`."""
    return next(family for family in families() if family.supported and family.task == task)


def family_of(network: Any, where: Path | str = "") -> Family:
    """The family of a network that was read from, or built of, the file ``where``; empty where it was given itself.

    Raises:
        DataError: it is no network of Ultralytics, or one of a family that does not run here; names its class.
    """
    kind, head = type(network), _head_of(network)
    seen = f"{where} holds a {kind.__name__}" if where else f"the model is a {kind.__name__}"
    by_class = {family.model: family for family in families()}
    family = next((by_class[cls] for cls in kind.__mro__ if cls in by_class), None)
    if "RTDETR" in head:  # Ultralytics goes by the head here: a network of this family may have a plain class
        family = next(family for family in families() if family.interface == "RTDETR")
    if family is None:
        raise DataError(f"{seen}, not an Ultralytics model; pass a YOLO checkpoint")
    if not family.supported:
        raise DataError(
            f"{seen} ({family.interface}, {family.task}), which edgeprune neither prunes nor judges; allowed are "
            f"{', '.join(family_for(task).model.__name__ for task in TASKS)}"
        )
    return family


def network_of(model: Any) -> Any:
    """The network of a model that was given in Python: itself, or the one inside an Ultralytics interface
    (``YOLO("best.pt")``).

    Raises:
        DataError: it is no network of Ultralytics, or one of a family that does not run here; names its class.
    """
    from ultralytics.engine.model import Model

    if isinstance(model, Model):
        network: Any = model.model
        if isinstance(network, (str, Path)):
            raise DataError(f"the model is of an exported file, {network}; give the checkpoint it was exported from")
        model = network
    family_of(model)
    return model


def refuse_foreign_head(head: str) -> None:
    """Raise ``DataError`` for an exported model whose outputs are not those of a plain YOLO.

    Args:
        head: class of the head, as Ultralytics writes it into an exported file; empty where it does not.
    """
    if "RTDETR" in head:
        raise DataError(f"the model's head is {head} (RTDETR), whose outputs edgeprune does not read; pass a YOLO")


def _head_of(network: Any) -> str:
    """Class name of the last layer; empty for something that has no layers."""
    layers = getattr(network, "model", None)
    try:
        return type(layers[-1]).__name__  # type: ignore[index]
    except (TypeError, IndexError, KeyError):
        return ""
