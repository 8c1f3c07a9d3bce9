"""Verdicts for an exec that failed in a container that lives.

Rule: the engine's words say what it refused; why is asked of the other sources, and the
text is kept. A time-out says nothing by itself: what stood still must have been seen.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from harness.attribution.lastwords import NO_SPACE, SHORTAGES, not_made, short_of
from harness.attribution.lost import (
    daemon_starved,
    daemon_victims,
    full_disk,
    lost_exit,
    lost_layer,
    start_failed,
)
from harness.attribution.outcome import watched_alive
from harness.attribution.sentence import plain
from harness.attribution.standstill import standing_still
from harness.attribution.table import CHANNELS, Clue, Clues
from harness.model.causes import CAUSES
from harness.model.verdicts import Certainty, Rejected, Sender, SenderKind, Verdict
from harness.parse import container_of
from harness.parse.execs import ExecFault, is_engine_text, parse_exec_error
from harness.parse.kernel import ForkRejected, OomKill
from harness.parse.mountinfo import parse_mount

if TYPE_CHECKING:
    from harness.history import Attempt, History

NEAR = 1_000_000_000

_NO_SOCKET = re.compile(
    r"No such file or directory|Connection refused|Connection reset|Broken pipe|EOF", re.IGNORECASE
)
"""Without an HTTP status it was the connection that failed: the socket is gone (dockerd
left in order), nobody listens (it died), or it died meanwhile."""


def failed(history: History) -> Attempt | None:
    """The pre-task that failed, if one did: the first refused, unanswered or ended with an error."""
    for attempt in history.attempts:
        if attempt.label == "pre-task" and is_failure(attempt):
            return attempt
    return None


def is_failure(attempt: Attempt) -> bool:
    """Did it not run to a good end?"""
    if attempt.timed_out or attempt.end is None:
        return True
    if attempt.exit_code is not None:
        return attempt.exit_code != 0
    return bool(attempt.error) or (attempt.http is not None and attempt.http >= 400)


def fault_of(attempt: Attempt) -> ExecFault | None:
    """The engine's refusal: in its answer, or where the runtime writes into the exec's own stream."""
    if attempt.error:
        found = parse_exec_error(attempt.error, attempt.http)
        if found is None and attempt.http is None and _NO_SOCKET.search(attempt.error):
            return ExecFault("dockerd-unreachable", None, attempt.error[:200])
        return found
    # A command that ran can print anything; the runtime's own failures come as these codes.
    if attempt.exit_code in (126, 127, 255) and is_engine_text(attempt.output):
        return parse_exec_error(attempt.output, attempt.http)
    if attempt.exit_code in (1, 255) and attempt.output.strip().startswith("exec "):
        found = parse_exec_error(attempt.output)
        return (
            found if found is not None and found.what in ("bad-format", "command-missing") else None
        )
    return None


_BY_THE_LIVING = frozenset(
    {
        "paused",
        "frozen",
        "command-missing",
        "not-executable",
        "bad-cwd",
        "cwd-outside",
        "bad-user",
        "bad-format",
    }
)


def answered_by_the_living(history: History, attempt: Attempt) -> bool:
    """Is this an answer that only a living container (or its engine, about one) gives?"""
    fault = fault_of(attempt)
    if fault is not None:
        return fault.what in _BY_THE_LIVING
    end = attempt.end or attempt.begin
    if attempt.exit_code is None or attempt.exit_code >= 125:
        return watched_alive(history, attempt.container, end)
    return attempt.exit_code != 0


_PLAIN = {
    "paused": "docker-pause",
    "restarting": "restart-loop",
    "frozen": "cgroup-frozen",
    "containerd-down": "containerd-down",
    "no-fds": "dockerd-fds",
    "no-such-container": "no-such-container",
    "not-executable": "exec-not-executable",
    "bad-cwd": "exec-bad-cwd",
    "cwd-outside": "mount-source-deleted",
    "bad-user": "exec-bad-user",
    "bad-format": "exec-not-executable",
    "bad-request": "exec-bad-request",
    "bad-tty": "exec-bad-request",
    "shim-gone": "shim-killed",
}
"""What the engine's words say by themselves. `command-missing` and `dying` need more."""


