"""A sweep over the memory of VMs, as a user runs it, to a finished table and to nothing left."""

from __future__ import annotations

import json

import pytest
import yaml

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
    """The cells of the finished table and the machines of the campaign, each by its size."""
    (folder / "hog.yaml").write_text(EXPERIMENT)
    (folder / "sizes.yaml").write_text(MATRIX)
    ran = verb(
        "sweep",
        "sizes.yaml",
        "--json",
        "-o",
        f"machine.memory={sizes}",
        "-o",
        f"trials.max={trials}",
    )
    assert ran.returncode == 0, ran.stderr
    campaign = yaml.safe_load((folder / "results/latest/campaign.yaml").read_text())
    return json.loads(ran.stdout)["cells"], campaign["machines"]


@pytest.mark.soak
def test_a_small_machine_runs_out(verb, tmp_path):
    """A machine, a row, a global OOM; then there is nothing to clean."""
    (cell,), (machine,) = sweep(verb, tmp_path, "384MiB", 1)
    assert (cell["died"], cell["hypotheses"]["vm-pressure"]) == (1, 1)
    assert machine["asked"]["memory"] == 384 << 20 > machine["effective"]["memory"]
    assert "CONSTRAINT_NONE" in verb("show", "memory=384MiB/1").stdout
    assert json.loads(verb("clean", "--json").stdout)["removed"] == []


@pytest.mark.soak
def test_and_a_large_one_does_not(verb, tmp_path):
    """Two trials of each size, in two blocks: the small one runs out every time, the other never."""
    (small, large), machines = sweep(verb, tmp_path, "384MiB,768MiB", 2)
    assert (small["died"], small["hypotheses"]["vm-pressure"]) == (2, 2)
    assert (large["trials"], large["died"]) == (2, 0)
    assert [m["asked"]["memory"] for m in machines].count(768 << 20) == 2
    assert json.loads(verb("clean", "--json").stdout)["removed"] == []
