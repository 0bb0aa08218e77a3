"""What a command will write is checked before anything slow begins: one line, exit code 2, nothing done."""

from __future__ import annotations

import errno
import inspect
import os
import re
import sys
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import typer
from typer.models import ArgumentInfo, OptionInfo
from typer.testing import CliRunner

from docs.pages import commands
from edgeprune.artifact import write_atomically
from edgeprune.cli import _run as program
from edgeprune.cli import app
from edgeprune.cli.deploy import _refuse_others
from edgeprune.cli.streams import say
from edgeprune.errors import DataError, TargetError
from edgeprune.input_size import taken_size
from edgeprune.options import (
    FILE_CHECKS,
    FOLDER_CHECKS,
    OUT,
    TRAINING,
    command_line,
    exact,
    output_checkpoint,
    output_figure,
    output_file,
    output_file_or_stdout,
    output_folder,
    output_graph,
    output_json,
    output_page_or_stdout,
    output_plot,
    output_training,
)

ENDINGS = {
    output_plot: ".svg",
    output_figure: ".svg",
    output_checkpoint: ".pt",
    output_graph: ".onnx",
    output_json: ".json",
    output_page_or_stdout: ".html",
}
"""What a name has to end in, by the check that asks for it."""


@pytest.mark.parametrize(
    ("check", "path", "seen"),
    [
        (output_file, "folder", "is a folder"),
        (output_file, "missing/model.pt", "mkdir -p"),
        (output_file, "file/model.pt", "is a file"),
        (output_file, "pipe", "a device or a pipe"),
        (output_plot, "loss.docx", ".png, .svg, .pdf"),
        (output_plot, "missing/loss.png", "mkdir -p"),
        (output_file, "my runs/model.pt", "my runs'"),
        (output_figure, "layers.png", "a figure ends in .svg, .html"),
        (output_checkpoint, "p.onnx", "a checkpoint ends in .pt"),
        (output_graph, "x.pt", "an ONNX graph ends in .onnx"),
        (output_json, "plan.yaml", "ends in .json"),
        (output_page_or_stdout, "h.txt", "a page ends in .html"),
        (output_folder, "file", "is a file"),
        (output_folder, "file/below/tuned", "is a file"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check, path: str, seen: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TargetError, match=seen):
        check(Path(path))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        write_atomically(tmp_path / "pipe", "words")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"] and (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TargetError, match="not writable"):
        output_file(tmp_path / "model.pt")


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr("edgeprune.options.os.access", lambda folder, mode: asked.append(folder))
    with pytest.raises(TargetError, match="not writable"):
        output_folder(tmp_path / "runs" / "profiles")
    assert asked == [tmp_path]  # where it would have to be made


def test_from_python_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file is read: none of what is given is there. The folder of a file is made where it is missing."""
    import edgeprune
    from edgeprune.training.iterative import prune_in_rounds
    from edgeprune.training.pretrain import pretrain

    (tmp_path / "file").write_text("mine")
    read, below = tmp_path / "none.pt", tmp_path / "file" / "made.pt"
    settings, work = edgeprune.TrainSettings(), tmp_path / "work"
    trained = {"data": "none.yaml", "settings": settings, "work": work}
    for place, seen in ((tmp_path, "is a folder"), (below, "is a file; give the path of a folder")):
        for write in (
            partial(edgeprune.prune, read, ratio=0.3, output=place),
            partial(edgeprune.adopt, read, place),
            partial(edgeprune.export, read, place),
            partial(edgeprune.quantize, read, place, precision="fp16"),
            partial(edgeprune.val, read, data="none.yaml", per_image=place),
        ):
            with pytest.raises(TargetError, match=seen):
                write()
    with pytest.raises(TargetError, match=r"there is no folder .*missing; make it first"):
        edgeprune.val(read, data="none.yaml", per_image=tmp_path / "missing" / "x.npz")
    for train in (edgeprune.finetune, edgeprune.sparsify, partial(prune_in_rounds, macs_speed_up=2, rounds=1)):
        for place in (tmp_path / "file", below):
            with pytest.raises(TargetError, match="is a file; give the path of a folder"):
                train(read, out=place, **trained)
    with pytest.raises(TargetError, match="is a file; give the path of a folder"):
        pretrain("none.yaml", out=tmp_path / "file", **trained)
    with pytest.raises(DataError):  # as no weights are there, and no more
        edgeprune.prune(read, tmp_path / "new" / "p.pt", ratio=0.3)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("check", [output_file, output_plot, output_folder])
def test_a_good_place_is_given_back(tmp_path: Path, check) -> None:
    assert check(None) is None
    for name in ("new.png", "old.png"):
        (tmp_path / "old.png").unlink(missing_ok=True)
        assert check(tmp_path / name) == tmp_path / name


def options(app: typer.Typer, *group: str) -> Iterator[tuple[str, list[str], Any, OptionInfo]]:
    """(command, argv that it needs, type, option) of every option of every command."""
    for nested in app.registered_groups:
        assert nested.typer_instance is not None
        yield from options(nested.typer_instance, *group, str(nested.name))
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        needed: list[str] = []
        found: list[tuple[Any, OptionInfo]] = []
        hints = get_type_hints(command.callback, include_extras=True)
        for parameter in inspect.signature(command.callback).parameters.values():
            kind, *others = get_args(hints[parameter.name]) or (hints[parameter.name],)
            info = next(one for one in others if isinstance(one, OptionInfo | ArgumentInfo))
            declared = info.param_decls or (f"--{parameter.name.replace('_', '-')}",)
            if isinstance(info, OptionInfo):
                found.append((kind, replace_declared(info, declared)))
            if parameter.default is inspect.Parameter.empty:
                value = "1" if kind in (int, float) else f"nothing{ENDINGS.get(info.callback, '')}"
                needed += [declared[-1], value] if isinstance(info, OptionInfo) else [value]
        for kind, info in found:
            yield " ".join([*group, name]), needed, kind, info


def replace_declared(info: OptionInfo, declared: Sequence[str]) -> OptionInfo:
    changed = copy(info)
    changed.param_decls = declared
    return changed


READ = {  # paths that a command reads; every other one is written
    *("verify --key", "prune --plan", "sign --key", "sweep --unpruned", "frontier --also", "bench --vs"),
    *("bench --image", "engine-header add --onnx", "import-results --run", "qat --teacher", "finetune --teacher"),
    "iterate --teacher",
}


def other_words(option: OptionInfo, needed: Sequence[str]) -> tuple[str, list[str]]:
    """An option's flag, and what a command needs besides it."""
    flag = (option.param_decls or ("",))[-1]
    return flag, [part for at, part in enumerate(needed) if flag not in (part, *needed[max(0, at - 1) : at])]


FILES, FOLDERS = FILE_CHECKS, FOLDER_CHECKS
WRITTEN = [
    (command.split(), needed, info)
    for command, needed, kind, info in options(app)
    if Path in (kind, *get_args(kind)) and f"{command} {(info.param_decls or ('',))[0]}" not in READ
]
IN_THE_WAY = [
    pytest.param(command, needed, info, place, id=f"{' '.join(command)} {(info.param_decls or ('',))[-1]} {place}")
    for command, needed, info in WRITTEN
    for place in (("missing/x", "file/x", "folder") if info.callback in FILES else ("file", "file/x"))
]


def test_every_path_that_a_command_writes_is_checked() -> None:
    assert len(WRITTEN) > 25
    for command, _, info in WRITTEN:
        assert info.callback in (*FILES, *FOLDERS), f"{command} {info.param_decls} names a path: read, or written?"


def test_every_command_is_told_in_the_same_words_where_its_result_goes() -> None:
    told = [tuple(one.opts) for command in commands().values() for one in command.params if {*OUT} & {*one.opts}]
    assert len(told) > 15 and {*told} == {OUT}


OTHERS_OPTION = re.compile(r"(?:(?P<whose>[a-z-]+) )?(?P<option>--[a-z][a-z-]*)")


def test_no_help_speaks_of_an_option_that_its_command_has_not() -> None:
    """One sentence may be the help of an option of several commands."""
    every = {words: {name for one in command.params for name in one.opts} for words, command in commands().items()}
    seen = 0
    for words, command in commands().items():
        for one in command.params:
            for found in OTHERS_OPTION.finditer(getattr(one, "help", None) or ""):
                options = every.get(found["whose"] or "", every[words])
                assert found["option"] in options, f"{words} {one.opts[0]}: {one.help}"
                seen += 1
    assert seen > 5


@pytest.mark.parametrize("command", [[], ["build"], ["device", "probe"], ["deploy", "triton"]], ids=" ".join)
def test_h_is_help(command: list[str]) -> None:
    short, long = (CliRunner().invoke(app, [*command, word]) for word in ("-h", "--help"))
    assert short.exit_code == 0 and short.output == long.output and "Usage" in short.output


@pytest.mark.parametrize(("command", "needed", "option", "place"), IN_THE_WAY)
def test_commands_check_their_outputs_first(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    needed: list[str],
    option: OptionInfo,
    place: str,
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    if ending := ENDINGS.get(option.callback):
        place = f"{place}{ending}"
        (tmp_path / f"folder{ending}").mkdir()
    monkeypatch.chdir(tmp_path)
    flag, rest = other_words(option, needed)
    monkeypatch.setattr(sys, "argv", ["edgeprune", *command, *rest, flag, place])
    assert program() == 2
    said = capsys.readouterr().err
    named = (f"edgeprune: {place}: ", f"edgeprune: {Path(place).parent}: ")
    assert said.startswith(named) and said.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "missing").exists()


SOURCES = [
    pytest.param(command, needed, info, id=f"{' '.join(command)} {(info.param_decls or ('',))[-1]}")
    for command, needed, info in WRITTEN
    if info.callback in FILES and "nothing" in needed
]


@pytest.mark.parametrize(("command", "needed", "option"), SOURCES)
def test_no_command_writes_over_what_it_reads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    needed: list[str],
    option: OptionInfo,
) -> None:
    ending = ENDINGS.get(option.callback, ".svg")
    mine, linked = f"mine{ending}", f"linked{ending}"
    (tmp_path / mine).write_text("hours of training")
    (tmp_path / linked).symlink_to(mine)
    monkeypatch.chdir(tmp_path)
    flag, rest = other_words(option, needed)
    rest = [mine if part == "nothing" else part for part in rest]
    if mine not in rest:
        pytest.skip("it reads no file that it must be given")
    monkeypatch.setattr(sys, "argv", ["edgeprune", *command, *rest, flag, linked])
    assert program() == 2
    said = capsys.readouterr().err  # search has two files to write
    assert re.fullmatch(rf"edgeprune: \S+: is {mine}, which is read; give the result another path\n", said)
    assert (tmp_path / mine).read_text() == "hours of training"


@pytest.mark.parametrize("source", ["weights", "teacher"])
def test_no_training_writes_its_best_over_what_it_reads(source: str, tmp_path: Path) -> None:
    from edgeprune.settings import TrainSettings
    from edgeprune.training.finetune import finetune
    from edgeprune.training.iterative import prune_in_rounds

    best = tmp_path / "best.pt"
    best.write_text("hours of training")
    weights = best if source == "weights" else tmp_path / "other.pt"
    settings = TrainSettings(teacher=best if source == "teacher" else None)
    for train in (finetune, partial(prune_in_rounds, macs_speed_up=2.0, rounds=1)):
        with pytest.raises(TargetError, match="which is read"):
            train(weights, data="none.yaml", out=tmp_path, settings=settings, work=tmp_path / "work")
    assert best.read_text() == "hours of training"


def test_the_functions_refuse_it_too(tmp_path: Path) -> None:
    import edgeprune

    mine = tmp_path / "mine.pt"
    mine.write_text("hours of training")
    for call in (
        lambda: edgeprune.prune(mine, mine, ratio=0.3),
        lambda: edgeprune.adopt(mine, mine),
        lambda: edgeprune.search("cpu", mine, output=mine, speed_up=1.5),
        lambda: edgeprune.export(mine, mine),
        lambda: edgeprune.quantize(mine, mine, precision="fp16"),
    ):
        with pytest.raises(TargetError, match="which is read"):
            call()
    assert mine.read_text() == "hours of training"


BATCHES = [
    pytest.param(command.split(), needed, info, id=command)
    for command, needed, _, info in options(app)
    if "--batch" in (info.param_decls or ())
]


@pytest.mark.parametrize("batch", ["0", "-1"])
@pytest.mark.parametrize(("command", "needed", "option"), BATCHES)
def test_a_batch_below_one_is_refused_by_every_command(
    command: list[str],
    needed: list[str],
    option: OptionInfo,
    batch: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["edgeprune", *command, *needed, "--batch", batch])
    with pytest.raises(SystemExit) as refused:
        program()
    assert refused.value.code == 2
    assert "Invalid value for '--batch'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        ("quantize m.onnx --precision fp16 --data d.yaml --count 32", "--data, --count: calibrates INT8"),
        ("quantize m.onnx --precision fp16 --method minmax", "--method: calibrates INT8"),
        ("quantize m.onnx --precision fp16 --recipe cpu", "--recipe: calibrates INT8"),
        ("bench m.onnx --data d.yaml", "--data: calibrates int8, and --precision is fp32"),
        ("bench m.onnx --precision fp16 --data d.yaml", "--data: calibrates int8, and --precision is fp16"),
        ("bench m.onnx --statistic p50", "--statistic: is what --max-ms is on"),
        ("bench m.onnx --until-stable --statistic p50", "--statistic: is what --max-ms is on"),
        ("bench m.onnx --retries 0", "--retries: is for a limit"),
    ],
)
def test_an_option_without_an_effect_is_refused(
    command: str, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["edgeprune", *command.split()])
    assert program() == 2
    said = capsys.readouterr().err
    assert said.startswith(f"edgeprune: {seen}") and said.count("\n") == 1


