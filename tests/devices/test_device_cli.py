"""The command line on devices: probe and bench, over a real SSH connection and on stand-ins."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprune.agent.trtexec import PROGRAMS
from edgeprune.cli import main
from edgeprune.devices.board import SWAP
from edgeprune.devices.fake import BOARDS, FakeBoard, fake_device
from edgeprune.devices.process import Ended
from edgeprune.devices.remote import RemoteDevice
from edgeprune.devices.ssh import Ssh
from edgeprune.errors import DeviceError, ToolError
from edgeprune.measure.doctor import examine_device
from edgeprune.runtimes.remote_onnxruntime import PYTHONS
from edgeprune.runtimes.site import open_site
from tests.devices.server import Server
from tests.export.helpers import linked_copy
from tests.runtimes.models import convolutions


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code and both streams of the command line."""
    monkeypatch.setattr(sys, "argv", ["edgeprune", *argv])
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the handlers are the process', which is the tests' own
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def has_runtime(server: Server) -> bool:
    """Whether this machine has what figures can be taken by, for a session of the server."""
    with RemoteDevice(Ssh(server.name)) as device:

        def works(*argv: str) -> bool:
            with suppress(ToolError):  # it does not start
                return device.run(argv, timeout_s=120).returncode == 0
            return False

        facts = device.facts()
        if facts.has_gpu and any(works(program, "--help") for program in PROGRAMS):
            return True
        return not facts.l4t and any(works(python, "-c", "import numpy, onnxruntime") for python in PYTHONS)


