"""The probe's beginning and end: builds the sources, takes commands, leaves cleanly.

Rule: the end of standard input is the order to leave, whoever's death caused it; what
was made in the kernel (tracing instances) is removed on every way out but SIGKILL, and
then by the next start. Commands are JSON lines: watch, unwatch, snapshot, flush, ping,
monitors, docker, stop.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import select
import signal
import sys
import time
from typing import TYPE_CHECKING

from . import linux, ring, tracefs
from .cgroups import Hierarchies
from .clocks import Clocks
from .commands import Commands
from .connector import Connector
from .daemons import Daemons
from .deaths import Deaths
from .docker import Events
from .kernel import KernelLog
from .kernelclock import KernelClock
from .lineage import Lineage
from .linux import boot
from .logs import Logs
from .loop import Loop
from .machine import Machine
from .namespaces import Namespaces
from .out import Bucket, Out
from .postmortem import PostMortem
from .senders import Senders
from .syscalls import Syscalls
from .watch import Watch

if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from .lineage import Task
    from .ring import Record

VERSION = 1
NAME = "deathbench-prob"
DEAR, GREEDY = 0.1, 0.4
"""Shares of one processor over a second: we slow down; we give up being first in line."""
SLOWEST = 16
WHOLE = 2_000_000_000
"""Nanoseconds a barrier may take to empty a source."""
BATCH = 0.1
"""Seconds between readings of what is frequent. A death or a sender reads it at once."""
OWN_UP = 500_000_000
"""Nanoseconds after which the gap of a flood is told, whether the flood has ended or not."""
_FAR = "this is not the kernel's first PID namespace: "
FOREIGN = {
    "trace": _FAR + "the tracer's numbers are nobody's here",
    "proc": _FAR + "the proc connector's numbers are nobody's here",
    "kernel": _FAR + "the log's process numbers are nobody's here",
}
"""What a container of its own hides from us: a number that means another process is worse than none."""


class Probe:
    """config: see harness.machine.ProbeSite, with monitors (off | light | full) and hz."""

    def __init__(self, config: Dict[str, Any]) -> None:
        self.config = config
        self.monitors = config.get("monitors", "light")
        self.hz = min(100.0, max(1.0, float(config.get("hz", 10))))
        self.base = config.get("cgroup") or "/"
        self.label = config.get("label") or "deathbench"
        self.out = Out(1)
        self.loop = Loop(self.out)
        self.everything = self.base != "/"
        self.proc = Bucket(200, 1000)
        self.used, self.spared, self.first = time.process_time(), boot(), True
        self.tracing: Optional[str] = None
        self.build()

    def build(self) -> None:
        loop, out = self.loop, self.out
        self.clock_source = KernelClock()
        self.clocks = Clocks(out, self.clock_source.offset)
        self.hierarchies = Hierarchies()
        self.lineage = Lineage(loop, out, self.task)
        self.watch = Watch(loop, out, self.hierarchies, self.lineage, self.base)
        self.connector = Connector(loop, out, self.clocks, self.exited)
        self.daemons = Daemons(
            loop,
            out,
            self.base,
            self.lineage,
            self.connector.drain,
            self.config.get("docker_socket"),
        )
        self.senders = Senders(loop, out, self.lineage)
        self.senders.daemons = self.daemons
        self.deaths = Deaths(
            loop, out, self.watch, self.lineage, self.senders, self.daemons, self.connector
        )
        self.kernel = KernelLog(loop, out, self.clocks)
        self.docker = Events(loop, out, self.clocks, self.config.get("docker_socket"), self.wanted)
        self.logs = Logs(loop, out, self.clocks)
        self.machine = Machine(loop, out, self.config.get("roots") or [])
        self.namespaces = Namespaces(loop, out, self.watch, self.config.get("roots") or [])
        self.postmortem = PostMortem(
            loop,
            out,
            self.watch,
            self.lineage,
            self.kernel,
            self.connector,
            self.machine,
            self.base,
        )
        self.syscalls = Syscalls(loop, out, self.daemons, str(self.config.get("tracer", "")))
        self.deaths.on_death = [self.postmortem.died, self.namespaces.died]

    # --- beginning ---

    def start(self) -> None:
        self.out.emit(
            "hello",
            "probe",
            boot(),
            version=VERSION,
            boot_id=self.boot_id(),
            kernel=platform.release(),
            python=platform.python_version(),
            cgroup=self.hierarchies.version,
            hz=os.sysconf("SC_CLK_TCK"),
            monitors=self.monitors,
            pid=os.getpid(),
        )
        if self.monitors != "off":
            self.start_watching()
        else:
            self.out.source("trace", "unsupported", "monitors are off")
        self.clocks.read()
        self.loop.every(1.0, self.clocks.read, "clock")
        self.docker.start()
        self.loop.every(1.0, self.spare, "probe")
        self.loop.add(0, select.EPOLLIN, Commands(self).read, "commands")

    def start_watching(self) -> None:
        without = frozenset(self.config.get("without") or ())
        self.watch.pidfd_works = "pidfd" not in without
        foreign = {} if linux.sees_all() else FOREIGN
        try:
            if "tracefs" in without:
                raise OSError(0, "left out on request")
            if foreign:
                # Nor can stale instances be told from living ones: the makers are out of sight.
                raise OSError(0, foreign["trace"])
            self.tracing = tracefs.find()
            tracefs.remove_stale(self.tracing, self.label)
        except OSError as error:
            self.out.source("trace", "unsupported", "no tracefs: %s" % error.strerror)
            self.tracing = None
        stem = "%s-%d" % (self.label, os.getpid())
        steps: List[Tuple[str, Callable[[], None]]] = [
            ("clock", lambda: self.clock_source.start(self.tracing, stem + "-k")),
            ("trace", lambda: self.deaths.start(self.tracing, stem + "-a")),
            ("lineage", lambda: self.lineage.start(self.tracing, stem + "-b")),
            ("proc", self.connector.start),
            ("kernel", self.kernel.start),
            ("daemons", self.daemons.start),
            (
                "daemon-log",
                lambda: self.logs.start(
                    self.config.get("logs") or {}, bool(self.config.get("journal"))
                ),
            ),
            ("machine", lambda: self.machine.start(self.hz)),
            ("mounts", self.namespaces.start),
        ]
        for what, begin in steps:
            if what in without:
                self.out.source(what, "unsupported", "left out on request")
                continue
            if what == "proc" and foreign:
                self.out.source(what, "unsupported", foreign[what])
                continue
            try:
                begin()
            except Exception as error:
                self.out.source(what, "unsupported", "%s: %s" % (type(error).__name__, error))
        if foreign and "kernel" not in without:
            self.out.source("kernel", "partial", foreign["kernel"])
        self.deaths.without_moves()
        self.loop.every(1.0 / self.hz, self.watch.sample, "cgroup")
        self.loop.every(BATCH, self.batch, "lineage")
        self.out.source(
            "cgroup",
            "active" if self.hierarchies.mounts else "unsupported",
            "" if self.hierarchies.mounts else "no control groups are mounted",
        )
        if self.monitors == "full":
            self.syscalls.start(self.tracing, "%s-%d" % (self.label, os.getpid()))

    def batch(self) -> None:
        """What wakes nobody, together, so that we wake once for all of it."""
        self.lineage.drain()
        self.connector.drain()
        self.logs.read()
        self.out.own_up(OWN_UP)

    def spare(self) -> None:
        """Look less often where looking is dear: one slow processor is the experiment's, not ours."""
        now, used = boot(), time.process_time()
        share = (used - self.used) / max(1e-9, (now - self.spared) / 1e9)
        self.used, self.spared = used, now
        slow = self.loop.slow
        if share > DEAR and slow < SLOWEST:
            slow *= 2
        elif share < DEAR / 4 and slow > 1:
            slow //= 2
        if share > GREEDY and self.first:
            self.first = False
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        if slow != self.loop.slow:
            self.loop.slow = slow
            why = "%d %% of a processor: looks %d times less often" % (share * 100, slow)
            self.out.source("probe", "partial" if slow > 1 else "active", why if slow > 1 else "")

    def boot_id(self) -> str:
        return (linux.read_text("/proc/sys/kernel/random/boot_id") or "").strip()

    # --- what sources tell each other ---

    def wanted(self, said: Dict[str, Any], container: Optional[str]) -> bool:
        """Which of the engine's events go out."""
        if self.everything or said.get("Type") == "daemon":
            return True
        return container in self.watch.all

    def task(self, what: str, task: Task, record: Record) -> None:
        """Lineage read a fork, exec or exit."""
        if what == "exec":
            self.daemons.executed(task.pid, task.name)
            self.syscalls.executed(task.pid, task.name)
        watched = self.watch.all.get(task.container or "")
        if watched is not None:
            # Kept, not sent: only a death makes the last of them worth reading.
            maker = task.maker if what == "fork" else task.pid
            watched.ring.append(lambda: _traced(record, maker))

    def exited(self, pid: int, status: Optional[int], fields: Dict[str, Any], t: int) -> None:
        """The proc connector read an end."""
        daemon = self.daemons.exited(pid, status)
        watched = self.watch.mains.get(pid)
        # The first thread may leave before the others, which the pidfd outlives.
        if watched is not None and status is not None and linux.threads(pid) < 2:
            self.deaths.died(watched, watched.main, t, "proc")
        if watched is not None or daemon:
            self.out.emit("proc", "proc", t, **fields)
            return
        task = self.lineage.tasks.get(pid)
        watched = self.watch.all.get(task.container or "") if task is not None else None
        if watched is None or task is None:
            return
        fields["name"] = task.name
        if status and self.proc.take():
            self.out.emit("proc", "proc", t, **fields)
        else:
            # A child that ends well is told with the death, if one comes.
            watched.ring.append(lambda: dict(fields, kind="proc", source="proc", t=t))

    def drain_all(self) -> None:
        self.deaths.drain()
        self.deaths.do_later()
        self.senders.finish()
        self.lineage.drain(WHOLE)
        self.connector.drain(WHOLE)
        self.kernel.drain()
        self.docker.drain()
        self.logs.read()
        self.out.own_up()

    # --- end ---

    def cost(self) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.out.emit(
            "cost",
            "probe",
            boot(),
            cpu=used.ru_utime + used.ru_stime + children.ru_utime + children.ru_stime,
            rss=linux.peak_memory(),
            events=self.out.counts,
            dropped=self.out.dropped,
        )

    def leave(self) -> None:
        """Remove what we made, whatever is broken."""
        try:
            if not self.out.broken:
                self.drain_all()
                if self.monitors != "off":
                    self.clocks.read()
                self.cost()
        finally:
            for part in (
                self.syscalls,
                self.deaths,
                self.lineage,
                self.clock_source,
                self.connector,
                self.kernel,
                self.docker,
                self.logs,
                self.watch,
                self.daemons,
            ):
                try:
                    part.stop()
                except Exception as error:
                    self.out.source("probe", "partial", "leaving: %s" % error)
            os.set_blocking(1, True)
            self.out.flush()


