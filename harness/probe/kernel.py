"""The kernel log, live and whole: /dev/kmsg.

Rule: every record is read; of a flood only what may bear on a death is sent on, and the
rest is counted. Records the kernel itself threw away or did not print are gaps.
"""

from __future__ import annotations

import collections
import os
import re
import select
from typing import TYPE_CHECKING

from .linux import boot
from .out import Bucket

if TYPE_CHECKING:
    from typing import Deque, Optional

    from .clocks import Clocks
    from .loop import Loop
    from .out import Out

TELLING = re.compile(
    r"oom|[Kk]illed|[Oo]ut of memory|cgroup|segfault|traps:|general protection|I/O error|EXT4-fs"
    r"|XFS|BTRFS|[Rr]emount|suppressed|hung|blocked for|lockup|docker|runc|[0-9a-f]{64}|audit"
)
SUPPRESSED = re.compile(r"(\w+): (\d+) (?:\w+ )?callbacks suppressed")
# Docker's bridge ports say three lines for every container that comes or goes.
WINDOW = 5_000_000_000


class KernelLog:
    def __init__(self, loop: Loop, out: Out, clocks: Clocks) -> None:
        self.loop, self.out, self.clocks = loop, out, clocks
        self.fd: Optional[int] = None
        self.next: Optional[int] = None
        self.bucket = Bucket(200, 2000)
        self.telling = Bucket(500, 5000)
        self.recent: Deque[str] = collections.deque(maxlen=60)
        self.read_until = boot()
        self.last_oom: Optional[int] = None

    def start(self) -> None:
        try:
            self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self.fd, 0, os.SEEK_END)
        except OSError as error:
            self.out.source("kernel", "unsupported", "/dev/kmsg: %s" % error.strerror)
            return
        # A few at a time: an OOM kill prints a hundred lines, and its victim's end comes
        # in their midst.
        self.loop.add(self.fd, select.EPOLLIN, lambda mask: self.drain(8), "kernel")
        self.out.source("kernel", "active")

    def drain(self, budget: int = 2000) -> None:
        """Read what there is, at most `budget` records a turn."""
        if self.fd is None:
            return
        for _ in range(budget):
            try:
                raw = os.read(self.fd, 8192)
            except BlockingIOError:
                break
            except BrokenPipeError:
                # Records were overwritten before we read them; the next one says how many.
                self.out.gap("kernel", self.read_until, boot(), "the kernel log overran us")
                continue
            self.record(raw)
        self.read_until = boot()

    def record(self, raw: bytes) -> None:
        """ "level,sequence,microseconds,flags[,…];text", then lines of a dictionary."""
        seen = boot()
        head, semicolon, body = raw.partition(b";")
        parts = head.split(b",")
        if not semicolon or len(parts) < 3:
            return
        try:
            level, sequence, stamp = int(parts[0]), int(parts[1]), int(parts[2])
        except ValueError:
            return
        t = self.clocks.kernel_to_boot(stamp * 1000)
        if self.next is not None and sequence > self.next:
            self.out.gap(
                "kernel",
                self.read_until,
                t,
                "records overwritten before they were read",
                sequence - self.next,
            )
        self.next = sequence + 1
        text = body.split(b"\n", 1)[0].decode("utf-8", "replace")
        self.recent.append("[%.6f] %s" % (t / 1e9, text))
        quiet = SUPPRESSED.search(text)
        if quiet:
            begin = self.last_oom if self.last_oom and "oom" in text else t - WINDOW
            self.out.gap(
                "kernel", min(begin, t), t, "rate limit of %s" % quiet.group(1), int(quiet.group(2))
            )
        elif "oom" in text:
            self.last_oom = t
        if TELLING.search(text):
            if not self.telling.take():
                self.out.shed("kernel", t)
                return
        elif not self.bucket.take():
            self.out.drop("kernel")  # chatter: its absence says nothing
            return
        self.out.emit("kernel", "kernel", t, seen, level=level & 7, kseq=sequence, text=text[:4000])

    def stop(self) -> None:
        if self.fd is not None:
            self.loop.remove(self.fd)
            os.close(self.fd)
            self.fd = None
