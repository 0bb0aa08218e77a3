from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.export.onnx import onnx_from_checkpoint


@pytest.fixture(scope="session")
def weights(shared: Path):
    """Path of the BCCD checkpoint of a family."""
    return lambda family: shared / "weights" / f"bccd-{family}n-320.pt"


@pytest.fixture(scope="session")
def exported(weights, tmp_path_factory):
    """ONNX file of a BCCD checkpoint at 320 px, exported once a session for each family and head."""
    folder = tmp_path_factory.mktemp("onnx")
    done: dict[tuple[str, str], Path] = {}

    def get(family: str, head: str = "auto") -> Path:
        if (family, head) not in done:
            path = folder / f"{family}-{head}.onnx"
            onnx_from_checkpoint(weights(family), path, imgsz=320, head=head, metadata={"plan": "none"})
            done[family, head] = path
        return done[family, head]

    return get


@pytest.fixture(scope="session")
def val_images(shared: Path) -> list[Path]:
    """Four validation images of BCCD."""
    return sorted((shared / "data" / "bccd" / "images" / "val").glob("*.jpg"))[:4]
