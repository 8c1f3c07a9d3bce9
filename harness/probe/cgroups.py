"""Control groups: where they are, and their files, v1 and v2.

Rule: a file that changes is sent when it changed; a file that can kill (limits,
counters of kills) is sent whole with the first sample and with every snapshot. Reading
never opens a file twice while its group lives.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from . import linux
from .linux import boot

if TYPE_CHECKING:
    from typing import Dict, List, Optional, Tuple

    from .out import Out

    # By version of control groups, then by controller: names of files.
    Table = Dict[int, Dict[str, Tuple[str, ...]]]

# Read at every sample; what costs or hardly changes comes every tenth.
FAST: Table = {
    1: {
        "memory": (
            "memory.usage_in_bytes",
            "memory.oom_control",
            "memory.failcnt",
            "memory.memsw.usage_in_bytes",
            "memory.memsw.failcnt",
        ),
        "pids": ("pids.current", "pids.events"),
        "cpu": ("cpu.stat",),
        "cpuacct": ("cpuacct.usage",),
        "freezer": ("freezer.state",),
    },
    2: {
        "": (
            "memory.current",
            "memory.events",
            "memory.events.local",
            "memory.swap.current",
            "pids.current",
            "pids.events",
            "cpu.stat",
            "cgroup.events",
        ),
    },
}
SLOW: Table = {
    1: {
        "memory": (
            "memory.limit_in_bytes",
            "memory.max_usage_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.soft_limit_in_bytes",
            "memory.swappiness",
        ),
        "pids": ("pids.max",),
        "cpu": ("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares"),
        "cpuset": ("cpuset.cpus",),
        "blkio": ("blkio.throttle.io_service_bytes",),
    },
    2: {
        "": (
            "memory.max",
            "memory.high",
            "memory.low",
            "memory.oom.group",
            "memory.swap.max",
            "memory.swap.events",
            "memory.peak",
            "memory.pressure",
            "cpu.max",
            "cpu.weight",
            "cpu.pressure",
            "cpuset.cpus",
            "pids.max",
            "io.stat",
            "io.pressure",
            "cgroup.freeze",
        ),
    },
}
# Only at a death and on request.
FULL: Table = {1: {"memory": ("memory.stat",)}, 2: {"": ("memory.stat",)}}
SLOW_EVERY = 10
SETTLING = 5
"""The first samples read all: runc makes the group before it writes its limits."""


class Hierarchies:
    """Which controllers are mounted where; version is that of the memory controller."""

    def __init__(self) -> None:
        self.mounts: Dict[str, str] = {}
        unified = None
        for line in (linux.read_text("/proc/self/mountinfo", 1 << 20) or "").splitlines():
            left, _, right = line.partition(" - ")
            fields, kind = left.split(), right.split()
            if len(fields) < 5 or len(kind) < 3:
                continue
            if kind[0] == "cgroup":
                for option in kind[2].split(","):
                    self.mounts.setdefault(option.replace("name=", ""), fields[4])
            elif kind[0] == "cgroup2" and unified is None:
                unified = fields[4]
        if unified is not None:
            self.mounts[""] = unified
        self.version = 1 if "memory" in self.mounts or unified is None else 2

    def controllers(self) -> List[str]:
        return [c for c in FAST[self.version] if c in self.mounts] + [
            c for c in SLOW[self.version] if c in self.mounts and c not in FAST[self.version]
        ]

    def main(self) -> str:
        """The controller whose path identifies a group: memory's, as the kernel log prints it."""
        return "memory" if self.version == 1 else ""

    def directories(self, path: str, paths: Optional[Dict[str, str]] = None) -> Dict[str, str]:
        """{controller: directory} of a group; paths where controllers differ (v1)."""
        return {
            controller: self.mounts[controller] + (paths or {}).get(controller, path)
            for controller in self.controllers()
        }

    def members(self, path: str) -> List[int]:
        """Pids in a group, by the first hierarchy that has it."""
        for controller in (self.main(), "pids", "freezer", "cpu", "devices", "systemd"):
            if controller in self.mounts:
                text = linux.read_text(self.mounts[controller] + path + "/cgroup.procs", 1 << 20)
                if text is not None:
                    return [int(word) for word in text.split() if word.isdigit()]
        return []


class Group:
    """One control group being sampled. container is None for ancestors and the machine."""

    def __init__(
        self,
        hierarchies: Hierarchies,
        container: Optional[str],
        scope: str,
        path: str,
        paths: Optional[Dict[str, str]] = None,
    ) -> None:
        self.version = hierarchies.version
        self.container, self.scope, self.path = container, scope, path
        self.directories = hierarchies.directories(path, paths)
        self.files: Dict[str, int] = {}
        self.said: Dict[str, str] = {}
        self.absent: Dict[str, str] = {}
        self.turn = 0
        self.users = 0
        self.kept: Tuple[int, Tuple[Dict[str, str], Dict[str, str]]] = (0, ({}, {}))

    def inode(self) -> Optional[int]:
        for directory in self.directories.values():
            try:
                return os.stat(directory).st_ino
            except OSError:
                continue
        return None

    def _read(self, table: Table) -> Dict[str, str]:
        found = {}
        for controller, names in table[self.version].items():
            directory = self.directories.get(controller)
            if directory is None:
                continue
            for name in names:
                shown = "cpu/cpu.stat" if controller == "cpu" and name == "cpu.stat" else name
                if shown in self.absent:
                    continue
                try:
                    fd = self.files.get(shown)
                    if fd is None:
                        fd = os.open(directory + "/" + name, os.O_RDONLY | os.O_CLOEXEC)
                        self.files[shown] = fd
                    found[shown] = os.pread(fd, 8192, 0).decode("utf-8", "replace").rstrip("\n")
                except OSError as error:
                    self.absent[shown] = error.strerror or str(error)
        return found

    def sample(self, full: bool = False) -> Tuple[Dict[str, str], Dict[str, str]]:
        """(changed files, files that cannot be read); everything when full."""
        self.turn += 1
        found = self._read(FAST)
        if full or self.turn < SETTLING or self.turn % SLOW_EVERY == 1:
            found.update(self._read(SLOW))
        if full:
            found.update(self._read(FULL))
            self.said.update(found)
            return found, dict(self.absent)
        changed = {name: text for name, text in found.items() if self.said.get(name) != text}
        self.said.update(changed)
        return changed, {}

    def whole(self, age: int) -> Tuple[Dict[str, str], Dict[str, str]]:
        """A full sample; for a group that is not a container's own, perhaps `age` ns old."""
        now = boot()
        if self.scope == "container" or now - self.kept[0] > age:
            self.kept = (now, self.sample(full=True))
        return self.kept[1]

    def say(self, out: Out, full: bool = False) -> None:
        t = boot()
        files, unreadable = self.sample(full)
        if files or full:
            out.emit(
                "cgroup",
                "cgroup",
                t,
                container=self.container,
                scope=self.scope,
                path=self.path,
                files=files,
                unreadable=unreadable,
            )

    def close(self) -> None:
        for fd in self.files.values():
            os.close(fd)
        self.files = {}
