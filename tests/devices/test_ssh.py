"""A device over a real SSH connection: jobs, files, lost connections, refusals, and nothing left behind."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.artifact import write_atomically
from edgeprune.devices.channel import ConnectionLost
from edgeprune.devices.remote import RETRY_PAUSES_S, RemoteDevice
from edgeprune.devices.ssh import OPTIONS, Address, Ssh
from edgeprune.errors import DeviceError, TargetError, ToolError
from tests.devices.server import Server


def over(server: Server, **options: object) -> RemoteDevice:
    return RemoteDevice(Ssh(server.name), **options)  # pyright: ignore[reportArgumentType]


def test_a_program_gets_its_arguments_as_they_are_and_nothing_stays_behind(server: Server, tmp_path: Path) -> None:
    device = over(server)
    nasty = ["a b", "$HOME; rm -rf /nowhere", "'\"`", "", "*", "\\n", "ä"]
    with device:
        code = "import sys, os; print(repr(sys.argv[1:])); print(sys.stdin.read(), file=sys.stderr); sys.exit(3)"
        done = device.run([sys.executable, "-c", code, *nasty], timeout_s=20, stdin=b"in")
        assert done.returncode == 3
        assert done.stdout == f"{nasty!r}\n"
        assert done.stderr == "in\n"
        [work] = server.left()
        assert (server.tmp / work).stat().st_mode & 0o777 == 0o700
        with device.workspace() as folder:
            (tmp_path / "f").write_bytes(os.urandom(300_000))
            device.send(tmp_path / "f", f"{folder}/there")
            device.fetch(f"{folder}/there", tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == (tmp_path / "f").read_bytes()
        with pytest.raises(ToolError, match="does not start"):
            device.run(["no-such-program"], timeout_s=5)
        with pytest.raises(ToolError, match=r"ran longer than 0\.3 s"):
            device.run(["sleep", "30"], timeout_s=0.3)
    assert server.left() == []


def test_what_a_login_prints_is_in_the_way_of_no_verb(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(login="echo Welcome; printf 'no end of line'; eval \"$SSH_ORIGINAL_COMMAND\"")
    notes: list[str] = []
    with over(server, note=notes.append, agent_python=sys.executable) as device, device.workspace() as folder:
        assert device.facts().machine == os.uname().machine
        assert device.run([sys.executable, "-c", "print('own')"], timeout_s=20).stdout == "own\n"
        (tmp_path / "f").write_bytes(os.urandom(300_000))
        device.send(tmp_path / "f", f"{folder}/there")
        device.fetch(f"{folder}/there", tmp_path / "back")
        pipe = device.open(["cat"])
        pipe.stdin.write(b"asked\n")
        pipe.stdin.flush()
        assert pipe.stdout.readline() == b"asked\n"
        pipe.close()
    assert (tmp_path / "back").read_bytes() == (tmp_path / "f").read_bytes()
    assert (notes, server.left()) == ([], [])


def test_what_a_person_configured_for_logins_of_their_own_is_in_the_way_of_no_command(server: Server) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = server.root / "client"
        forward = f"LocalForward 127.0.0.1:{taken.getsockname()[1]} localhost:22\nExitOnForwardFailure yes\n"
        config.write_text(f"{config.read_text()}RemoteCommand tmux attach\nRequestTTY yes\n{forward}")
        assert over(server).facts().machine == os.uname().machine
    assert server.left() == []


def test_a_login_that_starts_no_command_says_so(serve: Callable[..., Server]) -> None:
    server = serve(login="echo This account is closed")
    with pytest.raises(DeviceError, match=r"its login starts no command, .* are: This account is closed; check it"):
        over(server).facts()


def test_a_lost_connection_is_not_a_refused_login_because_a_command_of_the_login_was_refused() -> None:
    said = "bash: /opt/ros/setup.bash: Permission denied\nConnection to orin closed by remote host."
    assert "the connection was lost" in str(Ssh("orin")._failure(said))
    assert "the login was refused" in str(Ssh("orin")._failure("me@orin: Permission denied (publickey)."))


def test_facts_name_the_machine(server: Server) -> None:
    found = over(server).facts()
    assert found.cpus == os.cpu_count()
    assert found.machine == os.uname().machine


def test_a_job_survives_a_lost_connection_and_is_not_started_twice(server: Server, tmp_path: Path) -> None:
    notes: list[str] = []
    heard: list[str] = []
    mark, dropped = tmp_path / "starts", tmp_path / "dropped"
    code = f"import os, time; open({str(mark)!r}, 'a').write('x')\nfor n in range(8):\n    print(n, flush=True)"
    code += f"\n    while n == 2 and not os.path.exists({str(dropped)!r}): time.sleep(0.02)"
    device = over(server, note=notes.append)

    def told(line: str) -> None:
        heard.append(line)
        if line == "2":
            assert server.drop() >= 1
            dropped.touch()

    with device:
        done = device.run([sys.executable, "-c", code], timeout_s=600, on_line=told)
    assert done.stdout.split() == [str(n) for n in range(8)]
    assert heard == done.stdout.split()  # every line once, in spite of the break
    assert mark.read_text() == "x"
    assert any("the connection was lost" in note for note in notes)
    assert server.left() == []


def test_a_file_that_another_build_replaces_meanwhile_is_sent_as_it_was(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"of this build")
    device = RemoteDevice(Ssh(server.name))
    real = device._agent

    def replacing(verb: str, *arguments: str, **options):
        if verb == "offer":
            write_atomically(cache, b"of the other build, and longer")
        return real(verb, *arguments, **options)

    monkeypatch.setattr(device, "_agent", replacing)
    with device:
        device.send(cache, f"{tmp_path}/there/timing.cache")
        device.fetch(f"{tmp_path}/there/timing.cache", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"of this build"
    assert cache.read_bytes() == b"of the other build, and longer"


def test_a_transfer_goes_on_where_it_stopped_and_known_content_is_not_sent_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(24 << 20))
    sent: list[int] = []
    channel = Ssh(server.name)
    real = channel.call

    def counting(argv, *, stdin=b"", on_output=None):
        if "put" not in argv:
            return real(argv, stdin=stdin, on_output=on_output)
        first = not sent
        sent.append(0)

        def pieces():
            for piece in stdin:
                sent[-1] += len(piece)
                if first and sent[-1] > 16 << 20:
                    server.drop()
                yield piece

        return real(argv, stdin=pieces(), on_output=on_output)

    monkeypatch.setattr(channel, "call", counting)
    device = RemoteDevice(channel)
    with device.workspace() as folder:
        device.send(big, f"{folder}/one")
        assert len(sent) == 2
        assert 0 < sent[1] < big.stat().st_size  # the second attempt had only the rest to send
        device.send(big, f"{folder}/two")
        assert len(sent) == 2
        device.fetch(f"{folder}/two", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == big.read_bytes()


def test_a_server_that_is_gone_for_good_is_a_device_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.devices.remote.RETRY_PAUSES_S", (0.05, 0.05))
    device = over(server)
    with pytest.raises(DeviceError, match=r"cannot be reached: .*refused.*; check it with: ssh -p") as raised, device:
        device.run(["true"], timeout_s=5)
        server.stop()
        device.run(["true"], timeout_s=5)
    assert raised.value.exit_code == 4


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("none", "its host key is not known here; log in once .*ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"),
        ("other", "its host key is not the one.*ssh-keygen .*-R"),
    ],
)
def test_a_wrong_host_key_is_refused(serve: Callable[..., Server], tmp_path: Path, key: str, words: str) -> None:
    server = serve()
    (server.root / "other.pub").write_text(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJDmQ1cQpXo2cW0FjQ2oBn4FvPz6nXU0m7PBNgbHXnHa\n"
    )
    server.trust(server.root / f"{key}.pub")
    with pytest.raises(DeviceError, match=words):
        over(server).facts()
    assert server.left() == []


@pytest.mark.parametrize("alias", ["orin", "behind-another-name"])
def test_the_remedy_for_a_changed_host_key_forgets_it_behind_an_alias_too(server: Server, alias: str) -> None:
    client = server.root / "client"
    known_as, name = "", f"[127.0.0.1]:{server.port}"
    if alias == "behind-another-name":
        known_as, name = "HostKeyAlias of-the-board\n", "of-the-board"
    wrong = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJDmQ1cQpXo2cW0FjQ2oBn4FvPz6nXU0m7PBNgbHXnHa\n"
    (server.root / "known").write_text(f"{name} {wrong}other {wrong}")
    reached = f"Host {alias}\nHostName 127.0.0.1\nPort {server.port}\n{known_as}"
    client.write_text(f"{client.read_text()}{reached}")
    with pytest.raises(DeviceError, match=r"its host key is not the one that is known") as raised:
        RemoteDevice(Ssh(alias)).facts()
    [remedy] = re.findall(r"ssh-keygen .* -R .*(?= && ssh)", str(raised.value))
    subprocess.run(shlex.split(remedy), check=True, capture_output=True)
    assert (server.root / "known").read_text() == f"other {wrong}"


def test_the_host_key_that_changed_is_named_as_ssh_names_it() -> None:
    head = "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n"
    plain = f"{head}Offending ECDSA key in /a b/kh:3\nHost key for [10.0.0.2]:2299 has changed and you have requested"
    assert "ssh-keygen -f '/a b/kh' -R '[10.0.0.2]:2299' && ssh orin" in str(Ssh("orin")._failure(plain))
    debian = f'{plain}\n  remove with:\n  ssh-keygen -f "/other kh" -R "jump"'
    assert "ssh-keygen -f '/other kh' -R jump && ssh orin" in str(Ssh("orin")._failure(debian))
    assert "ssh-keygen -R '[orin]:22' && ssh" in str(Ssh("orin:22")._failure(head))


def test_a_key_that_nobody_unlocked_is_told_of(server: Server) -> None:
    key = server.root / "user"
    argv = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(key)]
    subprocess.run(argv, check=True, capture_output=True)
    key.with_suffix(".pub").unlink()
    with pytest.raises(DeviceError, match=r"the login was refused.*passphrase: eval \$\(ssh-agent\) && ssh-add"):
        over(server).facts()


def test_a_login_without_a_key_is_refused_and_no_password_is_asked_for(server: Server) -> None:
    (server.root / "authorized").write_text("")
    with pytest.raises(DeviceError, match=r"the login was refused.*ssh-copy-id -p"):
        over(server).facts()


def test_no_python_there_is_one_line(serve: Callable[..., Server], tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    for name in ("sh", "mktemp", "cat", "rm"):
        (bare / name).symlink_to(f"/bin/{name}")
    server = serve(PATH=str(bare))
    with pytest.raises(DeviceError, match=r"there is no python3 on its PATH .*sudo apt install python3"):
        over(server).facts()
    assert server.left() == []


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 4 MiB; needs root."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_there_is_one_line(serve: Callable[..., Server], small_disk: Path, tmp_path: Path) -> None:
    server = serve(TMPDIR=str(small_disk))
    big = tmp_path / "big"
    big.write_bytes(os.urandom(8 << 20))
    device = over(server)
    with device.workspace() as folder:
        with pytest.raises(DeviceError, match=r"the disk of .* is full .*free some space"):
            device.send(big, f"{folder}/big")
        with pytest.raises(DeviceError, match=r"the disk of .* is full"):  # filled by the job itself
            device.run([sys.executable, "-c", f"open({folder + '/x'!r}, 'wb').write(b'0' * (8 << 20))"], timeout_s=20)
    assert server.left() == []
    (small_disk / "filler").write_bytes(b"0" * ((4 << 20) - 4096))
    with pytest.raises(
        DeviceError, match=r"no work directory can be made in .*small there: .*[Nn]o space.*free some space"
    ):
        device.facts()
    assert server.left() == []


def test_two_measured_runs_queue_and_others_do_not(server: Server, tmp_path: Path) -> None:
    spans: list[tuple[float, float]] = []
    notes: list[str] = []
    go_on = tmp_path / "go-on"
    code = f"import os, time; b = time.time()\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.02)"
    code += "\nprint(b, time.time())"

    def timed() -> None:
        device = over(server, note=notes.append)
        done = device.run([sys.executable, "-c", code], timeout_s=600, measured=True)
        begin, end = (float(part) for part in done.stdout.split())
        spans.append((begin, end))

    threads = [threading.Thread(target=timed) for _ in range(2)]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + 600
    while not any("is busy with another build" in note for note in notes) and time.monotonic() < ends:
        time.sleep(0.02)
    queued: list[str] = []
    over(server, note=queued.append).run(["true"], timeout_s=600)
    assert queued == [], "what is not measured does not wait for its turn"
    go_on.touch()
    for thread in threads:
        thread.join(600)
    (_, first_end), (second_begin, _) = sorted(spans)
    assert second_begin >= first_end
    assert any("is busy with another build" in note for note in notes)
    assert server.left() == []


def test_what_a_killed_build_left_is_removed_by_the_next(server: Server) -> None:
    code = (
        "import sys, time; from edgeprune.devices.remote import RemoteDevice; from edgeprune.devices.ssh import Ssh\n"
        f"with RemoteDevice(Ssh({server.name!r})) as device:\n"
        "    device.run(['true'], timeout_s=600); print('there', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.kill()
    [orphan] = server.left()
    with over(server) as device:
        device.run(["true"], timeout_s=600, measured=True)
        assert orphan not in server.left()
    assert server.left() == []


@pytest.mark.parametrize("text", ["-oProxyCommand=x", "a b", "user@", "host:0", "host:99999", "host;ls", "a@b@c"])
def test_a_name_that_is_no_device_is_refused(text: str) -> None:
    with pytest.raises(TargetError, match="is no device"):
        Address.from_text(text)


def test_a_long_temporary_folder_is_no_place_for_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("ü" * 40)  # two bytes each
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    ssh = Ssh("orin")
    [path] = [part.partition("=")[2].strip('"') for part in ssh._client() if part.startswith("ControlPath=")]
    assert len(os.fsencode(path)) <= 85 and not list(deep.iterdir())
    Path(path).parent.rmdir()


@pytest.mark.parametrize("name", ["a b", "100%h", "it's", 'a"b', "a\\b", "${HOME}"])
def test_the_temporary_folder_may_be_called_anything(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    odd = Path(tempfile.mkdtemp(dir="/tmp")) / name  # short, as a socket wants it
    odd.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(odd))
    device = over(server)
    try:
        with device:
            assert device.run(["true"], timeout_s=60).returncode == 0
            channel = device.channel
            assert isinstance(channel, Ssh)
            assert (Path(channel._folder) / "c").is_socket()  # the connection is shared
            assert (Path(channel._folder).parent == odd) is not bool(set(name) & set('"\\$'))
        assert not list(odd.iterdir())
    finally:
        shutil.rmtree(odd.parent)


@pytest.mark.parametrize(
    ("said", "first"),
    [
        ("command-line line 0: keyword controlpath extra arguments at end of line.", "command-line line 0: keyword"),
        ("command-line: line 0: Bad configuration option: foo", "command-line: line 0: Bad"),
        ("/a b/cf line 2: Bad port 'abc'.\n/a b/cf: terminating, 1 bad configuration options", "/a b/cf line 2: Bad"),
        ("cf: line 1: Bad configuration option: x\ncf: terminating, 1 bad configuration options", "cf: line 1: Bad"),
        ("Bad owner or permissions on /home/me/.ssh/config", "Bad owner or permissions on /home/me/.ssh/config"),
    ],
)
def test_a_configuration_that_ssh_refuses_is_not_a_lost_connection(said: str, first: str) -> None:
    error = Ssh("orin")._failure(said)
    assert not isinstance(error, ConnectionLost) and f"ssh refuses its configuration: {first}" in str(error)
    lost = Ssh("orin")._failure("bash: line 1: x: command not found\nConnection to orin closed by remote host.")
    assert isinstance(lost, ConnectionLost)


@pytest.mark.parametrize(
    "said",
    ["ControlPath too long ('/a/c' >= 108 bytes)", 'unix_listener: path "/a/c.Xy" too long for Unix domain socket'],
)
def test_a_socket_path_that_is_too_long_is_not_a_lost_connection(said: str) -> None:
    error = Ssh("orin")._failure(said)
    assert not isinstance(error, ConnectionLost) and "set TMPDIR to a folder with a shorter path" in str(error)


def test_names_that_are_devices() -> None:
    assert Address.from_text("me@orin:2222") == Address("me", "orin", 2222)
    assert Address.from_text("orin.local") == Address("", "orin.local", 0)
    assert Address.from_text("me@[fe80::1]:22").host == "fe80::1"


def test_a_board_that_swaps_for_a_minute_is_not_given_up() -> None:
    silent_s = int(OPTIONS["ServerAliveInterval"]) * int(OPTIONS["ServerAliveCountMax"])
    assert 90 <= silent_s <= 180, "longer than swapping, and short enough for a board that is gone"
    assert len(RETRY_PAUSES_S) == 7 and sorted(RETRY_PAUSES_S) == list(RETRY_PAUSES_S) and sum(RETRY_PAUSES_S) >= 120
