"""Clues of the engine: which request ended it, and whether the daemons themselves went.

Rule: a request by somebody else is seen in the engine's own events, minus what our own
requests explain. Silence of the stream proves nothing once dockerd has gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.attribution.lost import daemon_starved
from harness.attribution.senders import by_engine, deciding, kill_events
from harness.attribution.table import Clue, Clues
from harness.deaths import trial_end
from harness.history.clock import ENGINE, KERNEL
from harness.parse.execs import parse_exec_error
from harness.parse.kernel import OomKill, OomKilled
from harness.parse.trace import DELIVERED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.attribution.case import Case
    from harness.attribution.table import Look
    from harness.history import Daemon, Seen

SETTLED = 100_000_000
"""After a `die` the request's own last word (`stop`, `destroy`) follows in some 20 ms when
idle; under load everything stretches alike, so the `die`'s own delay is the measure."""

PASSING = 1_500_000_000
"""A process that calls itself dockerd (or a shim) for so short a time beside another one is
its child about to become another program."""

AFTER = 15_000_000_000
"""A dockerd that leaves so soon after a death may have been leaving when it happened."""

LEAVING = 40_000_000_000
"""dockerd waits for its containers before it leaves: their grace period and a little."""


# --- requests -----------------------------------------------------------------------


def request_of(case: Case) -> str | None:
    """Which request of somebody else's ended it: kill | stop | restart | rm; api when the
    engine's words do not tell which; None when there was none."""
    kills = [s for s in case.foreign("kill") if s.at - ENGINE <= case.at + LEAVING]
    if not kills:
        return None
    after = case.ending.die.at if case.ending.die is not None else case.at
    later = {
        s.what.action: s
        for s in case.foreign("restart", "stop", "destroy")
        if s.at >= after - ENGINE
    }
    if "restart" in later:
        return "restart"
    if "stop" in later:
        return "stop" if _stayed(case, later["stop"].at) else "api"
    signals = {s.what.signal for s in kills}
    if _looked(case, "removing"):
        return "rm" if signals == {9} else "api"
    removed = "destroy" in later or _not_found(case)
    if removed and not _auto_remove(case) and not _looked(case, "exited"):
        # `rm -f`, or a `kill` with an `rm` behind it: the events are the same.
        return "api"
    return "kill" if len(signals) == 1 and _settled(case, after) else "api"


def _stayed(case: Case, stopped: int) -> bool:
    """Is it known that no restart was what stopped it: it stayed down, or was started by itself?

    A restart's own word comes right behind that of its start.
    """
    if case.ending.run.until is None:
        return True
    return any(s.at >= stopped for s in case.engine("start"))


def _not_found(case: Case) -> bool:
    """Did the engine not know it any more, before our own clean-up?"""
    return any(
        s.what.container == case.container and s.what.http == 404 and s.at >= case.at
        for s in case.history.looks
    )


