"""A sweep over the memory of VMs, as a user runs it, to a finished table and to nothing left."""

from __future__ import annotations

import json

import pytest

from harness import events
from harness.store import Campaign

pytestmark = pytest.mark.vm

# The main process takes 400 MiB in pieces; then it waits for ever.
EXPERIMENT = """
name: hog
container:
  image: {rootfs: busybox}
  network: none
  command:
    - sh
    - -c
    - |
      mkfifo /held
      until [ -e /go ]; do sleep 0.2; done
      exec awk 'BEGIN {
          s = "x"
          while (length(s) < 16777216) s = s s
          for (i = 0; i < 24; i++) held[i] = s
          print "all of it" > "/all"; close("/all")
          getline < "/held"
      }'
setup: {run: touch /go}
pre_task: {run: "until [ -e /all ]; do sleep 0.5; done", timeout: 200s}
linger: 1s
deadlines: {start: 240s, create: 120s, post_mortem: 60s, clean: 120s, trial: 900s}
"""

MATRIX = """
name: sizes
experiment: hog.yaml
machine: {kind: vm, cpus: 1, disk: 1GiB}
axes: {machine.memory: [384MiB]}
trials: {max: 1}
warm_up: 0
"""


def sweep(verb, folder, sizes, trials):
    """(cells of the finished table, campaign) of so many trials at each size."""
    (folder / "hog.yaml").write_text(EXPERIMENT)
    (folder / "sizes.yaml").write_text(MATRIX)
    wish = ("-o", f"machine.memory={sizes}", "-o", f"trials.max={trials}")
    ran = verb("sweep", "sizes.yaml", "--json", *wish)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(verb("clean", "--json").stdout)["removed"] == []
    return json.loads(ran.stdout)["cells"], Campaign.open(folder / "results/latest")


def test_a_small_machine_runs_out(verb, tmp_path):
    """A machine, a row, a global OOM, pressure before it; then there is nothing to clean."""
    (cell,), campaign = sweep(verb, tmp_path, "384MiB", 1)
    assert (cell["died"], cell["hypotheses"]["vm-pressure"]) == (1, 1)
    (machine,) = campaign.meta()["machines"]
    assert machine["asked"]["memory"] == 384 << 20 > machine["effective"]["memory"]
    kept = list(campaign.events("memory=384MiB/1"))
    log = [e.text for e in kept if isinstance(e, events.KernelLine)]
    assert any("constraint=CONSTRAINT_NONE" in line and "global_oom" in line for line in log)
    samples = [e.pressure for e in kept if isinstance(e, events.MachineSample)]
    assert all({"cpu", "memory", "io"} <= set(pressure) for pressure in samples)
    stalled = [int(p["memory"].split("total=")[1].split()[0]) for p in samples]
    assert stalled[-1] > stalled[0]


@pytest.mark.soak
def test_and_a_large_one_does_not(verb, tmp_path):
    """Two trials of each size, in two blocks: the small one runs out every time, the other never."""
    (small, large), campaign = sweep(verb, tmp_path, "384MiB,768MiB", 2)
    assert (small["died"], small["hypotheses"]["vm-pressure"]) == (2, 2)
    assert (large["trials"], large["died"]) == (2, 0)
    boots = {m["boot_id"]: m["asked"]["memory"] >> 20 for m in campaign.meta()["machines"]}
    assert sorted(boots.values()) == [384, 384, 768, 768]
