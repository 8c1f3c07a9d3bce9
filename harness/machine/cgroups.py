"""One cgroup over a whole pen, on version 1 (a tree per controller) and 2 (one tree).

Rule: this file knows names and formats of cgroup files and nothing of pens. Every
path starts at `Layout.root`, so that a test hands in a directory of plain files.
Docker's own test decides which version it is: version 2 only where the root itself
is a cgroup2 file system; a hybrid's `unified` tree has no controllers.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import EnvironmentInvalid

ROOT = Path("/sys/fs/cgroup")
_PERIOD = 100_000
REST = "deathbench-rest"
"""Where the processes of a container's own root cgroup go, when a pen is made in a container."""
_V2_WANTED = ("memory", "cpu", "pids", "cpuset", "io")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a machine may use. memory in bytes, cpus in processors, cpuset as the kernel writes it."""

    memory: int | None = None
    cpus: float | None = None
    cpuset: str | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Which cgroup trees there are.

    Attributes:
        version: 1 or 2.
        trees: Controller → mount point; on version 2 the one tree under "". A hybrid's
            cgroup2 tree stands under "unified": runc makes a cgroup there too.
    """

    version: int
    trees: dict[str, Path] = field(default_factory=dict)

    def tops(self, name: str) -> list[Path]:
        """The cgroup called `name` in every tree, each path once."""
        return sorted({tree / name.lstrip("/") for tree in self.trees.values()})

    def of(self, controller: str, name: str) -> Path | None:
        """The cgroup in the tree of one controller; None where there is no such tree."""
        tree = self.trees.get("" if self.version == 2 else controller)
        return None if tree is None else tree / name.lstrip("/")

    def named(self, prefix: str) -> list[str]:
        """Names of top-level cgroups that begin so, in any tree."""
        found: set[str] = set()
        for tree in set(self.trees.values()):
            try:
                entries = os.listdir(tree)
            except OSError:
                continue
            found |= {e for e in entries if e.startswith(prefix) and (tree / e).is_dir()}
        return sorted(found)


