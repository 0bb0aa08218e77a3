"""What made a bundle, as a CycloneDX bill of materials: the weights, the dataset, and every installed package."""

# The library's decorators hide the parameters of its classes from type checkers; a test holds the result to its schema.
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import platform
import re
import uuid
from datetime import datetime
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement

from edgeprune.records.build import BuildRecord, SourceRow

if TYPE_CHECKING:
    from cyclonedx.model.component import Component, ComponentType

SBOM = "sbom.cdx.json"  # CycloneDX's own pattern of names
SHA256_HEX = re.compile(r"[0-9a-f]{64}")


def sbom(record: BuildRecord) -> bytes:
    """The bill of materials of a build, CycloneDX 1.6 in JSON; the same record in the same environment gives the same.

    The model is what depends on everything: the weights that it was pruned from and the dataset, by their digests;
    Python, edgeprune and the packages that are installed with it, by version. Software of a board is no package of
    this machine and stands in ``build.json`` alone.
    """
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    model = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=record.target.name,
        version=record.created,
        description=f"{record.task} model that edgeprune pruned",  # no verdict: that of a board may come later
        bom_ref="model",
    )
    python = platform.python_version()
    components = [
        Component(type=ComponentType.PLATFORM, name="python", version=python, bom_ref="python"),
        _source("weights", ComponentType.MACHINE_LEARNING_MODEL, record.weights),
        _source("dataset", ComponentType.DATA, record.dataset),
    ]
    licences = LicenseFactory()
    for name, package in {"edgeprune": None, **distributions(["edgeprune", *record.versions])}.items():
        licence = _licence(package) if package is not None else ""
        version = record.edgeprune if name == "edgeprune" else _entry(package, "Version")
        url = PackageURL("pypi", name=name, version=version)
        components.append(
            Component(
                type=ComponentType.LIBRARY,
                name=name,
                version=version,
                purl=url,
                bom_ref=url.to_string(),
                licenses=[licences.make_from_string(licence)] if licence else [],
            )
        )
    created = datetime.fromisoformat(record.created)
    serial = uuid.uuid5(uuid.NAMESPACE_OID, f"{record.target.name} {record.created} {record.weights.sha256}")
    bom = Bom(serial_number=serial, components=components, metadata=BomMetaData(component=model, timestamp=created))
    bom.register_dependency(model, components)
    return (JsonV1Dot6(bom).output_as_string(indent=1) + "\n").encode()


def distributions(roots: list[str]) -> dict[str, Distribution]:
    """Installed distributions that the roots need, they themselves among them, by normalised name, sorted."""
    found: dict[str, Distribution] = {}
    waiting = list(roots)
    while waiting:
        name = _normalised(waiting.pop())
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        for line in found[name].requires or ():
            try:
                needed = Requirement(line)
            except InvalidRequirement:
                continue
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed.name)
    return dict(sorted(found.items()))


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _entry(package: Distribution | None, key: str) -> str:
    return "" if package is None else (package.metadata.get(key) or "").strip()


def _licence(package: Distribution) -> str:
    """What a package says of its licence in one line; empty where it holds the whole text, or nothing."""
    stated = _entry(package, "License-Expression") or _entry(package, "License")
    return stated if len(stated.splitlines()) == 1 and len(stated) < 80 and stated.upper() != "UNKNOWN" else ""


def _source(name: str, kind: ComponentType, source: SourceRow) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component

    known = SHA256_HEX.fullmatch(source.sha256)
    return Component(
        type=kind,
        name=re.split(r"[\\/]", source.path)[-1],
        bom_ref=name,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=source.sha256)] if known else [],
    )
