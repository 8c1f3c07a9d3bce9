"""One death in its history: what rules ask again and again, answered once.

Rule: this file selects, it concludes nothing. Processes are a pid within the life of one
main process; containers are ids; names are for people.
"""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.deaths import trial_end
from harness.history.clock import ENGINE, KERNEL
from harness.history.model import Seen
from harness.parse import container_of
from harness.parse.cgroup import parse_counters, parse_number
from harness.parse.trace import DELIVERED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.attribution.table import Clues, Look
    from harness.deaths import Ending
    from harness.events import SignalSender
    from harness.history import Call, Container, History, Main
    from harness.parse.docker import EngineFact
    from harness.parse.trace import Signal

AROUND = 2_000_000_000
"""How long before an end a source must have watched for its silence to count."""

LATER = 20_000_000_000
"""How long after an end the engine's own words about it may come (dockerd waits up to
10 s for a stop and 30 s for a task's deletion under load)."""


_OF_A_RESTART = frozenset({"stop", "start", "restart"})


class Case:
    """One end of one subject, in its history."""

    def __init__(self, history: History, ending: Ending) -> None:
        self.history = history
        self.ending = ending
        self.death = ending.death
        self.container = ending.death.container
        self.main: Main | None = ending.run.main
        self.at = ending.death.at
        self.begin = ending.run.begin
        self._found: dict[Look, Clues] = {}

    def find(self, look: Look) -> Clues:
        """What the look finds; asked once, however many rules ask."""
        if look not in self._found:
            self._found[look] = look(self)
        return self._found[look]

    @cached_property
    def when(self) -> dict[int, int]:
        """Event number → its time on the line."""
        return {p.event.n: p.at for p in self.history.placed}

    # --- watching ---

    def watched(self, source: str) -> bool:
        """Was this source there, without a gap, for the last moments and at the end?"""
        begin = max(self.begin, self.at - AROUND)
        return self.history.active(source, begin, self.at + KERNEL)

    @cached_property
    def exact(self) -> int:
        """How exactly the time of the end is known: kernel, engine, or by a look."""
        return {"trace": KERNEL, "proc": 20_000_000, "pidfd": 50_000_000}.get(
            self.death.at_source, 100_000_000
        )

    @cached_property
    def ref(self) -> Container | None:
        return self.history.of(self.container)

    # --- how it ended ---

    @property
    def killed_by(self) -> int | None:
        """The signal of the raw wait status; None when it ended by itself or nobody saw."""
        return self.death.signal

    @property
    def left_with(self) -> int | None:
        """The status it ended itself with.

        From the raw status; else from the engine's exit code, which is one of its own
        only below 128: above it may be a signal's.
        """
        if self.death.wait_status is not None:
            return None if self.death.wait_status & 0x7F else self.death.wait_status >> 8 & 0xFF
        code = self.death.exit_code
        if (
            code is not None
            and 0 <= code < 128
            and not self.ending.never_ran
            and self.ending.die is not None
        ):
            return code
        return None

    # --- signals ---

    @cached_property
    def to_main(self) -> tuple[Seen[Signal], ...]:
        """Signals to the main process in its life, oldest first."""
        main = self.main
        if main is None:
            return ()
        end = self.at + max(KERNEL, self.exact)
        return tuple(
            s
            for s in self.history.signals
            if s.what.pid == main.pid and main.begin - KERNEL <= s.at <= end
        )

    @cached_property
    def blow(self) -> Seen[Signal] | None:
        """The signal that ended it: of the raw status's kind, the first that was delivered.

        Without a raw status a delivered SIGKILL is one all the same: nothing survives it.
        """
        number = self.killed_by
        if number is None and self.death.wait_status is None and self.left_with is None:
            number = 9
        if number is None:
            return None
        # After a fatal signal has been delivered nothing later can be the reason, and
        # what the kernel lists as ignored or pending changed nothing.
        hits = [s for s in self.to_main if s.what.sig == number and s.what.result == DELIVERED]
        if not hits:
            return None
        return hits[0] if number == 9 else hits[-1]

    def sender_of(self, signal: Seen[Signal]) -> Seen[SignalSender] | None:
        """What the probe saw of the sender of this signal."""
        best = None
        for s in self.history.senders:
            if (
                s.what.to == signal.what.pid
                and s.what.signal == signal.what.sig
                and abs(s.at - signal.at) <= 5_000_000
            ):
                if s.what.pid == signal.what.sender:
                    return s
                best = best or (s if s.at == signal.at else None)
        return best

    # --- the engine ---

    def engine(self, *actions: str) -> Iterator[Seen[EngineFact]]:
        """The engine's words about this container from this start on until well after the end."""
        for seen in self.history.engine:
            fact = seen.what
            if (
                fact.id == self.container
                and fact.type == "container"
                and fact.action in actions
                and self.begin - ENGINE <= seen.at <= self._until(fact.action)
            ):
                yield seen

    def _until(self, action: str) -> int:
        """Until when a word of the engine can be about this end, and not about the next."""
        until = self.at + LATER
        if self.ending.run.until is None:
            return until
        if action in _OF_A_RESTART:
            # These come after the next start began, and before its end.
            return min(until, self._next_die)
        return max(min(until, self.ending.run.until + 10**9), self.at + ENGINE)

    @cached_property
    def _next_die(self) -> int:
        """When the engine noticed the next end of this container."""
        mine = self.ending.die
        after = mine.at if mine is not None else self.at + ENGINE
        return min(
            (
                s.at
                for s in self.history.engine
                if s.what.id == self.container and s.what.action == "die" and s.at > after
            ),
            default=self.at + LATER,
        )

    def own_call(self, at: int, slack: int = ENGINE) -> Call | None:
        """A request of ours on this container that was under way then."""
        for call in self.history.calls:
            if (
                call.container == self.container
                and call.call not in ("create", "inspect", "logs")
                and (call.covers(at, slack))
            ):
                return call
        return None

    def foreign(self, *actions: str) -> tuple[Seen[EngineFact], ...]:
        """The same as `engine`, without what our own requests explain and our own clean-up."""
        limit = trial_end(self.history)
        return tuple(
            s
            for s in self.engine(*actions)
            if self.own_call(s.at) is None and (limit is None or s.at < limit)
        )

    # --- cgroups ---

    def counter(self, path: str, file: str, key: str) -> tuple[Seen[int], ...]:
        """How a counter of one cgroup went, oldest first. Samples hold only what changed."""
        found = []
        for seen in self.history.files:
            if seen.what.path == path and file in seen.what.files:
                value = parse_counters(seen.what.files[file]).get(key)
                if value is not None:
                    found.append(_value(seen, value))
        name = f"cgroup:{path}/{file}"
        for dead in self.history.postmortems:
            value = parse_counters(dead.what.files.get(name, "")).get(key)
            if value is not None:
                found.append(_value(dead, value))
        return tuple(sorted(found, key=lambda s: s.at))

    def numbers(self, path: str, file: str) -> tuple[Seen[int], ...]:
        """How a file of one number went, oldest first."""
        found = [
            _value(seen, number)
            for seen in self.history.files
            if seen.what.path == path
            and (number := parse_number(seen.what.files.get(file, ""))) is not None
        ]
        name = f"cgroup:{path}/{file}"
        found += [
            _value(dead, number)
            for dead in self.history.postmortems
            if (number := parse_number(dead.what.files.get(name, ""))) is not None
        ]
        return tuple(sorted(found, key=lambda s: s.at))

    def rises(self, path: str, file: str, key: str, begin: int, end: int) -> Seen[int] | None:
        """The first sample within [begin, end] that shows more than the one before it."""
        series = self.counter(path, file, key)
        for old, new in itertools.pairwise(series):
            if new.what > old.what and begin <= new.at <= end:
                return new
        return None

    def text(self, path: str, file: str) -> Seen[str] | None:
        """The last that was read of a cgroup's file before the end."""
        found = None
        for seen in self.history.files:
            if seen.what.path == path and file in seen.what.files and seen.at <= self.at:
                found = _value(seen, seen.what.files[file])
        return found

    @cached_property
    def machine_cgroup(self) -> str | None:
        """The machine's own cgroup, where it has one (a pen)."""
        for seen in self.history.files:
            if seen.what.scope == "machine" and seen.what.path.strip("/"):
                return seen.what.path
        return None

    @cached_property
    def cgroup(self) -> str | None:
        """The container's cgroup as the kernel log prints it."""
        if self.main is not None and container_of(self.main.cgroup) == self.container:
            return self.main.cgroup
        return next(
            (
                s.what.path
                for s in self.history.files
                if s.what.scope == "container" and s.what.container == self.container
            ),
            None,
        )


def _value(seen: Seen[Any], value: Any) -> Seen[Any]:
    return Seen(seen.at, seen.error, seen.n, seen.source, value)
