"""The best plan for a latency: blocks and channels against each other, by importance per millisecond.

Channels are a :class:`~edgeprune.search.knapsack.Knapsack`. A whole block is an item of the same knapsack: its price is
the rise of the loss that was measured without it, brought onto the channels' scale where they have one. Dropping one
changes what every width costs, so each set of dropped blocks has a knapsack of its own, made only when a block is
cheaper per millisecond than the last channels that would have to go instead. Where a latency is not reached, blocks go
until none is left that saves any time, twice as many at a time from step to step once many are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edgeprune.errors import StageError
from edgeprune.progress import Progress, silent
from edgeprune.pruning.batches import Batch
from edgeprune.pruning.depth import (
    few_batches,
    is_inside,
    original_names,
    removable_blocks,
    remove_blocks,
    with_block,
)
from edgeprune.pruning.equivalence import masked_parameters
from edgeprune.pruning.loss import loss_model, mean_loss
from edgeprune.pruning.plan import Plan
from edgeprune.pruning.pruner import Pruner, Scores
from edgeprune.pruning.structure import Dimension
from edgeprune.search.knapsack import Choice, Knapsack
from edgeprune.search.layers import layers_of
from edgeprune.search.prices import NARROWING_SHARE, Prices, price_channels
from edgeprune.search.probing import Candidate
from edgeprune.search.profile import LayerProfile

MAX_BRANCHES = 12
"""Sets of dropped blocks that differ by one block, each with a knapsack of its own: seconds for the largest model.
Those behind them differ by 2, 4, 8, ... blocks, and are made only where a latency is not reached."""


@dataclass(frozen=True)
class _Branch:
    """One set of dropped blocks.

    Attributes:
        removed: names of the blocks.
        pruner: of the model without them.
        scores: of its channels.
        prices: of its channels.
        knapsack: solves for its channels.
        spent: price of the dropped blocks.
    """

    removed: tuple[str, ...]
    pruner: Pruner
    scores: Scores
    prices: Prices
    knapsack: Knapsack
    spent: float


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
        narrowing_share: as in :func:`~edgeprune.search.prices.price_channels`.
        seed: of the scores, for the plan.
    """

    def __init__(
        self,
        pruner: Pruner,
        scores: Scores,
        importance: str,
        profile: LayerProfile,
        *,
        batches: Sequence[Batch] | None = None,
        narrowing_share: float = NARROWING_SHARE,
        seed: int = 0,
        progress: Progress = silent,
    ) -> None:
        self.importance, self.profile, self.seed = importance, profile, seed
        self.narrowing_share = narrowing_share
        self.batches, self.progress = few_batches(list(batches or [])), progress
        self._branches = [self._branch(pruner, scores, (), 0.0)]
        self._blocks: list[Block] | None = None if self.batches else []
        self._comparable = True  # whether the blocks' prices are on the channels' scale
        self._each_block = 0.0  # what a block costs beside its price: where prices have no common scale, all channels
        self.unpruned_ms = self._branches[0].knapsack.start_ms

    def solve(self, share: float) -> Candidate:
        """The plan that gives up least with a predicted latency of at most ``share`` of the unpruned model's."""
        limit = self.unpruned_ms * share
        solved = [(branch, branch.knapsack.solve(limit)) for branch in self._branches]
        best, choice = _best(solved)
        while blocks := self._next_blocks(choice):
            branch = self._drop(blocks)
            solved.append((branch, branch.knapsack.solve(limit)))
            best, choice = _best(solved)
        key = (best.removed, tuple(choice.widths.astype(int).tolist()))
        loss = best.spent + choice.loss
        return Candidate(key, choice.ms / self.unpruned_ms, loss, choice.exhausted, (best, choice))

    @property
    def blocks_stay(self) -> bool:
        """Whether blocks could go that no images price here."""
        pruner = self._branches[0].pruner
        return not self.batches and bool(removable_blocks(pruner.original, pruner.constraints))

    def plan(self, candidate: Candidate) -> tuple[Plan, nn.Module]:
        """A candidate's plan, and the pruned model."""
        branch, choice = candidate.content
        widths = {
            dimension.name: int(width)
            for dimension, width in zip(branch.pruner.dimensions, choice.widths, strict=True)
            if dimension.fixed is None
        }
        plan = branch.pruner.plan(widths=widths, scores=branch.scores, importance=self.importance, seed=self.seed)
        return plan, branch.pruner.apply(plan)

    def slowest_layers(self, candidate: Candidate, count: int = 4) -> list[str]:
        """What keeps a candidate from being faster: its slowest layers, a line each, with why none gets narrower."""
        branch, choice = candidate.content
        model, dimensions = branch.knapsack.model, branch.pruner.dimensions
        spent = model.layer_ms(choice.widths)
        lines = []
        for place in np.argsort(-spent)[:count]:
            involved = np.flatnonzero((model.sizes.rows[place] != 0) | (model.sizes.columns[place] != 0))
            reason = "; ".join(_reason(dimensions[i], int(choice.widths[i])) for i in involved)
            lines.append(f"{model.layers[place]} {spent[place]:.2f} ms ({reason})")
        return lines

    def _branch(self, pruner: Pruner, scores: Scores, removed: tuple[str, ...], spent: float) -> _Branch:
        model = self.profile.fit.model
        if removed:
            back = original_names(pruner.original, removed)
            layers = layers_of(pruner.model, pruner.structure)
            model = model.for_layers(layers, {layer.name: back(layer.name) for layer in layers})
        allowed = {i: free.allowed for i, free in enumerate(pruner.dimensions) if free.fixed is None}
        priced = price_channels(pruner, scores, model, self.narrowing_share)
        if removed:  # the first branch's scale: shares of what everything would cost there
            first = self._branches[0].prices
            priced = Prices(priced.losses, first.per_loss, priced.per_narrowing)
        return _Branch(
            removed, pruner, scores, priced, Knapsack(model, pruner.structure.widths, allowed, priced.curves), spent
        )

    def _next_blocks(self, choice: Choice) -> list[Block]:
        """The blocks that go next: where the best choice so far does not get there, or where a block costs less per ms
        than the last channels of it; none else, and where none is left."""
        if self._blocks is None:
            self._blocks = self._priced_blocks()
        removed = self._branches[-1].removed
        left = [one for one in self._blocks if one.name not in removed and not is_inside(one.name, removed)]
        coarse = max(len(self._branches) - MAX_BRANCHES, 0)
        if choice.exhausted or not left:
            return left[: 2**coarse]
        price, saved_ms = self._beyond(left[0], removed)
        cheaper = not coarse and self._comparable and price < choice.price * saved_ms
        return left[:1] if cheaper else []

    def _drop(self, blocks: Sequence[Block]) -> _Branch:
        """One more branch, without these blocks besides those that the last one is without; an outer block takes the
        place of those inside it."""
        last, first = self._branches[-1], self._branches[0]
        removed, spent = last.removed, last.spent
        for block in blocks:
            if not is_inside(block.name, removed):
                spent += self._beyond(block, removed)[0] + self._each_block
                removed = tuple(with_block(removed, block.name))
        self.progress(f"what widths cost without {len(removed)} blocks", done=0, total=0)
        pruner = first.pruner.without(removed)
        scores = inherited_scores(first.pruner, first.scores, pruner)
        self._branches.append(self._branch(pruner, scores, removed, spent))
        return self._branches[-1]

    def _beyond(self, block: Block, removed: Sequence[str]) -> tuple[float, float]:
        """What a block costs, and the ms that it saves, beyond the blocks inside it that are gone already."""
        inner = [one for one in self._blocks or () if one.name in removed and is_inside(one.name, [block.name])]
        price, saved_ms = sum(one.price for one in inner), sum(one.saved_ms for one in inner)
        return max(block.price - price, 0.0), max(block.saved_ms - saved_ms, 0.0)

    def _priced_blocks(self) -> list[Block]:
        """Every removable block with its price, cheapest per ms first.

        A block's price is the rise of the loss without it, in the unit of the channels' scores. Scores are estimates
        and add up to more than the loss rises by; their scale is therefore taken from the channels that halve what
        channels can save: the sum of their scores, over the rise of the loss that is measured with them at zero.

        Where no width saves time, or the loss does not rise, there is no such scale. The bare rise then ranks blocks,
        and they are dropped only where channels do not get there: each is dearer than all channels together.
        """
        branch = self._branches[0]
        places = removable_blocks(branch.pruner.original, branch.pruner.constraints)
        if not places:
            return []
        ready = loss_model(branch.pruner.model, branch.pruner.head)
        whole = mean_loss(ready, self.batches)
        knapsack = branch.knapsack
        reference = knapsack.solve((knapsack.start_ms + knapsack.floor_ms) / 2)
        estimated = branch.prices.estimated_loss(reference.widths)
        narrowed = self._narrowed_loss(ready, reference) - whole if estimated > 0 else 0.0
        self._comparable = narrowed > 0
        self._each_block = 0.0 if self._comparable else self._dearest_channels()
        per_rise = branch.prices.per_loss * estimated / narrowed if narrowed > 0 else 1.0
        blocks = []
        for number, place in enumerate(places):
            self.progress(f"loss without {place.name}", done=number, total=len(places))
            without = remove_blocks(branch.pruner.original, [place.name])
            shallower = loss_model(without, branch.pruner.head, own_weights=False)
            rise = max(mean_loss(shallower, self.batches) - whole, 0.0)
            saved = knapsack.start_ms - self._without_ms(place.name)
            if saved > 0:
                blocks.append(Block(place.name, per_rise * rise + self._inner_narrowing(place.name), saved))
        return sorted(blocks, key=lambda block: block.price / block.saved_ms)

    def _dearest_channels(self) -> float:
        """What no widths of any branch cost more than: all scores, and every dimension narrowed as the narrowest is."""
        free = [dimension for dimension in self._branches[0].pruner.dimensions if dimension.fixed is None]
        narrowest = max((dimension.width / dimension.allowed[0] - 1 for dimension in free), default=0.0)
        return 1.0 + self.narrowing_share * narrowest

    def _without_ms(self, name: str) -> float:
        """Predicted time of the unpruned model without a block's own layers."""
        model = self._branches[0].knapsack.model
        spent = model.layer_ms(self._branches[0].knapsack.full)
        inside = [layer.startswith(f"{name}.") for layer in model.layers]
        return float(spent[~np.array(inside)].sum()) + model.fixed_ms

    def _inner_narrowing(self, name: str) -> float:
        """Price of narrowing a block's own dimensions to their least width."""
        branch = self._branches[0]
        inner = 0.0
        for i, share in branch.prices.per_narrowing.items():
            dimension = branch.pruner.dimensions[i]
            if all(member.startswith(f"{name}.") for part in dimension.parts for member in part.makers):
                inner += share * (dimension.width / dimension.allowed[0] - 1)
        return inner

    def _narrowed_loss(self, ready: nn.Module, choice: Choice) -> float:
        """Mean loss per image with the channels held at zero that a choice removes."""
        pruner, scores = self._branches[0].pruner, self._branches[0].scores
        chosen = zip(pruner.dimensions, choice.widths.astype(int).tolist(), strict=True)
        narrowed = {dimension.name: width for dimension, width in chosen if width != dimension.width}
        keep = pruner.widths_mask(narrowed, scores)
        return mean_loss(ready, self.batches, masked_parameters(pruner.model, pruner.structure, keep))


