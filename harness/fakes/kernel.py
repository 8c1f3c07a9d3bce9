"""Processes in memory, and what a kernel says of them to whoever traces it.

Rule: lines are the kernel's own, letter by letter (tracefs, /dev/kmsg), and come in its
order: a signal before the exit it causes, the exit at once, the pidfd when the PID
namespace is torn down.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness import events as e
from harness.clock import NS
from harness.fakes.programs import Exit, Hog, Kill, Program, Say, Sleep, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.fakes.clock import Clock

HZ = 100
PAGES_PER_SECOND = 512 << 20
"""How fast a program takes memory, bytes a second."""
TEARDOWN = 0.0015
"""From the main process's exit to the pidfd: its PID namespace is emptied first."""

ENGINE, HOST, INSIDE = "engine", "host", "inside"
_WHO = {ENGINE: ("runc", 900), HOST: ("kill", 901), INSIDE: ("sh", 0)}
_PLACE = {ENGINE: "engine", HOST: "host", INSIDE: "same-container"}


@dataclass(eq=False)
class Process:
    """One process. `status` is the raw wait status, None while it runs.

    Attributes:
        main: It is PID 1 of a container: a signal nobody handles does nothing.
        over: Called once, at its end.
    """

    pid: int
    program: Program
    container: str
    main: bool
    limit: int | None
    over: Callable[[Process], None]
    started: int
    say: Callable[[str], None]
    first: Process | None = None
    status: int | None = None
    ended: int | None = None
    oom: bool = False
    taken: int = 0
    pending: int | None = None
    at: int = 0
    last: int = 0
    turn: int = 0

    @property
    def alive(self) -> bool:
        return self.status is None


