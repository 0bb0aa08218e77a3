"""Pickles that run code when somebody builds them; each writes the canary file, and does nothing else."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

CANARY = "CANARY"  # replaced by the sandbox's path when a try is prepared


class Calls:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.module, self.name, self.arguments = module, name, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        import importlib

        function: Any = importlib.import_module(self.module)
        for part in self.name.split("."):
            function = getattr(function, part)
        return function, self.arguments


def calls(canary: Path) -> dict[str, Calls]:
    """Ways to write the canary while a pickle is built, by name."""
    shell, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": Calls("os", "system", shell),
        "posix.system": Calls("posix", "system", shell),
        "subprocess.Popen": Calls("subprocess", "Popen", ["touch", str(canary)]),
        "subprocess.check_output": Calls("subprocess", "check_output", ["touch", str(canary)]),
        "builtins.eval": Calls("builtins", "eval", code),
        "builtins.exec": Calls("builtins", "exec", code),
        "builtins.open": Calls("builtins", "open", str(canary), "w"),
        "runpy": Calls("runpy", "_run_code", code, {}),
        "pathlib touch": Calls("pathlib", "Path.touch", canary),
        "numpy runstring": Calls("numpy.testing", "runstring", code, {}),
        "torch collect_env": Calls("torch.utils.collect_env", "run", shell),
        "ultralytics download": Calls(
            "ultralytics.utils.downloads", "safe_download", f"file://{canary.parent}/in/base/w.onnx", str(canary)
        ),
        "ultralytics subprocess": Calls("ultralytics.utils.checks", "subprocess.check_output", ["touch", str(canary)]),
        "logging handler": Calls("logging", "FileHandler", str(canary)),
        "shutil copy": Calls("shutil", "copyfile", "/etc/hostname", str(canary)),
        "zip": Calls("zipfile", "ZipFile", str(canary), "w"),
    }


def nested_pickle(payload: Any, protocol: int = 2) -> bytes:
    """The payload as a bare pickle."""
    return pickle.dumps(payload, protocol)


def npy_of(payload: Any, path: Path) -> Path:
    """A NumPy file of one object: what Ultralytics' label caches are."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    import numpy as np

    content = pickle.dumps(np.array(payload, dtype=object), 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content)
    return path


Payload = Callable[[Path], Any]
