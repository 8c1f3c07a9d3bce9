"""System calls that Python 3.8 does not offer, and small reads of /proc.

Rule: nothing here decides; a call raises OSError, a reader of /proc answers None for
a process that is gone.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional

LIBC = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS = 0x20000
MS_REC, MS_SLAVE = 0x4000, 0x80000
MNT_DETACH = 2
SYS_PIDFD_OPEN = 434  # the same number on every architecture (added after the unification)
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
PR_SET_NAME = 15


def boot() -> int:
    """Nanoseconds of CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, "%s: %s" % (what, os.strerror(code)))
    return result


def sees_all() -> bool:
    """Is this the kernel's first PID namespace? Its inode is PROC_PID_INIT_INO, on every kernel.

    Trace events and the proc connector name processes by that namespace's numbers alone.
    """
    try:
        return os.readlink("/proc/self/ns/pid") == "pid:[4026531836]"
    except OSError:
        return False


def private_mounts() -> None:
    """A mount namespace of our own: the host's mounts still arrive, ours never leave."""
    _check(LIBC.unshare(CLONE_NEWNS), "unshare")
    _check(LIBC.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_SLAVE), None), "mount")


def mount(source: str, target: str, kind: str) -> None:
    _check(
        LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(0), None),
        "mount %s on %s" % (kind, target),
    )


def pidfd_open(pid: int) -> int:
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    return _check(LIBC.syscall(SYS_PIDFD_OPEN, pid, 0), "pidfd_open")


def set_name(name: str) -> None:
    LIBC.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def lock_memory() -> None:
    """Keep our own pages: an observer of memory pressure must not wait for the disk."""
    _check(LIBC.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT), "mlockall")


def read_text(path: str, limit: int = 65536) -> Optional[str]:
    """A file's text (at most `limit` bytes of it), or None when it cannot be read."""
    try:
        return read_raw(path, limit).decode("utf-8", "replace")
    except OSError:
        return None


def read_raw(path: str, limit: int = 65536) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, limit)
        # Files of /proc come in pages; most end with the first read.
        while data and len(data) < limit:
            more = os.read(fd, limit - len(data))
            if not more:
                break
            data += more
        return data
    finally:
        os.close(fd)


def stat(pid: int) -> Optional[Dict[str, Any]]:
    """{name, state, ppid, start, threads, rss, status} of a process, or None.

    start in ticks since boot, rss in pages, status the raw wait status (0 while alive).
    The name may hold parentheses and spaces: the last ")" ends it.
    """
    text = read_text("/proc/%d/stat" % pid)
    if not text:
        return None
    try:
        left, right = text.rsplit(")", 1)
        rest = right.split()
        return {
            "name": left.split("(", 1)[1],
            "state": rest[0],
            "ppid": int(rest[1]),
            "threads": int(rest[17]),
            "start": int(rest[19]),
            "rss": int(rest[21]),
            "status": int(rest[49]) if len(rest) > 49 else None,
        }
    except (IndexError, ValueError):
        return None


def status_fields(pid: int) -> Optional[Dict[str, str]]:
    """{"Name", "Tgid", "PPid", "NSpid", …} of a process or thread, or None."""
    text = read_text("/proc/%d/status" % pid)
    if not text:
        return None
    found = {}
    for line in text.split("\n"):
        key, colon, value = line.partition(":")
        if colon:
            found[key] = value.strip()
    return found


def cgroup_paths(pid: int) -> Optional[Dict[str, str]]:
    """{controller: path} of a process; the unified hierarchy's controller is "". Or None."""
    text = read_text("/proc/%d/cgroup" % pid)
    if not text:
        return None
    found = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            for controller in parts[1].split(","):
                found[controller.replace("name=", "")] = parts[2]
    return found


def threads(pid: int) -> int:
    """How many threads it has, those that have ended but are not yet gone included; 0: none."""
    try:
        return len(os.listdir("/proc/%d/task" % pid))
    except OSError:
        return 0


def pids() -> List[int]:
    """Every process there is."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def peak_memory() -> int:
    """Our own peak resident size in bytes.

    Not getrusage's: across an exec it keeps what the process that started us had.
    """
    for line in (read_text("/proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