def test_a_hyphen_is_stdout_and_no_file() -> None:
    assert output_file_or_stdout(Path("-")) == Path("-") and output_file_or_stdout(None) is None


@pytest.mark.parametrize(
    ("measured", "command"),
    [
        ("edgeprune.measure.bench.bench", "bench model.onnx --json times.json"),
        ("edgeprune.measure.bench.bench", "bench model.onnx --csv times.csv"),
        ("edgeprune.measure.compare.compare", "compare model.onnx --data data.yaml --json figures.json"),
        ("edgeprune.measure.compare.compare", "compare model.onnx --data data.yaml -o page"),
        ("edgeprune.records.history.histories", "history builds --json builds.json"),
        ("edgeprune.records.history.histories", "history builds -o builds.html"),
    ],
)
def test_what_was_measured_is_shown_before_it_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    measured: str,
    command: str,
) -> None:
    @dataclass(frozen=True)
    class Result:
        exit_code: int = 0
        command: tuple[str, ...] = ()

        def __getattr__(self, name: str) -> Any:
            return lambda: ""

    def full(path: Path | str, content: bytes | str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    made = (Result(),) if measured.endswith("histories") else Result()
    monkeypatch.setattr(measured, lambda *_, **__: made)
    monkeypatch.setattr("edgeprune.artifact.write_atomically", full)
    monkeypatch.setattr("edgeprune.serial.json_text", lambda _: "")
    for page in ("comparison.comparison_page", "history.history_page"):
        monkeypatch.setattr(f"edgeprune.report.{page}", lambda *_: "")
    for room, printed in (("bench", "_print"), ("compare", "_print"), ("console", "print_history")):
        monkeypatch.setattr(import_module(f"edgeprune.cli.{room}"), printed, lambda _: say("12.3 ms"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["edgeprune", *command.split()])
    assert program() == 3
    output = capsys.readouterr()
    assert output.out == "12.3 ms\n" and output.err.count("No space left") == 1


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"output": "missing/pruned.pt"}, "mkdir -p"),
        ({"output": "file/pruned.pt"}, "is a file"),
        ({"output": "pruned.pt", "plan_file": "missing/plan.json"}, "mkdir -p"),
        ({"output": "pruned.pt", "plan_file": "pruned.pt"}, "give the plan"),
    ],
)
def test_a_search_checks_its_outputs_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], seen: str
) -> None:
    from edgeprune.search.run import search

    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TargetError, match=seen):  # and not the DataError of weights that are not there
        search("cpu", "nothing.pt", speed_up=1.5, **changes)
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1000 / 120, "8.333333333333334"),
        (8.0, "8"),
        (1e-7, "1e-07"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e22, "1e+22"),
        (np.float64(1.5), "1.5"),
        (np.float64(8), "8"),
        (np.float32(0.5), "0.5"),
        (np.int64(8), "8"),
    ],
)
def test_a_repeated_command_has_the_very_numbers(value: float, text: str) -> None:
    argv = command_line("build", (), {"latency_ms": value, "seed": None}, False)
    assert argv == ["edgeprune", "build", "--latency-ms", text] and float(text) == value
    assert exact(value) == text


