"""Instance A: signals, victims and ends, at the moment they happen.

Rule: this instance wakes us for every line, so only what is rare is enabled here:
deadly signals by number (a filter by pid would hide killers from outside), OOM
victims, exits of watched main processes, moves between cgroups. The first witness of a
main process's end tells the death; the others are kept as witnesses.
"""

from __future__ import annotations

import collections
import re
import select
from typing import TYPE_CHECKING

from . import tracefs
from .lineage import container_of
from .linux import boot
from .out import Bucket

if TYPE_CHECKING:
    from typing import Any, Callable, Deque, Dict, List, Optional

    from .connector import Connector
    from .daemons import Daemons
    from .lineage import Lineage
    from .loop import Loop
    from .out import Out
    from .senders import Senders
    from .tracefs import Line
    from .watch import Main, Watch, Watched

# All that can end a process by default, without the ones that timers and runtimes send
# by the thousand (ALRM, VTALRM, PROF, URG) and without CHLD. 19 and 18 freeze and thaw.
SIGNALS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 24, 25, 28, 29, 30, 31)
# From 34 on they are the programs' own (the C library keeps 32 and 33 for its threads).
REAL_TIME = 34
CHLD = 17
SI_KERNEL = 128
SIGKILL = 9
FILTER_ROOM = 4000  # a filter is one write of less than a page
BUDGET = 20_000_000
"""Nanoseconds one reading may take."""
FLOOD = 2000
"""Lines in a tenth of a second from which on they are read in batches of BATCHED seconds."""
BATCHED = 0.02
COLLATERAL = 10
"""Lines sent of the SIGKILLs with which a dying pid namespace takes its processes along."""

_SIGNAL = re.compile(
    r"^sig=(?P<sig>\d+) errno=-?\d+ code=(?P<code>-?\d+) comm=(?P<comm>.*) pid=(?P<pid>\d+) "
    r"grp=\d+ res=\d+$",
    re.S,
)
_PID = re.compile(r"(?:^|.* )pid=(\d+)(?: |$)", re.S)
_PATH = re.compile(r"(?:dst_)?path=(\S+)")


