"""YAML that cannot grow without end, the only place where it is read, and written so that it reads the same.

A few kilobytes can stand for more entries than a machine has memory (aliases of aliases), and nesting by the thousand
ends a parser; both are refused before anything is built, by the line where they begin.

Numbers are those of YAML 1.2, which people write: ``1e-3`` is one, ``1:30`` is none. PyYAML knows version 1.1, which
has them the other way round; Ultralytics' own files are read so, because Ultralytics reads them so.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from edgeprune.errors import DataError, EdgepruneError, first_line
from edgeprune.reading import read_text, shown

MAX_BYTES = 2**20  # the class names of ImageNet-21k take half of it
MAX_VALUES = 100_000  # keys, entries and mappings, each counted as often as an alias repeats it
MAX_DEPTH = 40
FLOAT = re.compile(
    r"(?:[-+]?(?:(?:[0-9][0-9_]*)?\.[0-9][0-9_]*|[0-9][0-9_]*\.)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
INT = re.compile(r"(?:[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+)$")
UNPRINTABLE = re.compile(r"[^\x09\x0A\x0D\x20-\x7E\x85\xA0-\uD7FF\uE000-\uFFFD\U00010000-\U0010ffff]+")
"""What no YAML may hold, as ``ultralytics.utils.YAML.load`` has it."""
NUMBERS = {"tag:yaml.org,2002:float": FLOAT, "tag:yaml.org,2002:int": INT}
"""Of YAML 1.2, and version 1.1's underscores and octal numbers, which hurt nobody."""
TEXT = "tag:yaml.org,2002:str"
NO_VALUES = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")  # of the keys << and =


def read_yaml(
    path: Path,
    *,
    unique_keys: bool = True,
    error: type[EdgepruneError] = DataError,
    as_ultralytics: bool = False,
) -> Any:
    """The one document of a YAML file in UTF-8; arguments as :func:`parse_yaml`. What is no UTF-8 is left out as
    Ultralytics leaves it out, where the file is read as by it, and refused elsewhere."""
    text = read_text(path, most=MAX_BYTES, error=error, undecodable="ignore" if as_ultralytics else "strict")
    return parse_yaml(text, shown(path), unique_keys=unique_keys, error=error, as_ultralytics=as_ultralytics)


def parse_yaml(
    text: str,
    where: str,
    *,
    unique_keys: bool = True,
    error: type[EdgepruneError] = DataError,
    as_ultralytics: bool = False,
) -> Any:
    """Dictionaries, lists and plain values out of YAML; no tag builds anything else.

    Args:
        text: one document.
        where: what the text was read from, named in errors.
        unique_keys: whether a key that is written twice is refused; otherwise the last one counts.
        error: class of what is raised.
        as_ultralytics: whether numbers are those of YAML 1.1, and what YAML allows nowhere is left out.

    Raises:
        EdgepruneError: of that class; it is no YAML, or stands for more than is read.
    """
    if as_ultralytics:
        text = UNPRINTABLE.sub("", text)
    try:
        return (_LimitedLoader if as_ultralytics else _NumbersLoader)(text, unique_keys).get_single_data()
    except yaml.YAMLError as failure:
        mark = getattr(failure, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(failure, "problem", None) or getattr(failure, "context", None) or first_line(failure)
        raise error(f"{where}: {line}not YAML: {problem}") from failure
    except _RefusedError as failure:
        raise error(f"{where}: {failure}") from failure
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as failure:  # a date of 2024-99-99
        raise error(f"{where}: not YAML: {first_line(failure)}") from failure


def yaml_text(content: Any, **form: Any) -> str:
    """YAML that :func:`parse_yaml` and Ultralytics read as ``content``: plain values in their order; ``form`` is
    PyYAML's."""
    return yaml.dump(content, Dumper=_NumbersDumper, sort_keys=False, allow_unicode=True, **form)


class _RefusedError(Exception):
    """Valid YAML that is not read."""

    def __init__(self, node: yaml.Node | yaml.Event, reason: str) -> None:
        super().__init__(f"line {node.start_mark.line + 1}: {reason}")


class _LimitedLoader(yaml.SafeLoader):
    """YAML's safe loader with limits, which count before anything is built."""

    def __init__(self, text: str, unique_keys: bool) -> None:
        super().__init__(text)
        self._unique_keys = unique_keys
        self._depth = self._values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._values += 1
        event = self.peek_event()
        if self._depth > MAX_DEPTH:
            raise _RefusedError(event, f"nested more than {MAX_DEPTH} deep")
        if self._values > MAX_VALUES:
            raise _RefusedError(event, f"more than {MAX_VALUES} values")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _count_values(node, {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if self._unique_keys:
            seen: set[object] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    # as Python compares keys: 1, 0x1 and true are one; what merges has no value of its own
                    same = (key.tag,) if key.tag in NO_VALUES else self.construct_object(key)
                    if same in seen:
                        raise _RefusedError(key, f"{shown(key.value)}: is written twice")
                    seen.add(same)
        return super().construct_mapping(node, deep)


class _NumbersLoader(_LimitedLoader):
    """The same with the numbers of YAML 1.2."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        tag = super().resolve(kind, value, implicit)
        if kind is not yaml.ScalarNode or not implicit[0] or tag not in (*NUMBERS, TEXT):
            return tag
        return next((number for number, pattern in NUMBERS.items() if pattern.match(value)), TEXT)


class _NumbersDumper(yaml.SafeDumper):
    """Puts a text in quotes that is a number in either version."""


for _tag, _pattern in NUMBERS.items():
    _NumbersDumper.add_implicit_resolver(_tag, _pattern, [*"-+.0123456789"])


def _count_values(node: yaml.Node, counts: dict[int, int]) -> int:
    """How many values a node stands for with its aliases followed; an alias inside of what it names is refused."""
    if id(node) in counts:
        if not (count := counts[id(node)]):
            raise _RefusedError(node, "an alias stands inside of what it names")
        return count
    counts[id(node)] = 0
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    count = 1 + sum(_count_values(part, counts) for part in parts)
    if count > MAX_VALUES:
        raise _RefusedError(node, f"aliases repeat it to more than {MAX_VALUES} values")
    counts[id(node)] = count
    return count
