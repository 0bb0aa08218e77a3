"""What a sweep is made of: the job behind a point and what its steps hand on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgeprune.artifact import sha256_of
from edgeprune.errors import EdgepruneError, OutOfReachError, first_line
from edgeprune.measure import compiling
from edgeprune.measure.per_image import order_of_images
from edgeprune.records.sweep import Point
from edgeprune.serial import digest_of
from edgeprune.target import Target
from edgeprune.training.best_by import best_by
from edgeprune.version import installed, versions_of

if TYPE_CHECKING:
    from edgeprune.runtimes.site import Site

MOST_OF_ERROR = 1000  # letters that a table keeps: an error of edgeprune's own is longer than another library's
PACKAGES = (*compiling.PACKAGES, "torch-pruning")  # whose version a point depends on
VERSION = 10  # of how a point is made: raised whenever the same job would give another point; 1 left untrained the row
# of a frontier that met its budget unpruned, and ranked by both of two heads; 2 chose the best epoch by the other head;
# 3 narrowed an unpruned model to the alignment, and gave no error to a classifier that is right on every image; 4 did
# not hold the last measurement against the budget; 5 took convolutions of one channel for DFL, and calibrated INT8 on
# whole batches alone; 6 did not simplify graphs with NMS inside, and calibrated INT8 on eight batches at once; 7 took
# images without objects for evidence, and timed frames to boxes on eight images; 9 called what was pruned no faster
# than its checkpoint where it was slower than the reference, left the allowance for processes out of intervals in ms,
# and trained INT8 of two heads by the one for the oldest TensorRT of the profile

RELEASE = "built by TensorRT"  # among the conditions: the release itself, where the runtime tells one


class Content(bytes):
    """Bytes of a checkpoint. Jobs of one sweep share them, and their digest is taken once."""

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal digest."""
        return hashlib.sha256(self).hexdigest()


def digest_of_content(content: bytes) -> str:
    """Hexadecimal SHA-256 of a checkpoint's bytes."""
    return content.sha256 if isinstance(content, Content) else hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Job:
    """One point to make; it can be sent to another machine.

    Attributes:
        name: for people and files.
        weights: the checkpoint's bytes, best as :class:`Content`.
        target: with the point's budget.
        data: dataset YAML, the same path on every machine.
        digest: of the dataset's content.
        seed: of everything drawn.
        trust: load a checkpoint with foreign classes.
        cache: folder of layer profiles on the machine with the device.
        pruned: False for a model that is only measured, or trained and measured.
        epochs: of fine-tuning; 0 for none.
        reference: how the swept model runs, which ratios are to, and its checkpoint's bytes; by the job's own target
            when None. A frontier's rows have one, and are trained also where there is nothing to prune.
        start_used: share of the budget that the model takes unpruned beside the reference, where that was measured.
        swept: SHA-256 of the swept checkpoint, which ratios are to; empty where that is the job's own, or in
            ``reference``.
        conditions: of the measurement and the training: the device, and versions of packages.
        task: of the checkpoint.
        other_levers: the command that tells what other levers bring for the same budget, of what the user gave; empty
            in a frontier, which is that command.
    """

    name: str
    weights: bytes
    target: Target
    data: str
    digest: str
    seed: int
    trust: bool
    cache: str
    pruned: bool
    epochs: int
    reference: tuple[Target, bytes] | None = None
    start_used: float | None = None
    swept: str = ""
    conditions: Mapping[str, str] = field(default_factory=dict)
    task: str = "detect"
    other_levers: str = ""

    @cached_property
    def key(self) -> str:
        """Digest of everything that the result depends on, as it was when somebody first asked for it."""
        content = {
            "target": target_inputs(self.target, budget=self.pruned),
            "digest": self.digest,
            "seed": self.seed,
            "trust": self.trust,
            "pruned": self.pruned,
            "epochs": self.epochs,
            "weights": digest_of_content(self.weights),
            "conditions": dict(self.conditions),
            "teacher": self.taught_by,
        }
        if self.epochs:
            content.update(best_by(self.task))
        content.update(order_of_images(self.task))
        if self.swept:
            content["swept"] = self.swept
        if self.target.qat is not None:
            content["nvidia-modelopt"] = installed("nvidia-modelopt")
        if self.reference is not None:
            target, weights = self.reference
            content["reference"] = [target_inputs(target, budget=False), digest_of_content(weights)]
        return digest_of([VERSION, content])[:12]

    def beside(self, swept: bytes) -> Job:
        """This job with the swept checkpoint that its ratios are to."""
        own = self.reference is not None or self.weights == swept
        return replace(self, swept="" if own else digest_of_content(swept))

    @property
    def head(self) -> str:
        """The head that ships, as :attr:`~edgeprune.target.Target.exported_head` of a build on this device: the best
        epoch is chosen by it."""
        return target_on(self.target, self.conditions).exported_head

    @property
    def taught_by(self) -> str:
        """SHA-256 of the file that the target names as teacher, its path where it is no file of this machine; empty
        where the target names none."""
        teacher = self.target.finetune.teacher or ""
        return sha256_of(Path(teacher)) if Path(teacher).is_file() else teacher

    @property
    def budget(self) -> str:
        """The budget as text; empty for a model that is only measured."""
        return str(self.target.budget) if self.pruned else ""

    def failure(self, error: Exception) -> Result:
        """The result of this job when it ended with an error."""
        code = getattr(error, "exit_code", EdgepruneError.exit_code)
        point = Point(self.name, self.budget, failed=first_line(error, MOST_OF_ERROR), failed_code=code)
        return Result(point, final=isinstance(error, OutOfReachError))


