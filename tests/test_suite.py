"""`make bench`: its registry names what is there, it runs what fits, and benchmarks/README.md is as it writes it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks import page as pages
from benchmarks import suite
from benchmarks.kept import MadeOf
from benchmarks.page import Seeds, printed_part, publish
from benchmarks.suite import REGISTRY, STOPPED, Benchmark, Given, planned
from tests.test_kept_figures import dataset

BENCHMARKS = Path(suite.__file__).parent
NOTHING = Given((), None, Path("work"))
QUICK = Benchmark("quick", "?", "-c pass", "quick.md", 10, "none")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pages and records in a folder of the test."""
    monkeypatch.setattr(suite, "HERE", tmp_path)
    monkeypatch.setattr(suite, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(suite, "README", tmp_path / "README.md")
    monkeypatch.setattr(suite, "commit", lambda: "abc1234")
    return tmp_path


@pytest.mark.parametrize("one", REGISTRY, ids=lambda one: one.name)
def test_every_entry_is_a_module_that_knows_its_options(one: Benchmark) -> None:
    dash_m, module, *words = shlex.split(one.argv)
    assert dash_m == "-m"
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None, f"{module} is not there"
    files = Path(found.origin).parent.glob("*.py") if found.submodule_search_locations else [Path(found.origin)]
    source = "".join(path.read_text() for path in files)
    for option in (word for word in words if word.startswith("--")):
        assert f'"{option}"' in source, f"{module} has no {option}"


def test_every_page_has_an_entry_a_reason_or_a_script() -> None:
    assert len(list(BENCHMARKS.glob("*.md"))) > 20
    for page in suite._others():
        assert (BENCHMARKS / page).with_suffix(".py").is_file(), f"nothing says where {page} is from"
    assert [name for name in suite.NO_RUNNER if not (BENCHMARKS / name).is_file()] == []
    assert len({one.name for one in REGISTRY}) == len(REGISTRY)


@pytest.mark.parametrize("one", REGISTRY, ids=lambda one: one.name)
def test_a_page_with_text_of_people_has_marks_for_what_the_script_prints(one: Benchmark) -> None:
    text = (BENCHMARKS / one.page).read_text() if (BENCHMARKS / one.page).is_file() else ""
    written = "--page {page}" in one.argv or (
        "{made}" in one.argv and one.typed and "which a run replaces" not in one.typed
    )
    whole = ("# What NVIDIA's parser takes", "# Every lever for a budget")  # the second says that a run replaces it
    if written and text and not text.startswith(whole):
        assert f"<!-- begin: {one.name} -->" in text, f"a run would write {one.page} whole"


@pytest.mark.parametrize("one", REGISTRY, ids=lambda one: one.name)
def test_what_is_kept_beside_a_page_is_given_to_the_script_that_goes_on_with_it(one: Benchmark) -> None:
    if one.name != "pruning-growth" and (BENCHMARKS / one.page).with_suffix(".json").is_file():  # measures every row
        assert "--from {kept}" in one.argv, f"a run would leave only its own rows in {one.page}"


def without_state(text: str) -> list[str]:
    """The page of all, less what says only whether a page is there."""
    text = re.sub(r"\[([\w -]+)\]\(\w+\.md\) \|", r"\1 |", text)
    text = re.sub(r"\| (no record|\*\*not run[^|]*\*\*) \|", "| no record |", text)
    return [line for line in text.splitlines() if "has no entry here yet" not in line]


def test_the_page_of_all_is_as_it_is_written() -> None:
    kept = (BENCHMARKS / "README.md").read_text()
    assert without_state(kept) == without_state(suite.readme().rstrip()), "run: python -m benchmarks.suite --readme"
    assert without_state(kept.replace("2000 runs", "3000 runs")) != without_state(suite.readme().rstrip())


def test_growth_is_printed_from_its_results() -> None:
    from benchmarks import pruning_growth

    kept = json.loads((BENCHMARKS / "pruning_growth.json").read_text())
    assert (BENCHMARKS / "pruning_growth.md").read_text() == pruning_growth.page(kept, "pruning_growth.svg")
    for power in (0.5, 1.0):
        rows = [
            {"parameters": size, "trace": size**power, "plan": size**power, "apply": size**power}
            for size in (10, 100, 500)
        ]
        assert pruning_growth.exponent(rows) == pytest.approx(power)


def test_equal_latency_is_printed_from_its_results() -> None:
    from benchmarks import equal_latency

    kept = json.loads((BENCHMARKS / "equal_latency.json").read_text())
    assert (BENCHMARKS / "equal_latency.md").read_text() == equal_latency.page(kept)
    kept["rows"][0]["test"][0] += 0.01
    assert (BENCHMARKS / "equal_latency.md").read_text() != equal_latency.page(kept)


def test_a_row_is_not_replaced_by_one_of_fewer_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from argparse import Namespace

    from benchmarks import equal_latency

    row = {"recipe": "edgeprune", "asked": 2.2, "method": "edgeprune", "test": [0.5, 0.6]}
    of = MadeOf("n", "1" * 12, "d", "2" * 12, 320)
    given = {"weights": tmp_path / "n.pt", "data": "d/data.yaml", "out": tmp_path / "page.md", "of": of, "begun": None}
    (tmp_path / "page.json").write_text(json.dumps({"rows": [row], "single_runs": [], **asdict(of)}))
    options = Namespace(**given, recipe=["edgeprune"], speed_ups=[2.2])
    monkeypatch.setattr(equal_latency, "given_with", lambda _: {})
    for seeds, kept in (([0.7], [0.5, 0.6]), ([0.7, 0.8], [0.7, 0.8])):
        monkeypatch.setattr(
            equal_latency, "row_of", lambda r, m, a, o, new=seeds: {**row, "test": new} if m == "edgeprune" else None
        )
        assert [one["test"] for one in equal_latency.kept_with(options)["rows"]] == [kept]


def test_hours_are_filled_in_order_and_what_is_left_out_has_a_reason(elsewhere: Path) -> None:
    second, long = replace(QUICK, name="second", minutes=30.0), replace(QUICK, name="long", minutes=500.0)
    kept_long = replace(long, name="goes on", goes_on=True)
    lacking = replace(QUICK, name="lacking", argv="-m x {weights} {data}")
    runs, left_out = planned([QUICK, lacking, second, long, kept_long], NOTHING, 60, again=False)
    assert [one.name for one in runs] == ["quick", "second", "goes on"]
    reasons = {one.name: why for one, why in left_out}
    assert reasons["lacking"] == "needs WEIGHTS, DATA"
    assert "HOURS" in reasons["long"]
    assert [one.name for one in planned([QUICK, kept_long], NOTHING, 12, again=False)[0]] == ["quick"]


def test_what_needs_the_code_of_others_says_how_to_get_it(elsewhere: Path) -> None:
    one = replace(QUICK, name="peers", needs=frozenset({"checkouts"}))
    given = Given((), None, elsewhere / ".runs")
    runs, [(_, why)] = planned([one], given, 60, again=False)
    assert not runs and "python -m benchmarks.peers --list" in why
    (elsewhere / ".runs" / "peers" / "checkouts").mkdir(parents=True)
    assert planned([one], given, 60, again=False)[0] == [one]


def test_a_run_leaves_its_record_and_is_not_run_again(elsewhere: Path) -> None:
    made = "from pathlib import Path; Path(r'{made}').write_text('| a |\\n| --- |\\n| 1.5 |\\n')"
    one = replace(QUICK, argv=shlex.join(["-c", made]))
    given = Given((), None, elsewhere / ".runs")
    record = suite.run(one, given, 60)
    assert record.exit_code == 0
    assert (elsewhere / "quick.md").read_text().endswith("| 1.5 |\n")
    kept = suite.record_of(one)
    assert kept == record
    assert kept.versions["torch"] and kept.machine and kept.digest and kept.commit == "abc1234"
    assert str(elsewhere) not in (elsewhere / "records" / "quick.json").read_text()
    runs, [(_, why)] = planned([one], given, 60, again=False)
    assert not runs and "--again" in why
    assert planned([one], given, 60, again=True)[0] == [one]


KEEPS = """
from pathlib import Path
kept = Path(r'{work}') / 'figure.txt'
if not kept.is_file():
    kept.write_text(Path(r'{work}').parent.joinpath('now').read_text())
Path(r'{made}').write_text('figure of ' + kept.read_text())
"""


def test_figures_that_an_older_commit_left_are_not_stamped_with_a_new_one(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = replace(QUICK, argv=shlex.join(["-c", KEEPS]), goes_on=True)
    given = Given((), None, elsewhere / ".runs")
    given.work.mkdir()

    def run_at(commit: str) -> suite.Record:
        monkeypatch.setattr(suite, "commit", lambda: commit)
        (given.work / "now").write_text(commit)
        record = suite.run(one, given, 60)
        assert (elsewhere / "quick.md").read_text() == f"figure of {record.begun}\n"
        return record

    assert run_at("aaaaaaa").begun == "aaaaaaa"
    for later in ("bbbbbbb", "ccccccc"):
        record = run_at(later)
        assert (record.commit, record.begun) == (later, "aaaaaaa")
        assert f"{later}, begun at aaaaaaa" in suite._line(one)[2]
    (work := suite.work_of(one, given)).joinpath("begun.txt").unlink()
    assert run_at("ddddddd").begun == "aaaaaaa", "its record says so too"
    monkeypatch.setattr(suite, "REGISTRY", (one,))
    monkeypatch.setattr(suite, "commit", lambda: "eeeeeee")
    suite.main(["--dry-run", "--out", str(given.work)])
    assert f"takes what was finished since aaaaaaa; for all of it anew remove {work}" in capsys.readouterr().out
    shutil.rmtree(work)
    assert run_at("eeeeeee").begun == "eeeeeee"


def sources(folder: Path, weights: bytes = b"n", box: float = 0.5) -> Given:
    """A checkpoint and a dataset in a folder, of this content."""
    data = folder / f"{weights.hex()}-{box}" / "d"
    if not data.is_dir():
        dataset(data, box)
        (data / "n.pt").write_bytes(weights)
    return Given((data / "n.pt",), data / "data.yaml", folder / ".runs")


def test_a_record_is_of_its_weights_and_data_and_so_is_the_folder_of_what_goes_on(elsewhere: Path) -> None:
    words = ["-c", "open(r'{work}/x', 'a').write('x')", "{first}", "{data}"]
    one = replace(QUICK, argv=shlex.join(words), goes_on=True)
    given = sources(elsewhere)
    record = suite.run(one, given, 60)
    assert [name.split()[0] for name in record.inputs] == ["n", "d"] and "WEIGHTS" not in record.command
    assert suite.is_recorded(one, given, "abc1234")
    for other in (sources(elsewhere, b"trained on"), sources(elsewhere, box=0.4)):
        assert not suite.is_recorded(one, other, "abc1234")
        assert suite.work_of(one, other) != suite.work_of(one, given)
        assert suite.begun_at(one, other) is None
        assert suite.run(one, other, 60).begun == "abc1234"
        assert (suite.work_of(one, other) / "x").read_text() == "x"
    assert suite.run(one, given, 60).begun == "abc1234"
    assert (suite.work_of(one, given) / "x").read_text() == "xx"
    assert suite.work_of(replace(one, goes_on=False), given).name == "quick"


def test_work_that_does_not_name_its_weights_is_said_so(elsewhere: Path) -> None:
    one = replace(QUICK, argv=shlex.join(["-c", "pass", "{first}"]), goes_on=True)
    given = sources(elsewhere)
    (folder := elsewhere / ".runs" / "quick").mkdir(parents=True)
    (folder / "begun.txt").write_text("aaaaaaa")
    for _ in range(2):
        assert suite.run(one, given, 60).begun == "aaaaaaa, of weights and data that it does not name"


def test_code_that_differs_from_a_commit_is_known_by_its_content_and_never_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "ROOT", tmp_path)

    def git(*words: str) -> None:
        author = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *author, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "targets").mkdir()
    for name in ("a.py", "targets/cpu.yaml", "pyproject.toml", "notes.md"):
        (tmp_path / name).write_text("1")
    assert suite.commit() == ""
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "all")):
        git(*words)
    seen = [clean := suite.commit()]
    assert clean and "+" not in clean
    (tmp_path / "notes.md").write_text("2")
    assert suite.commit() == clean
    for name, text in (("targets/cpu.yaml", "2"), ("pyproject.toml", "2"), ("a.py", "2"), ("b.py", "2"), ("b.py", "3")):
        (tmp_path / name).write_text(text)
        seen.append(suite.commit())
    assert len(set(seen)) == len(seen) and all(one.startswith(f"{clean}+") for one in seen[1:])
    record = suite.Record("quick", "", 0, 1, "", "", (0, 0), commit=seen[-1])
    monkeypatch.setattr(suite, "record_of", lambda _: record)
    assert not suite.is_recorded(QUICK, NOTHING, seen[-1])
    monkeypatch.setattr(suite, "record_of", lambda _: replace(record, commit=clean))
    assert suite.is_recorded(QUICK, NOTHING, clean)


