"""`test`: every test there is. The real ones start the engine they need and remove it."""

from __future__ import annotations

import subprocess
import sys

from harness.verbs.check import root


def main(*, fast: bool = False, k: str = "", json: bool = False) -> int:
    """Hand over to pytest: fast tests first, so that a slip is known in seconds."""
    argv = [sys.executable, "-m", "pytest"]
    if fast:
        argv += ["-m", "not real and not vm"]
    if k:
        argv += ["-k", k]
    return subprocess.run(argv, cwd=root(), check=False).returncode
