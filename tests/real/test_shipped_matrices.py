"""Each shipped matrix in a small form: what its comment says is what the table shows."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.real


def sweep(name, folder, *overrides):
    """The cells of a sweep, one trial each, in a pen of its own: {config values: what it came to}."""
    options = ["machine.kind=pen", "trials.max=1", "warm_up=0", *overrides]
    # Short: a socket's path has 108 bytes.
    state = tempfile.mkdtemp(prefix="db-")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "harness.verbs", "sweep", str(ROOT / "matrix" / name), "--json"]
            + [word for option in options for word in ("-o", option)],
            check=False,
            cwd=folder,
            env={
                **os.environ,
                "DEATHBENCH_ROOT": str(folder),
                "DEATHBENCH_STATE": state,
                "PYTHONPATH": str(ROOT),
            },
            capture_output=True,
            text=True,
            timeout=230,
        )
    finally:
        shutil.rmtree(state, ignore_errors=True)
    assert done.returncode in {0, 2, 4}, done.stderr
    cells = json.loads(done.stdout)["cells"]
    return {tuple(cell["config"].values()): came_to(cell) for cell in cells}


def came_to(cell):
    """The outcome of the cell's one trial, with its hypothesis or cause."""
    if cell["died"]:
        return next(name for name, count in cell["hypotheses"].items() if count)
    if cell["exec_failed"]:
        return f"exec-failed {next(iter(cell['exec_failed_causes']))}"
    return "survived" if cell["survived"] else str(cell)


GIB, MIB = 1 << 30, 1 << 20


def test_memory(tmp_path):
    """The limit kills on either machine; without one, the small machine does and the large not."""
    found = sweep("memory.yaml", tmp_path, "delay=0s")
    assert found == {
        (GIB, 128 * MIB, 0.0): "container-resources",
        (GIB, None, 0.0): "vm-pressure",
        (2 * GIB, 128 * MIB, 0.0): "container-resources",
        (2 * GIB, None, 0.0): "survived",
    }


def test_remount_race(tmp_path):
    """Only what takes the container away races, and only where the pre-task does not wait."""
    found = sweep("remount-race.yaml", tmp_path, "delay=0s,{after: remount-start, for: 50ms}")
    early = "remount-start+50ms"
    assert {key for key, value in found.items() if value == "race"} == {
        ("restart", early),
        ("recreate", early),
    }
    assert set(found.values()) == {"race", "survived"}
    assert {how for how, _ in found} == {"none", "restart", "recreate", "in-place", "propagate"}


def test_cpu(tmp_path):
    """Starved, it leaves by its own watchdog; with a CPU it lives."""
    found = sweep("cpu.yaml", tmp_path, "machine.cpus=2", "neighbours=0")
    assert found == {(2.0, 0.02, 0): "process-exit", (2.0, 1.0, 0): "survived"}


def test_disk(tmp_path):
    """The machine's disk and the container's tmpfs give the same error and different verdicts."""
    found = sweep("disk.yaml", tmp_path)
    assert found == {
        (GIB, "/data"): "vm-pressure",
        (GIB, "/scratch"): "container-resources",
        (2 * GIB, "/data"): "survived",
        (2 * GIB, "/scratch"): "container-resources",
    }


def test_pids(tmp_path):
    """A refused fork ends the main process, or only the pre-task."""
    found = sweep("pids.yaml", tmp_path, "container.pids=16,31,128")
    assert found == {
        (16,): "container-resources",
        (31,): "exec-failed pids-limit",
        (128,): "survived",
    }


def test_full(tmp_path):
    """Two sizes and two remounts of everything at once."""
    found = sweep(
        "full.yaml",
        tmp_path,
        "machine.cpus=2",
        "machine.memory=2GiB",
        "machine.disk=2GiB",
        "remount.how=recreate",
    )
    outcomes = {(key[3], key[5]): value for key, value in found.items()}
    assert outcomes == {
        (128 * MIB, 0.0): "container-resources",
        (None, 0.0): "survived",
        (128 * MIB, "remount-start+0s"): "race",
        (None, "remount-start+0s"): "race",
    }