def verdict(history: History, attempt: Attempt) -> Verdict:
    """Why this exec failed although the container lives."""
    said = _said(attempt)
    fault = fault_of(attempt)
    cause, clues, certainty = _decide(history, attempt, fault, said)
    cites = sorted({c.n for c in clues} | set(attempt.cites))
    step = (
        "exec-hung"
        if attempt.timed_out or attempt.end is None
        else "exec-refused"
        if fault
        else "exec-failed"
    )
    about = CAUSES[cause].about
    told = (
        attempt.error
        or attempt.output.strip()[-200:]
        or (
            "no answer"
            if attempt.end is None or attempt.timed_out
            else f"exit code {attempt.exit_code}"
        )
    )
    sure = {Certainty.CERTAIN: "", Certainty.LIKELY: " (likely)", Certainty.UNKNOWN: ""}[certainty]
    return Verdict(
        hypothesis=CAUSES[cause].hypothesis,
        cause=cause,
        certainty=certainty,
        path=(cause,) if cause == "unknown" else (cause, step),
        sender=Sender(SenderKind.KERNEL_CONTAINER_LIMIT) if cause == "exec-memory-limit" else None,
        cites=tuple(cites),
        rejected=(Rejected("remount-race", "it fell into no planned stop of the harness"),)
        if fault
        else (),
        runner_up=None,
        grade=history.grade(),
        sentence=plain(
            f"The exec failed although container {attempt.container[:12]} lives: {about}{sure}. "
            f"Evidence: {'; '.join(f'{c.words} [{c.n}]' for c in clues[:4]) or 'none'}. It was told: {told[:300]}"
        ),
    )


def _said(attempt: Attempt) -> Clue:
    n = attempt.answer_n or attempt.n
    if attempt.end is None or attempt.timed_out:
        return Clue(n, "exec", "the exec was not answered before its deadline")
    if attempt.exit_code is not None:
        return Clue(n, "exec", f"the exec ended with exit code {attempt.exit_code}")
    return Clue(n, "exec", f"the engine answered {attempt.http or 'with an error'}")


def _decide(
    history: History, attempt: Attempt, fault: ExecFault | None, said: Clue
) -> tuple[str, Clues, Certainty]:
    if attempt.end is None or attempt.timed_out:
        cause, clues = standing_still(history, attempt)
        return cause, (said, *clues), _sure(cause, (said, *clues))
    if fault is not None:
        cause, more = _refused(history, attempt, fault)
        clues = (said, *more, *_support(history, attempt, cause))
        sure = _sure(cause, clues)
        if cause == "dockerd-unreachable" and not _watched(
            history, attempt, "kernel", "daemon-log"
        ):
            sure = Certainty.LIKELY  # the OOM killer may have taken it
        return cause, clues, sure
    cause, more = _ran(history, attempt)
    if cause == "exec-error" and not _watched(history, attempt):
        cause, more = "unknown", ()  # that it left so is seen; that nothing made it is not
    return cause, (said, *more), _sure(cause, (said, *more))


def _found(cause: str, clues: Clues) -> tuple[str, Clues]:
    return (cause, clues) if clues else ("unknown", ())


def _no_dockerd(history: History, attempt: Attempt) -> tuple[str, Clues]:
    """dockerd was not there: did the OOM killer take it, had it no thread, could it not start again?"""
    end = (attempt.end or attempt.begin) + NEAR
    if killed := daemon_victims(history, end):
        return "vm-oom-daemon", killed
    if starved := daemon_starved(history, end):
        return "daemon-pids-limit", starved
    if failed_start := start_failed(history, end):
        return "dockerd-start-failed", failed_start
    return "dockerd-unreachable", ()


def _daemons_refused(history: History, attempt: Attempt) -> Clues:
    return tuple(
        Clue(s.n, "kernel", f"the kernel log says a fork was refused in {s.what.cgroup}")
        for s in history.kernel
        if isinstance(s.what, ForkRejected)
        and container_of(s.what.cgroup) is None
        and _during(attempt, s.at, NEAR)
    )


