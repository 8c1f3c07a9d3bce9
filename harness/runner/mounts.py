"""Changing a mount of a running container: in its own namespace, or through propagation.

Rule: no program of the container is used (it may have none): a few lines of Python run
as root in the machine, take the new mount there, enter the container's mount namespace
and put it in place. One mount replaces another in a single move, or its flags change in
a single call: exactly what `mount -o remount` does, and what a race needs.

System calls: open_tree(2), move_mount(2) (Linux 5.2), mount_setattr(2) (5.12), mount(2).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.machine import Machine
    from harness.process import Result

# Numbers are the same on every architecture since 5.1 gave new calls one table.
_SCRIPT = r"""
import ctypes, json, os, sys
want = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
AT_FDCWD, AT_RECURSIVE, EMPTY = -100, 0x8000, 0x1000
RDONLY_ATTR = 1
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_SHARED = 1, 32, 4096, 16384, 1 << 20

def call(name, answer):
    if answer < 0:
        number = ctypes.get_errno()
        raise SystemExit("%s %s: %s" % (name, want["target"], os.strerror(number)))
    return answer

def text(value):
    return ctypes.c_char_p(value.encode())

def clone(source):
    return call("open_tree", libc.syscall(OPEN_TREE, AT_FDCWD, text(source), 1 | 0x80000))

def read_only(tree, on):
    class Attr(ctypes.Structure):
        _fields_ = [(n, ctypes.c_uint64) for n in ("set", "clear", "propagation", "userns")]
    attr = Attr(RDONLY_ATTR, 0, 0, 0) if on else Attr(0, RDONLY_ATTR, 0, 0)
    call("mount_setattr", libc.syscall(MOUNT_SETATTR, tree, text(""), EMPTY, ctypes.byref(attr), 32))

def place(tree, target):
    call("move_mount", libc.syscall(MOVE_MOUNT, tree, text(""), AT_FDCWD, text(target), 4))

def share(path):
    call("bind", libc.mount(text(path), text(path), None, MS_BIND, None))
    call("make-shared", libc.mount(None, text(path), None, MS_SHARED, None))

def at(path):
    with open("/proc/self/mountinfo") as lines:
        points = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    return points.count(path)

if want["do"] == "share":
    print(at(want["target"]))
    share(want["target"])
    raise SystemExit(0)
if want["do"] == "restore":
    while at(want["target"]) > want["before"]:
        call("umount", libc.umount2(text(want["target"]), 2))
    raise SystemExit(0)
tree = clone(want["source"]) if want.get("source") else None
if tree is not None and want.get("mode"):
    read_only(tree, want["mode"] == "ro")
if want.get("pid"):
    entry = os.open("/proc/%d/ns/mnt" % want["pid"], os.O_RDONLY)
    call("setns", libc.setns(entry, 0x20000))
if tree is not None:
    place(tree, want["target"])
else:
    flags = MS_REMOUNT | MS_BIND | (MS_RDONLY if want["mode"] == "ro" else 0)
    call("remount", libc.mount(None, text(want["target"]), None, flags, None))
"""


def _run(machine: Machine, want: Mapping[str, object], deadline: float) -> Result:
    return machine.root(("python3", "-c", _SCRIPT, json.dumps(want)), deadline=deadline)


def in_place(
    machine: Machine,
    *,
    pid: int,
    target: str,
    mode: str | None,
    source: str | None,
    deadline: float,
) -> Result:
    """In the container's mount namespace: other flags for a mount, or another source over it.

    pid is the main process as the machine numbers it (the engine's State.Pid).
    """
    want = {"do": "change", "pid": pid, "target": target, "mode": mode, "source": source}
    return _run(machine, want, deadline)


def propagate(
    machine: Machine, *, over: str, source: str, mode: str | None, deadline: float
) -> Result:
    """On the machine's side: a bind over `over`, which containers that share it will see."""
    want = {"do": "change", "target": over, "mode": mode, "source": source}
    return _run(machine, want, deadline)


def share(machine: Machine, path: str, *, deadline: float) -> Result:
    """Make a directory a shared mount of its own, so that binds over it propagate.

    Its output is how many mounts were there before: somebody may have a disk of his own there.
    """
    return _run(machine, {"do": "share", "target": path}, deadline)


def restore(machine: Machine, path: str, before: int, *, deadline: float) -> Result:
    """Take away what was put over a directory, down to the mounts that were there before."""
    return _run(machine, {"do": "restore", "target": path, "before": before}, deadline)