@dataclass
class Kernel:
    """All processes of one machine.

    Attributes:
        emit: Where events go.
        memory: Of the whole machine, bytes; None: endless.
        cgroup: The machine's own, above every container's.
    """

    clock: Clock
    emit: Callable[[e.Event], None]
    memory: int | None = None
    cgroup: str = "/fake"
    processes: dict[int, Process] = field(default_factory=dict)
    _pids: Any = field(default_factory=lambda: itertools.count(4000))
    _lines: Any = field(default_factory=lambda: itertools.count(1))

    def home(self, container: str) -> str:
        return f"{self.cgroup}/{container}"

    # --- life -----------------------------------------------------------------------

    def begin(
        self,
        program: Program,
        *,
        container: str,
        over: Callable[[Process], None],
        say: Callable[[str], None],
        limit: int | None = None,
        first: Process | None = None,
    ) -> Process:
        """Start one. first: the container's main process, for one that joins it."""
        process = Process(
            next(self._pids), program, container, first is None, limit, over,
            self.clock.now(), say, first,
        )  # fmt: skip
        self.processes[process.pid] = process
        if process.main:
            self.emit(self.main_process(process))
            self.emit(self.counters(container, limit, kills=0))
        self.clock.at(self.clock.now(), lambda: self._go_on(process, 0))
        return process

    def counters(self, container: str, limit: int | None, *, kills: int) -> e.CgroupSample:
        """Memory files of a container's own group."""
        return self._sample("container", container, self.home(container), limit, kills)

    def machine_counters(self, *, kills: int = 0) -> e.CgroupSample:
        """The same of the machine's own, above all of them."""
        return self._sample("machine", None, self.cgroup, self.memory, kills)

    def _sample(
        self, scope: str, container: str | None, path: str, limit: int | None, kills: int
    ) -> e.CgroupSample:
        events = f"oom {kills}\noom_kill {kills}"
        return e.CgroupSample(
            **self._common("cgroup"),
            container=container,
            scope=scope,
            path=path,
            files={
                "memory.max": "max" if limit is None else str(limit),
                "memory.events": events,
                "memory.events.local": events,
            },
        )

    def main_process(self, process: Process) -> e.MainProcess:
        return e.MainProcess(
            **self._common("main"),
            container=process.container,
            pid=process.pid,
            start=process.started * HZ // NS,
            nspids=[process.pid, 1],
            cgroup=self.home(process.container),
            name="sh",
        )

    def _go_on(self, process: Process, turn: int) -> None:
        """Do steps until one takes time."""
        if not process.alive or turn != process.turn:
            return
        process.turn += 1
        if process.pending is not None:
            self._end(process, process.program.traps[process.pending] << 8)
            return
        while process.alive:
            if process.at >= len(process.program.steps):
                self._end(process, process.last << 8)
                return
            step = process.program.steps[process.at]
            process.at += not (isinstance(step, Sleep) and step.again)
            match step:
                case Sleep(seconds):
                    self._later(process, seconds)
                    return
                case Exit(code):
                    self._end(process, (process.last if code is None else code) << 8)
                case Say(text):
                    process.say(text)
                    process.last = 0
                case Status(code):
                    process.last = code
                case Kill(number, to_main):
                    victim = (process.first or process) if to_main else process
                    self.signal(victim, number, by=INSIDE, sender=process.pid)
                case Hog(size):
                    self._take(process, size)
                    return

    def _later(self, process: Process, seconds: float) -> None:
        turn = process.turn
        self.clock.after(seconds, lambda: self._go_on(process, turn))

    def _take(self, process: Process, size: int | None) -> None:
        """Memory is taken at a steady rate until it is enough, or until a limit is hit."""
        bounds = [b for b in (process.limit, self.memory) if b is not None]
        bound = min(bounds, default=1 << 62)
        if size is not None and size < bound:
            process.taken = size
            self._later(process, size / PAGES_PER_SECOND)
            return
        whole = bound == self.memory and bound != process.limit
        turn = process.turn

        def full() -> None:
            if process.alive and process.turn == turn:
                self.oom(process, whole=whole)

        self.clock.after(bound / PAGES_PER_SECOND, full)

    # --- death ----------------------------------------------------------------------

    def signal(self, process: Process, number: int, *, by: str = HOST, sender: int = 0) -> None:
        """Send one, as the engine, from the host or from inside."""
        if not process.alive:
            return
        name, pid = _WHO[by]
        pid = sender or pid
        self._trace(
            f"{name:>16}-{pid:<7} [000] d..2. {self._stamp()}: signal_generate: sig={number} errno=0"
            f" code=0 comm=sh pid={process.pid} grp=1 res=0",
            tgid=pid,
        )
        self.emit(
            e.SignalSender(
                **self._common("sender"), pid=pid, name=name, signal=number, to=process.pid,
                container=process.container, place=_PLACE[by],
                home=process.container if by == INSIDE else None,
            )
        )  # fmt: skip
        if number == 9 or (number not in process.program.traps and not process.main):
            self._end(process, number)
        elif number in process.program.traps:
            # A shell takes its trap when the command it waits for has ended.
            process.pending = number

    def oom(self, process: Process, *, whole: bool = False) -> None:
        """The kernel kills it for memory, its container's or the machine's."""
        pid, home = process.pid, self.home(process.container)
        self._trace(
            f"            tail-{pid:<7} [000] d..2. {self._stamp()}: signal_generate: sig=9 errno=0"
            f" code=128 comm=tail pid={pid} grp=1 res=0",
            tgid=pid,
        )
        self._trace(
            f"            tail-{pid:<7} [000] d..1. {self._stamp()}: mark_victim: pid={pid} comm=tail"
        )
        limit = self.cgroup if whole else home
        self._kernel(
            "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
            f"oom_memcg={limit},task_memcg={home},task=tail,pid={pid},uid=0"
        )
        self._kernel(
            f"Memory cgroup out of memory: Killed process {pid} (tail) total-vm:70000kB,"
            " anon-rss:60000kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:180kB oom_score_adj:0"
        )
        process.oom = True
        if whole:
            self.emit(self.machine_counters(kills=1))
        else:
            self.emit(self.counters(process.container, process.limit, kills=1))
        self._end(process, 9)

    def _end(self, process: Process, status: int) -> None:
        if not process.alive:
            return
        process.status, process.ended = status, self.clock.now()
        del self.processes[process.pid]
        pid = process.pid
        if process.main:
            self._trace(
                f"              sh-{pid:<7} [000] ..... {self._stamp()}: sched_process_exit: comm=sh"
                f" pid={pid} prio=120 group_dead=true"
            )
            self.emit(
                e.DeathSeen(
                    **self._common("death"), container=process.container, pid=pid, by="trace"
                )
            )
        self.emit(
            e.ProcEvent(
                **self._common("proc"),
                what="exit",
                pid=pid,
                tgid=pid,
                status=status,
                exit_signal=17,
            )
        )
        if process.main:
            self.clock.after(TEARDOWN, lambda: self._torn_down(process))
        process.over(process)

    def _torn_down(self, main: Process) -> None:
        """Its PID namespace goes: whoever joined it is killed."""
        for other in [p for p in self.processes.values() if p.first is main]:
            self._end(other, 9)
        self.emit(e.PidfdExit(**self._common("pidfd"), pid=main.pid, container=main.container))

    # --- telling --------------------------------------------------------------------

    def _common(self, source: str) -> dict[str, Any]:
        now = self.clock.now()
        return {"t": now, "seen": now, "source": source}

    def _stamp(self) -> str:
        return f"{self.clock.now() / NS:.6f}"

    def _trace(self, text: str, tgid: int | None = None) -> None:
        self.emit(e.TraceLine(**self._common("trace"), instance="A", text=text, tgid=tgid))

    def _kernel(self, text: str) -> None:
        self.emit(
            e.KernelLine(**self._common("kernel"), level=3, kseq=next(self._lines), text=text)
        )
