"""All clocks of the machine against CLOCK_BOOTTIME, again and again.

Rule: a reading is bracketed by two of boottime, and the best of five counts. The wall
clock may step, monotonic stands still in a suspend; both are said. That boottime itself
stood still (a frozen machine) can be known only from outside.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .linux import boot

if TYPE_CHECKING:
    from typing import Callable, Dict, Optional

    from .out import Out

WALL_STEP = 20_000_000
"""A change of wall - boot between two readings a second apart that no slewing explains
(NTP slews 0.5 ms a second at most)."""
SUSPEND = 2_000_000
TAI = getattr(time, "CLOCK_TAI", 11)


def reading() -> Dict[str, int]:
    """{boot, wall, mono, tai_offset, error}: one bracketed reading, ns."""
    best: Dict[str, int] = {}
    for _ in range(5):
        before = boot()
        wall = time.time_ns()
        mono = time.monotonic_ns()
        tai = time.clock_gettime_ns(TAI)
        after = boot()
        error = (after - before) // 2
        if not best or error < best["error"]:
            # CLOCK_TAI - CLOCK_REALTIME is a whole number of seconds.
            whole = round((tai - wall) / 1e9) * 1_000_000_000
            best = {
                "boot": before + error,
                "wall": wall,
                "mono": mono,
                "tai_offset": whole,
                "error": error,
            }
    return best


class Clocks:
    def __init__(self, out: Out, kernel_offset: Callable[[], Optional[int]] = lambda: None) -> None:
        self.out = out
        self.kernel_offset = kernel_offset
        self.kmsg: Optional[int] = None
        self.last = reading()

    def wall_to_boot(self, wall: int) -> int:
        return wall - (self.last["wall"] - self.last["boot"])

    def mono_to_boot(self, mono: int) -> int:
        return mono - (self.last["mono"] - self.last["boot"])

    def kernel_to_boot(self, stamp: int) -> int:
        return stamp + (self.kmsg or 0)

    def read(self) -> None:
        """Every second: say the reading, and a step when there was one."""
        offset = self.kernel_offset()
        if offset is not None:
            self.kmsg = offset
        new, old = reading(), self.last
        self.last = new
        for which, key, least in (("wall", "wall", WALL_STEP), ("suspend", "mono", SUSPEND)):
            step = (new[key] - new["boot"]) - (old[key] - old["boot"])
            if abs(step) > least + new["error"] + old["error"]:
                # monotonic falls behind boottime by the length of the suspend
                by = -step if which == "suspend" else step
                self.out.emit("clock-jump", "clock", new["boot"], which=which, by=by)
        self.out.emit("clock", "clock", new["boot"], kmsg=self.kmsg, **new)