MERGES = """
import json
from pathlib import Path
made, kept = Path(r'{made}'), Path(r'{kept}')
rows = next((json.loads(one.read_text()) for one in (made.with_suffix('.json'), kept) if one.is_file()), [])
made.with_suffix('.json').write_text(json.dumps([*rows, len(rows)]))
made.write_text(str(rows))
raise SystemExit(3 if Path(r'{work}').with_name('stop').exists() else 0)
"""


def test_a_run_keeps_the_words_of_its_page_and_the_rows_of_earlier_runs(elsewhere: Path) -> None:
    one, given = replace(QUICK, argv=shlex.join(["-c", MERGES]), goes_on=True), Given((), None, elsewhere / ".runs")
    page, kept = elsewhere / "quick.md", elsewhere / "quick.json"
    page.write_text("words\n<!-- begin: quick -->\n<!-- end -->\nmore\n")
    kept.write_text('["typed"]')
    (work := suite.work_of(one, given)).mkdir(parents=True)
    for rows in (["typed"], ["typed", 1]):
        assert suite.run(one, given, 60).exit_code == 0
        assert page.read_text() == f"words\n<!-- begin: quick -->\n{rows}\n<!-- end -->\nmore\n"
        assert "differs" not in suite._line(one)[2]
    assert kept.read_text() == '["typed", 1, 2]' and not (work / "quick.json").exists()

    stop = work.with_name("stop")
    stop.touch()
    assert suite.run(one, given, 60).exit_code == 3
    stop.unlink()
    kept.write_text("[]")  # by somebody else, meanwhile
    runs, [(_, why)] = planned([one], given, 60, again=True)
    assert not runs and "quick.json has changed since" in why
    assert suite.run(one, given, 60).exit_code == suite.NOT_IN_PLACE and kept.read_text() == "[]"
    (work / "quick.json").unlink()
    assert planned([one], given, 60, again=True)[0] == [one]
    assert suite.run(one, given, 60).exit_code == 0 and kept.read_text() == "[0]"


