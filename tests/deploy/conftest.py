"""The graphs of BCCD's checkpoints, as the room of export has them."""

from tests.export.conftest import exported, weights

__all__ = ["exported", "weights"]
