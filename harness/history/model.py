"""The nouns of a history: one trial's events on one clock, and what is known of who is who.

Rule: everything here was seen. A member that nobody saw is None, never a default that
could be taken for an observation. Times are ns on the machine's boottime; `n` is the
number a verdict cites.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from harness.events import Event
    from harness.parse.docker import State

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """One observation: when, how exactly, by which source, as which event."""

    at: int
    error: int
    n: int
    source: str
    what: T

    def before(self, other: int, slack: int = 0) -> bool:
        """Surely or possibly not later than `other`: its own error counts in its favour."""
        return self.at - self.error - slack <= other


@dataclass(frozen=True, slots=True)
class Container:
    """One container that the harness named. role: subject | beside | neighbour."""

    id: str
    name: str
    role: str
    image: str
    at: int
    n: int
    limits: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Main:
    """One incarnation of a container's main process: container + pid + start time.

    Attributes:
        begin: When it was made (from its start time in ticks), or when it was found.
        init: It is PID 1 of a PID namespace of its own: nothing inside can kill it outright.
    """

    container: str
    pid: int
    start: int
    begin: int
    cgroup: str
    n: int
    source: str
    init: bool
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A request of ours to the engine. end None: never answered."""

    call: str
    container: str
    begin: int
    end: int | None
    planned: bool
    http: int | None
    error: str | None
    n: int
    answer_n: int | None

    def covers(self, time: int, slack: int = 0) -> bool:
        """Was it under way then?"""
        return self.begin - slack <= time and (self.end is None or time <= self.end + slack)


@dataclass(frozen=True, slots=True)
class Attempt:
    """An exec of ours: from its request to its answer, if any came."""

    label: str
    container: str
    begin: int
    end: int | None
    exec_id: str | None
    exit_code: int | None
    http: int | None
    error: str | None
    output: str
    seconds: float | None
    timed_out: bool
    n: int
    answer_n: int | None
    created: bool = False
    started: bool = False

    @property
    def cites(self) -> tuple[int, ...]:
        return (self.n,) if self.answer_n is None else (self.n, self.answer_n)


@dataclass(frozen=True, slots=True)
class Span:
    """A phase of the trial. end None: it never ended."""

    phase: str
    begin: int
    end: int | None
    detail: str
    n: int


@dataclass(frozen=True, slots=True)
class Look:
    """A status somebody took: when asked, what came back."""

    label: str
    container: str
    by: str
    state: State | None
    error: str | None
    http: int | None


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon was seen: dockerd, containerd or a shim (then `container` says whose)."""

    name: str
    pid: int
    start: int
    state: str
    container: str | None
    status: int | None


@dataclass(frozen=True, slots=True)
class Files:
    """Files of one cgroup at one instant."""

    container: str | None
    scope: str
    path: str
    files: dict[str, str]
    unreadable: dict[str, str]


@dataclass(frozen=True, slots=True)
class Placed:
    """One event at its place on the line."""

    at: int
    error: int
    event: Event
