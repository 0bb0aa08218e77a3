"""The best plan for a latency: blocks and channels against each other, by importance per millisecond.

Channels are a :class:`~edgeprune.search.knapsack.Knapsack`. A whole block is an item of the same knapsack: its price is
the rise of the loss that was measured without it, brought onto the channels' scale. Dropping one changes what every
width costs, so each set of dropped blocks has a knapsack of its own, made only when a block is cheaper per millisecond
than the last channels that would have to go instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edgeprune.progress import Progress, silent
from edgeprune.pruning.choose import kept_indices
from edgeprune.pruning.depth import removable_blocks, without_blocks
from edgeprune.pruning.gates import Batch, loss_model, mean_loss
from edgeprune.pruning.narrow import masked_state
from edgeprune.pruning.plan import Plan
from edgeprune.pruning.pruner import Pruner, Scores
from edgeprune.search.importance import DEPTH, Prices, prices
from edgeprune.search.knapsack import Choice, Knapsack
from edgeprune.search.layers import layers_of
from edgeprune.search.probing import Candidate
from edgeprune.search.profile import Profile

MOST_DROPPED = (
    12  # sets of dropped blocks that are tried, each with a knapsack of its own: seconds for the largest model
)
BLOCK_BATCHES = 2  # batches that a block's loss is measured on: it has to rank a few blocks, not thousands of channels


@dataclass(frozen=True)
class _Branch:
    """One set of dropped blocks, with everything for its channels."""

    removed: tuple[str, ...]
    pruner: Pruner
    scores: Scores
    prices: Prices
    sack: Knapsack
    spent: float  # price of the dropped blocks


@dataclass(frozen=True)
class Block:
    """A removable block: what it costs to drop it (in the knapsack's unit), and the ms that it saves."""

    name: str
    price: float
    saved_ms: float


class Planner:
    """Proposes plans for latencies.

    Args:
        pruner: of the model, with the user's constraints.
        scores: of its channels.
        importance: what made them, for the plan.
        profile: measured times of the same model.
        batches: labelled batches; with them whole blocks compete, without only channels do.
        depth: see :func:`~edgeprune.search.importance.prices`.
        seed: of the scores, for the plan.
    """

    def __init__(
        self,
        pruner: Pruner,
        scores: Scores,
        importance: str,
        profile: Profile,
        *,
        batches: Sequence[Batch] | None = None,
        depth: float = DEPTH,
        seed: int = 0,
        progress: Progress = silent,
    ) -> None:
        self.importance, self.profile, self.depth, self.seed = importance, profile, depth, seed
        self.batches, self.progress = list(batches or [])[:BLOCK_BATCHES], progress
        self._branches = [self._branch(pruner, scores, (), 0.0)]
        self._blocks: list[Block] | None = None if self.batches else []
        self.unpruned_ms = self._branches[0].sack.start_ms

    def solve(self, share: float) -> Candidate:
        """The plan that gives up least with a predicted latency of at most ``share`` of the unpruned model's."""
        limit = self.unpruned_ms * share
        best, choice = self._best(limit)
        while (block := self._cheaper_block(choice)) is not None:
            self._add(block)
            best, choice = self._best(limit)
        key = (best.removed, tuple(choice.widths.astype(int).tolist()))
        loss = best.spent + choice.loss
        return Candidate(key, choice.ms / self.unpruned_ms, loss, choice.exhausted, (best, choice))

    def plan(self, candidate: Candidate) -> tuple[Plan, nn.Module]:
        """A candidate's plan, and the pruned model."""
        branch, choice = candidate.content
        widths = {
            one.name: int(width)
            for one, width in zip(branch.pruner.dimensions, choice.widths, strict=True)
            if one.fixed is None
        }
        plan = branch.pruner.plan(widths=widths, scores=branch.scores, importance=self.importance, seed=self.seed)
        return plan, branch.pruner.apply(plan)

    def held_by(self, candidate: Candidate, most: int = 4) -> list[str]:
        """What keeps a candidate from being faster: its slowest layers with the reason why each stays, in one line."""
        branch, choice = candidate.content
        model, names = branch.sack.model, branch.pruner.dimensions
        spent = model.layer_ms(choice.widths)
        lines = []
        for place in np.argsort(-spent)[:most]:
            involved = np.flatnonzero((model.sizes.rows[place] != 0) | (model.sizes.columns[place] != 0))
            why = "; ".join(_reason(names[i], int(choice.widths[i])) for i in involved)
            lines.append(f"{model.layers[place]} {spent[place]:.2f} ms ({why})")
        return lines

    def _branch(self, pruner: Pruner, scores: Scores, removed: tuple[str, ...], spent: float) -> _Branch:
        model = self.profile.fit.model
        if removed:
            back = original_names(pruner.original, removed)
            layers = layers_of(pruner.model, pruner.structure)
            model = model.for_layers(layers, {layer.name: back(layer.name) for layer in layers})
        allowed = {i: one.allowed for i, one in enumerate(pruner.dimensions) if one.fixed is None}
        priced = prices(pruner, scores, model, self.depth)
        if removed:  # the first branch's scale: shares of what everything would cost there
            first = self._branches[0].prices
            priced = Prices(priced.losses, first.per_loss, priced.per_depth)
        return _Branch(
            removed, pruner, scores, priced, Knapsack(model, pruner.structure.widths, allowed, priced.curves), spent
        )

    def _best(self, limit: float) -> tuple[_Branch, Choice]:
        found = [(branch, branch.sack.solve(limit)) for branch in self._branches]
        reached = [one for one in found if not one[1].exhausted]
        if not reached:
            return min(found, key=lambda one: one[1].ms)
        return min(reached, key=lambda one: one[0].spent + one[1].loss)

    def _cheaper_block(self, choice: Choice) -> Block | None:
        """The next block, if it costs less per ms than the last channels of the best choice so far."""
        if self._blocks is None:
            self._blocks = self._priced_blocks(choice)
        if not self._blocks or len(self._branches) > MOST_DROPPED:
            return None
        block = self._blocks[0]
        return block if choice.exhausted or block.price / block.saved_ms < choice.price else None

    def _add(self, block: Block) -> None:
        """A branch without one block more."""
        assert self._blocks is not None
        self._blocks = self._blocks[1:]
        last = max(self._branches, key=lambda branch: len(branch.removed))
        if any(block.name.startswith(f"{name}.") or name.startswith(f"{block.name}.") for name in last.removed):
            return
        removed = (*last.removed, block.name)
        first = self._branches[0]
        constraints = first.pruner.constraints
        pruner = Pruner(
            first.pruner.original,
            first.pruner.imgsz,
            ignore=constraints.ignore,
            max_ratio=constraints.max_ratio,
            align=constraints.align,
            min_width=constraints.min_width,
            removed=removed,
        )
        back = original_names(pruner.original, removed)
        scores = {}
        for one in pruner.dimensions:
            known = first.scores.get(back(one.name))
            if one.fixed is None:
                fits = known is not None and known.shape == (len(one.parts), one.width)
                scores[one.name] = known if fits else torch.zeros(len(one.parts), one.width, dtype=torch.float64)
        self._branches.append(self._branch(pruner, scores, removed, last.spent + block.price))

    def _priced_blocks(self, choice: Choice) -> list[Block]:
        """Every removable block with its price, cheapest per ms first.

        The measured rise of the loss is brought onto the channels' scale by the measured rise of the channels' own
        choice: scores are estimates, and add up to more than the loss in fact rises by.
        """
        branch = self._branches[0]
        estimated = branch.prices.estimated_loss(choice.widths)
        places = removable_blocks(branch.pruner.original)
        if not places or estimated <= 0:
            return []
        ready = loss_model(branch.pruner.model)
        whole = mean_loss(ready, self.batches)
        narrowed = self._narrowed_loss(ready, choice) - whole
        if narrowed <= 0:
            return []
        found = []
        before = branch.sack.start_ms
        for number, place in enumerate(places):
            self.progress(f"loss without {place.name}", done=number, total=len(places))
            without = without_blocks(branch.pruner.original, [place.name])
            rise = max(mean_loss(loss_model(without), self.batches) - whole, 0.0)
            saved = before - self._without_ms(place.name)
            inner = self._inner_depth(place.name)
            if saved > 0:
                price = branch.prices.per_loss * estimated * rise / narrowed + inner
                found.append(Block(place.name, price, saved))
        return sorted(found, key=lambda block: block.price / block.saved_ms)

    def _without_ms(self, name: str) -> float:
        """Predicted time of the unpruned model without a block's own layers."""
        model = self._branches[0].sack.model
        spent = model.layer_ms(self._branches[0].sack.full)
        inside = [layer.startswith(f"{name}.") for layer in model.layers]
        return float(spent[~np.array(inside)].sum()) + model.fixed_ms

    def _inner_depth(self, name: str) -> float:
        """Price of depth that a block's own widths would pay on their way to their least."""
        branch = self._branches[0]
        inner = 0.0
        for i, share in branch.prices.per_depth.items():
            one = branch.pruner.dimensions[i]
            if all(member.startswith(f"{name}.") for part in one.parts for member in part.makers):
                inner += share * (one.width / one.allowed[0] - 1)
        return inner

    @torch.no_grad()
    def _narrowed_loss(self, ready: nn.Module, choice: Choice) -> float:
        """Mean loss per image with the channels held at zero that a choice removes."""
        branch = self._branches[0]
        keep = branch.pruner.everything()
        for one, width in zip(branch.pruner.dimensions, choice.widths.astype(int).tolist(), strict=True):
            if width != one.width:
                for part, row in zip(one.parts, branch.scores[one.name], strict=True):
                    keep[part.units] = False
                    keep[part.units[list(kept_indices(part, row, width))]] = True
        state = masked_state(branch.pruner.model, branch.pruner.structure, keep)
        own = dict(ready.named_parameters())
        before = {name: own[name].data for name in state if name in own}
        try:
            for name in before:
                own[name].data = state[name]
            return mean_loss(ready, self.batches)
        finally:
            for name, data in before.items():
                own[name].data = data


def original_names(model: nn.Module, removed: Sequence[str]) -> Callable[[str], str]:
    """A function from names of the model without blocks to names of the model itself: lists close up behind a block."""
    gone: dict[str, set[int]] = {}
    for name in removed:
        owner, _, index = name.rpartition(".")
        gone.setdefault(owner, set()).add(int(index))
    left = {
        owner: [i for i in range(len(list(model.get_submodule(owner).children()))) if i not in indices]
        for owner, indices in gone.items()
    }

    def back(name: str) -> str:
        parts: list[str] = []
        for part in name.split("."):
            indices = left.get(".".join(parts))
            number, mark, rest = part.partition("#")
            parts.append(f"{indices[int(number)]}{mark}{rest}" if indices is not None else part)
        return ".".join(parts)

    return back


def _reason(dimension: object, width: int) -> str:
    name, fixed = getattr(dimension, "name", ""), getattr(dimension, "fixed", None)
    if fixed:
        return f"{name} stays {width} wide: {fixed}"
    least = getattr(dimension, "allowed", (width,))[0]
    return f"{name} is at its least, {width}" if width == least else f"{name} is {width} wide, less saves nothing"
