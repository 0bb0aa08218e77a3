"""A plan: which channels of which dimension stay. Plain data, diffable JSON, no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeprune.artifact import write_atomically
from edgeprune.errors import DataError

SCHEMA = 1


@dataclass(frozen=True)
class PlannedDimension:
    """One line of a plan.

    Attributes:
        name: the dimension.
        before: width of the model the plan is for.
        after: width that is kept.
        kept: for every part that loses channels, the indices that stay, ascending; empty when nothing goes.
        fixed: why the dimension was left alone, or None.
    """

    name: str
    before: int
    after: int
    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fixed: str | None = None


@dataclass(frozen=True)
class Plan:
    """Everything needed to prune the same model the same way again.

    Attributes:
        dimensions: every dimension of the model, in order of execution.
        removed: names of whole blocks that are dropped before any width changes.
        source: digest of the model it was made for: ``weights`` (values) and ``shapes`` (see ``shape_signature``).
        result_shapes: shape signature of the pruned model.
        macs: multiply-accumulates before and after, at ``imgsz``.
        params: parameters before and after.
        settings: imgsz, importance, normalisation, scope, seed, align, and the request.
        versions: of edgeprune, ultralytics, torch and torch-pruning, for the record.
    """

    dimensions: tuple[PlannedDimension, ...]
    source: Mapping[str, str]
    result_shapes: str
    macs: tuple[int, int]
    params: tuple[int, int]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    removed: tuple[str, ...] = ()

    @property
    def widths(self) -> dict[str, int]:
        """Width after pruning by dimension."""
        return {dimension.name: dimension.after for dimension in self.dimensions}

    @property
    def macs_speed_up(self) -> float:
        """Multiply-accumulates before over after."""
        return self.macs[0] / self.macs[1]

    def _repr_html_(self) -> str:
        """Widths before and after, in a notebook."""
        from html import escape

        rows = [("MACs", *self.macs), ("parameters", *self.params)]
        rows += [(one.name, one.before, one.after) for one in self.dimensions if one.after != one.before]
        body = "".join(
            f"<tr><td>{escape(n)}</td><td>{b:,}</td><td>{a:,}</td><td>{a / b:.0%}</td></tr>" for n, b, a in rows
        )
        head = "<tr><th></th><th>before</th><th>after</th><th>kept</th></tr>"
        return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"

    @property
    def digest(self) -> str:
        """SHA-256 over what the plan does to a model; versions and settings do not count."""
        content = {key: value for key, value in self._data().items() if key not in ("versions", "settings")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _data(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "versions": dict(self.versions),
            "source": dict(self.source),
            "settings": dict(self.settings),
            "macs": list(self.macs),
            "params": list(self.params),
            "result_shapes": self.result_shapes,
            "removed": list(self.removed),
            "dimensions": [
                {
                    "name": dimension.name,
                    "before": dimension.before,
                    "after": dimension.after,
                    "fixed": dimension.fixed,
                    "kept": {part: list(indices) for part, indices in dimension.kept.items()},
                }
                for dimension in self.dimensions
            ],
        }

    def to_data(self) -> dict[str, Any]:
        """Plain data: dictionaries, lists, strings and numbers."""
        return self._data()

    def to_json(self) -> str:
        """Deterministic JSON; one line a part's indices, so that two plans can be compared line by line."""
        data = self._data()
        dimensions = data.pop("dimensions")
        head = json.dumps(data, indent=1)[:-2]
        lines = ",\n".join("  " + json.dumps(dimension) for dimension in dimensions)
        return f'{head},\n "dimensions": [\n{lines}\n ]\n}}\n'

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what :meth:`to_json` wrote; DataError says what is wrong with anything else."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise DataError(f"not a plan: no valid JSON ({error})") from error
        return cls.from_data(data)

    @classmethod
    def from_data(cls, data: Any) -> Plan:
        """Read plain data as :meth:`to_data` gives it."""
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            seen = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise DataError(f"not a plan of schema {SCHEMA} (seen: {seen}); make a new one with 'edgeprune prune'")
        try:
            return cls(
                dimensions=tuple(
                    PlannedDimension(
                        str(one["name"]),
                        int(one["before"]),
                        int(one["after"]),
                        {part: tuple(int(i) for i in indices) for part, indices in one["kept"].items()},
                        one["fixed"],
                    )
                    for one in data["dimensions"]
                ),
                source=dict(data["source"]),
                result_shapes=str(data["result_shapes"]),
                macs=(int(data["macs"][0]), int(data["macs"][1])),
                params=(int(data["params"][0]), int(data["params"][1])),
                settings=dict(data["settings"]),
                versions=dict(data["versions"]),
                removed=tuple(str(name) for name in data["removed"]),
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(
                f"a damaged plan: {type(error).__name__} {error}; make a new one with 'edgeprune prune'"
            ) from error

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """Read a plan's file."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the plan {path}: {error}") from error
        return cls.from_json(text)

    def save(self, path: Path | str) -> None:
        """Write the plan's file, whole or not at all."""
        write_atomically(path, self.to_json())