@dataclass(frozen=True)
class Pruned:
    """What the search step hands on.

    Attributes:
        checkpoint: its bytes.
        macs: of the swept model over its own.
        probes: how many the search took; 0 where there was nothing to prune, and the checkpoint is the given one.
        inconclusive: why no probe holds the budget for sure; empty where one does.
    """

    checkpoint: bytes
    macs: float
    probes: int
    inconclusive: str = ""


@dataclass(frozen=True)
class Result:
    """What a job ends with.

    Attributes:
        point: for the table.
        checkpoint: its bytes, where one was made.
        per_image: bytes of what was found in every image (.npz), as :mod:`edgeprune.measure.per_image` writes it.
        final: of a point that failed, whether the same job would fail alike: its budget was measured to be out of
            reach. Any other failure may pass.
    """

    point: Point
    checkpoint: bytes | None = None
    per_image: bytes | None = None
    final: bool = False


UNUSED: dict[str, Any] = {
    "name": True,
    "description": True,
    "device": {"board", "host"},  # which device it is, its own identity says
    "prune": {"diagnose"},  # no point and no screening diagnoses
    "pretrain": True,  # of a model description alone
    "finetune": {"epochs", "until", "teacher"},  # a job has its own epochs, all of them, and the teacher's content
    "measure": {"quiet_wait_s"},
}
"""Keys of a target that change no figure of a point or a screening. ``finetune.workers`` is none of them: on a GPU
every worker draws its own augmentation."""


def target_inputs(target: Target, *, budget: bool = True) -> dict[str, Any]:
    """What a key has of a target; ``budget`` is False for what is held against none: of a budget, that leaves what is
    timed and by which statistic."""
    inputs = target.model_dump(mode="json", exclude=UNUSED)
    if not budget:
        inputs["budget"] = {key: inputs["budget"][key] for key in ("statistic", "scope")}
    return inputs


def conditions_of(site: Site) -> dict[str, str]:
    """What a point depends on besides its job: the device of a usable site, the TensorRT that builds there, and
    versions of packages."""
    release = site.runtime.tensorrt_version()
    built_by = {RELEASE: release} if release else {}
    return {**site.runtime.identity(), **built_by, **versions_of(PACKAGES)}


def target_on(target: Target, conditions: Mapping[str, str]) -> Target:
    """The target as the site of these :func:`conditions_of` has it: with the TensorRT there in place of a range."""
    return target.at_tensorrt(conditions.get(RELEASE, ""))


class Steps(Protocol):
    """The three steps of a job; each may run on another machine."""

    def search(self, job: Job) -> Pruned:
        """Prune to the budget, or give the checkpoint as it is. Needs the device."""
        ...

    def finetune(self, job: Job, pruned: Pruned) -> bytes:
        """The bytes of the fine-tuned checkpoint. Wants a GPU."""
        ...

    def measure(self, job: Job, swept: bytes, pruned: Pruned, tuned: bytes) -> Result:
        """The point: latency next to the swept model (bytes of its checkpoint), and accuracy. Needs the device."""
        ...


Finished = Callable[[Job, Result], None]
"""Called with each result as it comes."""
