"""Who made whom: a bounded table of processes, their makers, programs and containers.

Rule: the table learns from tracefs instance B in batches (nobody is woken for a fork),
from one look at /proc at the start, and from cgroup moves. It answers who a sender was
after the sender has gone, and which container a process belonged to. It forgets the
oldest dead, never the living. The tracer names threads; the table knows whose they are.
"""

from __future__ import annotations

import collections
import re
from typing import TYPE_CHECKING

from . import linux, ring
from .linux import boot

if TYPE_CHECKING:
    from typing import Any, Callable, Deque, Dict, List, Optional

    from .loop import Loop
    from .out import Out
    from .ring import Record

BUDGET = 10_000_000
"""Nanoseconds a batch may take; what is over waits in the kernel's buffer, or is lost there."""
DEAD = 8192
"""How many of the dead are remembered."""
CROWD = 3 * DEAD
"""By how many the table may grow before it is held against who lives."""
CLONE_THREAD = 0x10000
CONTAINER = re.compile(r"(?:/|docker-)([0-9a-f]{64})(?=\.scope|/|$)")


def container_of(path: str) -> Optional[str]:
    """The last container id in a cgroup path, or None."""
    found = CONTAINER.findall(path)
    return found[-1] if found else None


class Task:
    """One process. maker is the process that forked it, not who adopted it later."""

    __slots__ = ("born", "container", "ended", "maker", "name", "pid", "program", "start")

    def __init__(
        self,
        pid: int,
        maker: Optional[int],
        name: str,
        container: Optional[str] = None,
        born: Optional[int] = None,
        start: Optional[int] = None,
    ) -> None:
        self.pid, self.maker, self.name = pid, maker, name
        self.container, self.born, self.start = container, born, start
        self.program: Optional[str] = None
        self.ended: Optional[int] = None


