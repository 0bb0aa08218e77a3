"""A signature vouches for a bundle: it goes there and back with minisign itself, and a wrong one is named."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from minisign import KeyPair
from typer.testing import CliRunner

from edgeprune.cli import app
from edgeprune.errors import DataError, StageError, TargetError
from edgeprune.records.build import write_build
from edgeprune.records.show import read_build
from edgeprune.records.signature import SIGNATURE, check_signature, sign_build
from edgeprune.records.verify import verify_build
from edgeprune.workspace import open_workspace
from tests.records.test_verify import bundle, rewritten

__all__ = ["bundle"]  # the fixture


def nobody_asks() -> str:
    raise AssertionError("this key has no password")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Secret and public key, without a password."""
    return made(tmp_path / "keys", None)


def made(folder: Path, password: str | None) -> tuple[Path, Path]:
    folder.mkdir()
    pair = KeyPair.generate()
    if password is not None:
        pair.secret_key.encrypt(password, opslimit=32768, memlimit=1 << 20)
    secret, public = folder / "minisign.key", folder / "minisign.pub"
    public.write_bytes(bytes(pair.public_key))
    secret.write_bytes(bytes(pair.secret_key))
    return secret, public


def test_a_signed_bundle_is_vouched_for(bundle: Path, keys: tuple[Path, Path]) -> None:
    secret, public = keys
    assert sign_build(bundle.parent, secret, nobody_asks) == bundle / SIGNATURE
    assert "cpu, PASS, built 2026-01-01" in check_signature(bundle, public)
    said = CliRunner().invoke(app, ["verify", str(bundle), "--key", str(public)])
    assert said.exit_code == 0 and f"signed by {public}: edgeprune" in said.stdout
    assert "was not checked: --key" in CliRunner().invoke(app, ["verify", str(bundle)]).stdout


def test_a_wrong_signature_is_named(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    secret, public = keys
    with pytest.raises(
        DataError,
        match=r"build\.json\.minisig: is missing, nobody signed this bundle; next: edgeprune sign \S+ --key S",
    ):
        check_signature(bundle, public)
    sign_build(bundle, secret, nobody_asks)
    _, other = made(tmp_path / "other", None)
    with pytest.raises(
        DataError, match=r"does not vouch for build\.json by .*: incompatible key identifiers; another key"
    ):
        check_signature(bundle, other)
    rewritten(bundle, lambda content: content.update(seed=7))  # still as built by its own digests and samples
    with pytest.raises(DataError, match="signature verification failed"):
        check_signature(bundle, public)
    sign_build(bundle, secret, nobody_asks)
    check_signature(bundle, public)
    lines = (bundle / SIGNATURE).read_text().splitlines()
    for number, line in enumerate(lines[1:], 1):  # the first line is a comment that nobody vouches for
        for changed in (line[:-4], f"{line}A", "", line[:30] + chr(ord(line[30]) ^ 1) + line[31:]):
            (bundle / SIGNATURE).write_text("\n".join([*lines[:number], changed, *lines[number + 1 :]]))
            with pytest.raises(DataError) as caught:
                check_signature(bundle, public)
            assert "\n" not in str(caught.value)


def test_the_comment_is_vouched_for_too(bundle: Path, keys: tuple[Path, Path]) -> None:
    secret, public = keys
    sign_build(bundle, secret, nobody_asks)
    text = (bundle / SIGNATURE).read_text()
    (bundle / SIGNATURE).write_text(text.replace("PASS", "FAIL"))
    with pytest.raises(DataError, match="signature verification failed"):
        check_signature(bundle, public)


def test_what_is_not_as_it_was_built_is_not_signed(bundle: Path, keys: tuple[Path, Path]) -> None:
    (bundle / "model.onnx").write_bytes(b"other")
    with pytest.raises(DataError, match=r"model\.onnx was changed"):
        sign_build(bundle, keys[0], nobody_asks)
    assert not (bundle / SIGNATURE).exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"untrusted comment: x\nAAAA\n", b"x" * 70_000, b"a\nb\nc\nd\n"])
def test_nonsense_in_the_place_of_a_key_or_a_signature_is_one_line(
    bundle: Path, keys: tuple[Path, Path], content: bytes
) -> None:
    bad = bundle.parent / "bad"
    bad.write_bytes(content)
    with pytest.raises(DataError) as signing:
        sign_build(bundle, bad, nobody_asks)
    with pytest.raises(DataError) as checking:
        check_signature(bundle, bad)
    (bundle / SIGNATURE).write_bytes(content)
    with pytest.raises(DataError) as reading:
        check_signature(bundle, keys[1])
    assert all("\n" not in str(caught.value) for caught in (signing, checking, reading))
    with pytest.raises(DataError, match="is a folder"):
        check_signature(bundle, bundle)


