"""NVIDIA's ModelOpt, by which Ultralytics trains INT8: whether it is here, and its fake quantizers put back on a model.

Ultralytics keeps them beside the model as plain data, so a checkpoint with them is stock all the same; without ModelOpt
it is the float model that was trained.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from edgeprune.errors import NOT_OF_THE_INPUT, DataError, DeviceError, first_line
from edgeprune.quiet import quiet
from edgeprune.version import installed, pip_extra

PACKAGES = ("nvidia-modelopt", "huggingface-hub")
"""What Ultralytics asks for; ModelOpt imports the second without requiring it."""


def require_modelopt() -> None:
    """Raise DeviceError, with the line that installs it, where ModelOpt is not here; imports nothing."""
    if missing := [package for package in PACKAGES if installed(package) == "absent"]:
        line = pip_extra("qat", *PACKAGES)
        raise DeviceError(f"trained INT8 needs NVIDIA's ModelOpt ({' and '.join(missing)} not installed); next: {line}")


def restore_quantizers(model: nn.Module, state: Mapping[str, Any], what: str) -> None:
    """Put the fake quantizers that a checkpoint holds back on its model, in place.

    Args:
        model: as the checkpoint's ``model``.
        state: the checkpoint's ``quantizers``.
        what: its file, for messages.

    Raises:
        DeviceError: ModelOpt is not installed.
        DataError: the quantizers are not those of this model, or of another ModelOpt.
    """
    require_modelopt()
    from ultralytics.utils.torch_utils import restore_qat

    with quiet(logging.ERROR), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of extensions that are not compiled here
        try:
            restore_qat(model, dict(state))
        except NOT_OF_THE_INPUT:
            raise
        except Exception as error:  # whatever ModelOpt makes of a state that is not its own
            raise DataError(
                f"{what} has INT8 quantizers that ModelOpt {installed('nvidia-modelopt')} cannot put back: "
                f"{first_line(error)}; train it again: edgeprune qat WEIGHTS --data DATA"
            ) from error