def _sure(cause: str, clues: Clues) -> Certainty:
    if cause == "unknown":
        return Certainty.UNKNOWN
    channels = {CHANNELS.get(c.channel, c.channel) for c in clues}
    # The engine's own refusal of a request is its own witness: what it said is the cause.
    # What stands still need not be what was waited for.
    if cause == "main-stopped":
        return Certainty.LIKELY
    alone = cause.startswith(("exec-bad", "exec-not", "exec-command", "docker-pause"))
    return Certainty.CERTAIN if len(channels) >= 2 or alone else Certainty.LIKELY


def _refused(history: History, attempt: Attempt, fault: ExecFault) -> tuple[str, Clues]:
    if fault.what == "command-missing":
        race = _mount_race(history, attempt)
        if race:
            return "mount-race", race
        lost = _lost_mount(history, attempt, fault.detail)
        if lost:
            return "mount-lost", lost
        return "exec-command-missing", ()
    if fault.what in ("cwd-outside", "bad-cwd", "not-executable") and (
        race := _mount_race(history, attempt)
    ):
        return "mount-race", race
    if fault.what == "dockerd-unreachable":
        return _no_dockerd(history, attempt)
    if fault.what == "dying" and (lost := lost_exit(history, attempt)):
        return "lost-exit", lost
    if fault.what in ("dying", "no-memory", "no-allocation"):
        killed = _oom_in(history, attempt)
        if killed:
            return "exec-memory-limit", killed
        refused = _fork_refused(history, attempt)
        if refused:
            return "pids-limit", refused
        return "unknown", ()
    if fault.what == "no-space":
        return _found("disk-full", full_disk(history, attempt))
    if fault.what == "no-pids":
        if refused := _fork_refused(history, attempt):
            return "pids-limit", refused
        return _found("daemon-pids-limit", _daemons_refused(history, attempt))
    return _PLAIN.get(fault.what, "unknown"), ()


def _ran(history: History, attempt: Attempt) -> tuple[str, Clues]:
    """It ran, and ended with an error status."""
    if attempt.exit_code is None:
        return "unknown", ()
    if killed := _oom_in(history, attempt):
        return "exec-memory-limit", killed
    if refused := _fork_refused(history, attempt):
        return "pids-limit", refused
    if race := _mount_race(history, attempt):
        return "mount-race", race
    if full := full_disk(history, attempt) if short_of(attempt.output, NO_SPACE) else ():
        return "disk-full", full
    if attempt.exit_code == 137:
        hits = tuple(
            Clue(
                s.n,
                "sender",
                f"{s.what.place} process {s.what.pid} sent SIGKILL to process {s.what.to} of the container",
            )
            for s in history.senders
            if s.what.container == attempt.container
            and s.what.signal == 9
            and attempt.begin <= s.at <= (attempt.end or s.at)
        )
        if hits:
            return "exec-killed", hits
        # Its own word only where it was seen to leave with 137, and nothing was killed meanwhile.
        seen = _status_seen(history, attempt) if _watched(history, attempt) else ()
        return _found("exec-error", seen)
    if deleted := _deleted_source(history, attempt):
        return "mount-source-deleted", deleted
    if lost := _mentioned_mount(history, attempt) or _lost_just_before(history, attempt):
        return "mount-lost", lost
    _, missing = _complained(attempt)
    if gone := lost_layer(history, attempt):
        return _found("rootfs-lost", gone if missing else ())
    if missing and not history.active("mounts", attempt.begin, attempt.end or attempt.begin):
        return "unknown", ()  # a lost mount says the same, and nobody watched the mounts
    if short_of(attempt.output, SHORTAGES):
        return "unknown", ()  # something ran out, and nobody saw what
    if not_made(attempt.output):
        return "unknown", ()  # its directory is missing, or a lost layer takes no new file
    return "exec-error", _status_seen(history, attempt)


