"""Clues of what an exec in a living container met: an exit that was lost, a daemon or a layer gone.

Rule: the engine's word that a container runs is worth what its last look at it was; a
process that is gone, a directory that is not there and a log line are seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.attribution.surroundings import is_full
from harness.attribution.table import Clue, Clues
from harness.parse import container_of
from harness.parse.kernel import ForkRejected, OomKill, OomKilled

if TYPE_CHECKING:
    from harness.history import Attempt, History

NEAR = 1_000_000_000
SETTLED = 40_000_000_000
"""dockerd waits up to 30 s for a task's deletion: who is called running for longer is forgotten."""


def lost_exit(history: History, attempt: Attempt) -> Clues:
    """The main process is gone, and the engine goes on calling the container running.

    Either long after the refusal, or soon, when containerd was away: then nobody told dockerd.
    """
    end = attempt.end or attempt.begin
    running = [
        s
        for s in history.looks
        if s.what.container == attempt.container
        and s.what.by == "inspect"
        and s.what.state is not None
        and s.what.state.status == "running"
        and s.at > end + 2 * NEAR
    ]
    died = any(
        s.what.id == attempt.container
        and s.what.action in ("die", "start")
        and s.at >= attempt.begin - 2 * NEAR
        for s in history.engine
    )
    if not running or died:
        return ()
    away = [
        s
        for s in history.daemons
        if s.what.name == "containerd" and s.what.state in ("gone", "stopped") and s.at <= end
    ]
    if not away and running[-1].at < end + SETTLED:
        return ()
    last = running[-1]
    words = f"the engine called it running {(last.at - end) / 1e9:.0f} s later"
    return (
        Clue(last.n, "status", words),
        *(Clue(s.n, "daemons", "containerd had been away") for s in away[-1:]),
    )


def daemon_victims(history: History, until: int) -> Clues:
    """dockerd or containerd fell to the OOM killer before."""
    chosen = [
        (s.at, s.n, "kernel", s.what.pid)
        for s in history.kernel
        if isinstance(s.what, OomKill | OomKilled)
    ]
    chosen += [(v.at, v.n, "trace", v.what.pid) for v in history.victims]
    clues = []
    for at, n, channel, pid in chosen:
        daemon = history.daemon_at(pid, at)
        if at <= until and daemon is not None and daemon.what.name in ("dockerd", "containerd"):
            words = f"the OOM killer chose {daemon.what.name} (pid {pid})"
            clues.append(Clue(n, channel, words))
    return tuple(clues)


def daemon_starved(history: History, until: int) -> Clues:
    """dockerd crashed for want of a thread, which a pids controller outside every container refused."""
    said = [s for s in history.daemon_log if s.what.what == "no-threads" and s.at <= until]
    refused = [
        s
        for s in history.kernel
        if isinstance(s.what, ForkRejected)
        and container_of(s.what.cgroup) is None
        and any(abs(s.at - o.at) <= 10 * NEAR for o in said)
    ]
    if not refused:
        return ()
    return (
        Clue(said[-1].n, "daemon-log", "dockerd could make no thread and crashed"),
        Clue(
            refused[-1].n,
            "kernel",
            "the kernel log says a fork was refused outside every container",
        ),
    )


def start_failed(history: History, until: int) -> Clues:
    """dockerd says that it could not start, and has not come up since."""
    said = [s for s in history.daemon_log if s.at <= until]
    failed = [s for s in said if s.what.what in ("pidfile", "start-failed")]
    if not failed or any(s.what.what == "ready" and s.at > failed[-1].at for s in said):
        return ()
    return (Clue(failed[-1].n, "daemon-log", "dockerd says that it could not start"),)


def full_disk(history: History, attempt: Attempt) -> Clues:
    """A file system of the engine was full while the exec ran."""
    end = attempt.end or attempt.begin
    for s in history.machine:
        if attempt.begin - NEAR <= s.at <= end + 2 * NEAR:
            for where, disk in s.what.disks.items():
                if (words := is_full(disk)) is not None:
                    return (Clue(s.n, "machine", f"{where} {words}"),)
    return ()


def lost_layer(history: History, attempt: Attempt) -> Clues:
    """The writable layer of its root file system had been deleted."""
    return tuple(
        Clue(s.n, "mounts", "the writable layer of its root file system is gone")
        for s in history.mounts
        if s.what.container == attempt.container
        and s.at <= (attempt.end or attempt.begin) + NEAR
        and "upperdir" in s.what.gone
    )[:1]
