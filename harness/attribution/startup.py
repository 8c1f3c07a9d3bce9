"""Clues that stand a little apart: a start that failed, a machine that booted, what nobody saw.

Rule: the engine's own words about its own refusal are evidence of that refusal; anything
a container printed only supports.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from harness.attribution import around, oom, surroundings
from harness.attribution.engine import shim_first
from harness.attribution.senders import (
    ENDING,
    by_engine_surely,
    deciding,
    heeded_kills,
    kill_events,
    place,
)
from harness.attribution.table import Clue, Clues
from harness.model.verdicts import Sender, SenderKind
from harness.parse import container_of
from harness.parse.execs import parse_exec_error
from harness.parse.kernel import ForkRejected, OomKill
from harness.parse.trace import DELIVERED

if TYPE_CHECKING:
    from harness.attribution.case import Case
    from harness.attribution.table import Look

OOM_DAEMONS = frozenset({"earlyoom", "systemd-oomd", "oomd", "nohang", "low-memory-moni"})


# --- a start that failed -------------------------------------------------------------


def refused_start(*faults: str) -> Look:
    """A look for a start the engine refused with one of these faults."""

    def look(case: Case) -> Clues:
        call = case.ending.call
        if not case.ending.never_ran or call is None or call.answer_n is None:
            return ()
        found = parse_exec_error(call.error or "", call.http)
        what = found.what if found is not None else "other"
        if what not in faults and not ("other" in faults and what not in _NAMED):
            return ()
        return (Clue(call.answer_n, "api", f"the engine could not start it: {_short(call.error)}"),)

    look.__doc__ = "a start that the engine refused for this reason"
    return look


def daemons_refused_fork(case: Case) -> Clues:
    """a pids controller refused a fork outside every container"""
    return tuple(
        Clue(s.n, "kernel", f"the kernel log says a fork was refused in {s.what.cgroup}")
        for s in case.history.kernel
        if isinstance(s.what, ForkRejected)
        and container_of(s.what.cgroup) is None
        and abs(s.at - case.at) <= 10**10
    )


_NAMED = frozenset(
    {"source-missing", "network-missing", "nofile", "no-space", "no-pids", "no-memory", "no-allocation", "command-missing",
     "not-executable", "bad-format", "dockerd-unreachable", "containerd-down", "timeout"}
)  # fmt: skip


def state_error(*faults: str) -> Look:
    """A look for the same reason in the container's State."""

    def look(case: Case) -> Clues:
        for s in case.history.looks:
            if (
                s.what.container == case.container
                and s.what.state is not None
                and s.what.state.error
            ):
                found = parse_exec_error(s.what.state.error)
                if (found.what if found is not None else "other") in faults:
                    # Inspect reads what the daemon stored, another path than the answer to the request.
                    return (Clue(s.n, "inspect", f"its State says: {_short(s.what.state.error)}"),)
        return ()

    look.__doc__ = "the same reason in its State"
    return look


def _short(text: str | None) -> str:
    return " ".join((text or "").split())[:160]


# --- the machine ---------------------------------------------------------------------


_FROM_OUTSIDE = frozenset({"status", "exec", "docker", "host", "boot"})
"""Where an end is told by those who were not there: the engine, this host, a later boot."""


def ended_before_boot(case: Case) -> Clues:
    """its main process ended before the machine booted again"""
    boot = case.history.reboot()
    if boot is None or case.at > boot[1] or case.death.at_source in _FROM_OUTSIDE:
        return ()
    return tuple(
        Clue(n, s, "its main process ended before the boot")
        for n, s in zip(case.ending.witnesses[:1], case.ending.sources[:1], strict=True)
    )


def no_end_before_boot(case: Case) -> Clues:
    """nobody saw it end before the machine had booted again"""
    reboot = case.history.reboot()
    if reboot is None or case.begin > reboot[1]:
        return ()
    # The engine dates such an end by its own next start, which may be before our probe's.
    alive, boot = reboot
    if case.at <= alive or case.when[case.ending.witnesses[0]] < boot:
        return ()
    return tuple(
        Clue(n, "engine", "it was found ended after the boot") for n in case.ending.witnesses[:1]
    )


def hypervisor_gone(case: Case) -> Clues:
    """the machine ended without an order, and nobody on it saw the container end before"""
    if case.death.at_source not in _FROM_OUTSIDE:
        return ()
    return tuple(
        Clue(s.n, "host", f"the machine ended without an order: {s.what.why}")
        for s in case.history.host
        # What was told before the machine went is another story.
        if s.what.what == "killed" and case.begin <= s.at <= case.at + 10**9
    )[:1]


def shut_down(case: Case) -> Clues:
    """somebody told the machine to shut down"""
    return tuple(
        Clue(s.n, "host", f"the machine was shut down: {s.what.why}")
        for s in case.history.host
        if s.what.what == "shut-down" and case.at - 10**9 <= s.at <= case.at + SHUTTING_DOWN
    )[:1]


def told_from_outside(case: Case) -> Clues:
    """nobody on the machine, its engine included, told of its end"""
    if case.death.at_source not in ("host", "boot"):
        return ()
    return tuple(Clue(n, "host", "it was gone with its machine") for n in case.ending.witnesses[:1])


SHUTTING_DOWN = 240 * 10**9
"""From a container's stop to the end of its machine: the others' grace periods, and the three
minutes that a guest is given to power off."""


def engine_255(case: Case) -> Clues:
    """the engine does not know how it ended (255)"""
    return tuple(
        Clue(s.n, "status", "the engine does not know how it ended (255)")
        for s in case.history.looks
        if s.what.container == case.container
        and s.what.state is not None
        and s.what.state.exit_code == 255
    )[:1]


# --- who it was not ------------------------------------------------------------------


