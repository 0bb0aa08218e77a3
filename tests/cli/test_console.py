"""Lists on a terminal of 80 columns: nothing is cut, nothing runs over, and what is to be typed can be copied whole."""

from __future__ import annotations

import io
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import pytest

from edgeprune.cli import console
from edgeprune.cli.bench import Live
from edgeprune.cli.console import (
    print_doctor,
    print_history,
    print_lines,
    print_next_step,
    print_table,
    print_targets,
    print_verdict,
)
from edgeprune.cli.streams import ESCAPES
from edgeprune.measure.doctor import Finding
from edgeprune.report.layer_profile import layer_costs_table
from edgeprune.report.table import Table
from edgeprune.target import load_target, shipped_targets
from edgeprune.version import pip
from tests.records.sample import build_record
from tests.report import results

COMMAND = "scp -r runs/jetson-orin/bundle/device board: && ssh board sh device/run-on-device.sh && scp board:out.tar ."


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_the_doctors_commands_stand_whole_on_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    far = Finding("runtime onnxruntime-tensorrt-rtx", False, "seen " * 30, f"{COMMAND} && {COMMAND}")
    print_doctor([Finding("Python", True, "3.12.1", required=True), far])
    shown = lines(capsys)
    assert f"    {far.remedy}" in shown
    assert max(len(line) for line in shown if line.strip() != far.remedy) <= 80
    assert sum(line.count("seen") for line in shown) == 30


def test_the_verdict_keeps_every_word_and_the_next_command_whole(capsys: pytest.CaptureFixture[str]) -> None:
    record = replace(build_record("PENDING"), next_command=COMMAND)
    print_verdict(record)
    print_next_step(record)
    shown = lines(capsys)
    assert f"    {COMMAND}" in shown
    assert max(len(line) for line in shown if COMMAND not in line) <= 80
    for gate in record.gates:
        assert any(gate.stage in line and gate.metric in line for line in shown)
        assert f"    {gate.reason}" in shown


