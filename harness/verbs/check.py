"""`check`: what a colleague runs before every commit. Seconds, no engine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.errors import ExitCode


def root() -> Path:
    """The project's folder."""
    return Path(os.environ.get("DEATHBENCH_ROOT", "."))


def main(*, json: bool = False) -> int:
    """ruff, mypy and the fast tests side by side; all of them, whatever fails."""
    python = sys.executable
    commands: tuple[tuple[str, ...], ...] = (
        (python, "-m", "ruff", "check", "."),
        (python, "-m", "ruff", "format", "--check", "."),
        (python, "-m", "mypy"),
        (python, "-m", "pytest", "-q", "-m", "not real and not vm"),
    )
    environment = {**os.environ, "DEATHBENCH_EXAMPLES": "check"}
    running = []
    for argv in commands:
        said = tempfile.TemporaryFile()
        program = subprocess.Popen(
            argv, cwd=root(), env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        running.append((program, said))
    worst = ExitCode.OK
    try:
        for argv, (program, said) in zip(commands, running, strict=True):
            print("check:", " ".join(argv[2:]), file=sys.stderr, flush=True)
            failed = program.wait()
            said.seek(0)
            sys.stdout.write(said.read().decode(errors="replace"))
            sys.stdout.flush()
            if failed:
                worst = ExitCode.USAGE
    finally:
        for program, said in running:
            program.kill()
            program.wait()
            said.close()
    return int(worst)
