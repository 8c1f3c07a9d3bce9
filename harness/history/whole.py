"""The History itself: everything a judge may look at, and what it may conclude from silence.

Rule: `active` is the only way to make something of an absence. A source that never
announced itself, or has a gap then, saw nothing and proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.model.verdicts import IN_PART, Blind, Grade

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from harness import events
    from harness.history.model import (
        Attempt,
        Call,
        Container,
        Daemon,
        Files,
        Look,
        Main,
        Placed,
        Seen,
        Span,
    )
    from harness.parse.daemon import DaemonFact
    from harness.parse.docker import EngineFact
    from harness.parse.kernel import KernelFact
    from harness.parse.trace import Executed, Forked, OomVictim, Signal, TaskExit

ALL_OF_IT = frozenset({"probe", "link"})
"""A gap of these is one of every source that speaks through the probe."""

OWN = frozenset({"runner", "status", "exec", "api", "engine", "strace", "host-log"})
"""What the harness itself says does not come through the probe."""


@dataclass(frozen=True, slots=True)
class SourceSaid:
    """A source announced itself: from `at` on it is active, partial or unsupported."""

    at: int
    state: str
    why: str
    n: int


@dataclass(frozen=True, slots=True)
class History:
    """One trial. Sequences are ordered by time; see `build` for how they come about."""

    placed: tuple[Placed, ...] = ()
    begin: int = 0
    end: int = 0
    hellos: tuple[Seen[events.Hello], ...] = ()
    sources: Mapping[str, tuple[SourceSaid, ...]] = field(default_factory=dict)
    gaps: Mapping[str, tuple[Blind, ...]] = field(default_factory=dict)
    containers: tuple[Container, ...] = ()
    mains: tuple[Main, ...] = ()
    signals: tuple[Seen[Signal], ...] = ()
    exits: tuple[Seen[TaskExit], ...] = ()
    victims: tuple[Seen[OomVictim], ...] = ()
    senders: tuple[Seen[events.SignalSender], ...] = ()
    forks: tuple[Seen[Forked], ...] = ()
    programs: tuple[Seen[Executed], ...] = ()
    procs: tuple[Seen[events.ProcEvent], ...] = ()
    pidfds: tuple[Seen[events.PidfdExit], ...] = ()
    ends: tuple[Seen[events.DeathSeen], ...] = ()
    kernel: tuple[Seen[KernelFact], ...] = ()
    engine: tuple[Seen[EngineFact], ...] = ()
    daemons: tuple[Seen[Daemon], ...] = ()
    daemon_log: tuple[Seen[DaemonFact], ...] = ()
    looks: tuple[Seen[Look], ...] = ()
    attempts: tuple[Attempt, ...] = ()
    calls: tuple[Call, ...] = ()
    spans: tuple[Span, ...] = ()
    files: tuple[Seen[Files], ...] = ()
    machine: tuple[Seen[events.MachineSample], ...] = ()
    mounts: tuple[Seen[events.MountChange], ...] = ()
    networks: tuple[Seen[events.NetworkChange], ...] = ()
    logs: tuple[Seen[events.Logs], ...] = ()
    postmortems: tuple[Seen[events.PostMortem], ...] = ()
    syscalls: tuple[Seen[events.Syscall], ...] = ()
    jumps: tuple[Seen[events.ClockJump], ...] = ()
    host: tuple[Seen[events.HostState], ...] = ()
    wall_offsets: tuple[tuple[int, int], ...] = ()
    numbers: frozenset[int] = frozenset()

    # --- what may be concluded from silence ---

    def blind(self, source: str, begin: int, end: int) -> tuple[Blind, ...]:
        """Gaps of the source (or of the whole probe) that touch [begin, end]."""
        names = (source,) if source in OWN else (source, *sorted(ALL_OF_IT))
        return tuple(
            gap
            for name in names
            for gap in self.gaps.get(name, ())
            if gap.begin <= end and (gap.end is None or gap.end >= begin)
        )

    def active(self, source: str, begin: int, end: int) -> bool:
        """Would the source have seen it, had it happened in [begin, end]?

        It must have announced itself as active before, must not have taken that back,
        and must have no gap there.
        """
        said = self.sources.get(source, ())
        before = [s for s in said if s.at <= begin]
        if not before or not _whole(before[-1]):
            return False
        if any(not _whole(s) for s in said if begin < s.at <= end):
            return False
        return not self.blind(source, begin, end)

    def grade(self, begin: int | None = None, end: int | None = None) -> Grade:
        """Which sources watched [begin, end], and which did not, or not wholly, for how long.

        A source that saw in part all the time is not among those that saw.
        """
        begin = self.begin if begin is None else begin
        end = self.end if end is None else end
        saw, dark = [], []
        for name in sorted(self.sources):
            spans = list(_spans(self.sources[name], begin, end))
            if any(said.state == "active" for said, _, _ in spans):
                saw.append(name)
            for said, since, until in spans:
                if said.state != "active":
                    part = IN_PART if said.state == "partial" else ""
                    dark.append(Blind(name, since, until, part + (said.why or said.state)))
        for name in sorted(self.gaps):
            dark.extend(
                g for g in self.gaps[name] if g.begin <= end and (g.end is None or g.end >= begin)
            )
        return Grade(tuple(saw), tuple(sorted(dark, key=lambda b: (b.source, b.begin))))

    # --- who is who ---

    @property
    def subjects(self) -> tuple[Container, ...]:
        """The containers the trial is about, oldest first (a recreate gives a second)."""
        return tuple(c for c in self.containers if c.role == "subject")

    def mains_of(self, container: str) -> tuple[Main, ...]:
        """Its main processes, one per start, oldest first."""
        return tuple(m for m in self.mains if m.container == container)

    def of(self, container: str) -> Container | None:
        """The last that was said about this container."""
        return next((c for c in reversed(self.containers) if c.id == container), None)

    def phase(self, name: str) -> Span | None:
        """The first span of that phase."""
        return next((s for s in self.spans if s.phase == name), None)

    def reboot(self) -> tuple[int, int] | None:
        """Between which instants the machine booted again: its last word before, its first after."""
        for hello in self.hellos:
            if hello.what.boot_id != self.hellos[0].what.boot_id:
                words = (
                    p.at for p in self.placed if p.event.clock == "machine" and p.at < hello.at
                )
                return max(words), hello.at
        return None

    def makers(self, pid: int, at: int, most: int = 12) -> tuple[Seen[Forked], ...]:
        """Who made this process, who made that one, …: forks seen not later than `at`."""
        chain: list[Seen[Forked]] = []
        known = {pid}
        while len(chain) < most:
            made = _last(self.forks, lambda f: f.child == pid, at)  # noqa: B023
            if made is None or made.what.pid in known:
                break
            chain.append(made)
            pid, at = made.what.pid, made.at
            known.add(pid)
        return tuple(chain)

    def daemon_at(self, pid: int, at: int) -> Seen[Daemon] | None:
        """The daemon that had this pid then, when somebody saw it."""
        found = None
        for seen in self.daemons:
            if seen.what.pid == pid and seen.what.state == "alive" and seen.at <= at + seen.error:
                found = seen
            if seen.what.pid == pid and seen.what.state == "gone" and seen.at < at - 10**9:
                found = None
        return found or next(
            (s for s in self.daemons if s.what.pid == pid and abs(s.at - at) < 10**9), None
        )


DECIDING = ("signal_generate", "mark_victim", "sched_process_exit")
"""Tracepoints whose silence means something; the others only help to find things."""


def _spans(
    said: Iterable[SourceSaid], begin: int, end: int
) -> Iterator[tuple[SourceSaid, int, int | None]]:
    """What a source was, from when to when within [begin, end]; None: to the end.

    What it said of itself first holds for the time before it spoke.
    """
    ordered = list(said)
    for number, one in enumerate(ordered):
        since = begin if number == 0 else max(one.at, begin)
        until = ordered[number + 1].at if number + 1 < len(ordered) else None
        if since <= end and (until is None or until > since):
            yield one, since, None if until is None or until > end else until


def _whole(said: SourceSaid) -> bool:
    """Does it see all that its silence is taken for?"""
    if said.state == "partial" and said.why.startswith("no tracepoint "):
        return not any(name in said.why for name in DECIDING)
    return said.state == "active"


def _last(seen: Iterable[Seen[Forked]], test: object, at: int) -> Seen[Forked] | None:
    found = None
    for one in seen:
        if one.at > at + one.error:
            break
        if test(one.what):  # type: ignore[operator]
            found = one
    return found
