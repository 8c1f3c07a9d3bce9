"""The kernel log's clock against boottime, without writing into the kernel log.

Rule: printk stamps with local_clock(), and so does the tracer's clock `perf`: a marker
written into a tiny instance of our own, bracketed by two readings of boottime, gives the
offset. It drifts (no NTP there), so it is measured again and again.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from . import tracefs
from .linux import boot

if TYPE_CHECKING:
    from typing import Optional

_MARK = re.compile(r" (\d+)\.(\d{6}): tracing_mark_write")


class KernelClock:
    def __init__(self) -> None:
        self.instance: Optional[tracefs.Instance] = None
        self.marker: Optional[int] = None

    def start(self, root: Optional[str], name: str) -> None:
        if root is None:
            return
        self.instance = tracefs.Instance(root, name, 16, clock="perf")
        self.marker = os.open(self.instance.path + "/trace_marker", os.O_WRONLY | os.O_CLOEXEC)

    def offset(self) -> Optional[int]:
        """What must be added to a kernel-log time stamp (ns) to get boottime, or None."""
        if self.marker is None or self.instance is None:
            return None
        best = None
        for _ in range(3):
            before = boot()
            os.write(self.marker, b"m")
            after = boot()
            stamp = None
            while True:
                try:
                    text = os.read(self.instance.pipe, 4096)
                except BlockingIOError:
                    break
                found = _MARK.findall(text.decode("utf-8", "replace"))
                if found:
                    stamp = int(found[-1][0]) * 1_000_000_000 + int(found[-1][1]) * 1000
            if stamp is not None and (best is None or after - before < best[0]):
                best = (after - before, (before + after) // 2 - stamp)
        return best[1] if best else None

    def stop(self) -> None:
        if self.marker is not None:
            os.close(self.marker)
            self.marker = None
        if self.instance is not None:
            self.instance.remove()
            self.instance = None
