"""`full` only: the system calls of the daemons' tree (execve, kill, exit, clone).

Rule: the tracer's syscall events first: an attached strace stops every process of the
tree at every call, whatever it was asked to show (seen: a syscall-heavy pre-task ninety
times slower), the tracer's events cost each call a fraction of a microsecond. strace
where there is no tracefs, or where the configuration asks for it (`tracer: strace`).
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

from . import tracefs
from .linux import boot
from .out import Bucket

if TYPE_CHECKING:
    from typing import Any, List, Optional, Tuple

    from .daemons import Daemons
    from .loop import Loop
    from .out import Out

CALLS = "execve,execveat,kill,tgkill,tkill,exit,exit_group,clone,clone3,fork,vfork"
# The program's name is in sched_process_exec; the call itself shows a pointer.
EVENTS = (
    "sched/sched_process_exec",
    "syscalls/sys_enter_kill",
    "syscalls/sys_enter_tgkill",
    "syscalls/sys_enter_pidfd_send_signal",
    "syscalls/sys_enter_exit_group",
    "syscalls/sys_enter_clone",
    "syscalls/sys_exit_clone",
    "syscalls/sys_enter_clone3",
    "syscalls/sys_exit_clone3",
    "syscalls/sys_enter_vfork",
    "syscalls/sys_exit_execve",
)
# Go's runtime interrupts its own threads with SIGURG, all the time.
FILTERS = {"syscalls/sys_enter_tgkill": "sig != 23"}
EVERY = 0.05


class Syscalls:
    def __init__(self, loop: Loop, out: Out, daemons: Daemons, tracer: str) -> None:
        self.loop, self.out, self.daemons, self.tracer = loop, out, daemons, tracer
        self.child: Any = None
        self.instance: Optional[tracefs.Instance] = None
        self.buffer = b""
        self.flood = Bucket(1000, 10000)
        self.root: Optional[str] = None
        self.stem = ""
        self.wanted = False
        self.number = 0
        self.read_until = boot()

    def start(self, root: Optional[str], stem: str) -> None:
        self.root, self.stem, self.wanted = root, stem, True
        program = shutil.which("strace")
        if program is not None and (self.tracer == "strace" or root is None):
            self.strace(program)
        elif root is not None:
            pids = sorted(self.daemons.known)
            self.number += 1
            name = "%s-s%d" % (stem, self.number)
            # Naming pids waits for the kernel (tens of milliseconds): not in the loop.
            self.loop.aside(lambda: _make(root, name, pids), self.made, "syscalls")
        else:
            self.out.source("syscalls", "unsupported", "neither tracefs nor strace")

    def strace(self, program: str) -> None:
        pids = sorted(self.daemons.known)
        if not pids:
            self.out.source("syscalls", "unsupported", "no daemon was found to trace")
            return
        command = [program, "-f", "-q", "-ttt", "-e", "trace=" + CALLS, "-e", "signal=all"]
        for pid in pids:
            command += ["-p", str(pid)]
        self.child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        fd = self.child.stderr.fileno()
        os.set_blocking(fd, False)
        self.loop.add(fd, select.EPOLLIN, self.read, "syscalls")
        self.out.source("syscalls", "active", "strace of %d daemons" % len(pids))

    def read(self, mask: int) -> None:
        try:
            data = os.read(self.child.stderr.fileno(), 65536)
        except BlockingIOError:
            return
        if not data:
            self.end()
            now = boot()
            self.out.gap("syscalls", now, None, "strace ended")
            return
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            self.say("strace", line.decode("utf-8", "replace"))

    def made(self, found: Tuple[tracefs.Instance, List[str]]) -> None:
        """The instance is there: read it from now on."""
        instance, on = found
        if not on or not self.wanted or self.instance is not None:
            instance.remove()
            if not on:
                self.out.source("syscalls", "unsupported", "this kernel traces no system calls")
            return
        self.instance, self.read_until = instance, boot()
        self.loop.after(EVERY, self.drain, "syscalls")
        self.out.source("syscalls", "active", "tracepoints: " + ", ".join(on))

    def drain(self) -> None:
        if self.instance is None:
            return
        for line in self.instance.read(10_000_000):
            self.say("trace", line.text, line.t)
        lost, now = self.instance.overruns(), boot()
        if lost:
            self.out.gap("syscalls", self.read_until, now, "the trace buffer overran", lost)
        self.read_until = now
        self.loop.after(EVERY, self.drain, "syscalls")

    def say(self, tracer: str, text: str, t: Optional[int] = None) -> None:
        now = boot()
        if not self.flood.take():
            self.out.shed("syscalls", t or now)
            return
        self.out.emit(
            "syscall", "syscalls", t or now, now, tracer=tracer, of="daemons", text=text[:2000]
        )

    def executed(self, pid: int, name: str) -> None:
        """A daemon that began later has its own tree: begin anew with it."""
        if self.wanted and name in ("dockerd", "containerd"):
            root, stem = self.root, self.stem
            self.stop()
            self.loop.after(0.2, lambda: self.start(root, stem), "syscalls")

    def end(self) -> None:
        self.loop.remove(self.child.stderr.fileno())
        self.child.stderr.close()
        self.child.wait()
        self.child = None

    def stop(self) -> None:
        self.wanted = False
        if self.child is not None:
            self.child.send_signal(signal.SIGINT)  # detaches
            self.end()
        if self.instance is not None:
            self.instance.remove()
            self.instance = None


def threads(pids: List[int]) -> List[str]:
    """The tracer knows threads, not processes."""
    found: List[str] = []
    for pid in pids:
        try:
            found += os.listdir("/proc/%d/task" % pid)
        except OSError:
            continue  # it has ended meanwhile
    return found


def _make(root: str, name: str, pids: List[int]) -> Tuple[tracefs.Instance, List[str]]:
    """An instance for these processes and all that they will make, with what it can trace."""
    instance = tracefs.Instance(root, name, 2048)
    try:
        instance.write("options/event-fork", "1")
        first = threads(pids)
        instance.write("set_event_pid", " ".join(first) + "\n")
        # Those that were born between the look and the naming; from now on births are followed.
        late = sorted(set(threads(pids)) - set(first))
        if late:
            instance.write("set_event_pid", " ".join(late) + "\n", more=True)
        on = [e.partition("/")[2] for e in EVENTS if instance.enable(e, FILTERS.get(e))]
    except OSError:
        instance.remove()
        raise
    return instance, on
