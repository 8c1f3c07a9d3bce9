"""The machine as a whole: memory, load, processes, disks, pressure.

Rule: a number here explains a death, it never decides one. Disks are asked by the
helper thread, because a file system can hang.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from . import linux
from .linux import boot

if TYPE_CHECKING:
    from typing import Dict, Iterable, Tuple

    from .loop import Loop
    from .out import Out

MEMORY = frozenset(
    [
        "MemTotal",
        "MemFree",
        "MemAvailable",
        "Buffers",
        "Cached",
        "SwapTotal",
        "SwapFree",
        "Dirty",
        "Slab",
        "SUnreclaim",
        "Committed_AS",
        "Shmem",
    ]
)
PRESSURE = ("memory", "cpu", "io")


class Machine:
    def __init__(self, loop: Loop, out: Out, roots: Iterable[str]) -> None:
        self.loop, self.out = loop, out
        self.roots = list(roots)
        self.disks: Dict[str, Dict[str, int]] = {}
        self.disks_at = 0
        self.wanted = False
        self.asking = False
        self.psi = os.path.exists("/proc/pressure/memory")

    def start(self, hz: float) -> None:
        try:
            linux.read_raw("/proc/pressure/memory")
        except OSError as error:
            self.psi = False
            self.out.source("pressure", "unsupported", "no PSI support: %s" % error.strerror)
        else:
            self.out.source("pressure", "active")
        self.out.source("machine", "active")
        self.disks_at, self.disks = self.ask_disks()
        self.say()
        # Five times slower than cgroups: the machine's memory is also its own cgroup's.
        self.loop.every(max(0.2, 5.0 / hz), self.say, "machine")
        self.loop.every(max(0.2, 2.0 / hz), self.refresh_disks, "machine")

    def ask_disks(self) -> Tuple[int, Dict[str, Dict[str, int]]]:
        """statvfs of every root and /, and when it was asked."""
        asked = boot()
        found = {}
        for place in ["/", *self.roots]:
            try:
                seen = os.statvfs(place)
                device = os.stat(place).st_dev
            except OSError:
                continue
            found[place] = {
                "total": seen.f_blocks * seen.f_frsize,
                "free": seen.f_bavail * seen.f_frsize,
                "inodes": seen.f_files,
                "inodes_free": seen.f_favail,
                "device": device,
            }
        return asked, found

    def refresh_disks(self, then_say: bool = False) -> None:
        self.wanted = self.wanted or then_say
        if self.asking:
            return  # it hangs: the last answer stays, with its age
        self.asking = True

        def done(found: Tuple[int, Dict[str, Dict[str, int]]]) -> None:
            self.asking = False
            self.disks_at, self.disks = found
            if self.wanted:
                self.wanted = False
                self.say()

        self.loop.aside(self.ask_disks, done, "machine")

    def afresh(self) -> None:
        """A sample whose disks were asked after this call: what a death is judged by."""
        self.refresh_disks(then_say=True)

    def say(self) -> None:
        memory = {}
        for line in (linux.read_text("/proc/meminfo") or "").splitlines():
            key, _, value = line.partition(":")
            if key in MEMORY:
                memory[key] = int(value.split()[0]) * 1024
        load = (linux.read_text("/proc/loadavg") or "").split()
        pressure = {}
        if self.psi:
            for what in PRESSURE:
                text = linux.read_text("/proc/pressure/" + what)
                if text:
                    pressure[what] = text.rstrip("\n")
        try:
            processes = len(linux.pids())
        except OSError:
            processes = None
        self.out.emit(
            "machine",
            "machine",
            boot(),
            memory=memory,
            load=[float(x) for x in load[:3]],
            processes=processes,
            disks=self.disks,
            disks_at=self.disks_at,
            pressure=pressure,
        )