def test_a_run_that_takes_finished_ones_from_beside_its_page_is_begun_when_they_were(elsewhere: Path) -> None:
    one = replace(QUICK, argv=shlex.join(["-c", MERGES]), goes_on=True, takes=True)
    given = Given((), None, elsewhere / ".runs")
    (elsewhere / "quick.json").write_text("[1]")
    assert suite.run(one, given, 60).begun == "" and "begun at an unknown commit" in suite._line(one)[2]
    shutil.rmtree(suite.work_of(one, given))
    record = suite.record_of(one)
    assert record is not None
    suite.write_json(elsewhere / "records" / "quick.json", replace(record, begun="aaaaaaa"))
    assert suite.run(one, given, 60).begun == "aaaaaaa"


ASKED = {"weights": "n {weights}", "data": "d", "dataset": "{dataset}"}  # as benchmarks.recipes keeps it
ROW = {"model": "n", "weights": "{weights}", "data": "d", "dataset": "{dataset}"}


@pytest.mark.parametrize(
    "content",
    [
        {"asked": ASKED, "runs": {}},
        {"model": "n", "data": "d", "rows": [{**ROW}]},  # as benchmarks.equal_latency
        [ROW],  # as benchmarks.search_budgets
    ],
)
def test_runs_of_other_weights_or_data_beside_a_page_are_not_replaced(content: object, elsewhere: Path) -> None:
    words = ["-c", MERGES, "{first}", "{data}"]
    one = replace(QUICK, argv=shlex.join(words), goes_on=True, takes=True)
    given = sources(elsewhere)
    others = (sources(elsewhere, b"trained on"), sources(elsewhere, box=0.4))
    (weights, dataset) = (name.split()[1] for name in suite.inputs_of(one, given))
    text = json.dumps(content).replace("{weights}", weights).replace("{dataset}", dataset)
    (elsewhere / "quick.json").write_text(text)
    record = suite.Record("quick", "", 0, 1, "", "", (0, 0), commit="aaaaaaa", begun="aaaaaaa")
    (elsewhere / "records").mkdir()
    suite.write_json(elsewhere / "records" / "quick.json", record)
    assert planned([one], given, 60, again=True)[0] == [one] and suite.begun_at(one, given) == "aaaaaaa"
    for other in others:
        runs, [(_, why)] = planned([one], other, 60, again=True)
        assert not runs and "quick.json, which keeps runs of other weights or data: move it away" in why
        assert suite.begun_at(one, other) is None
    several = replace(one, argv=one.argv.replace("{first}", "{weights}"))
    assert [bool(planned([several], other, 60, again=True)[0]) for other in others] == [True, False]
    (elsewhere / "quick.json").unlink()
    assert all(planned([one], other, 60, again=True)[0] for other in others)


