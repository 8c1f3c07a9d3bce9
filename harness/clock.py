"""The only door to time.

Rule: one clock for everything that is compared, CLOCK_BOOTTIME in integer nanoseconds
(it goes on during a suspend, it never steps); the wall clock is for names and for
people. Whoever waits, waits here, so that a test can hand in a clock of its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

# macOS has no CLOCK_BOOTTIME; its CLOCK_MONOTONIC goes on during sleep.
_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

NS = 1_000_000_000


class Clock(Protocol):
    """What the runner needs of time. Nanoseconds in `now`, seconds in `sleep`."""

    def now(self) -> int:
        """Nanoseconds since boot; only differences mean anything."""

    def wall(self) -> int:
        """Nanoseconds since 1970; may step."""

    def sleep(self, seconds: float) -> None:
        """Wait at least so long."""


@dataclass(frozen=True, slots=True)
class RealClock:
    """The machine's own."""

    def now(self) -> int:
        return now()

    def wall(self) -> int:
        return time.time_ns()

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)


def now() -> int:
    """Nanoseconds of CLOCK_BOOTTIME (macOS: CLOCK_MONOTONIC)."""
    return time.clock_gettime_ns(_BOOT)


def seconds_since(begin: int) -> float:
    """Seconds between an earlier `now()` and now."""
    return (now() - begin) / NS


def utc() -> datetime:
    """The wall clock, for names and for people."""
    return datetime.now(UTC)


def sleep_until(instant: int, *, spin: float = 0.0005) -> int:
    """Wait for an instant of `now()`; returns the instant at which it really ended.

    A sleeping thread is woken 50-100 µs late, a busy machine makes it milliseconds: the
    last `spin` seconds are waited awake, so that a delay of an experiment is kept to
    microseconds without burning a processor.
    """
    rest = (instant - now()) / NS
    if rest > spin:
        time.sleep(rest - spin)
    while (reached := now()) < instant:
        pass
    return reached


def wait_until(predicate: Callable[[], bool], *, deadline: float, every: float = 0.005) -> bool:
    """Ask until the answer is yes; False when `deadline` seconds passed first.

    The question is asked at least once, and once more after the last wait.
    """
    end = now() + int(deadline * NS)
    while not predicate():
        if now() >= end:
            return False
        time.sleep(every)
    return True
