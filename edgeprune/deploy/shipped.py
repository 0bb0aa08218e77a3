"""What a deployment tool has to know of the model that ships: read from ``model.onnx``, never typed again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import get_args

from edgeprune.artifact import sha256_of
from edgeprune.errors import DataError, TargetError
from edgeprune.export.graph import TensorInfo, inputs_of, load_graph, metadata_of, outputs_of
from edgeprune.export.lint import Limits, lint
from edgeprune.export.metadata import PRECISION_KEY, ModelMetadata, facts_to_run
from edgeprune.measure.compiling import chooses_precision, kept_in_float
from edgeprune.model_metadata import literal_of
from edgeprune.reading import is_file, shown
from edgeprune.records.show import RECORD, read_build
from edgeprune.runtimes.engine_file import BUNDLED, EngineFacts, read_facts
from edgeprune.runtimes.trtexec_argv import LOOKED_FOR, build_argv, version_named, version_of, weakly_typed
from edgeprune.target import Target
from edgeprune.target.releases import OLDEST_TENSORRT, RELEASES
from edgeprune.target.schema import Precision


@dataclass(frozen=True)
class ShippedModel:
    """An exported model.

    Attributes:
        onnx: the file.
        engine: TensorRT's bare engine beside it in a bundle; None where none was built.
        metadata: what the file says of its model.
        entries: the same as text, ``metadata_props`` as they stand.
        input: the image tensor, (batch, channels, height, width).
        outputs: in their order.
        facts: how the engine came to be; None where there is none, or nobody wrote it down.
        target: what it was built for, in the number format that ships; None where nobody says.
    """

    onnx: Path
    engine: Path | None
    metadata: ModelMetadata
    entries: Mapping[str, str]
    input: TensorInfo
    outputs: tuple[TensorInfo, ...]
    facts: EngineFacts | None = None
    target: Target | None = None

    @classmethod
    def read(cls, path: Path, *, engine: Path | None = None) -> ShippedModel:
        """Read a bundle, or an ONNX file.

        Args:
            path: of either.
            engine: what was built of it; the one that lies beside the graph when None.

        Raises:
            DataError: neither of both, a file that does not say task, names, stride and size, or whose outputs are not
                those of what it says, or an engine of another graph.
        """
        onnx = path / "model.onnx" if path.is_dir() else path
        if path.is_dir() and not onnx.is_file():
            bundle = path / "bundle" if is_file(path / "bundle" / "model.onnx") else "runs/TARGET/bundle"
            raise DataError(f"{path} is no bundle: it has no model.onnx; give {bundle}, or an ONNX file")
        graph = load_graph(onnx)
        entries = metadata_of(graph)
        metadata = facts_to_run(graph, str(onnx))
        if metadata.missing:
            raise DataError(f"{onnx} does not say its {', '.join(metadata.missing)}; export it with edgeprune export")
        inputs = inputs_of(graph)
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise DataError(
                f"{onnx} has {len(inputs)} inputs; one image tensor (batch, channels, height, width) is taken"
            )
        engine = engine or onnx.with_name(BUNDLED)
        outputs = outputs_of(graph)
        facts = read_facts(engine)
        if facts is not None and (
            dict(facts.metadata) != entries
            or [one.name for one in facts.inputs] != [inputs[0].name]
            or list(facts.outputs) != [one.name for one in outputs]
        ):
            raise DataError(
                f"{engine} was built from another graph than {onnx}; give the graph of that engine, or move one of "
                "them elsewhere"
            )
        model = cls(
            onnx=onnx,
            engine=engine if engine.is_file() else None,
            metadata=metadata,
            entries=entries,
            input=inputs[0],
            outputs=outputs,
            facts=facts,
            target=_target_of(onnx, named=path.is_dir()),
        )
        if model.precision not in (known := get_args(Precision)):
            where = engine if facts is not None else onnx
            raise DataError(
                f"{where} says that its number format is {shown(model.precision)!r}; known are {', '.join(known)}; "
                "export it again with edgeprune export"
            )
        return model

    @property
    def precision(self) -> str:
        """fp32, fp16, int8 or int8-fp16: of the engine; the graph may be of another, which its builder then chooses."""
        if self.facts is not None:
            return self.facts.precision
        return self.target.precision if self.target is not None else self.entries.get(PRECISION_KEY, "fp32")

    @property
    def dla_core(self) -> int | None:
        """The DLA core that the engine is asked for, or None: what whoever builds it again has to name."""
        if self.facts is not None:
            return self.facts.dla_core
        return self.target.device.dla_core if self.target is not None else None

    @property
    def dla_in_use(self) -> int | None:
        """The DLA core that whoever loads the engine has to name; None where nothing of it is on one."""
        return self.facts.dla_in_use if self.facts is not None else self.dla_core

    @property
    def free_batch(self) -> bool:
        """Whether the graph takes any number of images a run; an engine of it takes that of :attr:`engine_shape`."""
        return isinstance(self.input.shape[0], str)

    @property
    def engine_shape(self) -> tuple[int, ...]:
        """The one shape that an engine takes: engines are built with equal minimum, optimum and maximum."""
        known = self.facts.shapes.get(self.input.name) if self.facts is not None else None
        return tuple(known) if known else (self.metadata.batch, self.metadata.channels, *self.size)

    @property
    def release(self) -> str:
        """The TensorRT that :meth:`build_line` is for: that which built the engine; before, the oldest of the target's
        range."""
        target = self._target_as_built
        return (_built_by(self.facts)[0] if target is None else target.oldest_tensorrt) or OLDEST_TENSORRT

    @property
    def _target_as_built(self) -> Target | None:
        return None if self.target is None else self.target.at_tensorrt(_built_by(self.facts)[0])

    def build_line(self, *, onnx: str, engine: str) -> list[str]:
        """trtexec's line for the engine, for :attr:`release`.

        Args:
            onnx: path of the graph in that line.
            engine: path of the engine to write.

        Raises:
            TargetError: no engine is there, and TensorRT takes none of this graph.
        """
        if self.engine is None:
            self._refuse_unbuildable()
        free = any(isinstance(axis, str) for axis in self.input.shape)
        return build_line(
            self._target_as_built,
            self.onnx,
            onnx=onnx,
            engine=engine,
            precision=self.precision,
            shapes={self.input.name: self.engine_shape} if free else None,
            dla_core=self.dla_core,
            before=self.facts,
        )

    def _refuse_unbuildable(self) -> None:
        # of a bare graph nobody says which release builds it: refused is what the newest refuses too
        release = RELEASES[-1].first if self.target is None else self.target.oldest_tensorrt or OLDEST_TENSORRT
        errors = [one for one in lint(self.onnx, Limits(tensorrt=release, dynamic=True)) if one.severity == "error"]
        if not errors:
            return
        first = errors[0]
        raise TargetError(
            f"TensorRT {release} makes no engine of {self.onnx} (lint rule {first.rule}): {first.message}; "
            f"next: {first.remedy}"
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        assert self.metadata.imgsz is not None  # read() refuses a file without
        return self.metadata.imgsz

    def literals(self) -> dict[str, object]:
        """The entries as Ultralytics' exporter holds them before they become text: numbers, lists and dictionaries."""
        return {key: _literal(value) for key, value in self.entries.items()}

    def engine_literals(self) -> dict[str, object]:
        """The same of the engine, which takes one shape whatever its graph left free. Told otherwise, Ultralytics gives
        it images of their own shape and batches that are not full."""
        entries = self.literals()
        batch, _, *sides = self.engine_shape
        if isinstance(told := entries.get("args"), dict):
            entries["args"] = told | {"dynamic": False} | ({"batch": batch} if "batch" in told else {})
        return entries | {"batch": batch, "imgsz": sides}


