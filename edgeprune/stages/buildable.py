"""What a profile says alone and no build follows, whatever the weights, the dataset and the machine are: asked by a
build before it begins, and by ``edgeprune targets show``, which needs none of them."""

from __future__ import annotations

from edgeprune.errors import DataError, TargetError
from edgeprune.options import named
from edgeprune.settings import PruneSettings, Training
from edgeprune.target import Target


def require_buildable(target: Target, *, pretrains: bool = True) -> None:
    """Refuse a target that no build follows; what is heavy is imported only where the target says something of it.

    Args:
        target: with what the command line put in place.
        pretrains: whether its section ``pretrain`` counts, as it does where a model description is trained first.

    Raises:
        TargetError: ``levers: auto`` beside a ratio, an unknown criterion, arguments of a training that Ultralytics
            does not take, or a device that is none or that the runtime cannot be driven on.
        DataError: the teacher is no checkpoint by its name.
    """
    if target.levers == "auto" and (kind := target.budget.kind) != "latency_ms":
        raise TargetError(
            f"profile {target.name}: levers: auto needs a budget in latency_ms; seen: {kind} {target.budget.value:g}, "
            "a ratio to a model whose number format would change with it; next: "
            f"{named('latency_ms')} in its place, or levers: named"
        )
    if target.prune.importance != PruneSettings.importance:
        from edgeprune.search.inputs import require_prunable

        require_prunable(target, None)
    _require_trainings(target, pretrains)
    _require_device(target)


def trainings_of(target: Target, pretrains: bool) -> dict[str, Training]:
    """The sections of a profile that a build trains by, by name; arguments as of :func:`require_buildable`."""
    sections = {"sparsify": target.sparsify, "finetune": target.finetune, "qat": target.qat}
    sections |= {"pretrain": target.pretrain} if pretrains else {}
    return {name: section for name, section in sections.items() if section is not None}


def _require_trainings(target: Target, pretrains: bool) -> None:
    said = {name: section for name, section in trainings_of(target, pretrains).items() if section.train}
    if said:  # everything else of a section was checked when the profile was read
        from edgeprune.search.inputs import require_training_arguments

        require_training_arguments(target, said, here=False)
    if target.finetune.distill and target.finetune.teacher is not None:
        from edgeprune.checkpoint import require_checkpoint

        try:
            require_checkpoint(target.finetune.teacher)
        except DataError as error:
            raise type(error)(f"profile {target.name}: finetune.teacher: {error}") from error


def _require_device(target: Target) -> None:
    """Of the name alone: nothing is connected to."""
    if target.device.host in ("", "local"):
        return
    from edgeprune.devices import device_of
    from edgeprune.runtimes import runtime

    try:
        runtime(target.runtime, device_of(target.device), target=target)
    except TargetError as error:
        raise TargetError(f"device.host, or --device: {error}") from error
