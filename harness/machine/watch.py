"""Looks at a VM from this host for as long as it is ours: when did it end, when did it stand?

Rule: a look costs one signal 0 and one small read, and changes nothing.
What a change means is asked when somebody wants to know, not when it is noticed: whoever
served the VM needs a second to write its last lines.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from harness import clock, process
from harness.machine import HostSaid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LOOK = 0.2 if sys.platform == "linux" else 1.0
"""Seconds. Without /proc a look costs a process."""
_TOGETHER = 3.0
"""Seconds between the ends of a hypervisor and of its host agent that are one end."""


class Hypervisor(Protocol):
    """The process that is a VM, as this host sees it."""

    def hypervisor(self) -> int | None:
        """Its pid; None where none runs."""

    def agent(self) -> int | None:
        """Pid of what looks after it on this host; None where nobody does, or has to."""

    def end(self, pid: int | None) -> tuple[str, str]:
        """(killed | shut-down, the processes and lines that say so), once it is gone."""

    def clock_steps(self) -> Sequence[HostSaid]:
        """When somebody on this host set the guest's wall clock."""


class Watch:
    """One watching thread, from `start` to `stop`.

    gone: Called from it once, when the VM has ended.
    """

    def __init__(self, hypervisor: Hypervisor, *, gone: Callable[[], None]) -> None:
        self._hypervisor = hypervisor
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
        self._pid, self._agent = self._hypervisor.hypervisor(), self._hypervisor.agent()
        self._thread = threading.Thread(target=self._look, name="vm-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(5)
            self._thread = None

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
        said += [step for step in self._hypervisor.clock_steps() if step.at >= since]
        said += [one for one in self._agentless() if one.until is None or one.until >= since]
        if self._gone is not None and self._gone >= since:
            what, why = self._hypervisor.end(self._pid)
            said.append(HostSaid(at=self._gone, what=what, why=why))
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

    def _look(self) -> None:
        while not self._over.wait(_LOOK):
            if self._pid is None:
                # A process that nobody has found has not ended either.
                self._pid = self._hypervisor.hypervisor()
                continue
            state = standing(self._pid)
            now = clock.now()
            still = bool(self._still) and self._still[-1][1] is None
            if state == "still" and not still:
                self._still.append((now, None))
            elif state != "still" and still:
                self._still[-1] = (self._still[-1][0], now)
            if self._alone is None and self._agent and standing(self._agent) == "gone":
                self._alone = now
            if state == "gone":
                self._gone = now
                self._tell()
                return


def standing(pid: int) -> str:
    """running · still (stopped by a signal) · gone (or a mere zombie), of one process."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except OSError:
        return "gone"
    return {"T": "still", "Z": "gone"}.get(_letter(pid), "running")


def _letter(pid: int) -> str:
    """The state of a process in one letter: T stopped by a signal, Z dead and not reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        # No /proc here, or no such process any more; `ps` knows it on macOS too.
        if sys.platform == "linux":
            return ""
        return process.run(("ps", "-o", "state=", "-p", str(pid)), deadline=5).text.strip()[:1]
    return stat.rpartition(")")[2].split()[0]
