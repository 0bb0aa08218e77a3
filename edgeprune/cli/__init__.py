"""The command line: parse, call, print. Everything heavy is imported inside the command that needs it.

Exit codes: 0 PASS, 1 FAIL, 2 wrong input, 3 a stage or a tool failed, 4 the device, 5 INCONCLUSIVE or PENDING,
70 a bug (with its traceback), 130 Ctrl-C.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence

if os.name == "nt":  # before imports that Windows has not
    print("edgeprune: this is Windows; allowed are Linux and macOS; next: the same command in WSL 2", file=sys.stderr)
    sys.exit(2)

from pathlib import Path
from typing import Annotated

import typer
from typing_extensions import Unpack

from edgeprune.cli import streams
from edgeprune.cli.bench import bench
from edgeprune.cli.compare import compare
from edgeprune.cli.data import app as data_app
from edgeprune.cli.deploy import app as deploy_app
from edgeprune.cli.deploy import header_app
from edgeprune.cli.devices import app as device_app
from edgeprune.cli.devices import import_results
from edgeprune.cli.export import (
    export_command,
    lint_command,
    parity_command,
    quantize_command,
    simplify_command,
    val_command,
)
from edgeprune.cli.history import history
from edgeprune.cli.pruning import register as register_pruning
from edgeprune.cli.search import register as register_sweep
from edgeprune.cli.settings import options_from_settings
from edgeprune.cli.ship import push_command, sign_command
from edgeprune.cli.sizes import Trust, seed_option
from edgeprune.cli.streams import say
from edgeprune.cli.training import finetune, iterate, qat, sparsify
from edgeprune.errors import EdgepruneError, StageError, TargetError, first_line
from edgeprune.options import OUT, output_folder
from edgeprune.progress import one_run
from edgeprune.reading import shown
from edgeprune.scratch import scratch
from edgeprune.settings import Overrides
from edgeprune.version import __version__

LONGEST_LINE = 900  # characters of a refusal: a message, not a copy of the file
MLFLOW = "mlflow:"  # before what push is given
SHORT_AND_VALUE = re.compile(r"-[a-zA-Z]\S")  # -oFILE in one word
BUG_EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h: 1 would say that a gate was missed

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},  # subcommands take it over
    pretty_exceptions_enable=False,  # a bug keeps its plain traceback; errors on purpose are one line, see main()
    help="Prune an Ultralytics YOLO model to a latency budget, measured on the device it ships on.",
    epilog="Exit codes: 0 PASS, 1 FAIL, 2 wrong input, 3 stage or tool failed, 4 device, 5 INCONCLUSIVE or PENDING, "
    "70 a bug, 130 Ctrl-C.",
)
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
targets_app = typer.Typer(
    no_args_is_help=False, help="List, show and describe target profiles.\n\nExample:\n  edgeprune targets"
)


def main() -> None:
    """Entry point: errors of edgeprune are one line on stderr and an exit code; anything else is a bug."""
    for number in ENDING_SIGNALS:  # as Ctrl-C: what was begun on a device is put back
        if signal.getsignal(number) is not signal.SIG_IGN:  # else nohup, or a script, wants it to go on
            signal.signal(number, _exit_on_signal)
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # Ultralytics would install packages for what a file names
    with streams.streams():
        sys.exit(_run())


def _run() -> int:
    """Run the command of the command line; gives its exit code where it does not exit itself."""
    try:
        try:
            _refuse_empty(sys.argv[1:])
            _refuse_undecodable(sys.argv[1:])
            _refuse_tilde(sys.argv[1:])
            with scratch(), one_run():
                app()
        finally:
            sys.stdout.flush()
    except EdgepruneError as error:
        print(f"edgeprune: {shown(str(error), LONGEST_LINE)}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if (lacking := _lacking(error)) is not None:
            print(f"edgeprune: {shown(lacking, LONGEST_LINE)}", file=sys.stderr)
            return StageError.exit_code
        if isinstance(error, FileNotFoundError) and (removed := _removed_folder()) is not None:
            print(f"edgeprune: {removed}", file=sys.stderr)
            return TargetError.exit_code
        if isinstance(error, OSError) and (failing := streams.failing_machine(error)) is not None:
            print(f"edgeprune: {shown(failing, LONGEST_LINE)}", file=sys.stderr)
            return StageError.exit_code
        if isinstance(error, OSError) and (refused := streams.refused_write(error)) is not None:
            print(f"edgeprune: {shown(refused, LONGEST_LINE)}", file=sys.stderr)
            return TargetError.exit_code
        import traceback

        traceback.print_exc()
        print("edgeprune: this is a bug of edgeprune; please report it with the lines above", file=sys.stderr)
        return BUG_EXIT_CODE
    return 0


def _values(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What each word gives to the command: the option that it comes from, empty for an argument, and the value."""
    for before, word in zip(("", *words), words, strict=False):
        name, given, value = word.partition("=")
        if word.startswith("--"):
            if given:
                yield name, value
        elif SHORT_AND_VALUE.match(word):
            yield word[:2], word[2:]
        else:
            yield before if before.startswith("-") and "=" not in before else "", word