SLEEPS = """
import os, time
from pathlib import Path
Path(r'{child}.part').write_text(str(os.getpid()))
Path(r'{child}.part').rename(r'{child}')
time.sleep(600)
"""
STARTS = {
    "in its group": """
import subprocess, sys, time
from pathlib import Path
subprocess.Popen([sys.executable, '-c', {sleeps}])
while not Path(r'{child}').is_file():
    time.sleep(0.02)
time.sleep({seconds})
""",
    "in a session of its own": """
import sys
from edgeprune.devices.process import run_program
run_program([sys.executable, '-c', {sleeps}])
""",
    "by a program that ends its own": """
import subprocess, sys
subprocess.run([sys.executable, '-c', {runs}])
""",
}
RUNS = """
import signal, sys, time
from edgeprune.devices.process import run_program
def told(*_):
    time.sleep(0.5)
    sys.exit(3)
signal.signal(signal.SIGTERM, told)
run_program([sys.executable, '-c', {sleeps}])
"""
AT_MOST_S = 60  # none of this takes as long, on however busy a machine


@pytest.mark.parametrize(
    ("how", "own", "code"),
    [
        ("in its group", "600", STOPPED),
        ("in its group", "0", 0),
        ("in a session of its own", "", STOPPED),
        ("by a program that ends its own", "", STOPPED),
    ],
)
def test_whatever_a_benchmark_started_ends_with_it(
    how: str, own: str, code: int, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = elsewhere / "child"

    class UntilItHasStarted(subprocess.Popen):
        """Its time is over once its child is there, however long that takes."""

        def wait(self, timeout: float | None = None) -> int:
            while timeout == AT_MOST_S and code == STOPPED and self.poll() is None:
                if child.is_file():
                    raise subprocess.TimeoutExpired(self.args, timeout)
                time.sleep(0.02)
            return super().wait(timeout)

    sleeps = SLEEPS.replace("{child}", str(child))
    runs = RUNS.replace("{sleeps}", repr(sleeps))
    script = STARTS[how].replace("{seconds}", own).replace("{child}", str(child))
    script = script.replace("{sleeps}", repr(sleeps)).replace("{runs}", repr(runs))
    one = replace(QUICK, argv=shlex.join(["-c", script]))
    monkeypatch.setattr(suite.subprocess, "Popen", UntilItHasStarted)
    assert suite.run(one, Given((), None, elsewhere / ".runs"), AT_MOST_S).exit_code == code
    pid = int(child.read_text())
    ends = time.monotonic() + AT_MOST_S
    while is_running(pid) and time.monotonic() < ends:
        time.sleep(0.05)
    if is_running(pid):
        os.kill(pid, signal.SIGKILL)
        pytest.fail("a child goes on")


def is_running(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:  # gone, before or while it was read
        return False


def test_a_benchmark_that_keeps_nothing_is_of_the_commit_that_ran_it(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, given = replace(QUICK, argv="-c pass"), Given((), None, elsewhere / ".runs")
    for commit in ("aaaaaaa", "bbbbbbb"):
        monkeypatch.setattr(suite, "commit", lambda commit=commit: commit)
        assert suite.run(one, given, 60).begun == commit


def test_a_page_that_was_changed_after_its_run_is_said_so(elsewhere: Path) -> None:
    one = replace(QUICK, argv=shlex.join(["-c", "open(r'{page}', 'w').write('1.5')"]))
    suite.run(one, Given((), None, elsewhere / ".runs"), 60)
    assert "differs" not in suite._line(one)[2]
    (elsewhere / "quick.md").write_text("1.6")
    assert "differs" in suite._line(one)[2]


@pytest.mark.parametrize(
    ("code", "seconds", "kept"), [("raise SystemExit(3)", 60, 3), ("while True: pass", 1, STOPPED)]
)
def test_a_run_that_did_not_end_well_leaves_no_record(elsewhere: Path, code: str, seconds: float, kept: int) -> None:
    one = replace(QUICK, argv=shlex.join(["-c", code]))
    assert suite.run(one, Given((), None, elsewhere / ".runs"), seconds).exit_code == kept
    assert suite.record_of(one) is None
    assert "not run yet" in suite._line(one)[2]


@pytest.mark.parametrize("words", [["--only", "nothing"], ["--hours", "0"], ["--data", "absent.yaml"]])
def test_wrong_options_end_in_one_line_and_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        suite.main([*words, "--dry-run"])
    assert ended.value.code == 2
    assert words[-1] in capsys.readouterr().err


def test_publishing_keeps_the_text_around(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin: one -->\nold\n<!-- end -->\nafter\n")
    publish(page, "one", "new\\1")
    assert page.read_text() == "before\n<!-- begin: one -->\nnew\\1\n<!-- end -->\nafter\n"
    assert printed_part(page, "one") == "new\\1\n"
    pages.printed_by(lambda: print("newer"), page, "one")
    assert printed_part(page, "one") == "newer\n"


def test_intervals_say_who_is_ahead() -> None:
    low, high, wide = Seeds((0.40, 0.41, 0.42)), Seeds((0.50, 0.51, 0.52)), Seeds((0.38, 0.50, 0.43))
    assert high.against(low) == "ahead"
    assert low.against(high) == "behind"
    assert wide.against(low) == "level"
    assert Seeds((0.9, 0.91)).against(low) == "open"
    interval = high.interval
    assert interval is not None
    assert interval == pytest.approx((0.51 - 4.3027 * 0.01 / 3**0.5, 0.51 + 4.3027 * 0.01 / 3**0.5), abs=1e-5)
    assert re.fullmatch(r"0\.\d{4} to 0\.\d{4}", high.text())
