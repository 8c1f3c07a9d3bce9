"""All clocks of the machine against CLOCK_BOOTTIME, again and again.

Rule: a reading is bracketed by two of boottime, and the best of five counts. The wall
clock may step, monotonic stands still in a suspend; both are said. That boottime itself
stood still (a frozen machine) can be known only from outside.
"""

import time

from .linux import boot

WALL_STEP = 20_000_000
"""A change of wall - boot between two readings a second apart that no slewing explains
(NTP slews 0.5 ms a second at most)."""
SUSPEND = 2_000_000
TAI = getattr(time, "CLOCK_TAI", 11)


def reading():
    """{boot, wall, mono, tai_offset, error}: one bracketed reading, ns."""
    best = None
    for _ in range(5):
        before = boot()
        wall = time.time_ns()
        mono = time.monotonic_ns()
        tai = time.clock_gettime_ns(TAI)
        after = boot()
        error = (after - before) // 2
        if best is None or error < best["error"]:
            # CLOCK_TAI - CLOCK_REALTIME is a whole number of seconds.
            whole = round((tai - wall) / 1e9) * 1_000_000_000
            best = {"boot": before + error, "wall": wall, "mono": mono,
                    "tai_offset": whole, "error": error}
    return best


class Clocks:
    def __init__(self, out, kernel_offset=lambda: None):
        self.out = out
        self.kernel_offset = kernel_offset
        self.kmsg = None
        self.last = reading()

    def wall_to_boot(self, wall):
        return wall - (self.last["wall"] - self.last["boot"])

    def mono_to_boot(self, mono):
        return mono - (self.last["mono"] - self.last["boot"])

    def kernel_to_boot(self, stamp):
        return stamp + (self.kmsg or 0)

    def read(self):
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