def nobody_traced(case: Case) -> Clues:
    """the signals were not traced, so the engine's words stand alone"""
    die = case.ending.die
    if case.watched("trace") or deciding(case) is not None or die is None:
        return ()
    return (Clue(die.n, "docker", "the engine noticed the end"),)


def any_oom(case: Case) -> Clues:
    """an OOM in the container just before it was told to end"""
    kills = [s.at for s in case.foreign("kill") if s.at <= case.at + 10**9]
    told = min(kills, default=case.at)
    return tuple(
        Clue(s.n, "docker", "the engine noticed an OOM in the container just before")
        for s in case.engine("oom")
        # One that it survived for half a second took another process of it.
        if told - 500_000_000 <= s.at <= case.at + 10**9
    ) or oom.any_victim(case)


def others_signal(case: Case) -> Clues:
    """somebody else than the engine had sent it a signal shortly before"""
    return tuple(
        Clue(s.n, "trace", f"process {s.what.sender} sent it signal {s.what.sig}")
        for s in case.to_main
        if s.what.sent
        and s.what.result == DELIVERED
        and case.main is not None
        and s.what.sender != case.main.pid
        and case.at - s.at <= 36 * 10**9
        and place(case, s) != "engine"
    )


_OBEDIENT = frozenset({0, *(128 + number for number in ENDING)})


def unasked(case: Case) -> Clues:
    """it left by itself, and no signal that it could obey had reached it"""
    if case.left_with is None or deciding(case) is not None:
        return ()
    if not case.watched("trace"):
        # Who leaves with 0, or says of which signal, may have been asked; any other may as well not.
        return () if case.left_with in _OBEDIENT else around.left(case)
    # A stop signal of the image's own may be none that is traced: the engine tells of it.
    return () if heeded_kills(case) else around.left(case)


def the_api(case: Case) -> Sender | None:
    """The engine, on somebody's request."""
    return Sender(SenderKind.API) if kill_events(case) else None


def not_by_engine(case: Case) -> Clues:
    """its sender was not the engine's"""
    if by_engine_surely(case) or case.blow is None:
        return ()
    if place(case, case.blow) is None:
        return ()
    return (Clue(case.blow.n, "trace", "its sender was not the engine's"),)


def by_oom_daemon(case: Case) -> Clues:
    """its sender calls itself a userspace OOM daemon"""
    signal = deciding(case)
    if signal is None or not signal.what.sent or signal.what.sender_name not in OOM_DAEMONS:
        return ()
    return (Clue(signal.n, "trace", f"its sender calls itself {signal.what.sender_name}"),)


def oom_daemon_log(case: Case) -> Clues:
    """the OOM daemon's own words"""
    return ()


def lone_machine(case: Case) -> Clues:
    """no other container was there that could have done it"""
    if case.main is None:
        return ()
    others = [m for m in case.history.mains if m.container != case.container and m.begin <= case.at]
    return (
        ()
        if others
        else (
            Clue(case.main.n, "main", "its main process is the init of a PID namespace of its own"),
        )
    )


def shim_gone_early(case: Case) -> Clues:
    """its shim had died before it did"""
    return shim_first(case)


# --- victims of unknown rank -----------------------------------------------------------


def victim_of_unknown_rank(case: Case) -> Clues:
    """the OOM killer chose a process of the container at its own limit, right at the end"""
    if case.main is not None or case.left_with is not None:
        return ()
    return tuple(
        Clue(
            s.n,
            "kernel",
            f"the kernel log names process {s.what.pid} of the container as OOM victim",
        )
        for s in case.history.kernel
        if isinstance(s.what, OomKill)
        and container_of(s.what.victim_cgroup) == case.container
        and s.what.limit_cgroup is not None
        and container_of(s.what.limit_cgroup) == case.container
        and abs(case.at - s.at) <= oom.UNRELATED
    )


# --- by itself -------------------------------------------------------------------------

_FORMAT = re.compile(
    r"^(?:\S+ )?exec /\S+: (?:exec format error|no such file or directory)\s*$", re.MULTILINE
)


def said_exec_format(case: Case) -> Clues:
    """its log holds the runtime's last words about a program it could not become"""
    return tuple(
        Clue(s.n, "logs", "its log says: " + s.what.text.strip()[:120])
        for s in case.history.logs
        if s.what.container == case.container and _FORMAT.fullmatch(s.what.text.strip())
    )[:1]


def never_became_a_program(case: Case) -> Clues:
    """its main process never became a program of its own"""
    main = case.main
    if main is None:
        return ()
    # Found as the runtime's own init it had not become one yet, however long a busy machine
    # takes to get there; found under another name it may have before it was found.
    if not (main.name or "").startswith("runc:[") and around.lived(case) > 2 * 10**9:
        return ()
    if not case.history.active("lineage", main.begin, case.at):
        return ()
    # The runtime's init is started by way of /proc/self or a sealed copy of itself.
    own = [
        p for p in case.history.programs if p.what.pid == main.pid and main.begin <= p.at <= case.at
    ]
    if any(not p.what.filename.startswith("/proc/self/") for p in own):
        return ()
    return (Clue(main.n, "lineage", "its main process never became a program of its own"),)


def began(case: Case) -> Clues:
    """the engine's word that it was started"""
    return tuple(
        Clue(s.n, "docker", "the engine had started it") for s in case.engine("start", "die")
    )[:1]


def any_trigger(case: Case) -> Clues:
    """something had just happened to it that makes a main process leave"""
    for look in (
        surroundings.any_fork_refused,
        surroundings.tmpfs_was_full,
        surroundings.disk_was_full,
        surroundings.mounts_changed,
        surroundings.own_mount_change,
        surroundings.storage_error,
        surroundings.lost_interface,
    ):
        if found := look(case):
            return found
    return ()
