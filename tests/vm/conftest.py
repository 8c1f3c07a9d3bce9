"""What the tests of VMs share: one image, and one machine for as many of them as can."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness.machine import vm, vm_image

sys.path.insert(0, str(Path(__file__).parents[1]))
from drills import Drills

ROOT = Path(__file__).parents[2]
MEMORY = 512 << 20
DISK = 1 << 30


@pytest.fixture(scope="session")
def image():
    """The image, made when there is none; a host without QEMU is skipped, with the reason.

    `./inv test` installs what is missing. Where all of it is there, an image that can not be
    made is a failure like any other.
    """
    reason = vm.why_not()
    if reason:
        pytest.skip(reason)
    return vm_image.ensure(say=print)


@pytest.fixture(scope="session")
def machine(image):
    """One VM, started; one processor, since emulating two on two costs more than it gives."""
    made = vm.Vm(memory=MEMORY, cpus=1, disk=DISK, inodes=50_000, start_deadline=400)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def drills(machine, tmp_path_factory):
    with Drills(machine, tmp_path_factory.mktemp("drills")) as ready:
        yield ready


@pytest.fixture
def verb(image, tmp_path):
    """Run a verb to its end in the test's folder, as the wrapper does; nothing is left of it."""
    state = Path(tempfile.mkdtemp(prefix="db-"))  # short: a socket's path has 108 bytes
    here = {"DEATHBENCH_ROOT": tmp_path, "DEATHBENCH_STATE": state, "PYTHONPATH": ROOT}

    def run(*words):
        return subprocess.run(
            [sys.executable, "-P", "-m", "harness.verbs", *words],
            cwd=tmp_path,
            env={**os.environ, **{name: str(path) for name, path in here.items()}},
            capture_output=True,
            text=True,
        )

    yield run
    left = [*state.glob("run/*"), *state.glob("disk/*")]
    shutil.rmtree(state)
    assert left == []
