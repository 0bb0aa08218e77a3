"""Bundles in versions: a folder that show, verify and history read, and MLflow's registry through its own client."""

from __future__ import annotations

import base64
import errno
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from edgeprune.artifact import sha256_of
from edgeprune.cli import app
from edgeprune.deploy import registry
from edgeprune.deploy.registry import Pushed, push
from edgeprune.errors import DataError, StageError, TargetError
from edgeprune.records.history import history
from edgeprune.records.show import read_build
from edgeprune.records.signature import SIGNATURE
from edgeprune.records.verify import verify_build
from edgeprune.report.build import build_markdown, build_page
from edgeprune.workspace import LOCK
from tests.records.test_verify import bundle, rewritten

__all__ = ["bundle"]  # the fixture


@pytest.fixture
def run(bundle: Path) -> Path:
    """A run directory: a bundle with a file in two places, and reports beside it."""
    (bundle / "triton").mkdir()
    os.link(bundle / "model.onnx", bundle / "triton" / "model.onnx")
    digest = sha256_of(bundle / "model.onnx")
    rewritten(bundle, lambda content: content["bundle"].update({"triton/model.onnx": digest}))
    (bundle / "mine.txt").write_text("not of the build")
    (bundle.parent / "report.html").write_text("page with pictures")
    (bundle.parent / "report.md").write_text(build_markdown(read_build(bundle)))
    return bundle.parent


def signature(text: str, comment: str = "of a test") -> str:
    """The form of minisign's, by no key."""
    first, second = (base64.b64encode(text.encode().ljust(size, b" ")).decode() for size in (74, 64))
    return f"untrusted comment: a test\n{first}\ntrusted comment: {comment}\n{second}\n"


SIGNED = (signature("one"), signature("another"))


def again(run: Path, seed: int) -> None:
    rewritten(run / "bundle", lambda content: content.update(seed=seed, created=f"2026-01-0{seed}T00:00:00+00:00"))


