"""An exec that nobody answered: what stood still?

Rule: each answer was seen standing still at the time (its state, its cgroup, its clock);
when nothing was, or two things were that do not explain each other, the cause is unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.attribution.table import Clue, Clues
from harness.parse.cgroup import parse_counters
from harness.parse.trace import DELIVERED

if TYPE_CHECKING:
    from harness.history import Attempt, History

STOPS, SIGCONT = frozenset({19, 20, 21, 22}), 18

THROTTLED = 0.5
"""Share of its periods in which a container was throttled, from which on nothing in it is in time."""


def standing_still(history: History, attempt: Attempt) -> tuple[str, Clues]:
    """(cause, clues) of an exec without an answer."""
    begin, end = attempt.begin, attempt.end if attempt.end is not None else history.end
    # The larger thing explains the smaller: a machine that stands still has daemons that do.
    for cause, clues in (
        ("vm-suspended", _jumped(history, begin, end)),
        ("dockerd-hung", _stopped(history, "dockerd", None, end)),
        ("containerd-hung", _stopped(history, "containerd", None, end)),
        ("shim-hung", _shim(history, attempt, end)),
        ("memory-stall", _under_oom(history, attempt, end)),
        ("docker-pause", _paused(history, attempt, end)),
        ("cgroup-frozen", _frozen(history, attempt, end)),
        ("dockerd-fds", _fds(history, begin, end)),
        ("cpu-throttled", _throttled(history, attempt, begin, end)),
        ("main-stopped", _main_stopped(history, attempt, end)),
        ("exec-timeout", _just_slow(history, attempt, begin, end)),
    ):
        if clues:
            return cause, clues
    return "unknown", ()


def _jumped(history: History, begin: int, end: int) -> Clues:
    return tuple(
        Clue(s.n, "clock", f"the machine stood still for {abs(s.what.by) / 1e9:.1f} s")
        for s in history.jumps
        if s.what.which in ("suspend", "freeze")
        and begin <= s.at <= end + 2 * 10**9
        and abs(s.what.by) * 2 >= end - begin
    ) + tuple(
        Clue(s.n, "host", f"the machine stood still: {s.what.why}")
        for s in history.host
        if s.what.what == "still"
        and s.at <= end
        and (s.what.until is None or s.what.until >= begin)
        and (min(end, s.what.until or end) - max(begin, s.at)) * 2 >= end - begin
    )


def _stopped(history: History, name: str, container: str | None, end: int) -> Clues:
    last = None
    for s in history.daemons:
        if s.what.name == name and s.what.container == container and s.at <= end:
            last = s
    if last is None or last.what.state != "stopped":
        return ()
    return (Clue(last.n, "daemons", f"{name} (pid {last.what.pid}) was stopped by a signal"),)


def _shim(history: History, attempt: Attempt, end: int) -> Clues:
    stopped = _stopped(history, "shim", attempt.container, end)
    if not stopped:
        return ()
    return stopped + tuple(
        Clue(s.n, "daemon-log", "dockerd waits for its shim in vain")
        for s in history.daemon_log
        if s.what.what == "task-timeout"
        and s.what.container == attempt.container
        and attempt.begin <= s.at <= end
    )


def _under_oom(history: History, attempt: Attempt, end: int) -> Clues:
    for f in reversed(history.files):
        if (
            f.what.container == attempt.container
            and "memory.oom_control" in f.what.files
            and f.at <= end + 10**9
        ):
            said = parse_counters(f.what.files["memory.oom_control"])
            if said.get("under_oom") == 1 and said.get("oom_kill_disable") == 1:
                return (
                    Clue(
                        f.n, "cgroup", "its cgroup is under OOM, and its OOM killer is switched off"
                    ),
                )
            return ()
    return ()


def _pause_edge(history: History, container: str, end: int) -> Clues:
    last = None
    for s in history.engine:
        if s.what.id == container and s.what.action in ("pause", "unpause") and s.at <= end:
            last = s
    if last is None or last.what.action != "pause":
        return ()
    return (Clue(last.n, "docker", "the engine was told to pause it"),)


def _paused(history: History, attempt: Attempt, end: int) -> Clues:
    return _pause_edge(history, attempt.container, end)


def _frozen(history: History, attempt: Attempt, end: int) -> Clues:
    state: dict[str, tuple[int, str]] = {}
    for f in history.files:
        if f.what.container == attempt.container and f.at <= end:
            for name in ("freezer.state", "cgroup.events", "cgroup.freeze"):
                if name in f.what.files:
                    state[name] = (f.n, f.what.files[name])
    for name, (n, text) in state.items():
        if "FROZEN" in text or "frozen 1" in text:
            return (
                Clue(
                    n, "cgroup", f"its {name} says frozen, and the engine was not told to pause it"
                ),
            )
    return ()


def _fds(history: History, begin: int, end: int) -> Clues:
    return tuple(
        Clue(s.n, "daemon-log", "dockerd says it has too many open files")
        for s in history.daemon_log
        if s.what.what == "no-fds" and begin <= s.at <= end + 10**9
    )[:1]


def _main_stopped(history: History, attempt: Attempt, end: int) -> Clues:
    """A signal stopped its main process, and none told it to go on: whoever asks it waits."""
    mains = history.mains_of(attempt.container)
    last = None
    for s in history.signals if mains else ():
        if s.what.pid == mains[-1].pid and s.what.result == DELIVERED and s.at <= end:
            if s.what.sig in STOPS:
                last = s
            elif s.what.sig in (SIGCONT, 9):
                last = None
    if last is None:
        return ()
    return (Clue(last.n, "trace", f"its main process was stopped by signal {last.what.sig}"),)


def _throttled(history: History, attempt: Attempt, begin: int, end: int) -> Clues:
    series = [
        (f.n, parse_counters(f.what.files[name]))
        for f in history.files
        if f.what.container == attempt.container and begin - 10**9 <= f.at <= end + 10**9
        for name in ("cpu/cpu.stat", "cpu.stat")
        if name in f.what.files
    ]
    if len(series) < 2:
        return ()
    (_, first), (n, last) = series[0], series[-1]
    periods = last.get("nr_periods", 0) - first.get("nr_periods", 0)
    throttled = last.get("nr_throttled", 0) - first.get("nr_throttled", 0)
    if periods < 10 or throttled < THROTTLED * periods:
        return ()
    return (Clue(n, "cgroup", f"it was throttled in {throttled} of {periods} periods"),)


def _just_slow(history: History, attempt: Attempt, begin: int, end: int) -> Clues:
    """The exec's process began and the engine went on answering: the command itself takes that long."""
    if not attempt.started:
        return ()
    begun = tuple(
        Clue(s.n, "docker", "the engine started the exec")
        for s in history.engine
        if s.what.id == attempt.container
        and s.what.action == "exec_start"
        and begin <= s.at <= end
        and s.what.attributes.get("execID") == attempt.exec_id
    )
    ended = any(
        s.what.id == attempt.container
        and s.what.action == "exec_die"
        and s.what.attributes.get("execID") == attempt.exec_id
        for s in history.engine
    )
    one_more = _one_more(history, attempt.container, begin, end)
    answered = tuple(
        Clue(s.n, "status", "the engine answered meanwhile")
        for s in history.looks
        if s.what.by == "inspect" and s.what.state is not None and end <= s.at <= end + 10 * 10**9
    )[:1]
    watched = all(history.active(s, begin, end) for s in ("cgroup", "trace", "daemons"))
    # The engine says exec_start before it has started anything: one that has no descriptors
    # left for the pipes says so too, and then stands still.
    if not begun or ended or not one_more or not answered or not watched:
        return ()
    # That one more was there is needed and proves little: it may be the runtime's, stuck.
    return (*begun, *answered)


# What the runtime starts on the way to a command is gone by then.
_SETTLED = 500_000_000


def _one_more(history: History, container: str, begin: int, end: int) -> bool:
    """From soon after the request to the end, there were more processes in it than before."""
    counts = [
        (f.at, int(f.what.files[name]))
        for f in history.files
        if f.what.container == container and f.what.scope == "container"
        for name in ("pids.current", "pids/pids.current")
        if f.what.files.get(name, "").strip().isdecimal()
    ]
    # A file is told when it has changed: each count holds until the next.
    early = [c for c in counts if c[0] <= begin + _SETTLED]
    at_first = [n for at, n in early if at < begin][-1:] + [n for at, n in early if at >= begin]
    during = [n for _, n in early[-1:]] + [n for at, n in counts if begin + _SETTLED < at <= end]
    return bool(at_first) and min(during) > min(at_first)