def layout(mounts: str | None = None) -> Layout:
    """Read which trees are mounted (`mounts`: text of /proc/self/mounts).

    >>> layout("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0")
    Layout(version=2, trees={'': PosixPath('/sys/fs/cgroup')})
    >>> one = layout('''cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
    ... cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0''')
    >>> one.version, sorted(one.trees)
    (1, ['cpu', 'cpuacct', 'unified'])
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text(errors="replace")
        except OSError:
            mounts = ""  # a system without control groups, such as a Mac
    trees: dict[str, Path] = {}
    for line in mounts.splitlines():
        parts = line.split()
        if len(parts) < 4:
            continue
        point = Path(parts[1].replace("\\040", " "))
        if parts[2] == "cgroup2":
            if point == ROOT:
                return Layout(2, {"": point})
            trees.setdefault("unified", point)
        if parts[2] == "cgroup":
            for option in parts[3].split(","):
                if option.startswith("name=") or option in _V1_CONTROLLERS:
                    trees.setdefault(option, point)
    return Layout(1, trees)


_V1_CONTROLLERS = frozenset(
    [
        "blkio",
        "cpu",
        "cpuacct",
        "cpuset",
        "devices",
        "freezer",
        "hugetlb",
        "memory",
        "net_cls",
        "net_prio",
        "perf_event",
        "pids",
        "rdma",
        "misc",
    ]
)


def make(where: Layout, name: str, limits: Limits, *, leaf: str) -> list[Path]:
    """Make the cgroup with its limits and a child `leaf` for processes.

    Version 2 allows processes in leaves only, hence the child; version 1 gets the same
    shape. Returns the `cgroup.procs` files of the leaf, one per tree.

    Raises:
        EnvironmentInvalid: a limit that was asked for can not be set here.
    """
    tops = where.tops(name)
    try:
        if where.version == 2:
            _make_v2(where, name, limits, leaf)
        else:
            _make_v1(where, name, limits, leaf)
    except OSError as error:
        remove(where, name)
        raise EnvironmentInvalid(
            f"the machine's cgroup can not be made: {error}",
            why="its memory and CPU are limited by a control group of its own",
            mend="inv doctor shows which controllers there are",
        ) from error
    return [top / leaf / "cgroup.procs" for top in tops]


def _make_v1(where: Layout, name: str, limits: Limits, leaf: str) -> None:
    for top in where.tops(name):
        for folder in (top, top / leaf):
            folder.mkdir(exist_ok=True)
    cpuset = where.of("cpuset", name)
    if cpuset:
        # A new v1 cpuset is empty and takes no process until both files are filled.
        for folder in (cpuset, cpuset / leaf):
            for part in ("cpuset.mems", "cpuset.cpus"):
                (folder / part).write_text((folder.parent / part).read_text().strip())
    if limits.cpuset:
        _write(cpuset, "cpuset.cpus", limits.cpuset, "cpuset")
        _write(cpuset and cpuset / leaf, "cpuset.cpus", limits.cpuset, "cpuset")
    if limits.memory is not None:
        memory = where.of("memory", name)
        _write(memory, "memory.limit_in_bytes", limits.memory, "memory")
        if memory and (memory / "memory.memsw.limit_in_bytes").exists():
            _write(memory, "memory.memsw.limit_in_bytes", limits.memory, "memory")
        elif memory:
            _write(memory, "memory.swappiness", 0, "memory")
    if limits.cpus is not None:
        cpu = where.of("cpu", name)
        _write(cpu, "cpu.cfs_period_us", _PERIOD, "cpu")
        _write(cpu, "cpu.cfs_quota_us", int(limits.cpus * _PERIOD), "cpu")
    if limits.pids is not None:
        _write(where.of("pids", name), "pids.max", limits.pids, "pids")


def _make_v2(where: Layout, name: str, limits: Limits, leaf: str) -> None:
    tree = where.trees[""]
    top = tree / name.lstrip("/")
    _enable(tree)
    top.mkdir(exist_ok=True)
    needs = {
        "memory": limits.memory is not None,
        "cpu": limits.cpus is not None,
        "pids": limits.pids is not None,
        "cpuset": limits.cpuset is not None,
    }
    have = set((top / "cgroup.controllers").read_text().split())
    for controller, needed in needs.items():
        if needed and controller not in have:
            raise FileNotFoundError(f"controller {controller} is not enabled below {tree}")
    if limits.memory is not None:
        _write(top, "memory.max", limits.memory, "memory")
        if (top / "memory.swap.max").exists():
            _write(top, "memory.swap.max", 0, "memory")
    if limits.cpus is not None:
        _write(top, "cpu.max", f"{int(limits.cpus * _PERIOD)} {_PERIOD}", "cpu")
    if limits.cpuset:
        _write(top, "cpuset.cpus", limits.cpuset, "cpuset")
    if limits.pids is not None:
        _write(top, "pids.max", limits.pids, "pids")
    _enable(top)
    (top / leaf).mkdir(exist_ok=True)


def _enable(folder: Path) -> None:
    """Hand every wanted controller that exists down to the children, one write each.

    One write with several names fails as a whole when one of them is refused.
    """
    have = set((folder / "cgroup.controllers").read_text().split())
    control = folder / "cgroup.subtree_control"
    on = set(control.read_text().split())
    for controller in _V2_WANTED:
        if controller in have and controller not in on:
            try:
                control.write_text(f"+{controller}")
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                _make_room(folder)
                control.write_text(f"+{controller}")


def _make_room(folder: Path) -> None:
    """Move a cgroup's own processes into a leaf, so that it may have limited children.

    The root of all is exempt from that rule; what looks like a root inside a container (a
    cgroup namespace) is not.
    """
    leaf = folder / REST
    leaf.mkdir(exist_ok=True)
    for pid in (folder / "cgroup.procs").read_text().split():
        try:
            (leaf / "cgroup.procs").write_text(pid)
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise


def _write(folder: Path | None, file: str, value: object, controller: str) -> None:
    if folder is None:
        raise FileNotFoundError(f"no {controller} controller is mounted")
    try:
        (folder / file).write_text(str(value))
    except OSError as error:
        raise OSError(error.errno, f"{folder / file} = {value}: {error.strerror}") from error


def effective(where: Layout, name: str) -> dict[str, float | int | None]:
    """Read the limits back: memory (bytes), cpus, pids; None is no limit."""
    v2 = where.version == 2

    def read(controller: str, file: str) -> str:
        folder = where.of(controller, name)
        try:
            return "" if folder is None else (folder / file).read_text().strip()
        except OSError:
            return ""

    memory = _number(read("memory", "memory.max" if v2 else "memory.limit_in_bytes"))
    if v2:
        quota, _, period = read("cpu", "cpu.max").partition(" ")
    else:
        quota, period = read("cpu", "cpu.cfs_quota_us"), read("cpu", "cpu.cfs_period_us")
    cpus = None
    if _number(quota) is not None and int(quota) > 0:
        cpus = int(quota) / (_number(period) or _PERIOD)
    return {
        # v1 writes "no limit" as the largest multiple of a page.
        "memory": None if memory is not None and memory >= 1 << 62 else memory,
        "cpus": cpus,
        "pids": _number(read("pids", "pids.max")),
    }


def _number(text: str) -> int | None:
    return int(text) if text.lstrip("-").isdigit() else None


def processes(where: Layout, name: str) -> set[int]:
    """Every process in the cgroup and below, in any tree."""
    found: set[int] = set()
    for top in where.tops(name):
        for folder, _, files in os.walk(top):
            if "cgroup.procs" not in files:
                continue
            try:
                text = Path(folder, "cgroup.procs").read_text()
            except OSError:
                continue
            found |= {int(p) for p in text.split() if p != "0"}
    return found


def remove(where: Layout, name: str) -> bool:
    """Remove it with everything below, as far as it is empty; True when nothing is left."""
    gone = True
    for top in where.tops(name):
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                continue
        gone = gone and not top.exists()
    return gone