class Deaths:
    def __init__(
        self,
        loop: Loop,
        out: Out,
        watch: Watch,
        lineage: Lineage,
        senders: Senders,
        daemons: Daemons,
        connector: Connector,
    ) -> None:
        self.loop, self.out, self.watch, self.lineage = loop, out, watch, lineage
        self.senders, self.daemons, self.connector = senders, daemons, connector
        self.instance: Optional[tracefs.Instance] = None
        self.on_death: List[Callable[[Watched, Main, int], None]] = []
        self.filtered: Optional[str] = None
        self.flood, self.to_main = Bucket(100, 2000), Bucket(100, 1000)
        self.waiting: Deque[Callable[[], Any]] = collections.deque()
        self.window, self.seen, self.batched = 0, 0, False
        self.collateral: Dict[str, int] = {}
        self.read_until = boot()
        self.blind_pids = False
        self.turn = 0
        self.told_of_moves = False
        watch.on_mains = self.refilter
        watch.on_pidfd = self.pidfd
        watch.on_gone.append(self.forget)

    def start(self, root: Optional[str], name: str) -> None:
        if root is None:
            return
        self.instance = tracefs.Instance(root, name, 1024)
        # CHLD first: every process's end sends one, and the filter need look no further.
        wanted = "||".join(["sig==%d" % number for number in SIGNALS] + ["sig>=%d" % REAL_TIME])
        wanted = "sig!=%d&&(%s)" % (CHLD, wanted)
        on = {
            "signal_generate": self.instance.enable("signal/signal_generate", wanted),
            "mark_victim": self.instance.enable("oom/mark_victim"),
            "sched_process_exit": self.instance.enable("sched/sched_process_exit", "pid==0"),
            "cgroup_attach_task": self.instance.enable("cgroup/cgroup_attach_task"),
            "cgroup_mkdir": self.instance.enable("cgroup/cgroup_mkdir"),
        }
        missing = sorted(event for event, there in on.items() if not there)
        self.loop.add(self.instance.pipe, select.EPOLLIN, self.drain, "trace")
        if missing:
            self.out.source("trace", "partial", "no tracepoint " + ", ".join(missing))
        else:
            self.out.source("trace", "active")
        self.told_of_moves = "cgroup_attach_task" not in missing

    def without_moves(self) -> None:
        """Nobody tells us of new groups: ask for them, two hundred times a second."""
        if not self.told_of_moves:
            self.loop.every(0.005, self.look_for_new, "main")

    def forget(self, watched: Watched) -> None:
        self.collateral.pop(watched.id, None)

    def look_for_new(self) -> None:
        """Without cgroup tracepoints: ask for the directories of those not yet found.

        Everywhere only now and then; mostly where others were found before.
        """
        self.turn += 1
        for watched in list(self.watch.all.values()):
            if watched.main is None or watched.main.dead:
                path = watched.path or self.watch.look_for(
                    watched.id, everywhere=self.turn % 50 == 1
                )
                if path is not None:
                    self.watch.moved(watched.id, path)

    def refilter(self) -> None:
        """Let the exits of all living main processes through."""
        if self.instance is None:
            return
        pids = sorted(
            p for p, w in self.watch.mains.items() if w.main is not None and not w.main.dead
        )
        text = "||".join("pid==%d" % pid for pid in pids) or "pid==0"
        if len(text) > FILTER_ROOM:
            # Too many for one filter: the rest are seen by pidfd and by instance B.
            text = text[: text.rindex("||", 0, FILTER_ROOM)]
            if not self.blind_pids:
                self.blind_pids = True
                self.out.source("trace", "partial", "more main processes than a filter holds")
        if text != self.filtered:
            self.instance.write("events/sched/sched_process_exit/filter", text)
            self.filtered = text

    def drain(self, mask: int = 0) -> None:
        if self.instance is None:
            return
        count = 0
        for line in self.instance.read(BUDGET):
            self.take(line)
            count += 1
        self.calm_down(count)
        lost = self.instance.overruns()
        now = boot()
        if lost:
            self.out.gap("trace", self.read_until, now, "the trace buffer overran", lost)
        self.read_until = now

    def calm_down(self, count: int) -> None:
        """A flood of signals must not make us wake for each: then read in batches for a while."""
        now = boot()
        if now - self.window > 100_000_000:
            self.window, self.seen = now, 0
        self.seen += count
        if self.seen > FLOOD and not self.batched and self.instance is not None:
            self.batched = True
            self.loop.remove(self.instance.pipe)
            self.loop.after(BATCHED, self.again, "trace")

    def again(self) -> None:
        if self.instance is None:
            return
        self.seen = 0
        self.drain()
        if self.seen > FLOOD // 10:
            self.loop.after(BATCHED, self.again, "trace")
        else:
            self.batched = False
            self.loop.add(self.instance.pipe, select.EPOLLIN, self.drain, "trace")

    def take(self, line: Line) -> None:
        if line.event == "sched_process_exit":
            self.exited(line)
        elif line.event == "signal_generate":
            self.signalled(line)
        elif line.event == "mark_victim":
            self.say(line)
        elif line.event.startswith("cgroup_"):
            self.moved(line)

    def say(self, line: Line) -> None:
        self.out.emit("trace", "trace", line.t, instance="A", text=line.text, tgid=line.tgid)

    # --- ends ---

    def exited(self, line: Line) -> None:
        match = _PID.match(line.rest)
        pid = int(match.group(1)) if match else line.tid
        watched = self.watch.mains.get(pid)
        if watched is None:
            return
        # The leader's thread may leave before the others: then the process lives on, and the
        # pidfd will say when it ended. Kernels before 6.15 do not print group_dead.
        if "group_dead=false" not in line.rest:
            self.died(watched, watched.main, line.t, "trace")
        self.say(line)

    def pidfd(self, watched: Watched, main: Main) -> None:
        """The second witness; alone it is late, so the first one's time is asked for."""
        t = boot()
        self.watch.close_pidfd(main)
        self.drain()
        if not main.dead:
            self.connector.drain()  # knows the kernel's time of it, if it heard
        if not main.dead:
            self.lineage.drain()
            task = self.lineage.tasks.get(main.pid)
            ended = task.ended if task is not None and task.ended else t
            self.died(watched, main, ended, "pidfd")
        self.out.emit("pidfd", "pidfd", t, t, pid=main.pid, container=watched.id)

    def died(self, watched: Watched, main: Optional[Main], t: int, by: str) -> None:
        if main is None or main.dead:
            return
        main.dead = True
        watched.deaths += 1
        self.out.emit("death", "death", t, container=watched.id, pid=main.pid, by=by)
        self.out.flush()
        self.later(lambda: [callback(watched, main, t) for callback in self.on_death])

    def later(self, job: Callable[[], Any]) -> None:
        """After the lines that are there already: the next one may be a death.

        In the order of arrival, so that a sender (gone in a millisecond) is asked before the
        post-mortem of its victim (whose directory stays for fifty) is made.
        """
        if not self.waiting:
            self.loop.after(0, self.do_one, "trace")
        self.waiting.append(job)

    def do_one(self) -> None:
        """One job a turn: between two of them the loop looks for the next death."""
        if self.waiting:
            job = self.waiting.popleft()
            if self.waiting:
                self.loop.after(0, self.do_one, "trace")
            job()

    def do_later(self) -> None:
        """All of them now: for a barrier."""
        while self.waiting:
            self.waiting.popleft()()

    # --- signals ---

    def signalled(self, line: Line) -> None:
        match = _SIGNAL.match(line.rest)
        if match is None:
            return
        target, code = int(match.group("pid")), int(match.group("code"))
        container = self.container_of(target)
        if container not in self.watch.all and not self.daemons.is_daemon(target):
            return
        watched = self.watch.all.get(container or "")
        is_main = watched is not None and watched.main is not None and watched.main.pid == target
        if code == SI_KERNEL and watched is not None and not is_main:
            count = self.collateral[watched.id] = self.collateral.get(watched.id, 0) + 1
            if count > COLLATERAL and watched.main is not None and watched.main.dead:
                self.out.drop("trace")
                return
        signal = int(match.group("sig"))
        if signal != SIGKILL and not (self.to_main if is_main else self.flood).take():
            if is_main:
                self.out.shed("trace", line.t)
            else:
                self.out.drop("trace")  # another process's: the main one does not end of it
            return
        self.say(line)
        if code != SI_KERNEL:
            self.later(lambda: self.senders.say(line, target, signal, container))

    def container_of(self, pid: int) -> Optional[str]:
        watched = self.watch.mains.get(pid)
        if watched is not None:
            return watched.id
        task = self.lineage.tasks.get(pid)
        if task is not None and task.ended is None and task.container is not None:
            return task.container
        task = self.lineage.from_proc(pid) if task is None or task.container is None else task
        return task.container if task is not None else None

    # --- moves ---

    def moved(self, line: Line) -> None:
        match = _PATH.search(line.rest)
        path = match.group(1) if match else ""
        container = container_of(path)
        if container is None:
            return
        if line.event == "cgroup_attach_task":
            pid = _PID.match(line.rest)
            if pid:
                self.lineage.adopt(int(pid.group(1)), line.comm, container)
        self.watch.moved(container, path)

    def stop(self) -> None:
        if self.instance is not None:
            self.loop.remove(self.instance.pipe)
            self.instance.remove()
            self.instance = None
