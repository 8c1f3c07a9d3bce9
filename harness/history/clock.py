"""Two clocks and a wall on one line: the machine's boottime.

Rule: an offset is measured or there is none. Between two measurements that agree the
better one holds; where they disagree (a frozen machine, a stepped wall clock, a reboot)
the line has another segment. All times are integer nanoseconds.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.events import ClockLink, ClockReading

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.events import Event

DRIFT = 500e-6
"""NTP slews a clock by at most 500 ppm: a larger change between two readings is a step."""

KERNEL = 200_000
ENGINE = 10_000_000
"""What kernel sources and the engine's own stamps are good for, once calibrated."""

UNALIGNED = 1 << 62
"""The error of a time on a clock that nothing ties to the machine's."""

_PRECISION = {
    "trace": KERNEL,
    "proc": KERNEL,
    "pidfd": ENGINE,
    "kernel": KERNEL,
    "docker": ENGINE,
    "daemon-log": ENGINE,
}

UNCALIBRATED = 5_000_000
"""The kernel log's own clock runs up to some milliseconds beside boottime when nobody measured it."""


@dataclass(frozen=True, slots=True)
class Segment:
    """From `since` (on the other clock) on: machine = other + offset, give or take error."""

    since: int
    offset: int
    error: int


def segments(points: Iterable[tuple[int, int, int]]) -> tuple[Segment, ...]:
    """(time on the other clock, offset, error)… → segments, oldest first.

    >>> [s.offset for s in segments([(0, 5, 1), (10**9, 5, 0), (2 * 10**9, 9_000_000_000, 1)])]
    [5, 9000000000]
    """
    done: list[Segment] = []
    best: tuple[int, int, int] | None = None
    since = 0
    for at, offset, error in sorted(points):
        if best is not None:
            allowed = best[2] + error + int(DRIFT * (at - best[0])) + 50_000
            if abs(offset - best[1]) <= allowed:
                # A fresh reading beats an old one only if it is not much worse.
                if error <= best[2] + int(DRIFT * (at - best[0])):
                    done.append(Segment(since, best[1], best[2]))
                    best, since = (at, offset, error), at
                continue
            done.append(Segment(since, best[1], best[2]))
            since = at
        else:
            since = at
        best = (at, offset, error)
    if best is not None:
        done.append(Segment(since, best[1], best[2]))
    return _merged(done)


def _merged(parts: list[Segment]) -> tuple[Segment, ...]:
    out: list[Segment] = []
    for part in parts:
        if out and out[-1].offset == part.offset:
            out[-1] = Segment(out[-1].since, part.offset, min(out[-1].error, part.error))
        else:
            out.append(part)
    return tuple(out)


def at(parts: tuple[Segment, ...], time: int) -> Segment | None:
    """The segment that holds at `time`; the first one also before its beginning."""
    if not parts:
        return None
    return parts[max(0, bisect_right(parts, time, key=lambda s: s.since) - 1)]


class Clock:
    """Puts every event's time on the machine's boottime."""

    def __init__(self, events: Iterable[Event]) -> None:
        links: list[tuple[int, int, int]] = []
        walls: list[tuple[int, int, int]] = []
        mixed: set[str] = set()
        self.kmsg = False
        for event in events:
            mixed.add(event.clock)
            if isinstance(event, ClockLink):
                links.append((_harness_time(event), event.offset, event.error))
            elif isinstance(event, ClockReading):
                walls.append((event.boot, event.boot - event.wall, event.error))
                self.kmsg = self.kmsg or event.kmsg is not None
        self.links = segments(links)
        self.walls = segments(walls)
        # One clock alone needs no tie: the harness's then is the line.
        self.single = len(mixed) < 2

    def place(self, event: Event) -> tuple[int, int]:
        """(time on the line, error) of an event."""
        wall = getattr(event, "wall", None) if event.kind == "docker" else None
        if wall is not None:
            seen, _ = self.harness(event.seen) if event.clock == "harness" else (event.seen, 0)
            placed = self.wall(wall, seen)
            if placed is not None:
                return placed
        if event.clock == "harness":
            return self.harness(event.t)
        error = _PRECISION.get(event.kind if event.kind in _PRECISION else event.source, KERNEL)
        if event.kind == "trace":
            error = KERNEL
        elif event.kind == "kernel" and not self.kmsg:
            error = UNCALIBRATED
        return event.t, error

    def harness(self, time: int) -> tuple[int, int]:
        """A time of the harness's clock, on the line."""
        segment = at(self.links, time)
        if segment is None:
            return time, (KERNEL if self.single else UNALIGNED)
        return time + segment.offset, segment.error + KERNEL

    def wall(self, wall: int, seen: int | None = None) -> tuple[int, int] | None:
        """A wall time of the machine, on the line; None when the wall was never read.

        seen: when (on the line) it was read. The segment that held then or the one before
        it applies, since a step may lie between writing and reading: of the two times the
        later one that is not after its own reading.
        """
        if not self.walls:
            return None
        placed = [wall + segment.offset for segment in _candidates(self.walls, seen)]
        fitting = [at for at in placed if seen is None or at <= seen + ENGINE]
        return (max(fitting), ENGINE) if fitting else None


def _candidates(parts: tuple[Segment, ...], seen: int | None) -> tuple[Segment, ...]:
    if seen is None:
        return parts[-1:]
    held = max(0, bisect_right(parts, seen, key=lambda s: s.since) - 1)
    return parts[max(0, held - 1) : held + 1]


def _harness_time(link: ClockLink) -> int:
    """A link's own time on the harness's clock, whichever clock it is stamped with."""
    return link.t if link.clock == "harness" else link.t - link.offset
