"""The row that NVIDIA's parser has in the table of a build."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.errors import DataError, DeviceError, ToolError
from edgeprune.runtimes.base import Availability
from edgeprune.runtimes.jobs import ParserAnswer
from edgeprune.samples.gates import Verdict, overall_verdict
from edgeprune.stages import acceptance
from edgeprune.stages.acceptance import acceptance_gates
from edgeprune.target import load_target

JETSON = load_target("jetson-orin-nano")
HERE = Availability(True, "")
TAKEN = ParserAnswer("1.7", (), (), 1.0)


@pytest.fixture
def asked(monkeypatch):
    """``asked(answer)``: the rows where the parser gives this answer, or raises it."""

    def rows(answer, target=JETSON, availability=HERE):
        def ask(onnx):
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(acceptance, "ask_parser", ask)
        monkeypatch.setattr(acceptance, "parser_availability", lambda: availability)
        return acceptance_gates("quantize", target, Path("m.onnx"))

    return rows


@pytest.mark.parametrize(
    ("answer", "verdict", "says"),
    [
        (TAKEN, Verdict.PASS, "1.7 parsed and built"),
        (ParserAnswer("1.7", ("Det 'a': false", "more"), (), 1.0), Verdict.FAIL, "refuses the graph: Det 'a': false"),
        (ParserAnswer("1.7", ("Det 'a': false",), ("NonZero",), 1.0), Verdict.FAIL, "Det 'a'"),
        (ToolError(["it"], -11, ""), Verdict.INCONCLUSIVE, "gave no answer"),
    ],
)
def test_its_answer_decides(asked, answer, verdict, says):
    [gate] = asked(answer)
    assert overall_verdict([gate]) is verdict is gate.verdict
    assert says in gate.reason


@pytest.mark.parametrize(
    ("availability", "answer", "says"),
    [
        (Availability(False, "it is not installed", "pip install it"), TAKEN, "next: pip install it"),
        (HERE, ParserAnswer("1.7", (), ("NonZero",), 1.0), "has no NonZero"),
        (HERE, DeviceError("it does not load (glibc); next: pip install it"), "does not load (glibc); next: pip"),
        (HERE, DataError("m.onnx: a free axis"), "gave no answer: m.onnx: a free axis"),
    ],
)
def test_what_it_cannot_say_informs_and_decides_nothing(asked, availability, answer, says):
    [gate] = asked(answer, availability=availability)
    assert gate.value is None and gate.limit is None and gate.verdict is Verdict.PASS
    assert says in gate.reason


@pytest.mark.parametrize("runtime", ["onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx"])
def test_onnx_runtime_on_tensorrt_has_the_row_and_a_refusal_informs(asked, runtime):
    target = load_target("desktop-tensorrt").changed(
        {"runtime": runtime, "measure.copies": True, "measure.cuda_graph": False}
    )
    [taken] = asked(TAKEN, target)
    assert taken.verdict is Verdict.PASS and taken.value == 0.0
    [refused] = asked(ParserAnswer("1.7", ("Det 'a': false",), (), 1.0), target)
    assert refused.verdict is Verdict.PASS and refused.value is None
    assert "refuses the graph: Det 'a': false; ONNX Runtime leaves" in refused.reason
    assert refused.reason.endswith("nothing is timed where they multiply")


@pytest.mark.parametrize("target", ["cpu", "desktop-cuda"])
def test_a_target_that_tensorrt_does_not_build_for_has_no_row(asked, target):
    assert asked(TAKEN, load_target(target)) == []
