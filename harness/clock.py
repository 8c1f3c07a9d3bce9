"""The only door to time.

Rule: one clock for everything that is compared, CLOCK_BOOTTIME in integer nanoseconds
(it goes on during a suspend, it never steps); the wall clock is for names and for
people. Whoever waits, waits here, so that a test can hand in a clock of its own.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# macOS has no CLOCK_BOOTTIME; its CLOCK_MONOTONIC goes on during sleep.
_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

NS = 1_000_000_000
HAND_OVER = 0.0002


class Inbox(Protocol[T]):
    """What one thread reads and any thread fills. Items are never None."""

    def put(self, item: T) -> None:
        """From any thread, or a signal handler."""

    def get(self, until: int | None) -> T | None:
        """The next item; None when that instant of `now` comes first. None waits for ever."""


class Clock(Protocol):
    """What the runner needs of time, and of threads and queues that wait for it.

    They belong together: only who knows everybody that waits can let time jump, and that
    is how a test with deadlines of minutes takes milliseconds.
    """

    def now(self) -> int:
        """Nanoseconds since boot; only differences mean anything."""

    def wall(self) -> int:
        """Nanoseconds since 1970; may step."""

    def sleep(self, seconds: float) -> None:
        """Wait at least so long."""

    def sleep_until(self, instant: int) -> int:
        """Wait for an instant of `now`, as precisely as can be had; when it really ended."""

    def inbox(self) -> Inbox[Any]:
        """A queue whose reader waits on this clock."""

    def thread(self, name: str, body: Callable[[], None]) -> None:
        """Run it beside the caller. Nobody waits for it: it says itself when it is done."""

    def first_in_line(self) -> None:
        """The calling thread keeps an instant: it is woken before others, where that can be had."""

    def ahead(self) -> None:
        """The calling thread must not keep one that is first in line waiting."""


class _Inbox(Generic[T]):
    # SimpleQueue: its `put` is the only one that a signal handler may call at any time.
    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[T] = queue.SimpleQueue()

    def put(self, item: T) -> None:
        self._queue.put(item)

    def get(self, until: int | None) -> T | None:
        try:
            if until is None:
                return self._queue.get()
            rest = (until - now()) / NS
            return self._queue.get(timeout=rest) if rest > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None


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

    def sleep_until(self, instant: int) -> int:
        return sleep_until(instant)

    def inbox(self) -> Inbox[Any]:
        return _Inbox()

    def thread(self, name: str, body: Callable[[], None]) -> None:
        def work() -> None:
            ahead()
            body()

        # A daemon: what hangs in a dead engine must not hold up the end of the program.
        threading.Thread(target=work, name=name, daemon=True).start()

    def first_in_line(self) -> None:
        first_in_line()

    def ahead(self) -> None:
        ahead()


def asleep() -> int:
    """Nanoseconds since boot that this host was suspended for: it grows while the lid is shut.

    Linux's monotonic clock stands still then; macOS says the same of CLOCK_UPTIME_RAW.
    """
    awake = getattr(time, "CLOCK_UPTIME_RAW", time.CLOCK_MONOTONIC)
    return now() - time.clock_gettime_ns(awake)


def first_in_line() -> None:
    """The calling thread is woken before others on a busy host.

    For threads that sleep nearly all their life and whose instants are measured. Where nobody
    may do that (no root, no Linux) it waits its turn.
    """
    # A thread that calculates keeps the interpreter for 5 ms by default: as long as that the
    # one that is woken would wait for it.
    sys.setswitchinterval(HAND_OVER)
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def ahead() -> None:
    """The calling thread gets a processor before those who calculate.

    One interpreter runs one thread at a time: one that was put aside in the middle of its
    work holds up even the thread that is first in line. What it starts, threads and
    processes, begins without this: a machine under test must not inherit it.
    """
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -15)


def give_way() -> None:
    """Whoever waits for the interpreter has it next."""
    time.sleep(0)


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