def test_a_folder_gets_versions_that_the_other_commands_read(run: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    first = push(run, str(models))
    assert first == Pushed("cpu", 1, str(models / "cpu" / "1"), "PASS", new=True)
    assert push(run / "bundle", str(models)) == Pushed("cpu", 1, str(models / "cpu" / "1"), "PASS", new=False)
    again(run, 2)
    assert push(run, str(models)).version == 2
    assert push(run, str(models), name="cells").place == str(models / "cells" / "1")
    there = models / "cpu" / "1"
    verify_build(there).require_as_built()
    assert (there / "report.html").read_text() == "page with pictures"
    assert (there / "report.md").read_text() == build_markdown(read_build(there))
    assert not (there / "bundle" / "mine.txt").exists()
    assert (there / "bundle" / "model.onnx").samefile(there / "bundle" / "triton" / "model.onnx")
    assert len(history([models / "cpu"]).builds) == 2
    assert not list(models.rglob(".partial*"))


def test_a_signature_that_came_later_makes_a_version(run: Path, tmp_path: Path) -> None:
    assert push(run, str(tmp_path / "models")).version == 1
    for version, text in enumerate(SIGNED, start=2):
        (run / "bundle" / SIGNATURE).write_text(text)
        pushed = push(run, str(tmp_path / "models"))
        assert (pushed.version, pushed.new) == (version, True)
        assert (Path(pushed.place) / "bundle" / SIGNATURE).read_text() == text
        assert not push(run, str(tmp_path / "models")).new


def test_a_bundle_alone_is_pushed_with_a_report_of_its_record(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    (run / "bundle").rename(alone)
    there = Path(push(alone, str(tmp_path / "models")).place)
    record = read_build(alone)
    assert (there / "report.md").read_text() == build_markdown(record)
    assert (there / "report.html").read_text() == build_page(record)


@pytest.mark.parametrize("rules", ["these", "others"])
def test_only_a_page_of_this_very_build_is_pushed(run: Path, tmp_path: Path, rules: str) -> None:
    """A file of that name beside a folder called bundle may be anybody's, or the next build's already."""
    if rules == "others":
        rewritten(run / "bundle", lambda content: content.update(rules=None))
    (run / "report.md").write_text("of another record")
    there = Path(push(run, str(tmp_path / "models")).place)
    assert (there / "report.html").read_text() == build_page(read_build(run))
    own = run / (LOCK if rules == "others" else "report.md")  # an older report may be put otherwise
    own.write_text("" if rules == "others" else build_markdown(read_build(run)))
    there = Path(push(run, str(tmp_path / "models"), name="cells").place)
    assert (there / "report.html").read_text() == "page with pictures"


CHANGES: dict[str, Any] = {
    "a file": lambda bundle: (bundle / "labels.txt").write_text("of the next build"),
    "the record": lambda bundle: rewritten(bundle, lambda content: content.update(seed=7)),
    "the signature": lambda bundle: (bundle / SIGNATURE).write_text("another"),
    "a name": lambda bundle: (bundle / "model.onnx").unlink(),
    "the bundle": lambda bundle: bundle.rename(bundle.with_name(".bundle-old")),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("to", ["folder", "mlflow"])
def test_a_bundle_that_is_replaced_while_it_is_copied_makes_no_version(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, to: str, request: pytest.FixtureRequest
) -> None:
    (run / "bundle" / SIGNATURE).write_text(signature("one"))
    client = request.getfixturevalue("mlflow").MlflowClient() if to == "mlflow" else None
    write = registry.write_files

    def meanwhile(folder: Path, files: Any) -> None:
        CHANGES[change](run / "bundle")
        write(folder, files)

    monkeypatch.setattr(registry, "write_files", meanwhile)
    with pytest.raises(DataError, match="was changed while it was copied, nothing was pushed"):
        push(run, "mlflow:" if to == "mlflow" else str(tmp_path / "models"))
    assert not (tmp_path / "models").exists() or not list((tmp_path / "models" / "cpu").iterdir())
    if client is not None:
        assert not client.search_registered_models()


def test_a_number_that_was_deleted_is_not_given_to_another_build(run: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    for seed in (1, 2, 3):
        again(run, seed)
        push(run, str(models))
    shutil.rmtree(models / "cpu" / "1")
    assert (push(run, str(models)).version, push(run, str(models)).new) == (3, False)  # found behind the gap
    again(run, 4)
    assert push(run, str(models)).version == 4


def test_what_can_be_seen_to_be_no_signature_of_a_build_is_not_pushed_as_one(run: Path, tmp_path: Path) -> None:
    path, models = run / "bundle" / SIGNATURE, str(tmp_path / "models")
    for text in ("signed", "", signature("one").replace("trusted comment: of", "of"), signature("x" * 90)):
        path.write_text(text)
        with pytest.raises(DataError, match=r"minisig: is no signature of minisign; remove it, or next: (.*)") as no:
            push(run, models)
        assert str(no.value).endswith(f"next: edgeprune sign {run / 'bundle'} --key SECRET_KEY")
    record = read_build(run)
    ours = f"edgeprune {record.edgeprune}: cpu, {{}}, built {record.created}"
    path.write_text(signature("one", ours.format("PENDING")))  # as an import leaves it
    with pytest.raises(
        DataError, match=r"is of another build \(edgeprune .* PENDING, .* sign \S+/bundle --key SECRET_"
    ):
        push(run, models)
    path.write_text(signature("one", ours.format("PASS")))
    assert push(run, models).signed
    said = CliRunner().invoke(app, ["push", str(run), "--to", models])
    line = f"edgeprune verify {run} --key PUBLIC_KEY"
    assert f"its signature went along and was not checked, next: {line}" in " ".join(said.stdout.split())


def test_a_damaged_copy_in_the_registry_is_not_this_build(run: Path, tmp_path: Path) -> None:
    first = Path(push(run, str(tmp_path / "models")).place)
    (first / "bundle" / "labels.txt").unlink()
    second = push(run, str(tmp_path / "models"))
    assert (second.version, second.new) == (2, True)
    verify_build(Path(second.place)).require_as_built()
    model = Path(second.place) / "bundle" / "model.onnx"
    model.unlink()
    model.write_bytes(b"other")
    assert push(run, str(tmp_path / "models")).version == 3


@pytest.mark.parametrize("below", ["..", ".", "bundle", "models"])
def test_a_build_gets_no_versions_inside_of_itself(run: Path, below: str) -> None:
    before = sorted(run.rglob("*"))
    with pytest.raises(TargetError, match=r"is inside of the build in .*; give a folder of its own"):
        push(run, str(run / below), name=run.name)
    assert sorted(run.rglob("*")) == before


def test_a_number_that_somebody_else_took_meanwhile_is_not_overwritten(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def taken(source: Path, target: Path) -> Path:
        if target.name == "1":
            target.mkdir()
            (target / "theirs").touch()
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", taken)
    assert push(run, str(tmp_path / "models")).version == 2
    assert [path.name for path in (tmp_path / "models" / "cpu" / "1").iterdir()] == ["theirs"]


def test_what_was_changed_is_not_pushed_and_names_stay_in_their_place(run: Path, tmp_path: Path) -> None:
    for name in ("../elsewhere", "", ".hidden", "a/b", "x" * 101, "new\nline"):
        if name:
            with pytest.raises(TargetError, match="--name"):
                push(run, str(tmp_path / "models"), name=name)
    with pytest.raises(TargetError, match=r"mlflow:http://host:5000"):
        push(run, "http://host:5000")
    (tmp_path / "file").touch()
    with pytest.raises(TargetError, match="cannot be written: Not a directory"):
        push(run, str(tmp_path / "file"))
    (run / "bundle" / "model.onnx").write_bytes(b"other")
    with pytest.raises(DataError, match="was changed"):
        push(run, str(tmp_path / "models"))
    assert not (tmp_path / "models").exists()


def test_a_store_that_the_client_cannot_open_alone_says_what_it_needs(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in of the client of mlflow-skinny, which imports a store's SQLAlchemy as it is first asked."""

    class Client:
        def __init__(self, **_: object) -> None: ...

        def search_model_versions(self, *_: object) -> list[object]:
            raise ModuleNotFoundError("No module named 'sqlalchemy'")

    refused = SimpleNamespace(MlflowException=type("MlflowException", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=Client, exceptions=refused))
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", refused)
    with pytest.raises(
        StageError, match=r"not enough for this store: No module named 'sqlalchemy'; next: .*'mlflow>=3"
    ):
        push(run, "mlflow:sqlite:///here.db")


@pytest.mark.parametrize("given", [None, "5"])
def test_a_push_leaves_the_environment_as_it_was(run: Path, monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    seen: list[str | None] = []

    class Client:
        def __init__(self, **_: object) -> None:
            seen.append(os.environ.get(registry.RETRIES))
            raise ModuleNotFoundError("No module named 'sqlalchemy'")

    refused = SimpleNamespace(MlflowException=RuntimeError)
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=Client, exceptions=refused))
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", refused)
    monkeypatch.delenv(registry.RETRIES, raising=False)
    if given is not None:
        monkeypatch.setenv(registry.RETRIES, given)
    with pytest.raises(StageError):
        push(run, "mlflow:sqlite:///here.db")
    assert seen == [given or "2"] and os.environ.get(registry.RETRIES) == given


def test_without_mlflow_the_next_command_is_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(StageError, match=r"next: .*pip install 'mlflow-skinny"):
        push(run, "mlflow:http://localhost:1")


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server is what the extra is for
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return pytest.importorskip("mlflow", reason="MLflow's client is not here (extra mlflow)")


def test_mlflow_gets_versions_with_everything_attached(run: Path, tmp_path: Path, mlflow: Any) -> None:
    for address in ("", (tmp_path / "mlruns").as_uri()):  # the second time the same store by its address
        pushed = push(run, f"mlflow:{address}", name="cells")
        assert pushed == Pushed("cells", 1, "models:/cells/1", "PASS", new=not address)
    for version, text in enumerate(SIGNED, start=3):
        (run / "bundle" / SIGNATURE).write_text(text)
        assert push(run, "mlflow:", name="signed").version == version - 2
        assert not push(run, "mlflow:", name="signed").new
    (run / "bundle" / SIGNATURE).unlink()
    again(run, 2)
    assert push(run, "mlflow:", name="cells").version == 2
    client = mlflow.MlflowClient()
    version = client.get_model_version("cells", "1")
    assert version.tags["edgeprune.verdict"] == "PASS"
    finished = client.get_run(version.run_id)
    assert finished.info.status == "FINISHED"
    assert finished.data.metrics["engine/speed-up"] > 1
    local = Path(client.download_artifacts(version.run_id, "", str(tmp_path)))
    verify_build(local).require_as_built()
    assert (local / "report.html").is_file() and (local / "bundle" / "triton" / "model.onnx").is_file()
    assert not (local / "bundle" / "mine.txt").exists()
    fetched = mlflow.artifacts.download_artifacts(artifact_uri="models:/cells/2", dst_path=str(tmp_path / "fetched"))
    verify_build(Path(fetched)).require_as_built()


def test_a_disk_without_room_for_the_copy_is_one_line(run: Path, mlflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(registry, "write_files", full)
    with pytest.raises(StageError, match=r"cannot be copied to .*: No space left on device"):
        push(run, "mlflow:")


def test_what_mlflow_refuses_is_one_line_and_its_run_has_failed(
    run: Path, mlflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    def refused(*_: object, **__: object) -> None:
        raise MlflowException("no space\nat all")

    with pytest.raises(StageError, match=re.escape("mlflow:nonsense://x: MLflow refuses")) as caught:
        push(run, "mlflow:nonsense://x")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(mlflow.MlflowClient, "create_model_version", refused)
    with pytest.raises(StageError, match=r"no space$"):
        push(run, "mlflow:", name="cells")
    [experiment] = [one for one in mlflow.MlflowClient().search_experiments() if one.name == "cells"]
    [failed] = mlflow.MlflowClient().search_runs([experiment.experiment_id])
    assert failed.info.status == "FAILED"
