"""Looks at a Lima VM from this host for as long as it is ours: when did it end, when did it stand?

Rule: a look costs one signal 0 and one small read, and changes nothing.
What a change means is read from the logs when somebody asks, not when it is noticed: the host
agent needs a second to write its last lines.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from harness import clock
from harness.machine import HostSaid

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.machine.lima import Instance

_LOOK = 0.2 if sys.platform == "linux" else 1.0
"""Seconds. Without /proc a look costs a process."""
_TOGETHER = 3.0
"""Seconds between the ends of a hypervisor and of its host agent that are one end."""


class Watch:
    """One watching thread, from `start` to `stop`.

    gone: Called from it once, when the VM has ended.
    """

    def __init__(self, instance: Instance, *, gone: Callable[[], None]) -> None:
        self._instance = instance
        self._tell = gone
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid: int | None = None
        self._gone: int | None = None
        self._agent: int | None = None
        self._alone: int | None = None
        self._still: list[tuple[int, int | None]] = []

    def start(self) -> None:
        self._over.clear()
        self._pid, self._agent = self._instance.hypervisor(), self._instance.agent()
        self._thread = threading.Thread(target=self._look, name="lima-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(5)
            self._thread = None

    @property
    def ended(self) -> bool:
        """Has the VM ended since the watch began? It does not come back by itself."""
        return self._gone is not None

    def told(self, since: int) -> tuple[HostSaid, ...]:
        """The VM's own states since then (ns of `clock.now`), oldest first, and when its clock was set."""
        said = [
            HostSaid(
                at=begin, until=end, what="still",
                why=f"process {self._pid}, its hypervisor, was stopped by a signal",
            )
            for begin, end in list(self._still)
            if end is None or end >= since
        ]  # fmt: skip
        said += [step for step in self._clock_steps() if step.at >= since]
        said += [one for one in self._agentless() if one.until is None or one.until >= since]
        if self._gone is not None and self._gone >= since:
            now = self._instance.condition(self._pid)
            what = "shut-down" if now.state == "shut-down" else "killed"
            said.append(HostSaid(at=self._gone, what=what, why=now.why))
        return tuple(sorted(said, key=lambda one: one.at))

    def _agentless(self) -> list[HostSaid]:
        """Since when it runs without its host agent; a machine that ends takes its own along."""
        if self._alone is None:
            return []
        if self._gone is not None and self._gone - self._alone < _TOGETHER * clock.NS:
            return []
        why = (
            f"process {self._agent}, its host agent, is gone; process {self._pid}, its hypervisor,"
            " runs on: colima calls that Broken"
        )
        return [HostSaid(at=self._alone, until=self._gone, what="agentless", why=why)]

    def _clock_steps(self) -> list[HostSaid]:
        """When Lima set the guest's wall clock; under memory pressure it sets it wrongly."""
        ahead = clock.RealClock().wall() - clock.now()
        return [
            HostSaid(at=fact.wall - ahead, what="clock-step", why=fact.text)
            for fact in self._instance.facts()
            if fact.what == "clock-step" and fact.wall is not None
        ]

    def _look(self) -> None:
        while not self._over.wait(_LOOK):
            if self._pid is None:
                # A process that nobody has found has not ended either.
                self._pid = self._instance.hypervisor()
                continue
            state = self._instance.standing(self._pid)
            now = clock.now()
            still = bool(self._still) and self._still[-1][1] is None
            if state == "still" and not still:
                self._still.append((now, None))
            elif state != "still" and still:
                self._still[-1] = (self._still[-1][0], now)
            agent = self._instance.standing(self._agent)
            if self._alone is None and self._agent is not None and agent == "gone":
                self._alone = now
            if state == "gone":
                self._gone = now
                self._tell()
                return
