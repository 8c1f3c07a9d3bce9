"""The package in an empty environment, used from somebody else's repository."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.real


def run(*argv, folder):
    environment = {
        k: v for k, v in os.environ.items() if k not in {"DEATHBENCH_ROOT", "PYTHONPATH"}
    }
    return subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_program_runs_from_an_empty_environment_in_a_strangers_repository(tmp_path):
    """pip install, `deathbench new`, `deathbench sweep`: results land beside the stranger's files."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "v"], check=True)
    # The packages it depends on are borrowed from this environment: fetching them again
    # would test the network. The program itself is built and installed.
    (library,) = (tmp_path / "v/lib").glob("python3*/site-packages")
    (library / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    source = tmp_path / "source"  # building leaves files beside the source
    shutil.copytree(ROOT / "harness", source / "harness")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = run(tmp_path / "v/bin/pip", "install", "-q", "--no-deps", str(source), folder=tmp_path)
    assert pip.returncode == 0, pip.stderr
    program = tmp_path / "v/bin/deathbench"
    mine = tmp_path / "their repo"
    mine.mkdir()
    made = run(program, "new", "mine", folder=mine)
    assert made.returncode == 0, made.stderr
    swept = run(
        program, "sweep", "matrix/mine.yaml", "--json", "-o", "trials.max=1",
        "-o", "delay=0s", folder=mine,
    )  # fmt: skip
    assert swept.returncode in {0, 2, 4}, swept.stderr
    table = json.loads(swept.stdout)
    assert sum(cell["trials"] for cell in table["cells"]) == len(table["cells"])
    assert (mine / "results" / "latest" / "campaign.yaml").is_file()
