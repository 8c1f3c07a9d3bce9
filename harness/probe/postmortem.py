"""The first step of the post-mortem: what is gone in fifty milliseconds, at once.

Rule: the dying container's control groups come first (their directory is removed within
~50 ms); what belongs to the whole machine comes after all deaths that are waiting, and
is shared by deaths that fall together. Nothing here may block: disks are the last
sample's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import linux
from .linux import boot

if TYPE_CHECKING:
    from typing import Dict, List, Tuple

    from .connector import Connector
    from .kernel import KernelLog
    from .lineage import Lineage
    from .loop import Loop
    from .machine import Machine
    from .out import Out
    from .watch import Main, Watch, Watched

SHARE = 100_000_000
SHARED_GROUP = 10_000_000
"""Ancestors are the same for all containers of a machine: their files may be so old (ns)."""
PROCESSES = 400
MANY = 500
"""Processes from which on the table is made by the helper thread."""


class PostMortem:
    def __init__(
        self,
        loop: Loop,
        out: Out,
        watch: Watch,
        lineage: Lineage,
        kernel: KernelLog,
        connector: Connector,
        machine: Machine,
        base: str,
    ) -> None:
        self.loop, self.out, self.watch = loop, out, watch
        self.lineage, self.kernel, self.connector = lineage, kernel, connector
        self.machine, self.base = machine, base
        self.pending: List[Watched] = []
        self.last: Tuple[int, Dict[str, str], str] = (0, {}, "")

    def died(self, watched: Watched, main: Main, t: int) -> None:
        """At once: the groups' files and what is left of the process."""
        seen = boot()
        files, unreadable = {}, {}
        for group in watched.groups:
            found, absent = group.whole(SHARED_GROUP)
            for name, text in found.items():
                files["cgroup:%s/%s" % (group.path, name)] = text
            if group.scope == "container":
                for name, why in absent.items():
                    unreadable["cgroup:%s/%s" % (group.path, name)] = why
        for name in ("stat", "status"):
            path = "/proc/%d/%s" % (main.pid, name)
            left = linux.read_text(path)
            if left is None:
                unreadable[path] = "the process is gone"
            else:
                files[path] = left
        self.out.emit(
            "postmortem",
            "postmortem",
            seen,
            container=watched.id,
            files=files,
            unreadable=unreadable,
        )
        self.out.flush()
        if not self.pending:
            self.loop.after(0.001, self.second, "postmortem")
        self.pending.append(watched)

    def second(self) -> None:
        """A moment later: what its own processes did last, the kernel's words, the machine."""
        pending, self.pending = self.pending, []
        self.machine.afresh()
        self.lineage.drain()
        self.connector.drain()
        self.kernel.drain()
        for watched in pending:
            ring = list(watched.ring)
            watched.ring.clear()
            for said in ring:
                self.out.emit(**said())
        at, files, of = self.last
        ids = [watched.id for watched in pending]
        if boot() - at <= SHARE:
            self.tell(ids, files, of)
        elif len(linux.pids()) <= MANY:
            self.told(ids, self.whole())
        else:
            # Thousands of processes take too long to look at while others may be dying.
            self.loop.aside(self.whole, lambda found: self.told(ids, found), "postmortem")

    def told(self, ids: List[str], files: Dict[str, str]) -> None:
        self.last = (boot(), files, ids[0])
        self.tell(ids, files, ids[0])

    def tell(self, ids: List[str], files: Dict[str, str], of: str) -> None:
        now = boot()
        for container in ids:
            shown = files if container == of else {"same as": of}
            self.out.emit("postmortem", "postmortem", now, container=container, files=shown)

    def whole(self) -> Dict[str, str]:
        """The machine at this moment."""
        files = {}
        for path in (
            "/proc/meminfo",
            "/proc/loadavg",
            "/proc/pressure/memory",
            "/proc/pressure/cpu",
            "/proc/pressure/io",
        ):
            text = linux.read_text(path)
            if text is not None:
                files[path] = text
        files["processes"] = self.processes()
        files["kernel log"] = "\n".join(self.kernel.recent)
        files["disks"] = "\n".join(
            "%s total=%d free=%d inodes=%d inodes_free=%d"
            % (place, d["total"], d["free"], d["inodes"], d["inodes_free"])
            for place, d in sorted(self.machine.disks.items())
        )
        return files

    def processes(self) -> str:
        """pid ppid state threads rss-pages container name; the largest come first."""
        rows = []
        for pid in linux.pids():
            seen = linux.stat(pid)
            if seen is None or seen["ppid"] == 2:
                continue  # kernel threads
            task = self.lineage.tasks.get(pid)
            rows.append((seen["rss"], pid, seen, (task.container if task else None) or "-"))
        rows.sort(key=lambda row: -row[0])
        return "\n".join(
            "%d %d %s %d %d %s %s"
            % (pid, seen["ppid"], seen["state"], seen["threads"], rss, container[:12], seen["name"])
            for rss, pid, seen, container in rows[:PROCESSES]
        )