class Lineage:
    def __init__(self, loop: Loop, out: Out, on_task: Callable[[str, Task, Record], None]) -> None:
        """on_task(what, task, record): what is fork | exec | exit."""
        self.loop, self.out, self.on_task = loop, out, on_task
        self.tasks: Dict[int, Task] = {}
        # Of processes with several: thread → process. A first thread has its process's number.
        self.threads: Dict[int, int] = {}
        self.dead: Deque[Task] = collections.deque()
        self.instance: Optional[ring.Ring] = None
        self.read_until = boot()
        self.blind_since: Optional[int] = None
        self.blind_lost = 0
        self.kept = 0

    def start(self, root: Optional[str], name: str) -> None:
        """Instance B; without tracefs the table still has what /proc says."""
        if root is None:
            self.out.source("lineage", "partial", "no tracefs: only what /proc shows when asked")
        else:
            self.instance = ring.Ring(root, name, 4096)
            events = ("task/" + ring.NEW, "sched/" + ring.EXEC, "sched/" + ring.EXIT)
            missing = [event for event in events if not self.instance.follow(event)]
            if missing:
                self.out.source("lineage", "partial", "no tracepoint " + ", ".join(missing))
            else:
                self.out.source("lineage", "active")
        self.look()

    def look(self) -> None:
        """Everybody who is here already."""
        for pid in linux.pids():
            if pid not in self.tasks:
                self.from_proc(pid)

    def from_proc(self, pid: int) -> Optional[Task]:
        """A process the table does not know, read from /proc; None when it is gone."""
        seen = linux.stat(pid)
        if seen is None:
            return None
        container = None
        for path in (linux.cgroup_paths(pid) or {}).values():
            container = container or container_of(path)
        task = Task(pid, seen["ppid"], seen["name"], container, start=seen["start"])
        self.tasks[pid] = task
        return task

    def get(self, pid: int) -> Optional[Task]:
        """The task with this pid (the latest that had it), or None."""
        return self.tasks.get(pid) or self.from_proc(pid)

    def adopt(self, pid: int, name: str, container: str) -> None:
        """A cgroup move says: this process is the container's."""
        task = self.tasks.get(pid)
        if task is None:
            task = self.tasks[pid] = Task(pid, None, name)
        task.container = container

    def ancestors(self, pid: int, most: int = 10) -> List[Dict[str, Any]]:
        """The maker, its maker and so on: [{pid, name, program, container}]."""
        chain: List[Dict[str, Any]] = []
        seen = {pid}
        task = self.get(pid)
        while task is not None and task.maker and task.maker not in seen and len(chain) < most:
            seen.add(task.maker)
            task = self.get(task.maker)
            if task is not None:
                chain.append(
                    {
                        "pid": task.pid,
                        "name": task.name,
                        "program": task.program,
                        "container": task.container,
                    }
                )
        return chain

    def drain(self, budget: int = BUDGET) -> None:
        if self.instance is None:
            return
        for record in self.instance.take(budget):
            self.take(record)
        lost = self.instance.overruns()
        now = boot()
        if lost:
            if self.blind_since is None:
                self.blind_since = self.read_until
            self.blind_lost += lost
        # A flood overruns every batch: one gap a second tells it as well as twenty.
        if self.blind_since is not None and (not lost or now - self.blind_since > 1_000_000_000):
            self.out.gap(
                "lineage", self.blind_since, now, "the trace buffer overran", self.blind_lost
            )
            self.blind_since, self.blind_lost = None, 0
        self.read_until = now
        if len(self.tasks) + len(self.threads) > self.kept + CROWD:
            self.sweep()
            self.kept = len(self.tasks)

    def sweep(self) -> None:
        """Ends that were lost in an overrun leave the dead among the living: ask who lives."""
        living = set(linux.pids())
        self.threads.clear()  # a thread that is asked for is looked up again
        for pid, task in list(self.tasks.items()):
            if task.ended is None and pid not in living:
                del self.tasks[pid]

    def take(self, record: Record) -> None:
        t, _, tid, event, values = record
        pid = values[0]
        if event == ring.EXIT:
            task = self.tasks.get(pid)
            if self.threads.pop(pid, None) is not None:
                return
            # The first thread may leave before the others: the process lives on.
            if task is None or task.ended is not None or values[3] == 0:
                return
            task.ended = t
            task.name = ring.text_of(values[1])
            self.dead.append(task)
            if len(self.dead) > DEAD:
                old = self.dead.popleft()
                if self.tasks.get(old.pid) is old:
                    del self.tasks[old.pid]
            self.on_task("exit", task, record)
        elif event == ring.EXEC:
            task = self.tasks.get(pid)
            if task is None:
                task = self.tasks[pid] = Task(pid, None, "")
            task.program = ring.text_of(values[1])[:200]
            task.name = ring.program_name(values[1])
            self.on_task("exec", task, record)
        elif values[2] & CLONE_THREAD:
            self.threads[pid] = self.process(tid)
        else:
            self.born(record)

    def process(self, tid: int) -> int:
        """The process that a thread belongs to; the thread's own number when nobody knows."""
        owner = self.threads.get(tid)
        if owner is not None:
            return owner
        task = self.tasks.get(tid)
        if task is not None and task.ended is None:
            return tid
        leader = (linux.status_fields(tid) or {}).get("Tgid", "")
        if leader.isdigit() and int(leader) != tid:
            self.threads[tid] = int(leader)
            return int(leader)
        return tid

    def born(self, record: Record) -> None:
        t, _, tid, _, (child, name, *_) = record
        self.threads.pop(child, None)
        maker = self.process(tid)
        parent = self.tasks.get(maker)
        known = self.tasks.get(child)
        container = parent.container if parent else None
        if known is not None and known.ended is None and known.born is None and known.maker is None:
            # The cgroup move of this process was read (at once) before its birth (in a batch).
            container = known.container or container
        task = Task(child, maker, ring.text_of(name), container, born=t)
        self.tasks[child] = task
        self.on_task("fork", task, record)

    def stop(self) -> None:
        if self.instance is not None:
            self.instance.remove()
            self.instance = None
