"""The same matrix in a pen and in a VM: the same outcomes and verdicts, cell by cell.

What can not be the same is in docs/machines.md, with the reason, and not in here. A cause and
the wider one that it is called where evidence is short count as the same.
"""

from __future__ import annotations

import json
from collections import Counter

import pytest

from harness.model.causes import CAUSES

pytestmark = [pytest.mark.vm, pytest.mark.soak]

EXPERIMENT = """
name: same
container:
  image: {rootfs: busybox}
  command: [sh, -c, "trap 'exec tail /dev/zero' USR1; while :; do sleep 0.2; done"]
  network: none
  memory: 64MiB
pre_task: {run: "sleep 8", timeout: 25s}
linger: 1s
deadlines: {start: 240s, create: 120s, post_mortem: 60s, clean: 120s, trial: 900s}
"""

MATRIX = """
name: same
experiment: same.yaml
machine: {kind: pen, memory: 512MiB, cpus: 1, disk: 1GiB}
axes:
  inject:
    - []
    - [{at: pre-task, after: 1s, what: signal, signal: USR1}]
    - [{at: pre-task, after: 1s, what: signal, signal: KILL}]
    - [{at: pre-task, after: 1s, what: docker-kill}]
    - [{at: pre-task, after: 1s, what: shim-kill}]
    - [{at: pre-task, after: 1s, what: freeze, for: 30s}]
trials: {max: 3}
warm_up: 0
"""


def widest(causes):
    """How many trials of each cause, by the widest word for it."""
    return Counter({CAUSES[cause].broader or cause: n for cause, n in causes.items()})


def test_a_pen_and_a_vm_agree(verb, tmp_path):
    """Three trials of six cells in each."""
    (tmp_path / "same.yaml").write_text(EXPERIMENT)
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    said = {}
    for kind in ("pen", "vm"):
        ran = verb("sweep", "matrix.yaml", "--json", "-o", f"machine.kind={kind}")
        assert ran.returncode == 0, ran.stderr
        cells = json.loads(ran.stdout)["cells"]
        said[kind] = {
            c["cell"]: (widest(c["causes"]), widest(c["exec_failed_causes"])) for c in cells
        }
        assert all(c["trials"] == 3 and not c["unobserved"] for c in cells)
    assert said["vm"] == said["pen"]
