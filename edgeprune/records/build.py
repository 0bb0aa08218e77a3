"""``build.json``: everything a build did, measured and decided, in one file with a committed JSON Schema."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1
VerdictName = Literal["PASS", "FAIL", "INCONCLUSIVE", "PENDING"]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class GateRow(_Row):
    stage: str
    metric: str
    value: float | None
    """The measured figure; null while PENDING."""
    limit: float | None
    """What it was held against; null for a row that only informs."""
    unit: str
    verdict: VerdictName
    reason: str


class MeasurementRow(_Row):
    stage: str
    role: str
    """``baseline`` (the unpruned model) or ``candidate``."""
    name: str
    unit: str
    values: list[float]
    """Raw samples in the order they were taken."""
    warmups: list[float]
    conditions: dict[str, Any]
    simulated: bool


class ArtifactRow(_Row):
    stage: str
    role: str
    kind: str
    path: str
    """Relative to the run directory."""
    sha256: str


class StageRow(_Row):
    name: str
    key: str
    reused: bool
    seconds: float
    """Wall time when the stage ran, in seconds."""
    facts: dict[str, Any]


class DeviceRow(_Row):
    name: str
    """``local``, ``user@host[:port]`` or ``fake:BOARD``."""
    simulated: bool
    """True for a stand-in: nothing was measured on a device, and no gate on it can pass."""
    identity: dict[str, str]
    """What must be equal before its figures are compared with others'."""
    facts: dict[str, Any]


class SourceRow(_Row):
    path: str
    sha256: str


class BuildRecord(_Row):
    """Written last, beside the artifacts that it names."""

    schema_version: Literal[1] = SCHEMA_VERSION
    edgeprune: str
    """Version of edgeprune."""
    created: str
    """ISO 8601, UTC."""
    command: list[str]
    """What rebuilds it, one item an argument."""
    verdict: VerdictName
    """The worst of the gates."""
    gates: list[GateRow]
    target: dict[str, Any]
    """The profile, resolved, with the command line's values in it."""
    weights: SourceRow
    dataset: SourceRow
    """``sha256`` is the digest over its images' names and sizes and its labels."""
    task: str
    """``detect``, ``segment``, ``pose``, ``obb`` or ``classify``."""
    names: dict[int, str]
    seed: int
    plan: dict[str, Any] = Field(default_factory=dict)
    """Width kept for every dimension."""
    stages: list[StageRow]
    artifacts: list[ArtifactRow]
    bundle: dict[str, str]
    """File in the bundle to sha256."""
    measurements: list[MeasurementRow]
    versions: dict[str, str]
    host: dict[str, Any]
    """The machine that the build ran on."""
    device: DeviceRow | None = None
    """The machine that engines were built and timed on; null while they wait for one."""
    next_command: str | None = None
    """What to type where the target's runtime is, while gates are PENDING."""


def build_schema() -> dict[str, Any]:
    """JSON Schema of ``build.json``; committed as ``edgeprune/records/build.schema.json``."""
    schema = BuildRecord.model_json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "edgeprune build.json"
    return schema


if __name__ == "__main__":
    import json

    print(json.dumps(build_schema(), indent=1))
