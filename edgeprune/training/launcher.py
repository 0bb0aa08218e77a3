"""torchrun, as a program that ends with the process that wants it: PARENT ARGUMENT ..., by the path of this file.

What trains on several GPUs runs in sessions of its own below torchrun, so no signal of a terminal reaches it, and a
process that is killed by ``kill -9`` tells nobody. It would train on, unseen, in a folder that the same command trains
in again. The kernel is the one that knows of every end, hence Linux' ``PR_SET_PDEATHSIG``; elsewhere nothing is done,
and the lock that the first process holds refuses the second training.

The standard library alone, and torch.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

STARTED_BY = "EDGEPRUNE_LAUNCHER"
"""Variable that tells a process of a training the number of the launcher that started it."""
PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Have this process ended by SIGTERM when its parent ends, however that comes; exits where it has ended already.

    Args:
        parent: its process number.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:
        raise SystemExit(f"process {parent}, which this one works for, has ended")


def main(parent: str, *arguments: str) -> None:
    """Run torchrun with these arguments."""
    end_with(int(parent))
    os.environ[STARTED_BY] = str(os.getpid())
    own = str(Path(__file__).parent)
    sys.path[:] = [folder for folder in sys.path if folder != own]  # its files are no modules for others to import
    from torch.distributed.run import main as torchrun

    torchrun(list(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
