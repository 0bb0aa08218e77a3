"""What belongs to a TensorRT engine but has no place in its file: kept beside it, as ``model.engine.json``.

An engine holds no class names, does not say what was asked of it, and an inspector needs the GPU; so the builder writes
all of it down once. The file names the engine by its digest: one that lies beside another engine is refused.

Ultralytics puts a header before an engine: its length in 4 bytes, little-endian, then that much JSON (``BaseBackend.
engine_header`` in ``ultralytics/nn/backends/base.py``). TensorRT takes the bare engine and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeprune.artifact import sha256_of, write_atomically
from edgeprune.devices.identity import digest_of
from edgeprune.errors import DataError, DeviceError, StageError
from edgeprune.input_size import pixels
from edgeprune.reading import exists
from edgeprune.runtimes.base import FreeAxes
from edgeprune.runtimes.layer_info import Layer
from edgeprune.runtimes.onnx_facts import InputFacts, output_names, read_model
from edgeprune.serial import from_json, read_json_data, to_json
from edgeprune.workspace import user_cache

BUNDLED = "engine.engine"  # TensorRT's engine in a bundle, wherever it was built
LENGTH_BYTES = 4
MAX_HEADER_BYTES = 16 << 20


@dataclass(frozen=True)
class EngineFacts:
    """How an engine came to be.

    Attributes:
        builder: program and version, ``trtexec 10.3.0``.
        identity: of the device that it was built on; another device refuses it.
        precision: what was asked; what it became is in ``layers``.
        inputs: names, types and shapes.
        outputs: names, in the graph's order.
        metadata: of its ONNX file (names, stride, task, imgsz).
        layers: from the engine inspector.
        shapes: input name to shape, where the graph left axes free.
        dla_core: the DLA core it was built for, or None.
        build_s: seconds that the builder took.
        simulated: built by a stand-in, not by a device.
        graph: SHA-256 of the ONNX file that it was built from; empty where nobody kept it.
        command: the line that built it, where one did: which of a device's programs, and what it was told.
    """

    builder: str
    identity: Mapping[str, str]
    precision: str
    inputs: tuple[InputFacts, ...]
    outputs: tuple[str, ...]
    metadata: Mapping[str, str]
    layers: tuple[Layer, ...]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dla_core: int | None = None
    build_s: float = 0.0
    simulated: bool = False
    command: str = ""
    graph: str = ""

    @property
    def dla_in_use(self) -> int | None:
        """The DLA core that some of it runs on; None where all of its layers fell back to the GPU. An engine that does
        not tell its layers is taken to be what was asked."""
        return None if self.layers and all(layer.placed != "dla" for layer in self.layers) else self.dla_core

    @property
    def off_dla(self) -> str:
        """That nothing of it is on the DLA that it was asked for, for people; empty where something is."""
        if self.dla_core == self.dla_in_use:
            return ""
        return f"no layer of the engine is on DLA core {self.dla_core}: all of it fell back to the GPU"


def off_dla(engine: Path) -> str:
    """:attr:`EngineFacts.off_dla` of an engine's file; empty too where nothing is known of it."""
    facts = read_facts(engine)
    return "" if facts is None else facts.off_dla


def facts_path(engine: Path) -> Path:
    """Where the facts of an engine lie."""
    return engine.with_name(engine.name + ".json")


def write_facts(engine: Path, facts: EngineFacts, written: Path | None = None) -> None:
    """Write the facts of an engine whose content is there already, in its place or as the file ``written``."""
    data = {"engine": sha256_of(written or engine), **to_json(facts)}
    write_atomically(facts_path(engine), json.dumps(data, indent=1, sort_keys=True))


def publish(partial: Path, engine: Path, facts: EngineFacts) -> None:
    """Put an engine that was written under another name in its place, with its facts: never without them.

    Raises:
        StageError: the disk is full, or the place cannot be written.
    """
    try:
        write_facts(engine, facts, partial)
        partial.replace(engine)
    except OSError as error:
        raise StageError(f"{engine}: cannot be written: {error.strerror}") from error


def read_facts(engine: Path) -> EngineFacts | None:
    """The facts of an engine; None when none were kept.

    Raises:
        DataError: they are damaged, or are those of another engine.
    """
    path = facts_path(engine)
    if not exists(path):
        return None
    try:
        data = read_json_data(path)
        if not isinstance(data, dict):
            raise DataError(f"a mapping was expected, seen: {type(data).__name__}")
        digest = data.pop("engine", None)
        facts = from_json(EngineFacts, data, path)
    except DataError as error:
        raise DataError(f"{path} cannot be read ({error}); build the engine again") from error
    if digest != sha256_of(engine) and digest != _digest_of_bare(engine):  # a header may have been put before it since
        raise DataError(f"{path} belongs to another engine than {engine.name}; build the engine again")
    return facts


def split_header(data: bytes) -> tuple[dict[str, object], bytes]:
    """Header and bare engine of an engine file; an empty header where it has none.

    A bare engine begins with bytes that are no JSON of the length they spell, so a header cannot be mistaken.
    """
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if 0 < length <= len(data) - LENGTH_BYTES:
        try:
            header = json.loads(data[LENGTH_BYTES : LENGTH_BYTES + length])
        except (ValueError, RecursionError):
            header = None
        if isinstance(header, dict):
            return header, data[LENGTH_BYTES + length :]
    return {}, data


