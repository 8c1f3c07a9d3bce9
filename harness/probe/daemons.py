"""dockerd, containerd and the shims: who they are, whether they run, when they end.

Rule: a daemon is a kernel pid with a start time, found by name below the machine's own
cgroup (a pid file inside a machine holds that machine's pid, which means nothing here).
Its end is told by a pidfd at once; its raw wait status by the proc connector.
"""

from __future__ import annotations

import os
import re
import select
import socket as _socket
import struct
from typing import TYPE_CHECKING

from . import linux
from .linux import boot

if TYPE_CHECKING:
    from typing import Callable, Dict, Optional, Set

    from .lineage import Lineage
    from .loop import Loop
    from .out import Out

NAMES = {"dockerd": "dockerd", "containerd": "containerd"}
SHIM = "containerd-shim"
_ID = re.compile(r"\0-id\0([0-9a-f]{64})\0")
_ELSEWHERE = re.compile(r"^/deathbench-[^/]+|[0-9a-f]{64}")
LOOK_EVERY = 1.0
FORGET = 10
"""Looks after which every process is asked for its name again; an exec is told by lineage."""


def _made_by_its_like(parent: int, name: str, command: str) -> bool:
    comm = linux.read_text("/proc/%d/comm" % parent)
    if comm is None or comm.strip() != name:
        return False
    return linux.read_text("/proc/%d/cmdline" % parent, 4096) == command


class Daemon:
    __slots__ = ("container", "fd", "name", "pid", "start", "state", "status")

    def __init__(self, name: str, pid: int, start: int, container: Optional[str]) -> None:
        self.name, self.pid, self.start, self.container = name, pid, start, container
        self.fd: Optional[int] = None
        self.state = "alive"
        self.status: Optional[int] = None


class Daemons:
    def __init__(
        self,
        loop: Loop,
        out: Out,
        base: str,
        lineage: Lineage,
        drain: Callable[[], None],
        socket: Optional[str] = None,
    ) -> None:
        """drain(): read the proc connector now, so that the status of an end is known."""
        self.loop, self.out, self.base, self.lineage, self.drain = loop, out, base, lineage, drain
        self.known: Dict[int, Daemon] = {}
        self.others: Set[int] = set()
        self.turn = 0
        self.socket = socket
        self.home: Set[str] = set()

    def find_home(self) -> None:
        """Where the process that listens on the engine's socket lives: a pen, a container, or not."""
        if not self.socket:
            return
        try:
            with _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM) as link:
                link.settimeout(1.0)
                link.connect(self.socket)
                peer = struct.unpack(
                    "3i", link.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
                )
        except OSError:
            return  # nobody listens now: what was known stays
        paths = (linux.cgroup_paths(peer[0]) or {}).values()
        self.home = {m.group() for path in paths for m in [_ELSEWHERE.search(path)] if m}

    def start(self) -> None:
        self.find_home()
        self.look()
        self.loop.every(LOOK_EVERY, self.check, "daemons")
        self.out.source("daemons", "active")

    def is_daemon(self, pid: int) -> bool:
        return pid in self.known

    def ours(self, pid: int) -> bool:
        """Is this process of our machine?

        On a whole kernel an engine inside a container, or in a pen beside it, is somebody
        else's: its end is not the end of this one. Whose socket we were given decides.
        """
        paths = linux.cgroup_paths(pid) or {}
        if self.base == "/":
            return self.home == {
                m.group() for path in paths.values() for m in [_ELSEWHERE.search(path)] if m
            }
        base = self.base.rstrip("/")
        return any(path == base or path.startswith(base + "/") for path in paths.values())

    def look(self) -> None:
        """All daemons there are now."""
        self.turn += 1
        if self.turn % FORGET == 0:
            self.others.clear()
        for pid in linux.pids():
            if pid not in self.known and pid not in self.others:
                self.others.add(pid)
                name = linux.read_text("/proc/%d/comm" % pid)
                if name is not None:
                    self.consider(pid, name.strip())

    def consider(self, pid: int, name: str) -> None:
        """A process with a daemon's name: ours?"""
        shim = name.startswith(SHIM)
        if name not in NAMES and not shim:
            return
        seen = linux.stat(pid)
        if seen is None or seen["state"] in "ZX" or not self.ours(pid):
            return
        container = None
        command = linux.read_text("/proc/%d/cmdline" % pid, 4096) or ""
        if _made_by_its_like(seen["ppid"], name, command):
            # Between fork and exec a daemon's child looks like the daemon; as a runc or a proxy
            # it is none, and its end is nobody's death. `executed` tells of one that becomes one.
            return
        if shim:
            match = _ID.search(command)
            if match is None or "\0delete\0" in command or "\0start\0" in command:
                return  # the helper that starts or removes a shim
            container = match.group(1)
        known = self.known.get(pid)
        if known is not None and known.start == seen["start"]:
            return
        daemon = Daemon("shim" if shim else NAMES[name], pid, seen["start"], container)
        self.known[pid] = daemon
        try:
            daemon.fd = linux.pidfd_open(pid)
            self.loop.add(daemon.fd, select.EPOLLIN, lambda mask: self.ended(daemon), "daemons")
        except OSError:
            daemon.fd = None  # `check` will see it go
        self.say(daemon)

    def say(self, daemon: Daemon) -> None:
        now = boot()
        self.out.emit(
            "daemon",
            "daemons",
            now,
            now,
            daemon=daemon.name,
            pid=daemon.pid,
            start=daemon.start,
            state=daemon.state,
            container=daemon.container,
            status=daemon.status,
        )

    def executed(self, pid: int, name: str) -> None:
        """Lineage saw a process become a program."""
        if name in NAMES or name.startswith(SHIM):
            self.consider(pid, name)

    def exited(self, pid: int, status: Optional[int]) -> bool:
        daemon = self.known.get(pid)
        if daemon is not None and daemon.status is None:
            daemon.status = status
            return True
        return daemon is not None

    def ended(self, daemon: Daemon) -> None:
        self.close(daemon)
        self.drain()
        daemon.state = "gone"
        if self.known.get(daemon.pid) is daemon:
            del self.known[daemon.pid]
        self.say(daemon)

    def check(self) -> None:
        """Every second: new ones, stopped ones, and gone ones that no pidfd watches."""
        self.look()
        for daemon in list(self.known.values()):
            seen = linux.stat(daemon.pid)
            if seen is None or seen["start"] != daemon.start or seen["state"] in "ZX":
                if daemon.fd is None:
                    self.ended(daemon)
                continue
            state = "stopped" if seen["state"] in "Tt" else "alive"
            if state != daemon.state:
                daemon.state = state
                self.say(daemon)

    def close(self, daemon: Daemon) -> None:
        if daemon.fd is not None:
            self.loop.remove(daemon.fd)
            os.close(daemon.fd)
            daemon.fd = None

    def resay(self) -> None:
        """Who is there, again: for the head of a trial."""
        for daemon in list(self.known.values()):
            self.say(daemon)

    def stop(self) -> None:
        for daemon in self.known.values():
            self.close(daemon)
        self.known = {}
