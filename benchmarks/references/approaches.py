"""What people do instead: five approaches, written anew with this project's public parts.

An approach says how it trains before it prunes, how much it prunes by which criterion, and how long it trains after.
None of them looks at latency; widths are what the criterion leaves, except where an approach aligns them itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeprune.pruning.plan import Plan
from edgeprune.pruning.pruner import Pruner
from edgeprune.settings import SparsitySettings

STRENGTH = 1e-3  # of the penalty on scales, and on biases where they are penalised


@dataclass(frozen=True)
class Approach:
    """One reference.

    Attributes:
        name: of its row.
        about: what it does, for the page.
        plan: chooses the channels; takes a pruner.
        sparsity: of the training before; None for none.
        align: widths are multiples of this.
        share_of_epochs: of the fine-tune.
    """

    name: str
    about: str
    plan: Callable[[Pruner], Plan]
    sparsity: SparsitySettings | None = None
    align: int = 1
    share_of_epochs: float = 1.0

    @property
    def sparse_name(self) -> str:
        """What tells one sparsity training from another: approaches with the same one share it."""
        return "" if self.sparsity is None else f"{self.sparsity.strength:g}-{self.sparsity.bias_strength:g}"


def by_ratio(ratio: float, importance: str, scope: str = "global") -> Callable[[Pruner], Plan]:
    """A share of the prunable channels."""
    return lambda pruner: pruner.plan(ratio=ratio, importance=importance, scope=scope)  # pyright: ignore[reportArgumentType]


def lamp_in_steps(steps: int) -> Callable[[Pruner], Plan]:
    """MACs ×2 by LAMP, ranked anew after each of so many steps."""
    return lambda pruner: pruner.plan(macs_speed_up=2, importance="lamp", iterative_steps=steps)


def approaches(steps: int) -> tuple[Approach, ...]:
    """All of them, in the order of the page; ``steps``: of the one that prunes in steps."""
    slimming = SparsitySettings(strength=STRENGTH)
    both = SparsitySettings(strength=STRENGTH, bias_strength=STRENGTH)
    return (
        Approach(
            "half-l2", "half of every layer's channels, those of least group L2 norm", by_ratio(0.5, "l2", "local")
        ),
        *(
            Approach(
                f"slimming-{share}",
                f"network slimming: scales trained towards zero, then {share} % of the channels by one threshold",
                by_ratio(share / 100, "bn_scale"),
                slimming,
            )
            for share in (20, 40, 60)
        ),
        Approach(
            "slimming-keep-80",
            "scales and biases trained towards zero by L1, then the threshold that keeps 80 % of the channels",
            by_ratio(0.2, "bn_scale"),
            both,
        ),
        Approach(
            "bn-30-short",
            "30 % of the channels by scale, without sparsity training, and half of the fine-tune",
            by_ratio(0.3, "bn_scale"),
            share_of_epochs=0.5,
        ),
        Approach(
            "lamp-macs-2",
            f"global LAMP to MACs ×2 in {steps} steps, widths in multiples of 8",
            lamp_in_steps(steps),
            align=8,
        ),
    )