def _best(solved: Sequence[tuple[_Branch, Choice]]) -> tuple[_Branch, Choice]:
    """Of what the branches come to for one limit: what gives up least within it, else the fastest."""
    within = [(branch, choice) for branch, choice in solved if not choice.exhausted]
    if not within:
        return min(solved, key=lambda pair: pair[1].ms)
    return min(within, key=lambda pair: pair[0].spent + pair[1].loss)


def inherited_scores(whole: Pruner, scores: Scores, smaller: Pruner) -> Scores:
    """The scores of a model's channels for the model without some blocks, channel by channel.

    A dimension may have fewer parts there, a part another name: what stays the same is which channel of which
    convolution it is.

    Raises:
        StageError: a channel that may go has no score.
    """
    by_unit = np.full(int(whole.structure.unit.max()) + 1, np.nan)
    for name, rows in scores.items():
        for part, row in zip(whole.dimensions[whole.structure.index[name]].parts, rows, strict=True):
            by_unit[part.units] = row.numpy()
    back = original_names(smaller.original, smaller.removed)
    before, after = whole.structure, smaller.structure
    inherited = np.full(int(after.unit.max()) + 1, np.nan)
    for slot in after.trace.slots.values():
        if slot.kind in ("out", "depthwise"):
            known = before.trace.slots[back(slot.module), slot.kind]
            known_scores = by_unit[before.unit[known.labels]]
            scored = ~np.isnan(known_scores)
            inherited[after.unit[slot.labels][scored]] = known_scores[scored]
    result: Scores = {}
    for dimension in smaller.dimensions:
        if dimension.fixed is None:
            rows = np.stack([inherited[part.units] for part in dimension.parts])
            if np.isnan(rows).any():
                without = ", ".join(smaller.removed)
                raise StageError(f"{dimension.name} has channels without a score once {without} is gone")
            result[dimension.name] = torch.from_numpy(rows)
    return result


def _reason(dimension: Dimension, width: int) -> str:
    name = dimension.name
    if dimension.fixed:
        return f"{name} stays {width} wide: {dimension.fixed}"
    least = dimension.allowed[0]
    return f"{name} is at its least, {width}" if width == least else f"{name} is {width} wide, less saves nothing"