def _refuse_empty(words: Sequence[str]) -> None:
    """Raise TargetError for an empty word: as a path it is the current folder, as an option's value nothing at all, and
    nobody types it but by a variable of the shell that was not set."""
    for name, value in _values(words):
        if not value:
            where = f"{name} is" if name else "an argument is"
            raise TargetError(f"{where} empty; is a variable of your shell not set? Give a value, or leave it out")


def _refuse_tilde(words: Sequence[str]) -> None:
    """Raise TargetError for a path that begins with a ``~`` for a shell to replace: none does in quotes, and most leave
    the one of ``--out=~/runs`` too. It would be a folder of that name in the current one."""
    for name, value in _values(words):
        place = value.removeprefix(MLFLOW)
        if not place.startswith("~"):
            continue
        user, slash, rest = place.partition("/")
        home = "$HOME" if user == "~" else os.path.expanduser(user)  # noqa: PTH111
        if not home.startswith("~"):  # else nobody is called so, and no shell would replace it
            option = f"{name} " if name else ""
            meant = f"{value.removesuffix(place)}{home}{slash}{rest}"
            raise TargetError(
                f"{option}{value}: the shell did not expand ~; write {option}{meant} (what is called so: ./{place})"
            )


def _refuse_undecodable(words: Sequence[str]) -> None:
    """Raise TargetError for a word that is not UTF-8, and for such a current folder, which paths start from: what they
    are given to (records, YAML for Ultralytics, ONNX Runtime) takes no others, and says so hours later or never."""
    here = "" if {"--help", "-h", "--version"} & {*words} else _current_folder()
    for what, word in [*(("", word) for word in words), ("the current folder ", here)]:
        try:
            word.encode()
        except UnicodeEncodeError:
            seen = ascii(os.fsencode(word))[1:]
            raise TargetError(f"{what}{seen} is not text in UTF-8; rename the file or folder") from None


def _removed_folder() -> str | None:
    """One line where the current folder is there no more, while a command ran; None where it is."""
    try:
        _current_folder()
    except TargetError as error:
        return str(error)
    return None


def _current_folder() -> str:
    """Where paths start from.

    Raises:
        TargetError: it was removed: what is given by a name cannot be found, and PyTorch ends the process as it loads.
    """
    try:
        return os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        raise TargetError(
            'the current folder was removed; cd to another (where it was made again: cd "$PWD"), then give the command '
            "again"
        ) from None


def _lacking(error: Exception) -> str | None:
    """What this machine lacks, where an error says that; None where it is a bug."""
    if isinstance(error, MemoryError):
        return f"memory is exhausted ({first_line(error)}); try a smaller --batch or --imgsz, or a larger machine"
    if isinstance(error, ImportError) and not (error.name or "").startswith("edgeprune"):
        return f"what edgeprune needs is not installed whole ({first_line(error)}); next: edgeprune doctor"
    return None


