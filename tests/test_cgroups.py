"""Cgroup files of both versions, on directories of plain files."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from harness.errors import EnvironmentInvalid
from harness.machine import cgroups
from harness.machine.cgroups import Layout, Limits


@pytest.fixture
def v2(tmp_path, monkeypatch):
    """A tree that behaves like cgroup2 as far as names go: new directories get their files."""
    files = {
        "cgroup.controllers": "cpuset cpu io memory pids",
        "cgroup.subtree_control": "",
        "memory.swap.max": "max",
        "cgroup.procs": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    real = Path.mkdir

    def mkdir(self, *args, **options):
        real(self, *args, **options)
        for name, text in files.items():
            (self / name).write_text(text)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    return Layout(2, {"": tmp_path})


@pytest.fixture
def v1(tmp_path):
    trees = {}
    for controller in ("memory", "cpu", "cpuset", "pids", "freezer"):
        tree = tmp_path / controller
        tree.mkdir()
        trees[controller] = tree
    for part in ("cpuset.mems", "cpuset.cpus"):
        (trees["cpuset"] / part).write_text("0-3\n")
    return Layout(1, trees)


def test_v2_limits_are_written_to_the_top_and_processes_to_a_leaf(v2, tmp_path):
    """Version 2: limits and controllers on the machine's cgroup, no process in it, swap off."""
    procs = cgroups.make(
        v2, "/deathbench-x", Limits(memory=1 << 30, cpus=1.5, pids=99), leaf="daemons"
    )
    top = tmp_path / "deathbench-x"
    assert procs == [top / "daemons/cgroup.procs"]
    assert (top / "memory.max").read_text() == str(1 << 30)
    assert (top / "memory.swap.max").read_text() == "0"
    assert (top / "cpu.max").read_text() == "150000 100000"
    assert (top / "pids.max").read_text() == "99"
    assert (top / "cgroup.subtree_control").read_text().startswith("+")
    assert cgroups.effective(v2, "/deathbench-x") == {"memory": 1 << 30, "cpus": 1.5, "pids": 99}


def test_v2_without_a_needed_controller_is_refused(v2, tmp_path, monkeypatch):
    """A limit that nobody would enforce is an error, never a silent "as much as there is"."""
    real = Path.mkdir

    def mkdir(self, *args, **options):
        real(self, *args, **options)
        (self / "cgroup.controllers").write_text("pids")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(EnvironmentInvalid, match="memory"):
        cgroups.make(v2, "/deathbench-x", Limits(memory=1 << 30), leaf="daemons")


def test_v2_inside_a_container_makes_room(v2, tmp_path, monkeypatch):
    """What looks like the root there has processes and is no true root: they move into a leaf first."""
    (tmp_path / "cgroup.procs").write_text("11\n12\n")
    real = Path.write_text
    moved = []

    def write_text(self, text, *args, **options):
        if self.parent.name == cgroups.REST and self.name == "cgroup.procs" and text:
            moved.append(text)
        if self == tmp_path / "cgroup.subtree_control" and text.startswith("+") and len(moved) < 2:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real(self, text, *args, **options)

    monkeypatch.setattr(Path, "write_text", write_text)
    cgroups.make(v2, "/deathbench-x", Limits(memory=1 << 30), leaf="daemons")
    assert moved == ["11", "12"]
    assert (tmp_path / "deathbench-x/memory.max").exists()


def test_v1_limits_go_to_their_trees(v1):
    """Version 1: one directory per tree, the cpuset filled from its parent, memory and swap as one."""
    memsw = v1.trees["memory"] / "deathbench-x/memory.memsw.limit_in_bytes"
    memsw.parent.mkdir()
    memsw.write_text("")
    procs = cgroups.make(
        v1, "/deathbench-x", Limits(memory=1 << 30, cpus=0.5, cpuset="1"), leaf="d"
    )
    assert len(procs) == len(v1.trees)
    assert (v1.trees["memory"] / "deathbench-x/memory.limit_in_bytes").read_text() == str(1 << 30)
    assert memsw.read_text() == str(1 << 30)
    assert (v1.trees["cpu"] / "deathbench-x/cpu.cfs_quota_us").read_text() == "50000"
    assert (v1.trees["cpuset"] / "deathbench-x/cpuset.mems").read_text() == "0-3"
    assert (v1.trees["cpuset"] / "deathbench-x/d/cpuset.cpus").read_text() == "1"
    found = cgroups.effective(v1, "/deathbench-x")
    assert (found["memory"], found["cpus"]) == (1 << 30, 0.5)


def test_v1_without_swap_accounting_does_not_swap(v1):
    """No memsw file: swappiness 0 is the next best."""
    cgroups.make(v1, "/deathbench-x", Limits(memory=1 << 30), leaf="d")
    assert (v1.trees["memory"] / "deathbench-x/memory.swappiness").read_text() == "0"


def test_no_limit_reads_back_as_none(v1, v2):
    """Both versions' ways of writing "unlimited" are None."""
    (v1.trees["memory"] / "a").mkdir()
    (v1.trees["memory"] / "a/memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert cgroups.effective(v1, "/a")["memory"] is None
    (v2.trees[""] / "b").mkdir()
    (v2.trees[""] / "b/memory.max").write_text("max\n")
    (v2.trees[""] / "b/cpu.max").write_text("max 100000\n")
    assert cgroups.effective(v2, "/b") == {"memory": None, "cpus": None, "pids": None}


def test_remove_takes_what_is_empty_and_tells_the_rest(v1):
    """True only when nothing is left of it in any tree."""
    nested = v1.trees["memory"] / "deathbench-x/daemons"
    nested.mkdir(parents=True)
    assert cgroups.remove(v1, "/deathbench-x")
    (v1.trees["pids"] / "deathbench-y/busy").mkdir(parents=True)
    (v1.trees["pids"] / "deathbench-y/busy/file").write_text("in the way")
    assert not cgroups.remove(v1, "/deathbench-y")


def test_mounts_decide_the_version():
    """Docker's own rule: version 2 only where the root itself is a cgroup2 file system."""
    hybrid = (
        "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n"
        "cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0\n"
        "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    )
    found = cgroups.layout(hybrid)
    assert found.version == 1
    assert set(found.trees) == {"memory", "name=systemd", "unified"}
    assert cgroups.layout("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n").version == 2
    assert cgroups.layout("broken line\n").trees == {}


def test_a_system_without_proc_has_no_control_groups(monkeypatch):
    """A Mac: nothing to look at is no error, since `clean` and `doctor` run there too."""

    def nothing(self, **_):
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", nothing)
    assert cgroups.layout().trees == {}
