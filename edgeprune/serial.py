"""Data classes to JSON and back: the one serialiser, for plain frozen dataclasses and what they are made of.

Fields may be numbers, text, paths, enums, tuples, mappings, other dataclasses and pydantic models. A float that is not
finite is written as ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``, because JSON has no number for it, and read back as
the float that it was. Keys are names of fields; an alias, which a class may have for another format, is read too. A key
that a class does not have is refused: it would be lost when the data is written again.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from edgeprune.artifact import write_atomically
from edgeprune.errors import DamagedError, DataError, first_line
from edgeprune.reading import read_bytes, shown

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def json_text(value: object, indent: int | None = 1) -> str:
    """A data class (or a list, mapping, ... of them) as JSON text.

    JSON is UTF-8: a byte of a path that is none is written as it is shown, ``\\udce9``, and names no file any more.

    Raises:
        PydanticSerializationError: it holds something else, for example an array.
    """
    from pydantic_core import PydanticSerializationError, to_jsonable_python
    from pydantic_core import to_json as serialised

    try:
        return serialised(value, indent=indent, inf_nan_mode="strings", by_alias=False).decode()
    except PydanticSerializationError:
        plain = to_jsonable_python(value, inf_nan_mode="strings", by_alias=False)
    return serialised(_in_utf8(plain), indent=indent, inf_nan_mode="strings").decode()


def _in_utf8(plain: Any) -> Any:
    if isinstance(plain, str):
        return plain.encode(errors="backslashreplace").decode()
    if isinstance(plain, list):
        return [_in_utf8(one) for one in cast("list[Any]", plain)]
    if isinstance(plain, dict):
        return {_in_utf8(key): _in_utf8(one) for key, one in cast("dict[Any, Any]", plain).items()}
    return plain


def to_json(value: object) -> Any:
    """The same as dictionaries, lists, text, numbers, booleans and None."""
    return json.loads(json_text(value, indent=None))


def digest_of(content: object) -> str:
    """Hexadecimal SHA-256 over dictionaries, lists and plain values, whatever the order of keys; anything else counts
    as its text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write :func:`json_text` to a file, whole or not at all."""
    write_atomically(path, json_text(value) + "\n")


def from_json(cls: type[T], data: object, where: str | Path) -> T:
    """Read what :func:`to_json` gave.

    Args:
        cls: the class to read.
        data: dictionaries, lists and plain values.
        where: what the data was read from, named in errors.

    Raises:
        DataError: a key is missing or unknown, or a value is of another type; one line with the file and the key.
    """
    from pydantic import ValidationError

    try:
        return _adapter(cls).validate_python(data, extra="forbid", by_alias=True, by_name=True)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        key = shown(".".join(str(part) for part in first["loc"]))
        more = f" (and {len(others)} more)" if others else ""
        seen = "" if first["type"] in ("missing", "missing_argument") else f"; seen: {_short(first['input'])}"
        message = first["msg"][0].lower() + first["msg"][1:]
        raise DataError(f"{where}: {f'{key}: ' if key else ''}{message}{seen}{more}") from error


def read_json(cls: type[T], path: Path) -> T:
    """Read a file that :func:`write_json` wrote.

    Raises:
        DataError: the file cannot be read, is not JSON, or is not such data.
    """
    return from_json(cls, read_json_data(path), shown(path))


def read_json_data(path: Path) -> Any:
    """Dictionaries, lists and plain values of a JSON file; what they have to be is for :func:`from_json` to say.

    Raises:
        DataError: the file cannot be read.
        DamagedError: it is empty, cut off, or not JSON.
    """
    return parse_json(read_bytes(path), shown(path))


def parse_json(content: bytes | str, where: str | Path) -> Any:
    """The same of text. The parser holds to the standard and has a limit on depth, which Python's own has not.

    Raises:
        DamagedError: it is empty, cut off, or not JSON.
    """
    from pydantic_core import from_json as parsed

    if not content.strip():
        raise DamagedError(f"{where}: is empty")
    try:
        return parsed(content)
    except ValueError as error:
        said = first_line(error)
        seen = "is cut off" if said.startswith("EOF") else "is not JSON"  # the parser's word for an early end
        raise DamagedError(f"{where}: {seen}: {said}") from error


def json_schema(cls: type[Any], title: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of what :func:`to_json` gives for a class; no object in it allows a further key."""
    schema = _adapter(cls).json_schema(mode="serialization", by_alias=False)
    for part in (schema, *schema.get("$defs", {}).values()):
        if "properties" in part:
            part["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}


@cache
def _adapter(cls: type[T]) -> TypeAdapter[T]:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _short(value: object) -> str:
    return shown(" ".join(repr(value).split()), 60)
