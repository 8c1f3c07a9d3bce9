"""`full` only: the system calls of the daemons' tree (execve, kill, exit, clone).

Rule: strace where the machine has it, as a person would; else the tracer's syscall
events on the same processes. Either slows what it looks at: never part of `light`.
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
    from typing import Any, List, Optional

    from .daemons import Daemons
    from .loop import Loop
    from .out import Out

CALLS = "execve,execveat,kill,tgkill,tkill,exit,exit_group,clone,clone3,fork,vfork"
TRACED = ("execve", "kill", "tgkill", "exit_group", "clone", "clone3")


class Syscalls:
    def __init__(self, loop: Loop, out: Out, daemons: Daemons) -> None:
        self.loop, self.out, self.daemons = loop, out, daemons
        self.child: Any = None
        self.instance: Optional[tracefs.Instance] = None
        self.buffer = b""
        self.flood = Bucket(1000, 10000)
        self.name = ""
        self.root: Optional[str] = None

    def start(self, root: Optional[str], name: str) -> None:
        self.root, self.name = root, name
        program = shutil.which("strace")
        pids = sorted(self.daemons.known)
        if program is not None and pids:
            self.strace(program, pids)
        elif root is not None:
            self.trace(root, name, pids)
        else:
            self.out.source("syscalls", "unsupported", "neither strace nor tracefs")

    def strace(self, program: str, pids: List[int]) -> None:
        command = [program, "-f", "-q", "-ttt", "-e", "trace=" + CALLS, "-e", "signal=all"]
        for pid in pids:
            command += ["-p", str(pid)]
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
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

    def trace(self, root: str, name: str, pids: List[int]) -> None:
        """set_event_pid with event-fork: the daemons and all they make."""
        self.instance = tracefs.Instance(root, name, 2048)
        self.instance.write("options/event-fork", "1")
        if pids:
            self.instance.write("set_event_pid", " ".join(str(pid) for pid in pids))
        on = [call for call in TRACED if self.instance.enable("syscalls/sys_enter_" + call)]
        if not on:
            self.instance.remove()
            self.instance = None
            self.out.source("syscalls", "unsupported", "no strace, and no syscall tracepoints")
            return
        self.loop.every(0.02, self.drain, "syscalls")
        self.out.source("syscalls", "partial", "no strace: tracepoints of " + ", ".join(on))

    def drain(self) -> None:
        if self.instance is not None:
            for line in self.instance.read(10_000_000):
                self.say("trace", line.text)
            lost = self.instance.overruns()
            if lost:
                now = boot()
                self.out.gap("syscalls", now - 20_000_000, now, "the trace buffer overran", lost)

    def say(self, tracer: str, text: str) -> None:
        if not self.flood.take():
            self.out.drop("syscalls")
            return
        self.out.emit("syscall", "syscalls", boot(), tracer=tracer, of="daemons", text=text[:2000])

    def executed(self, pid: int, name: str) -> None:
        """A daemon that began later is not traced by the strace that runs: begin anew."""
        if self.child is not None and name == "dockerd":
            self.stop()
            self.loop.after(0.2, lambda: self.start(self.root, self.name), "syscalls")

    def end(self) -> None:
        self.loop.remove(self.child.stderr.fileno())
        self.child.stderr.close()
        self.child.wait()
        self.child = None

    def stop(self) -> None:
        if self.child is not None:
            self.child.send_signal(signal.SIGINT)  # detaches
            self.end()
        if self.instance is not None:
            self.instance.remove()
            self.instance = None
