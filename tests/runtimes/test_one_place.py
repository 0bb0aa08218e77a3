"""What every runtime says alike of a job that cannot be done, and of what is not installed."""

from __future__ import annotations

import pytest

from edgeprune.errors import DataError, DeviceError
from edgeprune.runtimes.base import Availability, Runtime
from edgeprune.runtimes.bench_worker import JobError
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.runtimes.tensorrt_ import TensorRt
from edgeprune.runtimes.worker import error_of_job


@pytest.mark.parametrize(("kind", "expected"), [("data", DataError), ("device", DeviceError)])
def test_a_job_that_cannot_be_done_is_one_error_wherever_it_ran(kind: str, expected: type[Exception]) -> None:
    error = JobError(kind, "no such file")
    told = error_of_job(error.kind, str(error))
    assert type(told) is expected and str(told) == "no such file"


@pytest.mark.parametrize("runtime", [OnnxRuntime(), TensorRt()], ids=lambda runtime: runtime.name)
def test_a_runtime_that_is_missing_is_said_with_what_gets_it(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "availability", lambda: Availability(False, "not installed", "pip install it"))
    with pytest.raises(DeviceError, match=f"^{runtime.name}: not installed; next: pip install it$"):
        runtime._require()
    assert type(runtime)._require is Runtime._require
