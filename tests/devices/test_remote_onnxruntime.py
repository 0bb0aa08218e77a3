"""ONNX Runtime behind a real SSH connection gives what it gives here, and says where it was."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeprune.devices.here import Here
from edgeprune.devices.remote import RemoteDevice
from edgeprune.devices.ssh import Ssh
from edgeprune.errors import DataError, DeviceError
from edgeprune.measure.bench import bench_graphs
from edgeprune.runtimes import runtime
from edgeprune.runtimes.base import BenchSettings
from edgeprune.runtimes.onnxruntime_ import OnnxRuntime
from edgeprune.runtimes.remote_onnxruntime import RemoteOnnxRuntime
from edgeprune.samples.measurement import speed_up_of
from tests.devices.server import Server
from tests.runtimes.models import convolutions

QUICK = BenchSettings(warmup_s=0.05, rounds=24, per_round=4)


def over(server: Server, **options: object) -> RemoteDevice:
    return RemoteDevice(Ssh(server.name), python=sys.executable, **options)  # pyright: ignore[reportArgumentType]


def test_engine_latency_layers_memory_and_outputs_come_from_there(server: Server, tmp_path: Path) -> None:
    small, big = convolutions(tmp_path / "small.onnx"), convolutions(tmp_path / "big.onnx", width=32)
    with over(server) as device:
        there = runtime("onnxruntime", device)
        assert isinstance(there, RemoteOnnxRuntime)
        assert there.availability().ok
        engine = tmp_path / "engine.onnx"
        there.engine_from_onnx(small, engine)
        seen: list[str] = []
        result = bench_graphs([engine, big], there, QUICK, progress=lambda text, **_: seen.append(text))
        with there.session(engine) as session, OnnxRuntime().session(small) as local:
            assert session.input_names == ["images"]
            inputs = {"images": np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)}
            [ours], [theirs] = local.run(inputs).values(), session.run(inputs).values()
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
            server.drop()  # the answer to the next image needs a new connection
            np.testing.assert_array_equal(theirs, session.run(inputs)["output0"])
    first = result.models[0]
    assert len(first.latency.values) == 24 * 4
    assert first.latency.conditions.identity["runtime"].startswith("onnxruntime ")
    assert first.latency.conditions.device.telemetry.source in ("sysfs", "nvidia-smi")
    assert not first.latency.simulated
    assert first.memory is not None and first.memory.peak_rss_bytes > 1e6
    assert {layer.op for layer in first.layers} & {"Conv", "FusedConv"}
    given = speed_up_of(first.latency, result.models[1].latency)
    assert result.models[1].speed_up is not None and result.models[1].speed_up.ratio == given.ratio
    assert any(text.startswith("rounds: ") for text in seen)
    assert server.left() == []


def test_a_python_without_onnxruntime_is_not_usable_and_says_how_to_get_it(server: Server) -> None:
    device = RemoteDevice(Ssh(server.name), python="/usr/bin/python3")
    if device.run(["/usr/bin/python3", "-c", "import onnxruntime"], timeout_s=20).returncode == 0:
        pytest.skip("the system's Python has onnxruntime")
    found = runtime("onnxruntime", device).availability()
    assert not found.ok
    assert "no Python on" in found.detail and "onnxruntime" in found.detail
    assert "device.python" in found.remedy


@pytest.mark.parametrize("named", ["", ".venv/bin/python", "~/.venv/bin/python"])
def test_a_python_below_the_home_serves_sessions_too(named: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    program = home / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    (home / "bin").mkdir()
    without = home / "bin" / "python3"  # the first that is tried, and has no ONNX Runtime
    without.write_text("#!/bin/sh\nexit 1\n")
    without.chmod(0o755)
    env = {"HOME": str(home), "PATH": f"{home}/bin:/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    with RemoteDevice(Here("user@board", env), python=named, agent_python=sys.executable) as device:
        there, model = runtime("onnxruntime", device), convolutions(tmp_path / "m.onnx")
        assert there.availability().ok
        with there.session(model) as session:  # jobs run in the home, a session in the work directory
            assert session.run({"images": np.zeros((1, 3, 32, 32), np.float32)})["output0"].shape[0] == 1


@pytest.mark.skipif(Path("/usr/bin/tegrastats").exists(), reason="a Jetson has its own")
def test_a_broken_nvidia_smi_says_nothing_of_a_cpus_run(tmp_path: Path) -> None:
    """As in a container whose driver is gone, or on a desktop whose card somebody else uses."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "TMPDIR": str(tmp_path), "EDGEPRUNE_LOCK": str(tmp_path / "lock")}
    with RemoteDevice(Here("user@desk", env), python=sys.executable, agent_python=sys.executable) as device:
        [found] = runtime("onnxruntime", device).latency([convolutions(tmp_path / "m.onnx")], QUICK)
        watched = device.run(["true"], timeout_s=60, measured=True).device.telemetry
    state = found.conditions.device
    assert state.telemetry is not None and (state.telemetry.source, state.telemetry.unwatched) == ("sysfs", "")
    assert not state.throttled and watched is not None and watched.source == "nvidia-smi"


def test_a_file_that_is_no_model_is_refused_by_name(server: Server, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with over(server) as device, pytest.raises(DataError, match=r"bad\.onnx"):
        runtime("onnxruntime", device).latency([tmp_path / "bad.onnx"], QUICK)


def test_the_workers_need_no_more_than_python_3_8() -> None:
    import ast
    import io
    import zipfile

    import edgeprune
    from edgeprune.devices.archive import archive
    from edgeprune.runtimes.remote_onnxruntime import WORKERS

    sent = zipfile.ZipFile(io.BytesIO(archive(*WORKERS)))
    names = sent.namelist()
    assert {"edgeprune/agent/jobs.py", "edgeprune/runtimes/bench_worker.py", "__main__.py"} <= set(names)
    sources = [sent.read(name) for name in names]
    for source in (*sources, Path(edgeprune.__file__).with_name("devices").joinpath("fake_programs.py").read_bytes()):
        ast.parse(source, feature_version=(3, 8))


def test_an_unreachable_device_is_not_a_missing_runtime(serve: Callable[..., Server]) -> None:
    server = serve()
    server.stop()
    with pytest.raises(DeviceError, match=r"cannot be reached|connection was lost"):
        runtime("onnxruntime", RemoteDevice(Ssh(server.name))).availability()
