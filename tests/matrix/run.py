"""Run tests on the oldest and the newest Ultralytics of the range that pyproject.toml states.

Usage: python tests/matrix/run.py [--versions 8.4.67,8.4.190] [pytest arguments]

Each version is unpacked beside the checkout's other build outputs, without its dependencies, and put before the
installed one; its settings live there too, so that a developer's own stay what they are.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / ".matrix"
DEFAULT_TESTS = ["tests/pruning", "tests/test_checkpoint.py"]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--versions", help="comma-separated; by default the oldest of the range and the newest")
    options, rest = arguments.parse_known_args()
    lowest, upper = stated_range((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    versions = options.versions.split(",") if options.versions else [lowest, f"<{upper}"]
    failed = []
    for version in versions:
        folder = unpacked(version)
        paths = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "YOLO_CONFIG_DIR": str(folder / "settings"),
            "YOLO_AUTOINSTALL": "false",
            "YOLO_OFFLINE": "true",
            "EDGEPRUNE_MATRIX": "1",
        }
        (folder / "settings").mkdir(exist_ok=True)
        shown = [sys.executable, "-c", "import ultralytics; print('Ultralytics', ultralytics.__version__, flush=True)"]
        subprocess.run(shown, env=environment, cwd=ROOT, check=True)
        command = [sys.executable, "-m", "pytest", "-q", *(rest or DEFAULT_TESTS)]
        if subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode:
            failed.append(version)
    print(f"failed on: {', '.join(failed)}" if failed else f"passed on: {', '.join(versions)}")
    return 1 if failed else 0


def stated_range(pyproject: str) -> tuple[str, str]:
    """Lower and upper bound of the ultralytics requirement."""
    found = re.search(r'"ultralytics>=([\d.]+),<([\d.]+)"', pyproject)
    if found is None:
        raise SystemExit('pyproject.toml states no range of the form "ultralytics>=A,<B"')
    return found[1], found[2]


def unpacked(version: str) -> Path:
    """A folder that holds one version of Ultralytics and nothing else; ``<8.5`` stands for the newest below."""
    requirement = f"ultralytics{version}" if version[0] in "<>=" else f"ultralytics=={version}"
    folder = PLACE / version.replace("<", "newest-below-")
    if not (folder / "ultralytics").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), requirement]
        subprocess.run(pip, check=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
