"""The bill of materials: valid by CycloneDX's own schema, complete, and the same for the same build."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from edgeprune.records.build import SourceRow
from edgeprune.records.sbom import distributions, sbom
from tests.records.sample import build_record


def test_it_satisfies_the_schema_and_names_what_made_the_model() -> None:
    record = replace(build_record(), weights=SourceRow("C:\\models\\best.pt", "ab" * 32), edgeprune="9.9")
    text = sbom(record)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.decode()) is None
    content = json.loads(text)
    components = {component["name"]: component for component in content["components"]}
    for package in ("torch", "ultralytics", "onnx", "numpy"):
        assert components[package]["version"] == version(package)
        assert components[package]["purl"] == f"pkg:pypi/{package}@{version(package)}"
    assert components["edgeprune"]["version"] == "9.9"  # the build's, not today's
    assert components["best.pt"]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    needed = {one["ref"]: one.get("dependsOn", []) for one in content["dependencies"]}["model"]
    assert sorted(needed) == sorted(component["bom-ref"] for component in content["components"])
    assert text == sbom(record)
    assert text != sbom(replace(record, created="2026-01-02T00:00:00+00:00"))


def test_a_digest_of_another_kind_is_left_out_instead_of_breaking_it() -> None:
    text = sbom(replace(build_record(), dataset=SourceRow("data.yaml", "none")))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.decode()) is None
    assert all("hashes" not in one for one in json.loads(text)["components"] if one["name"] == "data.yaml")


def test_packages_of_packages_are_found_and_absent_ones_left_out() -> None:
    found = distributions(["Jinja2", "no-such-package"])
    assert set(found) == {"jinja2", "markupsafe"}
