"""Finished bundles in versions, with their reports: a folder, or MLflow's model registry through its own client."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeprune.artifact import not_written, sha256_of, write_files
from edgeprune.errors import DataError, StageError, TargetError, first_line
from edgeprune.reading import is_file, shown
from edgeprune.records.build import BuildRecord
from edgeprune.records.show import RECORD
from edgeprune.records.signature import SIGNATURE, refuse_other_signature
from edgeprune.records.verify import verify_build
from edgeprune.scratch import scratch
from edgeprune.version import declared, pip, pip_extra
from edgeprune.workspace import BUNDLE

MLFLOW = "mlflow:"
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
DIGEST_TAG = "edgeprune.build_json_sha256"
SIGNATURE_TAG = "edgeprune.signature_sha256"


@dataclass(frozen=True)
class Pushed:
    """A version of a model in a registry.

    Attributes:
        name: of the model.
        version: counted from 1.
        place: folder, or address in MLflow.
        verdict: of the build.
        new: False where this very build was there already.
        signed: a signature went along, which only its public key can check.
    """

    name: str
    version: int
    place: str
    verdict: str
    new: bool
    signed: bool = False


@dataclass(frozen=True)
class _Shipment:
    """What is pushed: ``files`` by their place in the registry, and reports.

    A build or an import may replace the files meanwhile, so that only copies of them are given away: see :meth:`copy`.
    """

    name: str
    record: BuildRecord
    bundle: Path
    digest: str
    signature: str
    files: dict[str, Path]
    reports: dict[str, bytes]

    def pushed(self, version: int | str, place: str, *, new: bool) -> Pushed:
        return Pushed(self.name, int(version), place, self.record.verdict.value, new, bool(self.signature))

    def copy(self, folder: Path) -> None:
        """Copy files and reports below ``folder``; ``DataError`` where the copy is not the build that was verified."""
        try:
            write_files(folder, {**self.files, **self.reports})
        except OSError:
            if all(map(is_file, self.files.values())):
                raise
        if not self.is_whole(folder / BUNDLE):
            raise DataError(
                f"{shown(self.bundle)}: was changed while it was copied, nothing was pushed; wait for the build or the "
                "import that works there, then push again"
            )

    def is_whole(self, bundle: Path) -> bool:
        """Whether a bundle is this build, whole, and signed alike where this one is signed."""
        if not is_file(bundle / RECORD) or sha256_of(bundle / RECORD) != self.digest:
            return False
        signature = bundle / SIGNATURE
        if self.signature and (not is_file(signature) or sha256_of(signature) != self.signature):
            return False
        verified = verify_build(bundle)
        return not (verified.changed or verified.missing)


def push(directory: Path, to: str, *, name: str | None = None) -> Pushed:
    """Copy a bundle that is as it was built, with its reports, as the next version of a model.

    A build that is there already and whole, with the same signature or none, is not copied again. The report is written
    from the record; the page beside the bundle has pictures too, and is taken where it is there.

    Args:
        directory: run directory or bundle.
        to: a folder, or ``mlflow:`` with the address of a tracking server (``MLFLOW_TRACKING_URI`` where none follows).
        name: of the model; the target's when not given.

    Raises:
        DataError: the bundle is not as it was built, or beside it lies no signature of it.
        TargetError: a name that no folder can have, or a place that is none, or that is inside a build.
        StageError: MLflow is not installed, or refuses.
    """
    shipment = _shipment(directory, name)
    if to.startswith(MLFLOW):
        return _to_mlflow(shipment, to.removeprefix(MLFLOW))
    if ":/" in to:
        raise TargetError(f"--to {shown(to)}: a folder or {MLFLOW}ADDRESS is allowed, for example {MLFLOW}{shown(to)}")
    return _to_folder(shipment, Path(to))


def _shipment(directory: Path, name: str | None) -> _Shipment:
    from edgeprune.report.build import PAGE, REPORT, build_markdown, build_page, page_beside

    verified = verify_build(directory)
    verified.require_as_built()
    record, bundle = verified.record, verified.bundle
    name = name or record.target.name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise TargetError(f"--name {shown(name)}: letters, digits, '_', '-' and '.' are allowed, 100 of them")
    signed = is_file(bundle / SIGNATURE)
    if signed:
        refuse_other_signature(bundle, record)
    names = [*record.bundle, RECORD, *([SIGNATURE] if signed else [])]
    return _Shipment(
        name=name,
        record=record,
        bundle=bundle,
        digest=hashlib.sha256(verified.content).hexdigest(),
        signature=sha256_of(bundle / SIGNATURE) if signed else "",
        files={f"{BUNDLE}/{name}": bundle / name for name in names},
        reports={
            REPORT: build_markdown(record).encode(),
            PAGE: page_beside(record, bundle) or build_page(record).encode(),
        },
    )


def _to_folder(shipment: _Shipment, root: Path) -> Pushed:
    """``ROOT/NAME/VERSION``, which is a run directory: ``show``, ``verify`` and ``history`` read it."""
    home = root / shipment.name
    for folder in (resolved := Path(os.path.realpath(home)), *resolved.parents):
        if is_file(folder / RECORD) or is_file(folder / BUNDLE / RECORD):
            raise TargetError(
                f"--to {shown(root)}: {shown(home)} is inside of the build in {shown(folder)}; give a folder of its own"
            )
    try:
        home.mkdir(parents=True, exist_ok=True)
        versions = sorted(int(path.name) for path in home.iterdir() if re.fullmatch(r"[1-9][0-9]{0,9}", path.name))
        for known in versions:
            if shipment.is_whole(home / str(known) / BUNDLE):
                return shipment.pushed(known, str(home / str(known)), new=False)
        version = max(versions, default=0) + 1  # a lower one that was deleted is not given to another build
        partial = home / f".partial-{uuid.uuid4().hex[:8]}"
        try:
            shipment.copy(partial)
            while True:
                try:
                    partial.rename(home / str(version))  # fails where somebody else took the number
                    return shipment.pushed(version, str(home / str(version)), new=True)
                except OSError:
                    if not (home / str(version)).exists():
                        raise
                    version += 1
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise not_written(f"--to {shown(root)}", error, "give a folder that you may write to") from error


def _to_mlflow(shipment: _Shipment, address: str) -> Pushed:
    """A run with the files as artifacts and the gates as metrics, and a version of a registered model made from it."""
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise StageError(
            f"--to {MLFLOW} needs MLflow's client; next: {pip_extra('mlflow', 'mlflow-skinny')}"
        ) from error
    try:
        with scratch(), _few_retries():
            return _register(MlflowClient(tracking_uri=address or None, registry_uri=address or None), shipment)
    except MlflowException as error:
        raise StageError(f"--to {shown(MLFLOW + address)}: MLflow refuses: {first_line(error, 600)}") from error
    except ImportError as error:  # stores are imported as they are asked: that of a database needs SQLAlchemy
        raise StageError(
            f"--to {shown(MLFLOW + address)}: MLflow's client is not enough for this store: {first_line(error)}; "
            f"next: {pip('install', declared('mlflow-skinny', 'mlflow').replace('-skinny', ''))}"
        ) from error


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
    """MLflow's own seven retries are four minutes without a word; the number of whoever set one stays."""
    given = os.environ.get(RETRIES)
    os.environ.setdefault(RETRIES, "2")
    try:
        yield
    finally:
        if given is None:
            os.environ.pop(RETRIES, None)