def _status_seen(history: History, attempt: Attempt) -> Clues:
    """The raw wait status of the exec's process: it is a child of the shim."""
    shims = {
        s.what.pid
        for s in history.daemons
        if s.what.name == "shim" and s.what.container == attempt.container
    }
    return tuple(
        Clue(p.n, "proc", f"its process {p.what.pid} left with status {attempt.exit_code}")
        for p in history.procs
        if p.what.what == "exit"
        and p.what.ppid in shims
        and p.what.status == (attempt.exit_code or 0) << 8
        and _during(attempt, p.at)
    )[:1]


_COMPLAINTS = (
    re.compile(r"(/[^\s:'\"]+)'?: (?:[\w ]{0,40}: )?(?:No such file or directory|not found)"),
    re.compile(r"can't (?:open|create|cd to|stat) '?(/[^\s:'\"]+)"),
    re.compile(r"nonexistent directory|No such file or directory"),
)


def _complained(attempt: Attempt) -> tuple[list[str], bool]:
    """(paths the command did not find, does it complain of something missing at all?)"""
    said = attempt.output[-4000:]
    paths = [p for expression in _COMPLAINTS[:2] for p in expression.findall(said)]
    return paths, bool(paths) or _COMPLAINTS[2].search(said) is not None


def _deleted_source(history: History, attempt: Attempt) -> Clues:
    """A mount whose source has been deleted, below which something was not found."""
    paths, missing = _complained(attempt)
    if not missing:
        return ()
    for s in history.mounts:
        if s.what.container != attempt.container:
            continue
        for line in s.what.added:
            m = parse_mount(line)
            if (
                m is not None
                and m.deleted
                and (not paths or any(_under(p, m.point) for p in paths))
            ):
                return (Clue(s.n, "mounts", f"the source of its mount {m.point} was deleted"),)
    return ()