def _exit_on_signal(number: int, _: object) -> None:
    # a terminal that closes tells both its processes and its shell, which tells its jobs: the second one must not end
    # what puts a board back, nor the ssh that this is done through
    for again in ENDING_SIGNALS:
        signal.signal(again, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
@options_from_settings
def build(
    target: Annotated[str, typer.Option(help="Name of a shipped profile, or path of one (.yaml).")],
    weights: Annotated[
        str,
        typer.Option(
            help="Checkpoint (.pt), the name of published weights (yolov8n.pt), or a model YAML to train first."
        ),
    ],
    data: Annotated[str, typer.Option(help="Dataset YAML, folder of class folders, or a name Ultralytics knows.")],
    out: Annotated[Path | None, typer.Option(*OUT, callback=output_folder, help="Run directory; runs/TARGET.")] = None,
    seed: Annotated[int, seed_option("Seed of training, sampling and importance.")] = 0,
    trust: Trust = False,
    **overrides: Unpack[Overrides],
) -> None:
    """Prune, fine-tune, export and compile a model until a measurement on the target meets the budget.

    Options that are not given are as the target says.

    Example:
      edgeprune build --target cpu --weights best.pt --data data.yaml \\
        --latency-ms 50 --imgsz 128 --epochs 2   # exits 0, 1 or 5: the verdict
    """
    from edgeprune.cli.console import ConsoleReporter, print_next_step, print_verdict
    from edgeprune.pipeline import build as run

    try:
        with ConsoleReporter() as reporter:
            result = run(target, weights, data, out=out, seed=seed, trust=trust, progress=reporter, **overrides)
    except KeyboardInterrupt:
        print("edgeprune: stopped; the same command goes on from the last finished stage or epoch", file=sys.stderr)
        raise typer.Exit(130) from None
    print_verdict(result.record)
    say(f"bundle: {result.bundle} (its README.md says how to run it)\nreport: {result.report.with_suffix('.html')}")
    print_next_step(result.record)  # the last line is what to type next
    raise typer.Exit(result.verdict.exit_code)


@app.command()
def show(
    directory: Annotated[Path, typer.Argument(help="Run directory of a build, or its bundle.")],
    why: Annotated[str | None, typer.Option(help="Say why this stage ran, or was reused, in the latest build.")] = None,
) -> None:
    """Show the verdict table of a finished build, or why a stage had to run.

    A build whose files or verdicts were changed afterwards is refused behind the table (see edgeprune verify). Where a
    later build in the run directory failed or was stopped, a line says so.

    Examples:
      edgeprune show runs/cpu   # exits 0, 1 or 5: the verdict
      edgeprune show runs/cpu --why prune
    """
    from edgeprune.cli.console import print_next_step, print_verdict, tell_unfinished
    from edgeprune.records.show import stage_history
    from edgeprune.records.verify import verify_build

    if why is not None:
        say(stage_history(directory, why))
        return
    verified = verify_build(directory)
    record = verified.record
    if record.next_command or record.carried_by:
        from edgeprune.carry.out import carried_from

        record = carried_from(record, directory)
    print_verdict(record)
    print_next_step(record)
    tell_unfinished(directory)
    verified.require_as_built(whole=False)
    raise typer.Exit(record.verdict.exit_code)


@app.command()
def verify(
    directory: Annotated[Path, typer.Argument(help="Run directory of a build, or its bundle.")],
    key: Annotated[Path | None, typer.Option(help="Public key of minisign that must have signed it.")] = None,
) -> None:
    """Check that a bundle is as it was built: its files by digest, its gates anew from the raw samples in build.json.

    Examples:
      edgeprune verify runs/cpu/bundle   # exits 0, or 2 and says what differs
      edgeprune verify runs/cpu/bundle --key minisign.pub   # exits 0, or 2: nobody signed it, or another key did
    """
    from edgeprune.cli.console import tell_unfinished
    from edgeprune.records.signature import SIGNATURE, check_signature
    from edgeprune.records.verify import verify_build

    verified = verify_build(directory)
    tell_unfinished(directory)
    verified.require_as_built()
    record = verified.record
    vouched = check_signature(verified.bundle, key, verified.content) if key is not None else ""
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    say(f"as built: {len(record.bundle)} files, {len(record.gates)} gates, verdict {record.verdict.value}")
    say(f"built {record.created} by edgeprune {record.edgeprune} with {versions}")
    for line in verified.edited:
        say(f"by today's rules: {line}")
    others = [name for name in verified.others if name != SIGNATURE]
    if others:
        say(f"not of the build, not checked: {shown(', '.join(others))}")
    if vouched:
        say(f"signed by {key}: {vouched}")
    elif len(others) < len(verified.others):
        say(f"{SIGNATURE} is there and was not checked: --key PUBLIC_KEY")


@app.command()
def doctor() -> None:
    """Say which runtimes, devices and versions are usable here, and how to get the missing ones.

    Exits 4 where something that edgeprune needs is missing.

    Example:
      edgeprune doctor
    """
    from edgeprune.cli.console import print_doctor
    from edgeprune.measure.doctor import examine, exit_code

    findings = examine()
    print_doctor(findings)
    raise typer.Exit(exit_code(findings))


@targets_app.callback(invoke_without_command=True)
def targets(context: typer.Context) -> None:
    """List the shipped target profiles."""
    if context.invoked_subcommand is None:
        from edgeprune.cli.console import print_targets
        from edgeprune.target import load_target, shipped_targets

        print_targets([load_target(name) for name in shipped_targets()])


@targets_app.command("show")
def targets_show(
    name: Annotated[str, typer.Argument(help="Name of a shipped profile, or path of one (.yaml).")],
) -> None:
    """Print a profile as it is after extends and defaults.

    One that no build follows as it stands is refused behind that. Weights, data and the device are not looked at.

    Example:
      edgeprune targets show jetson-orin
    """
    from edgeprune.stages.buildable import require_buildable
    from edgeprune.target import load_target, profile_yaml

    target = load_target(name)
    say(profile_yaml(target).rstrip())
    require_buildable(target)


@targets_app.command("schema")
def targets_schema() -> None:
    """Print the JSON Schema of a profile, for editors.

    Example:
      edgeprune targets schema > schema.json
    """
    import json

    from edgeprune.target import target_schema

    say(json.dumps(target_schema(), indent=1, ensure_ascii=False))


# After this module's own commands, so that `--help` begins with build; each room keeps its commands beside its code.
register_pruning(app)
register_sweep(app)
for name, command in {
    "sign": sign_command,
    "push": push_command,
    "finetune": finetune,
    "sparsify": sparsify,
    "qat": qat,
    "iterate": iterate,
    "export": export_command,
    "simplify": simplify_command,
    "quantize": quantize_command,
    "parity": parity_command,
    "lint": lint_command,
    "val": val_command,
    "bench": bench,
    "compare": compare,
    "history": history,
}.items():
    app.command(name)(command)
app.add_typer(targets_app, name="targets")
app.add_typer(data_app, name="data")
app.add_typer(deploy_app, name="deploy")
app.add_typer(header_app, name="engine-header")
app.add_typer(device_app, name="device")
app.command("import-results")(import_results)
streams.register(app)
