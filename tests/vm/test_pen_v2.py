"""A pen on the newer control groups: the same machine, made and removed inside a VM that has them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.vm

ROOT = Path(__file__).parents[2]

# Runs in the guest on its own python3, with nothing installed for it.
_INSIDE = """
import json, os, subprocess, sys
sys.path.insert(0, "/root/inside")
from harness.machine import cgroups
from harness.machine.pen import Pen

said = {"version": cgroups.layout().version}
pen = Pen(memory=200 << 20, cpus=1, disk=1 << 30, pids=500, start_deadline=240)
pen.start()
try:
    said["effective"] = dict(pen.facts().effective)
    docker = ["docker", "-H", pen.docker_host]
    tree = "/root/tree"
    os.makedirs(tree + "/bin")
    subprocess.run(["cp", "/bin/busybox", tree + "/bin/busybox"], check=True)
    os.symlink("busybox", tree + "/bin/tail")
    tar = subprocess.run(["tar", "-C", tree, "-c", "."], stdout=subprocess.PIPE, check=True).stdout
    subprocess.run([*docker, "import", "-", "bb"], input=tar, check=True, stdout=subprocess.DEVNULL)
    ran = subprocess.run([*docker, "run", "--name", "hog", "bb", "tail", "/dev/zero"])
    said["code"] = ran.returncode
    said["hog"] = subprocess.run(
        [*docker, "inspect", "-f", "{{.Id}}", "hog"], stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    said["cgroup"] = pen.cgroup
    top = "/sys/fs/cgroup" + pen.cgroup
    for name in ("memory.max", "memory.swap.max", "memory.events.local", "cgroup.procs"):
        with open(top + "/" + name) as f:
            said[name] = f.read().strip()
    said["dmesg"] = subprocess.run(
        "dmesg | grep oom-kill:", shell=True, stdout=subprocess.PIPE, text=True
    ).stdout
finally:
    pen.stop()
said["left"] = {
    "cgroups": cgroups.layout().named("deathbench-"),
    "run": os.listdir("/run/deathbench"),
    "disk": os.listdir("/var/lib/deathbench"),
    "loops": subprocess.run(["losetup", "-a"], stdout=subprocess.PIPE, text=True).stdout,
}
print(json.dumps(said))
"""


def _harness() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(
            ROOT / "harness", "harness", filter=lambda i: None if "__pycache__" in i.name else i
        )
    return out.getvalue()


def test_a_pen_on_version_two_holds_and_leaves_nothing(machine):
    """Limits are set and read back, running out names the pen's own cgroup, and all of it goes."""
    unpack = ("sh", "-c", "mkdir -p /root/inside && tar -C /root/inside -xf -")
    assert machine.root(unpack, stdin=_harness(), deadline=120).ok
    ran = machine.root(("python3", "-c", _INSIDE), deadline=900)
    assert ran.ok, ran.err.decode()
    said = json.loads(ran.text.strip().splitlines()[-1])
    assert said["version"] == 2
    assert said["effective"]["memory"] == 200 << 20
    assert (said["effective"]["cpus"], said["effective"]["pids"]) == (1, 500)
    assert (said["memory.max"], said["memory.swap.max"]) == (str(200 << 20), "0")
    assert said["cgroup.procs"] == "", "version 2 allows processes in leaves only"
    assert said["code"] == 137
    assert f"oom_memcg={said['cgroup']},task_memcg={said['cgroup']}/{said['hog']}" in said["dmesg"]
    assert "oom 1" in said["memory.events.local"]
    assert said["left"] == {"cgroups": [], "run": [], "disk": [], "loops": ""}