def _under(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _mentioned_mount(history: History, attempt: Attempt) -> Clues:
    """A mount that was taken away before, below which a path lies that the command complained about."""
    said, _ = _complained(attempt)
    for path in said:
        if clues := _lost_mount(history, attempt, path):
            return clues
    return ()


def _lost_just_before(history: History, attempt: Attempt) -> Clues:
    """A mount that was there when it started and was not when the command failed."""
    clues: list[Clue] = []
    first = True
    for s in history.mounts:
        if s.what.container != attempt.container or s.at > (attempt.end or attempt.begin):
            continue
        if not first and attempt.begin - s.at <= 30 * NEAR:
            come = {m.point for line in s.what.added if (m := parse_mount(line)) is not None}
            gone = [m.point for line in s.what.removed if (m := parse_mount(line)) is not None]
            clues += [
                Clue(s.n, "mounts", f"its mount {p} had been taken away")
                for p in gone
                if p not in come
            ]
        first = False
    return tuple(clues[-1:])


def _watched(history: History, attempt: Attempt, *sources: str) -> bool:
    """Were these (or all that tell of what else fails an exec) watching while it ran?"""
    begin, end = attempt.begin, attempt.end if attempt.end is not None else history.end
    return all(
        history.active(s, begin, end) for s in sources or ("trace", "kernel", "cgroup", "mounts")
    )


def _during(attempt: Attempt, at: int, slack: int = 50_000_000) -> bool:
    return attempt.begin - slack <= at <= (attempt.end if attempt.end is not None else at) + slack


def _oom_in(history: History, attempt: Attempt) -> Clues:
    return tuple(
        Clue(
            s.n,
            "kernel",
            f"the kernel log names process {s.what.pid} of the container as OOM victim",
        )
        for s in history.kernel
        if isinstance(s.what, OomKill)
        and container_of(s.what.victim_cgroup) == attempt.container
        and s.what.limit_cgroup is not None
        and container_of(s.what.limit_cgroup) == attempt.container
        and _during(attempt, s.at)
    )


def _fork_refused(history: History, attempt: Attempt) -> Clues:
    clues = [
        Clue(s.n, "kernel", "the kernel log says its pids controller refused a fork")
        for s in history.kernel
        if isinstance(s.what, ForkRejected)
        and container_of(s.what.cgroup) == attempt.container
        and _during(attempt, s.at)
    ]
    from harness.parse.cgroup import parse_counters

    before: int | None = None
    for f in history.files:
        if f.what.container == attempt.container and "pids.events" in f.what.files:
            now = parse_counters(f.what.files["pids.events"]).get("max")
            if (
                now is not None
                and before is not None
                and now > before
                and _during(attempt, f.at, 300_000_000)
            ):
                clues.append(Clue(f.n, "cgroup", "its pids.events counts refused forks"))
                break
            before = now if now is not None else before
    return tuple(clues)


def _mount_race(history: History, attempt: Attempt) -> Clues:
    """Did the exec fall between an unmount and a mount of our own remount?"""
    spans = [
        s for s in history.spans if s.phase in ("remount", "overlap") and attempt.end is not None
    ]
    inside = [
        s
        for s in spans
        if s.begin <= (attempt.end or 0) and (s.end is None or attempt.begin <= s.end)
    ]
    if not inside:
        return ()
    changes = [
        s
        for s in history.mounts
        if s.what.container == attempt.container and s.what.removed and _during(attempt, s.at, NEAR)
    ]
    if not changes:
        return ()
    return (
        Clue(inside[0].n, "harness", "the exec was asked for while the remount was under way"),
        *(Clue(s.n, "mounts", "the mount table changed meanwhile") for s in changes[:2]),
    )


def _lost_mount(history: History, attempt: Attempt, path: str) -> Clues:
    """Was a mount that held this path taken away before?"""
    clues: list[Clue] = []
    first = True
    for s in history.mounts:
        if s.what.container != attempt.container or s.at > attempt.begin + NEAR:
            continue
        if not first and path:
            come = {m.point for line in s.what.added if (m := parse_mount(line)) is not None}
            for line in s.what.removed:
                m = parse_mount(line)
                if (
                    m is not None
                    and m.point not in come
                    and (path == m.point or path.startswith(m.point.rstrip("/") + "/"))
                ):
                    clues.append(Clue(s.n, "mounts", f"its mount {m.point} had been taken away"))
        first = False
    return tuple(clues)


def _support(history: History, attempt: Attempt, cause: str) -> Clues:
    """What the other sources say about the same."""
    end = attempt.end or attempt.begin
    clues: list[Clue] = []
    if cause == "docker-pause":
        clues += [
            Clue(s.n, "docker", "the engine was told to pause it")
            for s in history.engine
            if s.what.id == attempt.container and s.what.action == "pause" and s.at <= end + NEAR
        ][-1:]
    if cause == "cgroup-frozen":
        clues += [
            Clue(f.n, "cgroup", "its cgroup says frozen")
            for f in history.files
            if f.what.container == attempt.container
            and (
                "frozen 1" in f.what.files.get("cgroup.events", "")
                or "FROZEN" in f.what.files.get("freezer.state", "")
            )
            and f.at <= end + NEAR
        ][-1:]
    names = {
        "containerd-down": "containerd",
        "dockerd-unreachable": "dockerd",
        "shim-killed": "shim",
    }
    if cause in names:
        clues += [
            Clue(s.n, "daemons", f"{s.what.name} (pid {s.what.pid}) was gone")
            for s in history.daemons
            if s.what.name == names[cause]
            and s.what.state == "gone"
            and attempt.begin - 60 * 10**9 <= s.at <= end + NEAR
            and (s.what.name != "shim" or s.what.container == attempt.container)
        ][-1:]
    if cause == "dockerd-fds":
        clues += [
            Clue(s.n, "daemon-log", "dockerd says it has too many open files")
            for s in history.daemon_log
            if s.what.what == "no-fds" and abs(s.at - end) <= 30 * 10**9
        ][:1]
    if cause == "mount-source-deleted":
        clues += [
            Clue(s.n, "mounts", "the source of one of its mounts was deleted")
            for s in history.mounts
            if s.what.container == attempt.container
            and any("//deleted" in line for line in s.what.added)
        ][:1]
    return tuple(clues)
