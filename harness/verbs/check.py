"""`check`: what a colleague runs before every commit. Seconds, no engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.errors import ExitCode


def root() -> Path:
    """The project's folder."""
    return Path(os.environ.get("DEATHBENCH_ROOT", "."))


def main(*, json: bool = False) -> int:
    """ruff, mypy and the fast tests, one after the other; all of them, whatever fails."""
    python = sys.executable
    worst = ExitCode.OK
    for argv in (
        (python, "-m", "ruff", "check", "."),
        (python, "-m", "mypy"),
        (python, "-m", "pytest", "-q", "-m", "not real and not vm"),
    ):
        print("check:", " ".join(argv[2:]), file=sys.stderr, flush=True)
        if subprocess.run(argv, cwd=root(), check=False).returncode:
            worst = ExitCode.USAGE
    return int(worst)