def build_line(
    target: Target | None,
    graph: Path,
    *,
    onnx: str,
    engine: str,
    precision: str,
    shapes: Mapping[str, Sequence[int]] | None,
    dla_core: int | None,
    layer_info: str = "",
    before: EngineFacts | None = None,
) -> list[str]:
    """The line that builds an engine by the trtexec of the oldest TensorRT in the target's range; that of 10.3 every
    later version to 11.1 takes too, but for a DLA. What a build keeps in FP32 it keeps too.

    Args:
        target: whose builder it is.
        graph: the file that ``onnx`` is.
        before: how the engine was built before, whose version and program are taken where there is no target; with
            neither the line is for 10.3.
        onnx, engine, precision, shapes, dla_core, layer_info: as in
            :func:`~edgeprune.runtimes.trtexec_argv.build_argv`.
    """
    if target is None:
        oldest, program = _built_by(before)
    else:
        oldest, program = target.oldest_tensorrt, target.trtexec_program
    version = version_of(oldest or OLDEST_TENSORRT)
    chooses = chooses_precision(target) or dla_core is not None or (target is None and weakly_typed(version))
    return build_argv(
        version,
        onnx=onnx,
        engine=engine,
        precision=precision,
        layer_info=layer_info,
        shapes=shapes,
        dla_core=dla_core,
        keep_float=kept_in_float(graph, chooses=chooses),
        builder=target.builder if target is not None else None,
        trtexec=program or LOOKED_FOR,
    )


def _built_by(facts: EngineFacts | None) -> tuple[str, tuple[str, ...]]:
    """Version of the TensorRT that built an engine, and the trtexec that did; empty where that is not told."""
    version = "" if facts is None else version_named(facts.builder)
    if facts is None or not facts.builder.startswith("trtexec "):
        return version, ()
    return version, tuple(takewhile(lambda word: not word.startswith("--onnx="), shlex.split(facts.command)))


def _target_of(onnx: Path, *, named: bool) -> Target | None:
    """The target of the bundle that a graph lies in, in the number format that ships. Of a bundle that was not
    ``named``, but the graph in it, the record beside it has to be of just this file."""
    if not (onnx.parent / RECORD).is_file():
        return None
    try:
        record = read_build(onnx.parent)
    except DataError:
        if named:
            raise
        return None
    if not named and record.bundle.get(onnx.name) != sha256_of(onnx):
        return None
    return record.target.model_copy(update={"precision": record.precision})


def _literal(text: str) -> object:
    try:
        value = literal_of(text)
        json.dumps(value)
    except (ValueError, TypeError, RecursionError):  # no literal, or one that a header cannot hold: a set, bytes
        return text
    return value