def test_the_password_is_asked_and_a_wrong_one_said(bundle: Path, tmp_path: Path) -> None:
    secret, public = made(tmp_path / "locked", "open sesame")
    with pytest.raises(DataError, match="cannot sign: wrong password"):
        sign_build(bundle, secret, lambda: "wrong")
    ended = CliRunner().invoke(app, ["sign", str(bundle), "--key", str(secret)], input="open sesame\n")
    assert ended.exit_code == 0, ended.output
    assert "open sesame" not in ended.output
    check_signature(bundle, public)


def test_a_password_that_nobody_can_be_asked_for_is_one_line(bundle: Path, tmp_path: Path) -> None:
    secret, _ = made(tmp_path / "locked", "open sesame")
    result = CliRunner().invoke(app, ["sign", str(bundle), "--key", str(secret)], input="")
    assert isinstance(result.exception, TargetError), result.output
    assert "no terminal to ask for it" in str(result.exception)


def test_what_changed_while_the_password_was_typed_is_verified_anew(bundle: Path, tmp_path: Path) -> None:
    """What is signed is what was verified: its verdict is that of the comment."""
    secret, public = made(tmp_path / "locked", "open sesame")
    record = read_build(bundle)

    def rebuilt() -> str:
        write_build(bundle / "build.json", replace(record, created="2026-02-02T00:00:00+00:00"))
        return "open sesame"

    sign_build(bundle, secret, rebuilt)
    assert "PASS, built 2026-02-02" in check_signature(bundle, public)
    (bundle / SIGNATURE).unlink()

    def edited() -> str:
        rewritten(bundle, lambda content: content.update(verdict="FAIL"))
        return "open sesame"

    with pytest.raises(DataError, match="edited, not as it was built"):
        sign_build(bundle, secret, edited)
    assert not (bundle / SIGNATURE).exists()


def test_a_signature_is_checked_for_the_bytes_that_were_verified(bundle: Path, keys: tuple[Path, Path]) -> None:
    sign_build(bundle, keys[0], nobody_asks)
    verified = verify_build(bundle)
    rewritten(bundle, lambda content: content.update(seed=7))
    assert "PASS" in check_signature(bundle, keys[1], verified.content)
    with pytest.raises(DataError, match="signature verification failed"):
        check_signature(bundle, keys[1], verify_build(bundle).content)


def test_nothing_is_signed_while_a_build_works_there(bundle: Path, tmp_path: Path) -> None:
    """Neither from the start nor where it began while somebody typed; the run directory is free while somebody does."""
    secret, _ = made(tmp_path / "locked", "open sesame")
    for place in (bundle, bundle.parent):
        with open_workspace(bundle.parent), pytest.raises(StageError, match="another build"):
            sign_build(place, secret, nobody_asks)
        with contextlib.ExitStack() as building:

            def began(building: contextlib.ExitStack = building) -> str:
                building.enter_context(open_workspace(bundle.parent))
                return "open sesame"

            with pytest.raises(StageError, match="another build"):
                sign_build(place, secret, began)
    assert not (bundle / SIGNATURE).exists()


def test_without_the_library_the_next_command_is_said(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "minisign", None)
    with pytest.raises(DataError, match="No such file"):  # a wrong name first
        check_signature(bundle, bundle / "key")
    (bundle / "key").touch()
    with pytest.raises(StageError, match="pip install 'py-minisign"):
        check_signature(bundle, bundle / "key")


def test_it_goes_there_and_back_with_minisign_itself(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    program = shutil.which("minisign")
    if program is None:
        pytest.skip("minisign is not here (apt install minisign)")
    secret, public = keys
    sign_build(bundle, secret, nobody_asks)
    subprocess.run([program, "-Vm", "build.json", "-p", str(public)], cwd=bundle, check=True, capture_output=True)
    theirs = tmp_path / "theirs.key", tmp_path / "theirs.pub"
    subprocess.run([program, "-GW", "-s", str(theirs[0]), "-p", str(theirs[1])], check=True, capture_output=True)
    subprocess.run([program, "-Sm", "build.json", "-s", str(theirs[0])], cwd=bundle, check=True, capture_output=True)
    assert "timestamp" in check_signature(bundle, theirs[1])
    sign_build(bundle, theirs[0], nobody_asks)
    check_signature(bundle, theirs[1])