def bare_engine(engine: Path) -> bytes:
    """The bytes of an engine file that TensorRT takes: without the header of Ultralytics, where it has one."""
    return split_header(engine.read_bytes())[1]


@contextmanager
def bare_file(engine: Path) -> Iterator[Path]:
    """A file that TensorRT takes: the engine itself, or a copy without its header for as long as this is open."""
    if not header_metadata(engine):
        yield engine
        return
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        bare = Path(folder) / engine.name
        bare.write_bytes(bare_engine(engine))
        yield bare


def header_metadata(engine: Path) -> dict[str, str]:
    """What the header of Ultralytics says of an engine's model, as entries of an ONNX file say it; empty where there is
    no header, or the file cannot be read."""
    try:
        header = _head_of(engine)
    except OSError:
        return {}
    names = header.get("names")
    if isinstance(names, dict):  # JSON has text for keys
        header["names"] = {int(key) if str(key).isdecimal() else key: name for key, name in names.items()}
    return {key: value if isinstance(value, str) else repr(value) for key, value in header.items() if value is not None}


def known_metadata(engine: Path, facts: EngineFacts | None) -> dict[str, str]:
    """Names, stride, task and image size of an engine's model: by its facts, else by the ONNX file of the same name
    beside it, else by its header; empty where none of them is there.

    Raises:
        DataError: what lies beside it is no ONNX file.
    """
    if facts is not None:
        return dict(facts.metadata)
    beside = engine.with_suffix(".onnx")
    if exists(beside):
        return {entry.key: entry.value for entry in read_model(beside, weights=False).metadata_props}
    return header_metadata(engine)


def _head_of(engine: Path) -> dict[str, Any]:
    """The header alone: an engine may have gigabytes behind it."""
    with engine.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if not 0 < length <= MAX_HEADER_BYTES:
            return {}
        file.seek(0)
        return split_header(file.read(LENGTH_BYTES + length))[0]


def _digest_of_bare(engine: Path) -> str:
    return hashlib.sha256(bare_engine(engine)).hexdigest()


def refuse_foreign(engine: Path, facts: EngineFacts | None, here: Mapping[str, str]) -> None:
    """Engines are tied to the TensorRT version and the GPU; what fails to load, or worse does not, is refused first.

    Raises:
        DeviceError: the engine was built under another identity.
    """
    if facts is None:
        return
    keys = sorted({*facts.identity, *here})
    differ = [
        f"{key} ({facts.identity.get(key)}, here {here.get(key)})"
        for key in keys
        if facts.identity.get(key) != here.get(key)
    ]
    if differ:
        raise DeviceError(
            f"{engine}: this engine was built elsewhere: {', '.join(differ)}; build it here from the ONNX file"
        )


def require_shape(engine: Path, shapes: Iterable[Sequence[int]], asked: FreeAxes) -> None:
    """Refuse to time an engine of another batch or size than is asked: its budget would be for other work.

    Args:
        engine: its file.
        shapes: of its inputs; of images those of four axes are.
        asked: batch and size; what it leaves open may be anything.

    Raises:
        DataError: it has another one.
    """
    shapes = list(shapes)
    if asked.batch and shapes and shapes[0] and shapes[0][0] != asked.batch:
        raise DataError(
            f"{engine}: this engine is of batch {shapes[0][0]}, asked was {asked.batch}; build it for {asked.batch}"
        )
    for shape in shapes:
        if asked.imgsz is not None and len(shape) == 4 and tuple(shape[2:]) != tuple(asked.imgsz):
            raise DataError(
                f"{engine}: this engine takes {pixels(shape[2:])}, asked was {pixels(asked.imgsz)}; build it for that"
            )


def outputs_in_order(engine: Path, names: Sequence[str], facts: EngineFacts | None) -> list[str]:
    """Outputs of an engine in its graph's order, in which boxes come before prototypes; an engine has one of its own.

    Args:
        engine: its file; without facts the ONNX file of the same name beside it says the order.
        names: of its outputs, in whatever order.
        facts: what is known of it.

    Raises:
        DataError: it has several, and nothing says their order.
    """
    if facts is not None:
        return list(facts.outputs)
    beside = engine.with_suffix(".onnx")
    if exists(beside) and set(told := output_names(beside)) == set(names):
        return told
    if len(names) == 1:
        return list(names)
    numbered = [f"output{number}" for number in range(len(names))]  # as Ultralytics names them
    if set(names) == set(numbered):
        return numbered
    raise DataError(
        f"{engine}: nothing says in which order its outputs ({', '.join(names)}) are its graph's; put its ONNX file "
        f"beside it as {beside.name}"
    )


def require_graph(engine: Path, graph: Path) -> None:
    """Refuse an ONNX file that an engine was not built from: what is measured of it says nothing of the engine.

    Raises:
        DataError: it is another one, or the engine's facts cannot be read. An engine without facts is not refused.
    """
    facts = read_facts(engine)
    if facts is not None and facts.graph and facts.graph != sha256_of(graph):
        raise DataError(f"{engine} was not built from {graph}; put its own ONNX file there, or build the engine again")


def timing_cache_for(identity: Mapping[str, str]) -> Path:
    """The timing cache of a device identity, in the user's cache; it makes the next build there faster and alike."""
    return user_cache("timing") / f"{digest_of(identity)}.cache"
