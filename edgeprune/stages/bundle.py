"""bundle: what ships, in one folder, with the record of how it came to be. Every build writes it anew."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgeprune.artifact import sha256_of, write_files
from edgeprune.deploy.bundled import files_for_tools
from edgeprune.deploy.shipped import ShippedModel
from edgeprune.records.build import BuildRecord, write_build
from edgeprune.records.facts import EngineFacts, PruneFacts
from edgeprune.runtimes.engine_file import BUNDLED, facts_path
from edgeprune.samples.gates import Gate, at_most_gate
from edgeprune.stages.base import Build
from edgeprune.stages.bundle_readme import readme
from edgeprune.stages.engine import final_onnx, target_to_ship
from edgeprune.stages.quantize import shipped_model
from edgeprune.workspace import BUILD_RECORD, BUNDLE, OLD_BUNDLE

SHIPPED = Path(__file__).parents[1] / "shipped"


def stock_gate(build: Build) -> Gate:
    """The checkpoint that ships must load where edgeprune is not installed."""
    from edgeprune.checkpoint import foreign_globals

    foreign = foreign_globals(shipped_model(build))
    reason = "it loads where edgeprune is not installed"
    gate = at_most_gate("bundle", "foreign classes in model.pt", float(len(foreign)), 0.0, "classes", reason)
    return replace(gate, reason=f"found {', '.join(foreign)}") if foreign else gate


def files(build: Build, carried: Path | None = None) -> dict[str, bytes | Path]:
    """Name in the bundle to its content, or to the artifact that it is a copy of; ``carried`` is the engine that was
    carried back from a board, which built it of this build's graph."""
    chosen: dict[str, bytes | Path] = {
        "model.onnx": final_onnx(build),
        "model.pt": shipped_model(build),
        "plan.json": build.record(PruneFacts).path("plan"),
        "sample.py": SHIPPED / "sample.py",
    }
    if build.weights.task == "detect" and build.dataset.channels == 3:  # the program reads colour images
        chosen |= {f"cpp/{path.name}": path for path in sorted((SHIPPED / "cpp").iterdir())}
    plan: Path | None = None
    shipped = build.record(EngineFacts)
    if engine := carried or (shipped.path("engine") if "engine" in shipped.artifacts else None):
        plan = engine if f"engine{engine.suffix}" == BUNDLED else None
        chosen[f"engine{engine.suffix}"] = engine
        if (facts := facts_path(engine)).is_file():
            chosen[f"engine{engine.suffix}.json"] = facts
    model = ShippedModel.read(final_onnx(build), engine=plan)
    return chosen | files_for_tools(model, target_to_ship(build), build.reporter.note)


def with_digests(record: BuildRecord, chosen: Mapping[str, bytes | Path], graph: Path) -> BuildRecord:
    """The record with the sha256 of each further file of its bundle, and of the texts that are made from the record and
    the bundle's graph."""
    digests = {
        name: sha256_of(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
        for name, content in chosen.items()
    }
    return with_texts(replace(record, bundle={**record.bundle, **digests}), graph)[0]


def with_texts(record: BuildRecord, graph: Path) -> tuple[BuildRecord, dict[str, bytes]]:
    """The record with the digests of what is made from it and its graph, and those files by name."""
    texts = {
        "labels.txt": "".join(f"{record.names[index]}\n" for index in sorted(record.names)).encode(),
        "README.md": readme(record, graph).encode(),
    }
    digests = {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    return replace(record, bundle={**record.bundle, **digests}), texts


def write_bundle(root: Path, chosen: Mapping[str, bytes | Path], record: BuildRecord, graph: Path) -> Path:
    """Write ``bundle/`` beside the stages; the old one is replaced only when the new one is whole."""
    partial = root / f".partial-bundle-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        write_files(partial, {**chosen, **with_texts(record, graph)[1]})
        write_build(partial / BUILD_RECORD, record)
    except BaseException:  # a full disk is to get its room back
        shutil.rmtree(partial, ignore_errors=True)
        raise
    final, old = root / BUNDLE, root / OLD_BUNDLE
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.replace(old)  # from here to the next line there is no bundle: `open_workspace` puts it back
    partial.replace(final)
    shutil.rmtree(old, ignore_errors=True)
    return final
