"""The serialiser: what is written is read back equal; what is wrong is named by file and key, in one line."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
import pytest

from edgeprune.errors import DataError
from edgeprune.serial import from_json, json_schema, json_text, read_json, to_json, write_json
from edgeprune.settings import Sparsifying, SparsitySettings
from edgeprune.target import load_target


class Colour(str, Enum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x_ms: float
    trials: tuple[tuple[int, float], ...] = ()


Content = TypeVar("Content")


@dataclass(frozen=True)
class Row(Generic[Content]):
    name: str
    content: Content
    path: Path
    colour: Colour = Colour.RED


@dataclass(frozen=True)
class Table:
    rows: tuple[Row[Point], ...]
    names: Mapping[int, str]
    best: Row[Point] | None = None
    schema_version: Literal[2] = 2


TABLE = Table((Row("a", Point(1.5, ((1, 0.25),)), Path("x/y")),), {0: "cell"})


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    assert to_json(TABLE)["rows"][0] == {
        "name": "a",
        "content": {"x_ms": 1.5, "trials": [[1, 0.25]]},
        "path": "x/y",
        "colour": "red",
    }
    assert from_json(Table, to_json(TABLE), "here") == TABLE
    write_json(tmp_path / "table.json", TABLE)
    assert read_json(Table, tmp_path / "table.json") == TABLE


def test_a_list_and_a_target_are_written_too() -> None:
    assert to_json([Point(1.0)]) == [{"x_ms": 1.0, "trials": []}]
    target = load_target("cpu")
    assert to_json(target) == target.model_dump(mode="json")
    assert from_json(type(target), to_json(target), "here") == target


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_float_that_is_not_finite_survives_in_valid_json(value: float) -> None:
    text = json_text(Point(value))
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    back = from_json(Point, json.loads(text), "here").x_ms
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_a_path_that_is_no_utf8_is_written_as_it_is_shown(tmp_path: Path) -> None:
    table = Table((Row("b\udce9", Point(float("nan"), ()), Path("caf\udce9/y")),), {0: "ce\udce9ll"})
    write_json(tmp_path / "t.json", table)
    read = read_json(Table, tmp_path / "t.json")
    assert read.rows[0].path == Path("caf\\udce9/y") and read.names == {0: "ce\\udce9ll"}
    assert math.isnan(read.rows[0].content.x_ms)


def test_keys_are_names_of_fields_and_an_alias_is_read_too() -> None:
    settings = SparsitySettings(strength=0.5)
    assert to_json(settings)["strength"] == 0.5
    assert "strength" in json_schema(SparsitySettings, "settings")["properties"]
    assert from_json(SparsitySettings, to_json(settings), "here") == settings
    assert from_json(SparsitySettings, {"lambda": 0.5}, "here") == settings
    target = load_target("cpu").model_copy(update={"sparsify": Sparsifying(strength=0.5)})
    assert from_json(type(target), to_json(target), "here") == target
    assert from_json(type(target), target.model_dump(mode="json"), "here") == target


def test_an_array_is_not_data() -> None:
    with pytest.raises(ValueError, match="serialize"):
        json_text({"values": np.zeros(2)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": 3}, "table.json: names: input should be a valid dictionary; seen: 3"),
        ({"more": 1}, "table.json: more: unexpected keyword argument; seen: 1"),
        ({"rows": [{"name": "a", "content": {}, "path": "x"}]}, "table.json: rows.0.content.x_ms: field required"),
        ({"schema_version": 3}, "table.json: schema_version: input should be 2; seen: 3"),
    ],
    ids=["type", "unknown", "missing", "version"],
)
def test_what_is_wrong_is_named_by_file_and_key_in_one_line(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(to_json(TABLE) | change))
    with pytest.raises(DataError) as error:
        read_json(Table, path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_several_errors_are_counted_and_no_json_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\(and 1 more\)$"):
        from_json(Table, {"names": 3, "rows": 4}, "here")
    for content, seen in (("{", "is cut off: EOF"), ("{]", "is not JSON"), (" \n", "is empty")):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(DataError, match=rf"x\.json: {seen}"):
            read_json(Table, tmp_path / "x.json")


def test_the_schema_knows_every_part_and_allows_nothing_else() -> None:
    import jsonschema

    schema = json_schema(Table, "a table")
    jsonschema.validate(to_json(TABLE), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(to_json(TABLE) | {"more": 1}, schema)
    assert schema["title"] == "a table" and "Point" in schema["$defs"]


def test_importing_it_does_not_import_pydantic() -> None:
    code = "import sys, edgeprune.serial; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
