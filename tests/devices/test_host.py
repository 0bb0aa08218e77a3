"""Host facts from files of known content."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.agent.facts import Gpu, gpus
from edgeprune.agent.host import cpu_identity, governor, host_state, temperature_c, versions

X86 = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nflags\t\t: fpu avx2 fma avx512f avx512_vnni\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n"


@pytest.mark.parametrize(
    ("text", "cpu", "isa"),
    [
        (X86, "Some CPU @ 3 GHz", "avx2 fma avx512f avx512_vnni"),
        (ARM, "implementer 0x41 part 0xd42", "asimd asimdhp asimddp"),
    ],
)
def test_cpu_identity(text: str, cpu: str, isa: str) -> None:
    found = cpu_identity(text)
    assert (found["cpu"], found["isa"]) == (cpu, isa)


def test_an_empty_cpuinfo_claims_nothing() -> None:
    assert cpu_identity("")["isa"] == "none known"


def test_governor_and_temperature(tmp_path: Path) -> None:
    assert governor(tmp_path) == "unknown"
    assert temperature_c(tmp_path) is None
    for number, (name, heat) in enumerate([("performance", "41500"), ("performance", "-273000"), ("schedutil", "x")]):
        cpu = tmp_path / f"cpu{number}" / "cpufreq"
        zone = tmp_path / f"thermal_zone{number}"
        cpu.mkdir(parents=True)
        zone.mkdir()
        (cpu / "scaling_governor").write_text(name + "\n")
        (zone / "temp").write_text(heat + "\n")
    assert governor(tmp_path) == "performance schedutil"
    assert temperature_c(tmp_path) == 41.5


def test_versions_and_conditions_of_this_host() -> None:
    assert {"python", "numpy"} <= set(versions())
    found = host_state()
    assert found.cpus >= 1 and len(found.load_average) == 3


def test_gpus_are_read_from_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, 9.0, 570.1, 81559'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpus() == [Gpu("NVIDIA H100", "9.0", "570.1", 81559)]
    for nothing in ("exit 9", "echo 'Orin (nvgpu), [N/A], 540.4.0, [N/A]'", "echo 'Orin (nvgpu), 8.7, 540.4.0, 7620'"):
        tool.write_text(f"#!/bin/sh\n{nothing}\n")
        assert gpus() == []