def _traced(record: Record, process: Optional[int]) -> Dict[str, Any]:
    """As an event; process: whose thread it was that ran."""
    return {
        "kind": "trace",
        "source": "lineage",
        "t": record[0],
        "instance": "B",
        "text": ring.line(record),
        "tgid": process,
    }


def prepare() -> List[str]:
    """Make ourselves a good observer: own mounts, first in line, not swapped out, not chosen."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    linux.set_name(NAME)
    sys.setswitchinterval(0.0005)
    steps = (
        ("own mounts", linux.private_mounts),
        # Before everybody else, so that a busy machine does not delay what it is asked about.
        ("priority", _first_in_line),
        ("oom_score_adj", lambda: _write("/proc/self/oom_score_adj", "-1000")),
        ("locked memory", linux.lock_memory),
    )
    problems = []
    for what, step in steps:
        try:
            step()
        except OSError as error:
            problems.append("no %s: %s" % (what, error.strerror))
    return problems


def _first_in_line() -> None:
    """Real time, least of its kind: woken at once, and the children are as everybody.

    A nice value counts only inside one control group, which is not where the containers are.
    With one processor it must do: what we take there, we take from the experiment.
    """
    if (os.cpu_count() or 1) < 2:
        os.setpriority(os.PRIO_PROCESS, 0, -15)
        return
    try:
        policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(1))
    except OSError:
        os.setpriority(os.PRIO_PROCESS, 0, -15)
        raise


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def main(config: Dict[str, Any]) -> None:
    if config.get("mode") == "clean":
        linux.private_mounts()
        root = tracefs.find()
        look = tracefs.stale if config.get("dry") else tracefs.remove_stale
        gone = look(root, config["label"])
        print(json.dumps({"removed": gone}))
        return
    problems = prepare()
    probe = Probe(config)
    signal.signal(signal.SIGTERM, lambda number, frame: probe.loop.stop())
    os.set_blocking(0, False)
    try:
        probe.start()
        # What could not be had makes us a slower observer, not a blinder one.
        probe.out.source("probe", "active", "; ".join(problems))
        probe.loop.run()
    finally:
        probe.leave()
