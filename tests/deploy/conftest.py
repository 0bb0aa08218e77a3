from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.export.onnx import onnx_from_checkpoint


@pytest.fixture(scope="session")
def exported(shared: Path, tmp_path_factory: pytest.TempPathFactory):
    """ONNX file of a BCCD checkpoint at 320 px by family and head, with `labels.txt` beside it, as in a bundle."""
    done: dict[tuple[str, str], Path] = {}

    def get(family: str, head: str) -> Path:
        if (family, head) not in done:
            folder = tmp_path_factory.mktemp(f"{family}-{head}")
            onnx_from_checkpoint(
                shared / "weights" / f"bccd-{family}n-320.pt", folder / "model.onnx", imgsz=320, head=head
            )
            (folder / "labels.txt").write_text("RBC\nWBC\nPlatelets\n")
            done[family, head] = folder / "model.onnx"
        return done[family, head]

    return get