def _register(client: Any, shipment: _Shipment) -> Pushed:
    name = shipment.name
    for version in client.search_model_versions(f"name='{name}'"):
        known = version.tags.get(DIGEST_TAG), version.tags.get(SIGNATURE_TAG, "")
        if known[0] == shipment.digest and (not shipment.signature or known[1] == shipment.signature):
            return shipment.pushed(version.version, f"models:/{name}/{version.version}", new=False)
    with TemporaryDirectory(prefix="edgeprune-push-") as folder:
        try:
            shipment.copy(Path(folder))
        except OSError as error:
            raise StageError(
                f"{shown(shipment.bundle)}: cannot be copied to {folder}: {error.strerror or first_line(error)}; free "
                "some space, or name a folder with more by EDGEPRUNE_CACHE"
            ) from error
        return _registered(client, shipment, Path(folder))


def _registered(client: Any, shipment: _Shipment, folder: Path) -> Pushed:
    """A new version from a copy of the shipment in ``folder``."""
    from mlflow.exceptions import MlflowException

    record, name = shipment.record, shipment.name
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment is not None else client.create_experiment(name)
    tags = {
        DIGEST_TAG: shipment.digest,
        **({SIGNATURE_TAG: shipment.signature} if shipment.signature else {}),
        "edgeprune.verdict": record.verdict.value,
        "edgeprune.version": record.edgeprune,
        "edgeprune.task": record.task,
        "edgeprune.created": record.created,
        "edgeprune.weights_sha256": record.weights.sha256,
        "edgeprune.dataset": record.dataset.sha256,
    }
    run = client.create_run(experiment_id, tags=tags, run_name=f"{record.target.name} {record.created}")
    run_id = run.info.run_id
    try:
        for place in shipment.files:
            client.log_artifact(run_id, str(folder / place), place.rpartition("/")[0] or None)
        for place, content in shipment.reports.items():
            client.log_text(run_id, content.decode(), place)
        for gate in record.gates:
            if gate.value is not None:
                client.log_metric(run_id, re.sub(r"[^\w\-. /:]", "_", f"{gate.stage}/{gate.metric}"), gate.value)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = client.create_model_version(name, source=f"runs:/{run_id}/{BUNDLE}", run_id=run_id, tags=tags)
    except BaseException:
        client.set_terminated(run_id, status="FAILED")
        raise
    client.set_terminated(run_id)
    return shipment.pushed(made.version, f"models:/{name}/{made.version}", new=True)
