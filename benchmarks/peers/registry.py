"""Which peers there are: whose code, at which commit, run how, and what had to be amended for it to run today.

Nothing of theirs is copied or edited. A driver starts their own entry point in a process of its own, and amends from
outside, before it is called, what keeps it from running with today's Ultralytics or what another data set needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DRIVERS = Path(__file__).resolve().parent / "drivers"


@dataclass(frozen=True)
class Peer:
    """One pruner.

    Attributes:
        name: of the folder below ``--checkouts``, and of its rows.
        about: what it does, for the page.
        source: repository; or the requirement that pip installs into the folder.
        commit: that the checkout has to be at; empty for a package.
        driver: file that runs it.
        code: folders below the checkout that go on the path of its process.
        settings: of each run, by the name of the row.
        amendments: what the driver changes from outside, for the page.
    """

    name: str
    about: str
    source: str
    commit: str
    driver: Path
    settings: dict[str, dict[str, Any]]
    code: tuple[str, ...] = (".",)
    amendments: tuple[str, ...] = field(default=())

    @property
    def how_to_get(self) -> str:
        """The command that makes the folder, without its place."""
        if not self.commit:
            return f"pip install --no-deps --target {self.name} {self.source}"
        return f"git clone {self.source} {self.name} && git -C {self.name} checkout {self.commit[:12]}"


PEERS = (
    Peer(
        "yolo-prune",
        "global LAMP to MACs ×2, in up to 200 steps, widths in multiples of 32: its defaults",
        "https://github.com/xuexiren/yolo-prune",
        "ff4c610862ac1e37937b6c8c36336ea0f5f6d522",
        DRIVERS / "run_yolo_prune.py",
        {"lamp-x2": {}},
        amendments=("none; its fine-tune is left out by giving it no data",),
    ),
    Peer(
        "torch-pruning-example",
        "the example for YOLOv8: half of the channels by group L2 norm in 16 steps, its defaults",
        "https://github.com/VainF/Torch-Pruning",
        "e80127d7c6935c319a7dd6719b8a72e3c1fcbff9",
        DRIVERS / "run_torch_pruning.py",
        {
            "half-16-steps": {"target_prune_rate": 0.5, "iterative_steps": 16},
            "half-1-step": {"target_prune_rate": 0.5, "iterative_steps": 1},
        },
        code=(".", "examples/yolov8"),
        amendments=(
            "the modules of Ultralytics 8.0 that it imports are given under their old names",
            "its training and its validations between steps (ten epochs on coco128 each) are left out",
            "the last model is saved as it is in memory, instead of exported",
        ),
    ),
    Peer(
        "pcb-prune-yolo",
        "channels by group magnitude: its P30 (any width) and its P40-A8 (multiples of 8)",
        "https://github.com/pnthang04/PCB-Prune-YOLO",
        "f38c714c0d9267d3a4ada6fbfe6cf7b8504e3894",
        DRIVERS / "run_pcb_prune.py",
        {
            "p30": {"config": "configs/prune/depgraph.yaml", "pruning-ratio": 0.3, "round-to": 0},
            "p40-a8": {"config": "configs/prune/p40_hw_a8.yaml"},
        },
        code=("src",),
        amendments=("none; it traces at its own 640 px, which decides nothing here",),
    ),
    Peer(
        "nvidia-modelopt",
        "FastNAS: widths in multiples of 32 by sensitivity, to a share of the FLOPs",
        # with what it imports and this project's extra `dev` does not bring; its torch would be a second one
        "nvidia-modelopt==0.47.0 torchprofile==0.0.4 pulp omegaconf tqdm huggingface_hub safetensors regex httpx2 "
        "httpcore2 truststore",
        "",
        DRIVERS / "run_fastnas.py",
        {
            f"fastnas-{share}": {"flops": f"{share}%", "scored": 8, "calibrated": 50}
            for share in (70, 55)  # its narrowest YOLOv8n has 53 % of the FLOPs
        },
        amendments=(
            "the forward passes of `DetectionModel` and `C2f` are replaced by ones of equal outputs that torch.fx can "
            "trace; the head stays untraced, so that only widths inside its branches are searched",
            "the score is minus the detection loss over 8 batches of two images of val; batch statistics are taken "
            "anew over 50 such batches of train, which is as many as it asks for",
            "its notes on the model are removed before saving",
        ),
    ),
)


def runs(only: list[str]) -> Iterator[tuple[Peer, str]]:
    """Every peer with every one of its settings, in the order of the page; ``only``: names of peers, all when empty."""
    for peer in PEERS:
        if not only or peer.name in only:
            for setting in peer.settings:
                yield peer, setting
