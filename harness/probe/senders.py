"""Who sent a signal: identity, home and descent, taken while there is something to take.

Rule: /proc is asked at once (a killer may be gone in a millisecond), then the lineage
table. The place is a fact about cgroups and descent, not a judgement: `same-container`,
`other-container`, `engine` (dockerd, containerd, a shim, or made by one of them) or
`host`.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from . import linux
from .lineage import container_of
from .linux import boot

if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, OrderedDict

    from .daemons import Daemons
    from .lineage import Lineage
    from .loop import Loop
    from .out import Out
    from .tracefs import Line

KEEP = 512


class Senders:
    def __init__(self, loop: Loop, out: Out, lineage: Lineage) -> None:
        self.loop, self.out, self.lineage = loop, out, lineage
        self.caught: List[Any] = []
        self.daemons: Optional[Daemons] = None
        self.said: OrderedDict[Any, int] = collections.OrderedDict()

    def say(self, line: Line, target: int, signal: int, container: Optional[str]) -> None:
        """One event a sender, target and signal; a second one is the trace line alone."""
        pid = line.tgid or line.tid
        key = (pid, target, signal)
        if key in self.said and line.t - self.said[key] < 1_000_000_000:
            return
        self.said[key] = line.t
        if len(self.said) > KEEP:
            self.said.popitem(last=False)
        # The command line goes first: a zombie has the rest, but no longer that.
        command = linux.read_text("/proc/%d/cmdline" % pid, 1024)
        paths = linux.cgroup_paths(pid) or {}
        seen = linux.stat(pid)
        # Its descent can wait for the batch with its birth; the next death can not.
        if not self.caught:
            self.loop.after(0.003, self.finish, "sender")
        self.caught.append((line, target, signal, container, pid, command, paths, seen))

    def finish(self) -> None:
        """Complete who was caught with what the lineage table knows, and say it."""
        caught, self.caught = self.caught, []
        if caught:
            self.lineage.drain()
        for line, target, signal, container, pid, command, paths, seen in caught:
            task = self.lineage.tasks.get(pid)
            home = None
            for path in paths.values():
                home = home or container_of(path)
            if home is None and task is not None:
                home = task.container
            ancestors = self.lineage.ancestors(pid)
            self.out.emit(
                "sender",
                "sender",
                line.t,
                boot(),
                pid=pid,
                name=line.comm,
                signal=signal,
                to=target,
                container=container,
                home=home,
                place=self.place(pid, home, container, ancestors),
                cgroup=paths.get("memory", paths.get("", paths.get("pids"))),
                start=seen["start"] if seen else (task.start if task else None),
                program=task.program if task else None,
                command=command.replace("\0", " ").strip() if command else None,
                ancestors=ancestors,
            )

    def place(
        self,
        pid: int,
        home: Optional[str],
        container: Optional[str],
        ancestors: List[Dict[str, Any]],
    ) -> str:
        if home is not None:
            return "same-container" if home == container else "other-container"
        for one in [pid] + [ancestor["pid"] for ancestor in ancestors]:
            if self.daemons is not None and self.daemons.is_daemon(one):
                return "engine"
        return "host"