def _settled(case: Case, after: int) -> bool:
    """Did the stream go on long enough after the `die` for a request's last word to come?"""
    until = after + max(SETTLED, 3 * (after - case.at) // 2)
    limit = trial_end(case.history)
    end = case.history.end if limit is None else limit
    return end >= until and case.history.active("docker", min(after, case.at), until)


def _auto_remove(case: Case) -> bool | None:
    for c in reversed(case.history.containers):
        if c.id == case.container:
            for key in ("auto_remove", "AutoRemove"):
                for said in (c.config, c.limits):
                    if isinstance(said.get(key), bool):
                        return bool(said[key])
    return None


def _looked(case: Case, status: str) -> bool:
    """Did somebody see it in that status after its end? A removal is marked before it kills."""
    for attempt in case.history.attempts if status == "removing" else ():
        if attempt.end is not None and attempt.end >= case.at:
            fault = parse_exec_error(attempt.error or "", attempt.http)
            if fault is not None and fault.what == "removing" and fault.container == case.container:
                return True
    return any(
        s.what.container == case.container
        and s.what.state is not None
        and s.what.state.status == status
        and s.at >= case.at
        for s in case.history.looks
    )


def asked(request: str | None) -> Look:
    """A look for exactly this request."""

    def look(case: Case) -> Clues:
        if request_of(case) != request:
            return ()
        named = {"restart": ("restart",), "stop": ("stop",), "rm": ("destroy",)}.get(
            request or "", ()
        )
        after = case.ending.die.at if case.ending.die is not None else case.at
        said = [s for s in case.foreign(*named) if s.at >= after - ENGINE][:1] if named else []
        return (
            *kill_events(case),
            *(
                Clue(
                    s.n,
                    "docker",
                    f"the engine finished a {s.what.action} that somebody else asked for",
                )
                for s in said
            ),
        )

    look.__doc__ = (
        f"a {request} by somebody else in the engine's events"
        if request
        else ("a request by somebody else in the engine's events")
    )
    return look


def engine_die(case: Case) -> Clues:
    """the engine's own notice of the end"""
    die = case.ending.die
    return (
        ()
        if die is None
        else (
            Clue(die.n, "docker", f"the engine noticed the end (exit code {die.what.exit_code})"),
        )
    )


def kill_then_die(case: Case) -> Clues:
    """a kill by somebody else that no process survives, then the end"""
    die = case.ending.die
    if die is None:
        return ()
    kills = [s for s in case.foreign("kill") if s.at <= die.at + ENGINE]
    fatal = [s for s in kills if s.what.signal == 9 and die.at - s.at <= LEAVING]
    if _code(case) == 128 + 9 and not fatal:
        return ()  # nobody asked the engine for a SIGKILL: it came from elsewhere
    ends = [s for s in case.foreign("stop", "restart") if s.at >= die.at - ENGINE]
    told = [s for s in kills if s.what.signal in (2, 15) and die.at - s.at <= 12_000_000_000]
    if not fatal and not (told and (ends or _code(case) == 128 + (told[-1].what.signal or 0))):
        return ()
    return tuple(
        Clue(s.n, "docker", f"somebody else told the engine to send signal {s.what.signal}")
        for s in [*fatal, *told]
    )


def _code(case: Case) -> int | None:
    return case.ending.die.what.exit_code if case.ending.die is not None else case.death.exit_code


def waited_for(case: Case) -> Clues:
    """a stop by somebody else that was under way when it ended, and was done right after"""
    die = case.ending.die
    if die is None:
        return ()
    told = [s for s in case.foreign("kill") if s.at <= case.at + ENGINE]
    done = [
        s
        for s in case.foreign("stop", "restart")
        if die.at - ENGINE <= s.at <= die.at + 10 * SETTLED
    ]
    if not told or not done or any(s.what.signal == 9 for s in told):
        return ()
    words = f"somebody else told the engine to stop it (signal {told[0].what.signal})"
    return (
        Clue(told[0].n, "docker", words),
        Clue(done[0].n, "docker", "that stop was done right after it ended"),
    )


def force(case: Case) -> Clues:
    """dockerd says that the grace period ran out"""
    return tuple(
        Clue(s.n, "daemon-log", "dockerd says the grace period ran out")
        for s in case.history.daemon_log
        if s.what.what in ("force", "stuck")
        and s.what.container == case.container
        and abs(s.at - case.at) <= 2 * 10**9
    )


# --- daemons -----------------------------------------------------------------------


def daemons(case: Case, name: str) -> Iterator[Seen[Daemon]]:
    """What was seen of this daemon."""
    hz = case.history.hellos[0].what.hz if case.history.hellos else 100
    for s in case.history.daemons:
        if s.what.name != name or (name == "shim" and s.what.container != case.container):
            continue
        lived = s.at - s.what.start * 10**9 // hz
        if s.what.state == "gone" and lived < PASSING and _child(case, s):
            continue
        yield s


def _child(case: Case, one: Seen[Daemon]) -> bool:
    """Is it of a daemon, and not the daemon? It ends well, or while another one lives."""
    last = {
        s.what.pid: s.what.state
        for s in case.history.daemons
        if s.what.name == one.what.name
        and s.what.container == one.what.container
        and s.at <= one.at
    }
    beside = any(state != "gone" for pid, state in last.items() if pid != one.what.pid)
    # A shim that is told to leave ends well, too.
    return beside or (one.what.name != "shim" and not one.what.status)


def _log(case: Case, daemon: str, *whats: str) -> list[tuple[int, int, str]]:
    return [
        (s.at, s.n, s.what.detail)
        for s in case.history.daemon_log
        if s.what.daemon in (daemon, "") and s.what.what in whats
    ]


def ordered_out(case: Case) -> Clues:
    """dockerd had been told to leave, and had not left yet"""
    clues = []
    starts = [at for at, _, _ in _log(case, "dockerd", "starting")]
    for at, n, detail in _log(case, "dockerd", "signal"):
        if at - ENGINE <= case.at <= at + LEAVING and not any(at < s <= case.at for s in starts):
            clues.append(Clue(n, "daemon-log", f"dockerd was told to leave ({detail})"))
    for s in case.history.signals:
        if (
            s.what.sig in (2, 15)
            and s.what.result == DELIVERED
            and s.at <= case.at <= s.at + LEAVING
        ):
            daemon = case.history.daemon_at(s.what.pid, s.at)
            if daemon is not None and daemon.what.name == "dockerd":
                clues.append(Clue(s.n, "trace", f"dockerd was sent signal {s.what.sig}"))
    gone = [s.at for s in daemons(case, "dockerd") if s.what.state == "gone"]
    if (
        clues
        and any(first <= case.at - 10**9 for first in gone if first >= case.at - LEAVING)
        and not any(g >= case.at - 10**9 for g in gone)
    ):
        return ()  # it had left before: what happened after is another story
    return tuple(clues)


def left_after(case: Case) -> Clues:
    """dockerd left after its containers"""
    clues = [
        Clue(n, "daemon-log", "dockerd finished its shutdown")
        for at, n, _ in _log(case, "dockerd", "shutdown")
        if case.at - 10**9 <= at <= case.at + LEAVING
    ]
    clues += [
        Clue(s.n, "daemons", f"dockerd (pid {s.what.pid}) was gone")
        for s in daemons(case, "dockerd")
        if s.what.state == "gone" and case.at - 10**9 <= s.at <= case.at + LEAVING
    ]
    return tuple(clues)


def leaving(case: Case) -> Clues:
    """dockerd itself was on its way out, or had gone"""
    found = ordered_out(case) or gone_before(case)
    if found:
        return found
    begun = tuple(
        Clue(n, "daemon-log", "a new dockerd had started")
        for at, n, _ in _log(case, "dockerd", "starting", "loading")
        if case.begin <= at <= case.at
    )
    if begun:
        return begun
    return tuple(
        Clue(s.n, "daemons", f"dockerd (pid {s.what.pid}) was gone")
        for s in daemons(case, "dockerd")
        if s.what.state == "gone" and case.begin <= s.at <= case.at + AFTER
    ) + tuple(
        Clue(n, "daemon-log", "dockerd finished its shutdown")
        for at, n, _ in _log(case, "dockerd", "shutdown")
        if case.at <= at <= case.at + AFTER
    )


def stream_lost(case: Case) -> Clues:
    """the engine's stream broke off around or soon after the end"""
    begin, end = case.at - AFTER, case.at + AFTER
    limit = trial_end(case.history)
    end = end if limit is None else min(end, limit)
    said = tuple(
        Clue(s.n, "docker", f"the engine's stream was gone ({s.why})")
        for s in case.history.sources.get("docker", ())
        if s.state != "active" and begin <= s.at <= end
    )
    if said or not case.history.blind("docker", begin, end):
        return said
    return tuple(
        Clue(n, "docker", "the engine's stream had a gap") for n in case.ending.witnesses[:1]
    )


def gone_before(case: Case) -> Clues:
    """dockerd had died without an order while the container ran"""
    orders = [at for at, _, _ in _log(case, "dockerd", "signal")]
    return tuple(
        Clue(s.n, "daemons", f"dockerd (pid {s.what.pid}) died")
        for s in daemons(case, "dockerd")
        if s.what.state == "gone"
        and case.begin - 10**9 <= s.at <= case.at
        and not any(at - 10**9 <= s.at <= at + LEAVING for at in orders)
    ) + tuple(
        Clue(n, "daemon-log", f"dockerd crashed: {detail}")
        for at, n, detail in _log(case, "dockerd", "crash")
        if case.begin <= at <= case.at
    )


def successor(case: Case) -> Clues:
    """the next dockerd was loading its containers at that time"""
    gone = [s.at for s in daemons(case, "dockerd") if s.what.state == "gone" and s.at <= case.at]
    starts = [
        (at, n)
        for at, n, _ in _log(case, "dockerd", "starting", "loading")
        if at <= case.at + ENGINE
    ]
    clues = [
        Clue(n, "daemon-log", "a new dockerd was starting")
        for at, n in starts
        if not gone or at >= gone[-1] - 10**9
    ]
    clues += [
        Clue(s.n, "daemons", f"a new dockerd (pid {s.what.pid}) was there")
        for s in daemons(case, "dockerd")
        if s.what.state == "alive" and gone and gone[-1] <= s.at <= case.at + 10**9
    ]
    ready = [
        at
        for at, _, _ in _log(case, "dockerd", "loaded", "ready")
        if starts and at >= starts[-1][0]
    ]
    if ready and case.at > ready[0] + ENGINE:
        return ()
    return tuple(clues)


def daemon_oom(case: Case) -> Clues:
    """the OOM killer chose dockerd or containerd before"""
    clues = []
    for s in case.history.kernel:
        if (
            isinstance(s.what, OomKill | OomKilled)
            and case.begin <= s.at + s.error
            and s.at <= case.at + s.error
        ):
            daemon = case.history.daemon_at(s.what.pid, s.at)
            if daemon is not None and daemon.what.name in ("dockerd", "containerd"):
                clues.append(
                    Clue(s.n, "kernel", f"the kernel log names {daemon.what.name} as OOM victim")
                )
    for v in case.history.victims:
        if case.begin <= v.at <= case.at:
            daemon = case.history.daemon_at(v.what.pid, v.at)
            if daemon is not None and daemon.what.name in ("dockerd", "containerd"):
                clues.append(
                    Clue(v.n, "trace", f"the kernel marked {daemon.what.name} as OOM victim")
                )
    return tuple(clues)


def starved(case: Case) -> Clues:
    """dockerd had crashed for want of a thread that a pids controller refused"""
    return daemon_starved(case.history, case.at)


def shim_first(case: Case) -> Clues:
    """its shim had died before it did"""
    clues = []
    for s in daemons(case, "shim"):
        if s.what.state == "gone" and case.begin <= s.at < case.at:
            clues.append(Clue(s.n, "daemons", f"its shim (pid {s.what.pid}) died first"))
            clues += [
                Clue(p.n, "proc", f"its shim (pid {s.what.pid}) ended")
                for p in case.history.procs
                if p.what.what == "exit"
                and p.what.pid == s.what.pid
                and case.begin <= p.at < case.at
            ]
    shims = {s.what.pid for s in daemons(case, "shim") if s.what.state == "alive"}
    for sig in case.history.signals:
        if (
            sig.what.pid in shims
            and sig.what.sig in (9, 15)
            and sig.what.result == DELIVERED
            and (case.at - 30 * 10**9 <= sig.at < case.at and clues)
        ):
            clues.append(Clue(sig.n, "trace", f"its shim was sent signal {sig.what.sig}"))
    return tuple(clues)


def swept_up(case: Case) -> Clues:
    """the engine killed it without anybody asking for that"""
    signal = deciding(case)
    if signal is None or signal.what.sig != 9 or kill_events(case):
        return ()
    return by_engine(case)


def code_255(case: Case) -> Clues:
    """the engine did not learn its exit status (255)"""
    die = case.ending.die
    if die is None or die.what.exit_code != 255 or case.left_with == 255:
        return ()
    return (Clue(die.n, "docker", "the engine did not learn its exit status and says 255"),)


def shim_log(case: Case) -> Clues:
    """containerd or dockerd noticed the shim's end before the container's"""
    return tuple(
        Clue(s.n, "daemon-log", "the daemons lost the shim before the main process ended")
        for s in case.history.daemon_log
        if s.what.what == "shim-gone"
        and s.what.container == case.container
        and s.at + KERNEL < case.at
    )


# --- the machine's own end ------------------------------------------------------------


def rebooted(case: Case) -> Clues:
    """the machine booted again"""
    boots = [s for s in case.history.hellos if s.at >= case.begin]
    first = case.history.hellos[0].what.boot_id if case.history.hellos else None
    return tuple(
        Clue(s.n, "probe", "the machine has another boot id")
        for s in boots
        if s.what.boot_id != first
    )[:1]
