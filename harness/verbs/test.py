"""`test`: every test. The real ones start the engine they need and remove it.

A virtual machine is one of them, in what ten minutes of software emulation are enough for;
the rest of it is asked for (`--soak`).
"""

from __future__ import annotations

import subprocess
import sys

from harness.verbs.check import root


def main(*, fast: bool = False, soak: bool = False, k: str = "", json: bool = False) -> int:
    """Hand over to pytest: fast tests first, so that a slip is known in seconds."""
    argv = [sys.executable, "-m", "pytest"]
    if fast:
        argv += ["-m", "not real and not vm"]
    elif not soak:
        argv += ["-m", "not soak"]
    if k:
        argv += ["-k", k]
    return subprocess.run(argv, cwd=root(), check=False).returncode