@pytest.mark.parametrize(("side", "stride", "task"), [(320, 32, "detect"), (64, 64, "pose"), (224, 1, "classify")])
def test_a_side_that_fits_is_given_back(side: int, stride: int, task: str) -> None:
    assert taken_size(side, stride, task) == side


@pytest.mark.parametrize(
    ("side", "stride", "task", "near"),
    [(33, 32, "detect", 32), (16, 32, "classify", 32), (96, 64, "pose", 128), (300, 32, "segment", 288)],
)
def test_a_side_that_does_not_fit_names_the_nearest(side: int, stride: int, task: str, near: int) -> None:
    with pytest.raises(TargetError, match=f"imgsz {side} is no multiple of the model's stride {stride}; use {near}$"):
        taken_size(side, stride, task)


def test_the_best_weights_of_another_training_are_not_replaced(tmp_path):
    out = tmp_path / "train" / "weights"
    out.mkdir(parents=True)
    (out / "best.pt").write_bytes(b"hours")
    given = [str(tmp_path / "pruned.pt"), "--data", "none.yaml", "--out", str(out)]
    for command in ("finetune", "sparsify", "qat", "iterate"):
        more = ["--macs-speed-up", "1.5"] if command == "iterate" else []
        ended = CliRunner().invoke(app, [command, *given, *more])
        assert isinstance(ended.exception, TargetError) and "is not known to be edgeprune's" in str(ended.exception)
    assert (out / "best.pt").read_bytes() == b"hours"
    (out / TRAINING).mkdir()
    assert output_training(out) == out


def test_deepstream_s_files_replace_none_of_somebody_else(tmp_path):
    for name in ("Makefile", "README.md"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(TargetError, match=r"has Makefile, README.md, and no config_infer_primary.txt.*-o FOLDER"):
        _refuse_others(tmp_path, ["config_infer_primary.txt", "Makefile", "README.md"], "config_infer_primary.txt")
    (tmp_path / "config_infer_primary.txt").touch()
    _refuse_others(tmp_path, ["config_infer_primary.txt", "Makefile"], "config_infer_primary.txt")
