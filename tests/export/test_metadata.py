"""What an ONNX file says about its model is read in its types, or refused in one line; its graph has the last word."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.errors import DataError
from edgeprune.export.metadata import HEADS, facts_of, read_metadata
from tests.situations import graphs

TOLD = {"names": "{0: 'circle', 1: 'square'}", "task": "detect", "stride": "32", "imgsz": "[64, 96]", "batch": "1"}
LITERALS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.integers(0, 2), st.text(max_size=2)), inner, max_size=3),
    ),
    max_leaves=5,
)
TEXTS = st.one_of(LITERALS.map(repr), st.text(max_size=12), st.sampled_from(["(" * 5000, "{[]: 1}", "9" * 5000]))
KEYS = (
    *("names", "imgsz", "stride", "batch", "args", "channels", "task", "kpt_shape", "end2end"),
    *("edgeprune_head", "head"),
)


@settings(max_examples=300, derandomize=True)
@given(changes=st.dictionaries(st.sampled_from(KEYS), TEXTS, max_size=3))
def test_metadata_of_any_kind_is_read_right_or_refused_in_one_line(changes):
    try:
        found = read_metadata({**TOLD, **changes}, "model.onnx")
    except DataError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 400
        return
    assert list(found.names) == list(range(len(found.names)))
    assert all(type(name) is str for name in found.names.values())
    assert found.imgsz is None or all(0 < side <= 16_384 for side in found.imgsz)
    assert 0 <= found.stride <= 1024
    assert found.batch > 0
    assert found.channels > 0
    assert found.head in HEADS


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("names", "'circle'", "a name for every class"),
        ("names", "{0: 'a', 5: 'b'}", "numbered from 0"),
        ("imgsz", "[64, 64, 3]", "one or two sides"),
        ("imgsz", "['64', '64']", "one or two sides"),
        ("stride", "-1", "whole numbers"),
        ("batch", "0", "1 to"),
        ("args", "['nms']", "entries by name"),
        ("args", "{'nms': 'maybe'}", "true or false"),
        ("channels", "'three'", "1 to"),
        ("task", "dance", "detect, segment"),
        ("kpt_shape", "[17]", "keypoints"),
        ("edgeprune_head", "other", "end-to-end, raw, nms"),
        ("stride", "(" * 5000, "a number, a list or a mapping"),
    ],
)
def test_a_wrong_type_is_named_with_what_is_allowed(key, text, says):
    with pytest.raises(DataError, match=f"model.onnx: its .*{key}.* is .*; allowed: .*{says}"):
        read_metadata({**TOLD, key: text}, "model.onnx")


@pytest.mark.parametrize("text", ["['a', '', 'c']", "{0: 'a', 1: ' '}"])
def test_a_class_without_a_name_is_told(text: str) -> None:
    with pytest.raises(DataError, match=r"model\.onnx: its name of class 1 is '.?'; allowed: a word$"):
        read_metadata({**TOLD, "names": text}, "model.onnx")


def test_what_the_graph_fixes_holds_whatever_the_file_says(tmp_path: Path) -> None:
    fixed = graphs.identity(tmp_path / "fixed.onnx", shape=(2, 1, 64, 96))
    assert (facts_of(fixed).imgsz, facts_of(fixed).batch, facts_of(fixed).channels) == ((64, 96), 2, 1)
    free = graphs.identity(tmp_path / "free.onnx", shape=("n", 3, "h", "w"))
    assert facts_of(free).imgsz == (64, 64)