def test_probe_over_ssh_names_the_machine_and_what_is_missing(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(monkeypatch, capsys, "device", "probe", server.name)
    assert code == (0 if has_runtime(server) else 4)
    assert server.name in out
    assert "runtime trtexec" in out and "runtime onnxruntime" in out
    assert server.left() == []


def test_probe_of_a_board_lists_modes_profiles_and_the_next_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(monkeypatch, capsys, "device", "probe", "fake:orin-nano,no-sudo")
    text = " ".join(out.replace("│", " ").split())
    assert code == 0
    for words in ("SIMULATED", "6.2 (L4T 36.4.3)", "MAXN_SUPER (2)", "jetson-orin-nano", "may not change them"):
        assert words in text, words


def test_a_probe_ends_with_4_where_no_runtime_of_the_boards_targets_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgeprune.devices.device_named", lambda host, note: device)
    device = reached(without=["trtexec", "dpkg-query"])
    code, out, _ = run(monkeypatch, capsys, "device", "probe", "user@orin:2222")
    assert code == 4
    marked = {line.split()[1]: line.split()[0] for line in out.splitlines() if line[:1].strip()}
    assert marked["TensorRT"] == "missing" and marked["JetPack"] == "ok"
    assert "missing  runtime trtexec" in out and "missing  runtime onnxruntime" not in out
    device = reached(without=["dpkg-query"])  # TensorRT without its packages, as out of an archive
    assert run(monkeypatch, capsys, "device", "probe", "user@orin:2222")[0] == 0


def test_a_probe_tells_what_it_could_not_tidy_up_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board = fake_device("orin-nano").channel
    assert isinstance(board, FakeBoard)
    call = board.call

    def unwilling(argv: Sequence[str], **options: Any) -> Ended:
        if "leave" not in argv:
            return call(argv, **options)
        options["on_output"](b'{"removed": false, "restored": "", "not_restored": ""}\n')
        return Ended(0, "")

    monkeypatch.setattr(board, "call", unwilling)
    monkeypatch.setattr("edgeprune.devices.device_named", lambda host, note: RemoteDevice(board, note=note))
    code, out, _ = run(monkeypatch, capsys, "device", "probe", "fake:orin-nano")
    assert code == 0 and "could not be removed there: the reason is not known; next: " in out


@pytest.mark.parametrize("has_any", [True, False])
def test_of_another_machine_any_runtime_is_enough(has_any: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    device = reached(without=["trtexec", "nv_tegra_release"])
    if not has_any:
        device.python = "/nowhere/python3"
    else:
        device.python = sys.executable
    needed = {one.subject for one in examine_device(device) if one.required and not one.usable}
    assert needed == (set() if has_any else {"runtime trtexec", "runtime onnxruntime"})


class Reached(FakeBoard):
    """A stand-in that is reached as a real board is, as far as people are told."""

    def typed(self, command: str) -> str:
        return Ssh("user@orin:2222").typed(command)


def reached(*traits: str, without: Sequence[str] = ()) -> RemoteDevice:
    """One where these programs are not installed."""
    channel = Reached("user@orin:2222", BOARDS["orin-nano"], {"free-mib": "500", **dict.fromkeys(traits, "")})
    for name in without:
        for path in channel.root.rglob(name):
            path.unlink()
    return RemoteDevice(channel)


def there(remedy: str) -> str:
    """The command that a line runs on the board."""
    before, command = shlex.split(remedy, comments=True)[:5], shlex.split(remedy, comments=True)[5:]
    assert before == ["ssh", "-t", "-p", "2222", "user@orin"]
    return command[0]


def test_what_a_probe_says_to_type_reaches_the_board_and_has_a_terminal_there() -> None:
    device = reached("no-sudo", without=["trtexec", "dpkg-query"])
    device.python = "/nowhere/python3"
    remedies = {one.subject: one.remedy for one in examine_device(device)}
    assert there(remedies["clocks and power"]) == "sudo visudo -f /etc/sudoers.d/edgeprune"
    assert there(remedies["memory for the builder"]) == SWAP
    assert there(remedies["TensorRT"]) == there(remedies["runtime trtexec"]) == "sudo apt install nvidia-jetpack"
    assert there(remedies["runtime onnxruntime"].partition("; ")[0]).startswith("python3 -m venv .venv && ")
    assert not [remedy for remedy in remedies.values() if "orin:2222" in remedy and remedy.startswith("ssh")]


def test_a_runtime_that_a_device_lacks_is_got_there(monkeypatch: pytest.MonkeyPatch) -> None:
    device = reached(without=["trtexec"])
    monkeypatch.setattr("edgeprune.runtimes.site.device_of", lambda board, note: device)
    with (
        pytest.raises(DeviceError, match=r"orin:2222: .* has no trtexec .*; next: ssh ") as error,
        open_site("jetson-orin-nano"),
    ):
        pass
    assert there(str(error.value).rpartition("next: ")[2]) == "sudo apt install nvidia-jetpack"


@pytest.mark.parametrize("command", ["sudo true", SWAP, "echo 'a' \"$HOME\"", "it's"])
def test_a_command_that_is_typed_arrives_as_it_is(command: str) -> None:
    assert there(Ssh("user@orin:2222").typed(command)) == command
    assert Ssh("orin").typed("true") == "ssh -t orin true"
    assert fake_device("orin-nano").typed("true") == "on fake:orin-nano: true"  # nobody can log in


def test_probe_recommends_no_profile_that_build_refuses(tmp_path: Path) -> None:
    found = {one.subject: one for one in examine_device(fake_device("orin-nano"))}["targets of this board"]
    assert found.usable and found.remedy.startswith("edgeprune build --target jetson-orin-nano ")
    device = fake_device("orin-nano")
    plain = replace(device.facts(), power_modes={"15W": 0, "7W": 1}, power_mode="15W")
    device.facts = lambda: plain  # type: ignore[method-assign]
    found = {one.subject: one for one in examine_device(device)}["targets of this board"]
    assert not found.usable and "edgeprune build" not in found.remedy and "profile of your own" in found.remedy
    assert "jetson-orin-nano (not as it is: it has no power mode MAXN_SUPER; it has: 15W, 7W" in found.state


def test_bench_over_ssh_says_where_it_was(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.yaml").write_text(f"extends: cpu\ndevice: {{python: {json.dumps(sys.executable)}}}\n")
    model = convolutions(tmp_path / "m.onnx")
    options = (
        "--target",
        str(tmp_path / "there.yaml"),
        "--device",
        server.name,
        "--rounds",
        "24",
        "--warmup-s",
        "0.05",
    )
    code, out, _ = run(monkeypatch, capsys, "bench", str(model), *options, "--no-details", "--json", "-")
    assert code == 0
    [row] = json.loads(out)["models"]
    assert row["latency"]["conditions"]["worker"]["python"]
    assert row["latency"]["conditions"]["device"]["telemetry"]
    assert server.left() == []


def test_a_stand_ins_figures_do_not_pass_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = convolutions(tmp_path / "m.onnx")
    options = ("--device", "fake:orin-nano", "--max-ms", "9000", "--statistic", "p50", "--rounds", "24", "--no-details")
    code, out, _ = run(monkeypatch, capsys, "bench", str(model), *options, "--warmup-s", "0.05", "--json", "-")
    assert code == 5
    [row] = json.loads(out)["models"]
    assert row["latency"]["simulated"] is True
    assert row["gate"]["verdict"] == "INCONCLUSIVE"
    assert row["latency"]["conditions"]["identity"]["module"] == "p3767-0005"
    assert row["latency"]["conditions"]["device"]["clocks"] == "locked"


@pytest.mark.slow
def test_accuracy_and_comparison_go_to_the_profiles_device(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgeprune.export.onnx import onnx_from_checkpoint

    root = linked_copy(shared / "data" / "bccd", tmp_path / "bccd")
    for image in sorted((root / "images" / "val").iterdir())[3:]:
        image.unlink()
    data, model = str(root / "data.yaml"), str(tmp_path / "m.onnx")
    onnx_from_checkpoint(shared / "weights" / "bccd-yolov8n-320.pt", Path(model), imgsz=64)
    profile = tmp_path / "line.yaml"
    profile.write_text(
        "extends: jetson-orin-nano\ndescription: a stand-in\nimgsz: 64\ndevice: {host: 'fake:orin-nano'}\n"
        "measure: {rounds: 20, warmup_s: 0.01}\n"
    )
    code, out, err = run(monkeypatch, capsys, "val", model, "--data", data, "--target", str(profile))
    assert code == 5, err  # three images do not tell whether the engine finds what its graph finds
    assert "outputs against it" in out and "a split with more images would tell" in out
    command = ("compare", model, model, "--data", data, "--target", str(profile), "--images", "0")
    code, out, err = run(monkeypatch, capsys, *command)
    assert code == 0, err
    assert "SIMULATED latency p95" in out and "not measured" not in out
    profile.write_text(profile.read_text().replace("orin-nano'", "orin-nx'"))
    code, _, err = run(monkeypatch, capsys, *command)
    assert code == 4 and "the profile is about Jetson Orin Nano 8 GB" in err


@pytest.mark.parametrize("place", ["local", "fake:orin-nx"])
def test_a_profiles_figures_are_taken_on_its_board_only(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = convolutions(tmp_path / "m.onnx")
    code, _, err = run(monkeypatch, capsys, "bench", str(model), "--target", "jetson-orin-nano", "--device", place)
    assert code == 4
    assert "the profile is about Jetson Orin Nano 8 GB" in err


def test_a_device_that_is_none_ends_with_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(monkeypatch, capsys, "device", "probe", "a b")
    assert code == 2
    assert "is no device; allowed: local, user@host[:port], fake:orin-nano" in err
