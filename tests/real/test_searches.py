"""Searches on real containers: the answer is known beforehand, and is found."""

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

# Takes 60 MiB as soon as setup has finished, and keeps them.
HOG = """
name: hog
container:
  image: {rootfs: busybox}
  memory: 128MiB
  pids: 64
  command:
    - sh
    - -c
    - |
      mkfifo /tmp/held
      until [ -e /tmp/go ]; do sleep 0.02; done
      sleep 3600 < /tmp/held &
      exec dd if=/dev/zero bs=60M count=1 > /tmp/held
setup: {run: touch /tmp/go}
pre_task: {run: sleep 0.2, timeout: 10s}
linger: 100ms
"""
MATRIX = """
name: hog
experiment: hog.yaml
machine: {kind: pen, memory: 512MiB, disk: 512MiB}
axes: {container.memory: [16MiB, 48MiB, 96MiB, 128MiB]}
trials: {max: 1}
"""


def verb(folder, *words):
    """(exit code, the JSON document) of one verb in a folder of its own."""
    state = tempfile.mkdtemp(prefix="db-")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "harness.verbs", *words, "--json"],
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
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "hog.yaml").write_text(HOG)
    (tmp_path / "m.yaml").write_text(MATRIX)
    return tmp_path


def test_a_threshold_and_then_its_cause(folder):
    """
    60 MiB die below some 64 MiB: bisect finds where on eight sizes, and confirm shows that
    without the limit nothing dies.
    """
    sizes = "container.memory=32MiB,40MiB,48MiB,56MiB,72MiB,80MiB,96MiB,128MiB"
    search = ("bisect", "m.yaml", "--axis", "container.memory", "--rate", "20%")
    code, found = verb(folder, *search, "-o", sizes, "--direction", "falling", "--most", "60")
    assert code == 0, found
    assert found["answer"]["between"] == [56 << 20, 72 << 20]
    assert found["trials"] < 40
    code, found = verb(folder, "confirm", "memory=56MiB")
    assert (code, found["confirmed"]) == (0, True), found
    assert [c["what"] for c in found["changed"]] == ["container.memory"]
    assert found["without"]["died"] == 0