def test_a_table_breaks_its_heads_and_not_its_names_or_figures(capsys: pytest.CaptureFixture[str]) -> None:
    table = layer_costs_table(results.layer_costs("cv1.conv"))
    print_table(table)
    shown = lines(capsys)
    assert max(map(len, shown)) <= 80
    short = [row for row in table.rows if len(row[0]) <= 80 // 3]
    assert short
    for row in short:
        assert any(all(cell in line for cell in row) for line in shown), row


def test_targets_and_history_fit(capsys: pytest.CaptureFixture[str]) -> None:
    targets = [load_target(name) for name in shipped_targets()]
    print_targets(targets)
    print_history(results.history("monday"))
    shown = lines(capsys)
    assert max(map(len, shown)) <= 80
    assert all(any(target.name in line and str(target.budget) in line for line in shown) for target in targets)
    assert any("nothing to compare with" in line for line in shown)


def test_long_work_says_without_a_terminal_what_it_is_at(monkeypatch: pytest.MonkeyPatch) -> None:
    said = threading.Event()

    class Heard(io.StringIO):
        def flush(self) -> None:
            said.set()

    monkeypatch.setattr(console, "LONGEST_PAUSE_S", 1e-3)
    lines = console.ProgressLines(stream := Heard(), first_s=1e-3)
    lines.update("ranking channels", done=3, total=16)
    assert said.wait(60)
    lines.stop()
    assert re.fullmatch(r"(\d+ s: ranking channels \(3 of 16\)\n)+", stream.getvalue())


def test_short_work_says_nothing_and_a_stream_that_is_gone_ends_none(capsys: pytest.CaptureFixture[str]) -> None:
    with console.ConsoleReporter() as reporter:
        reporter.progress("quick")
    assert capsys.readouterr() == ("", "")
    gone = io.StringIO()
    gone.close()
    lines = console.ProgressLines(gone, first_s=0.0)
    lines.update("long")
    lines.stop()


class Stream(io.StringIO):
    """A stream that is a terminal, or a pipe."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal, self.said_last = terminal, threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.getvalue().endswith("(3 of 4)\n"):
            self.said_last.set()
        return written

    def isatty(self) -> bool:
        return self.terminal


NO_BARS = {
    "a pipe": (False, {}),
    "a pipe, coloured": (False, {"FORCE_COLOR": "1"}),
    "a pipe that knows colours": (False, {"TTY_COMPATIBLE": "1"}),
    "a pipe, with bars asked for": (False, {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}),
    "a dumb terminal": (True, {"TERM": "dumb"}),
    "a dumb terminal, coloured": (True, {"TERM": "dumb", "FORCE_COLOR": "1", "TTY_INTERACTIVE": "1"}),
    "a terminal, without bars": (True, {"TTY_INTERACTIVE": "0"}),
    "a terminal that is said to be none": (True, {"TTY_COMPATIBLE": "0"}),
}


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool, Mapping[str, str]], tuple[Stream, Stream]]:
    """Both streams as terminals or as pipes, in an environment with nothing else about them."""

    def made(terminal: bool, environment: Mapping[str, str]) -> tuple[Stream, Stream]:
        for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm", **environment}.items():
            monkeypatch.setenv(name, value)
        both = Stream(terminal), Stream(terminal)
        monkeypatch.setattr(sys, "stdout", both[0])
        monkeypatch.setattr(sys, "stderr", both[1])
        return both

    return made


@pytest.mark.parametrize("drawing", [console.ConsoleReporter, partial(Live, enabled=True)], ids=["build", "bench"])
@pytest.mark.parametrize(("terminal", "environment"), NO_BARS.values(), ids=list(NO_BARS))
def test_long_work_shows_lines_and_no_frames_where_no_bar_can_move(
    streams, drawing, terminal: bool, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LONGEST_PAUSE_S", 1e-3)
    monkeypatch.setattr(console, "ProgressLines", partial(console.ProgressLines, first_s=1e-3))
    out, err = streams(terminal, environment)
    with drawing() as live:
        for done in range(4):
            live.progress("timing", done=done, total=4)
        assert err.said_last.wait(30), err.getvalue()
    assert out.getvalue() == "" and re.fullmatch(r"(\d+ s: timing \(\d of 4\)\n)+", err.getvalue())


@pytest.mark.parametrize("drawing", [console.ConsoleReporter, partial(Live, enabled=True)], ids=["build", "bench"])
def test_long_work_shows_a_bar_on_a_terminal(streams, drawing) -> None:
    out, err = streams(True, {})
    with drawing() as live:
        for done in range(4):
            live.progress("timing", done=done, total=4)
        time.sleep(0.3)
    assert "timing" in (drawn := out.getvalue() + err.getvalue()) and "\x1b[" in drawn and "(3 of 4)" not in drawn


@pytest.mark.parametrize("environment", [{"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}], ids=str)
def test_colours_that_were_asked_for_fold_nothing_in_a_pipe(streams, environment: dict[str, str]) -> None:
    out, _ = streams(False, environment)
    sentence = "accuracy between " + "90.7 % and 104.7 %, " * 12 + "no more"
    figures = [f"{number}.{number}234567 ms" for number in range(9)]
    print_lines([sentence])
    print_table(Table.of(("row", *(f"figure {number}" for number in range(9))), [("input 224 × 288 px", *figures)]))
    plain = ESCAPES.sub("", out.getvalue()).splitlines()
    assert plain[0] == sentence
    assert any("input 224 × 288 px" in line and all(figure in line for figure in figures) for line in plain)


def test_pip_is_the_one_of_the_interpreter_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/a b/bin/python")
    assert pip("install", "onnx>=1.16") == "'/opt/a b/bin/python' -m pip install 'onnx>=1.16'"


def test_a_table_that_is_too_wide_for_its_terminal_folds_and_loses_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = ("row", *(f"figure {number}" for number in range(7)))
    figures = [f"{number}.{number}234567 ms" for number in range(6)]
    table = Table.of(columns, [("input 224 × 288 px", *figures, "frontier")])
    monkeypatch.setenv("COLUMNS", "60")
    print_table(table)
    narrow = capsys.readouterr().out
    assert all(len(line.rstrip()) <= 60 for line in narrow.splitlines())
    assert narrow.count("r") >= "".join(columns).count("r") + "frontier".count("r")
    monkeypatch.delenv("COLUMNS")
    print_table(table)
    piped = capsys.readouterr().out.splitlines()
    assert any("input 224 × 288 px" in line and "5.5234567 ms" in line and "frontier" in line for line in piped)


def test_sentences_stand_whole_on_a_line_where_no_terminal_ends_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    sentence = "accuracy between " + "90.7 % and 104.7 %, " * 12 + "no more"
    print_lines([sentence])
    assert capsys.readouterr().out == f"{sentence}\n"
