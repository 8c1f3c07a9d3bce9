"""`test`: every test. The real ones start the engine they need and remove it.

Virtual machines are asked for (`--vm`): under software emulation they take as long as all
the rest together, and need another 1 GB of packages and images.
"""

from __future__ import annotations

import subprocess
import sys

from harness.verbs.check import root


def main(*, fast: bool = False, vm: bool = False, k: str = "", json: bool = False) -> int:
    """Hand over to pytest: fast tests first, so that a slip is known in seconds."""
    argv = [sys.executable, "-m", "pytest"]
    if fast:
        argv += ["-m", "not real and not vm"]
    elif not vm:
        argv += ["-m", "not vm"]
    if k:
        argv += ["-k", k]
    return subprocess.run(argv, cwd=root(), check=False).returncode
