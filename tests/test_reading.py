"""What a file may weigh, and which YAML is refused before it is built."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeprune import limited_yaml
from edgeprune.errors import DataError, TargetError
from edgeprune.limited_yaml import parse_yaml, read_yaml, yaml_text
from edgeprune.reading import read_bytes, read_text, shown

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        pytest.param(ALIASES, "aliases repeat it", id="aliases of aliases"),
        pytest.param(MERGES, "aliases repeat it", id="merges of merges"),
        pytest.param("&a [*a]", "inside of what it names", id="an alias of itself"),
        pytest.param("names: &a {0: *a}", "inside of what it names", id="an alias in its mapping"),
        pytest.param("[" * 5000 + "]" * 5000, "deep", id="lists by the thousand"),
        pytest.param("{a: " * 3000 + "1" + "}" * 3000, "deep", id="mappings by the thousand"),
        pytest.param("".join(f"{' ' * n}a:\n" for n in range(1500)), "deep", id="blocks by the thousand"),
        pytest.param("[" + "a," * 200_000 + "]", "100000 values", id="entries by the hundred thousand"),
        pytest.param("!!python/object/apply:os.getcwd []", "could not determine a constructor", id="a tag that calls"),
        pytest.param("a: 2024-99-99", "month must be", id="a date that is none"),
        pytest.param("a: !!int hello", "invalid literal", id="an integer that is none"),
        pytest.param("a: !!binary 'é'", "base64", id="binary that is none"),
        pytest.param(f"a: {'9' * 5000}", "digits", id="an integer without end"),
        pytest.param("? [a]\n: 1", "hash", id="a list for a key"),
        pytest.param("a: [b\0]", "special characters", id="NUL"),
        pytest.param("a: 1\n---\nb: 2", "document", id="two documents"),
        pytest.param("a: {b: 1,\n  b: 2}", "line 2: b: is written twice", id="a key twice"),
    ],
)
def test_yaml_that_is_refused_in_one_line_at_once(text: str, part: str) -> None:
    with pytest.raises(TargetError, match=f"^here: .*{part}") as caught:
        parse_yaml(text, "here", error=TargetError)
    assert "\n" not in str(caught.value)


NUMBERS = {"1e-3": 0.001, "5E4": 50_000.0, "-.5": -0.5, "1.": 1.0, "+1.5e2": 150.0}
NUMBERS |= {text: text for text in ("1:30", "12:30:45.5", "1e", "e3", ".")}
"""What people write, and what they mean."""


@pytest.mark.parametrize(("text", "value"), NUMBERS.items())
def test_numbers_are_read_as_people_write_them_and_by_ultralytics_as_it_does(text: str, value: Any) -> None:
    read = parse_yaml(text, "here")
    assert read == value and type(read) is type(value)
    assert parse_yaml(text, "here", as_ultralytics=True) == yaml.safe_load(text)


@pytest.mark.parametrize("version", [False, True], ids=["own", "Ultralytics"])
def test_what_is_written_is_read_as_it_was(version: bool) -> None:
    content: dict[str, Any] = {
        "names": [*NUMBERS, "1", "true", "none", "~", "é"],
        "lr0": 1e-5,
        "lrf": 1e20,
        "epochs": 3,
        "of": None,
    }
    text = yaml_text(content)
    assert parse_yaml(text, "here", as_ultralytics=version) == content == yaml.safe_load(text)


def test_aliases_and_merges_that_people_write_are_read() -> None:
    text = "base: &base {epochs: 3, lr0: 0.1}\nfirst: {<<: *base, epochs: 5}\nsecond: *base\n"
    assert parse_yaml(text, "here")["first"] == {"epochs": 5, "lr0": 0.1}
    assert parse_yaml("a: 1\na: 2", "here", unique_keys=False) == {"a": 2}
    thousand = "names:\n" + "".join(f"  {index}: class {index}\n" for index in range(21_841))  # of ImageNet-21k
    assert len(parse_yaml(thousand, "here")["names"]) == 21_841


def test_only_a_regular_file_of_a_sensible_size_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fifo, link, large = tmp_path / "fifo", tmp_path / "link", tmp_path / "large.yaml"
    os.mkfifo(fifo)
    link.symlink_to(link)
    large.write_text("a: 1\n" * 1000)
    monkeypatch.setattr(limited_yaml, "MAX_BYTES", 1000)
    for path in (fifo, link, tmp_path, tmp_path / "none", Path("/dev/zero"), Path("a\0b"), tmp_path / ("n" * 5000)):
        with pytest.raises(DataError) as caught:
            read_bytes(path)
        assert len(str(caught.value)) < 400
        assert "\0" not in str(caught.value)
    with pytest.raises(DataError, match=r"large.yaml: has 5000 bytes; at most 1000"):
        read_yaml(large)
    large.write_bytes(b"names: [\xff]")
    with pytest.raises(DataError, match=r"large.yaml: is not text in UTF-8 \(byte 8\)"):
        read_text(large)


def test_what_an_error_repeats_has_an_end_and_no_escapes() -> None:
    assert shown("a\x1b[31mb\n") == "a?[31mb?"
    assert len(shown("n" * 5000)) == 201
