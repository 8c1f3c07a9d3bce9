"""The wire format: what the probe and the runner say, one JSON object a line.

Rules. One class per kind; a field added later has a default, a field is never
renamed (readers of old campaigns live for ever). Raw text stays raw here: what
a kernel or daemon line *means* is `parse`'s business, so that a better parser
can judge an old campaign again. The probe imports nothing of ours: it writes
these shapes by hand and `tests/contract` holds it to them.

Times are integer nanoseconds. `t` says when it happened, `seen` when it was read;
both on the clock that `clock` names: the machine's CLOCK_BOOTTIME (`machine`) or the
harness's own (`harness`: CLOCK_BOOTTIME, on macOS CLOCK_MONOTONIC). `history`
puts them on one clock. `n` is the number a verdict cites: the line's place in the
trial's stored history, counted from 1.

    >>> line = '{"kind":"kernel","t":5,"seen":9,"source":"kernel","level":3,"kseq":7,"text":"x"}'
    >>> decode(line)
    KernelLine(t=5, seen=9, source='kernel', clock='machine', n=0, level=3, kseq=7, text='x')
    >>> decode("not json") is None
    True
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = 1
"""Of the wire format; Hello carries it, and a reader refuses a newer one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event has."""

    kind: ClassVar[str]
    t: int
    seen: int
    source: str
    clock: str = "machine"
    n: int = 0


# --- the observer about itself -------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Event):
    """The probe is there. cgroup is 1 or 2; hz is USER_HZ, the unit of start times."""

    kind: ClassVar[str] = "hello"
    version: int
    boot_id: str
    kernel: str
    python: str
    cgroup: int
    hz: int
    monitors: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState(Event):
    """A source announces itself: active | partial | unsupported, and why."""

    kind: ClassVar[str] = "source"
    name: str
    state: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap(Event):
    """Between begin and end this source could not see. end None: still blind."""

    kind: ClassVar[str] = "gap"
    name: str
    begin: int
    end: int | None
    why: str
    lost: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReading(Event):
    """One bracketed reading of all clocks: ns. error is half the bracket's width.

    wall - boot gives Docker's offset; mono - boot grows by suspends; tai_offset is
    CLOCK_TAI - CLOCK_REALTIME; kmsg is what must be added to a kernel-log time stamp
    to get boottime (None: not calibrated).
    """

    kind: ClassVar[str] = "clock"
    boot: int
    wall: int
    mono: int
    tai_offset: int = 0
    kmsg: int | None = None
    error: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockJump(Event):
    """A clock stepped: `which` is wall | suspend | freeze, by is ns."""

    kind: ClassVar[str] = "clock-jump"
    which: str
    by: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong(Event):
    """Answer to a ping (harness time sent, as token; machine time here) or to a flush.

    what: ping | flush. A flush is answered when everything that was readable when it
    arrived has been sent.
    """

    kind: ClassVar[str] = "pong"
    token: int
    what: str = "ping"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockLink(Event):
    """By the harness: machine boottime - harness clock, ns, from a ping's round trip."""

    kind: ClassVar[str] = "clock-link"
    offset: int
    error: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost(Event):
    """What watching cost so far: CPU seconds, peak resident bytes, events by source, dropped."""

    kind: ClassVar[str] = "cost"
    cpu: float
    rss: int
    events: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """The probe could not take a command: what it was and why not."""

    kind: ClassVar[str] = "refused"
    command: str
    why: str


# --- what the kernel says ------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceLine(Event):
    """One line of a tracefs instance (A: deaths and signals, B: lineage), raw.

    tgid: of the task that was running, where the tracer says it (the line has its thread).
    """

    kind: ClassVar[str] = "trace"
    instance: str
    text: str
    tgid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalSender(Event):
    """Who sent a signal, as far as it could be seen while the sender was there.

    pid is the sender's process; `to` the thread the signal went to, `container` that
    thread's. home: the container the sender itself lived in. place: same-container |
    other-container | engine (a daemon, or made by one) | host. ancestors: its maker, the
    maker's maker, …: {pid, name, program, container}.
    """

    kind: ClassVar[str] = "sender"
    pid: int
    name: str
    signal: int
    to: int
    container: str | None
    place: str
    home: str | None = None
    cgroup: str | None = None
    start: int | None = None
    program: str | None = None
    command: str | None = None
    ancestors: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcEvent(Event):
    """One record of the proc connector. what: fork | exec | exit | coredump | comm.

    status is the raw wait status (exit only); ppid the parent's tgid; child the new
    process (fork only).
    """

    kind: ClassVar[str] = "proc"
    what: str
    pid: int
    tgid: int
    ppid: int | None = None
    status: int | None = None
    exit_signal: int | None = None
    child: int | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PidfdExit(Event):
    """The pidfd of a watched process became readable: the process is gone."""

    kind: ClassVar[str] = "pidfd"
    pid: int
    container: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelLine(Event):
    """One record of /dev/kmsg."""

    kind: ClassVar[str] = "kernel"
    level: int
    kseq: int
    text: str


# --- containers ----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MainProcess(Event):
    """A watched container's main process was found.

    pid is the kernel's; start its start time in ticks since boot; nspids from the
    outermost namespace in; cgroup the path below the (memory) hierarchy's root, as the
    kernel log prints it; inode that directory's identity.
    """

    kind: ClassVar[str] = "main"
    container: str
    pid: int
    start: int
    nspids: list[int]
    cgroup: str
    inode: int | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeathSeen(Event):
    """The probe saw a watched main process end. by: trace | proc | pidfd | poll."""

    kind: ClassVar[str] = "death"
    container: str
    pid: int
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupSample(Event):
    """Files of one cgroup. scope: container | ancestor | machine; files: name → text.

    Names are the kernel's own ("memory.oom_control", "memory.events.local"); on v1 the
    controller stands before a slash where a name would be ambiguous ("cpu/cpu.stat").
    A file that could not be read is absent and named in `unreadable`.
    """

    kind: ClassVar[str] = "cgroup"
    container: str | None
    scope: str
    path: str
    files: dict[str, str]
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountChange(Event):
    """Lines of mountinfo that came and went, at first all in `added`; gone: "upperdir", if deleted."""

    kind: ClassVar[str] = "mounts"
    container: str
    added: list[str]
    removed: list[str]
    gone: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkChange(Event):
    """Interfaces and routes of its network that came and went; traffic: bytes in and out so far."""

    kind: ClassVar[str] = "network"
    container: str
    added: list[str]
    removed: list[str]
    traffic: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostMortem(Event):
    """Files read at the moment of death: path → text (cgroups, processes, memory, disk)."""

    kind: ClassVar[str] = "postmortem"
    container: str
    files: dict[str, str]
    unreadable: dict[str, str] = field(default_factory=dict)


# --- machine and daemons -------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSample(Event):
    """The machine at one instant. Sizes in bytes; disks: mount point → {total, free, inodes,
    inodes_free, device}, device as stat gives it. disks_at: when the disks were really asked
    (ns): a file system that answers late is shown with its last answer. None: at `t`.
    """

    kind: ClassVar[str] = "machine"
    memory: dict[str, int]
    load: list[float]
    processes: int | None
    disks: dict[str, dict[str, int]]
    pressure: dict[str, str]
    disks_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonLog(Event):
    """One line a daemon wrote: raw."""

    kind: ClassVar[str] = "daemon-log"
    daemon: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonState(Event):
    """A daemon (dockerd, containerd, a shim) was seen or is gone. state: alive | gone | stopped."""

    kind: ClassVar[str] = "daemon"
    daemon: str
    pid: int
    start: int
    state: str
    container: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerEvent(Event):
    """One record of the engine's event stream. wall is its own timeNano."""

    kind: ClassVar[str] = "docker"
    type: str
    action: str
    id: str
    wall: int
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Syscall(Event):
    """One line of a system call tracer. tracer: strace | trace; of: daemons, or an exec's label."""

    kind: ClassVar[str] = "syscall"
    tracer: str
    of: str
    text: str


# --- the runner ----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase(Event):
    """A phase of the trial begins or ends. edge: begin | end."""

    kind: ClassVar[str] = "phase"
    phase: str
    edge: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRef(Event):
    """Who is who. role: subject | beside | neighbour. A recreate gives a second subject.

    limits are what the engine's HostConfig says: bytes, counts; 0 or None is no limit.
    """

    kind: ClassVar[str] = "container"
    role: str
    container: str
    name: str
    image: str
    limits: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Event):
    """The container's status as somebody saw it.

    label: why it was taken ("before pre-task", "after setup", "post-mortem", …).
    by: inspect | observer. state: the engine's State object, or {"Status": …} alone when
    the observer answered. error: the engine's words when it could not say.
    """

    kind: ClassVar[str] = "status"
    label: str
    container: str
    by: str
    state: dict[str, Any] | None
    error: str | None = None
    http: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exec(Event):
    """An exec of ours. edge: request | created | started | answer.

    label: setup | pre-task | … . Only `answer` has the rest: exit_code, the HTTP status
    and text of a refusal, seconds since the request, the head and tail of its output.
    timed_out: nobody answered before the deadline.
    """

    kind: ClassVar[str] = "exec"
    label: str
    container: str
    edge: str
    exec_id: str | None = None
    exit_code: int | None = None
    http: int | None = None
    error: str | None = None
    seconds: float | None = None
    output: str = ""
    timed_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiCall(Event):
    """Another request of ours to the engine (start, stop, restart, rm, …). edge: request | answer.

    planned: it is meant to end the main process, so that this end is no death.
    """

    kind: ClassVar[str] = "api"
    call: str
    container: str
    edge: str
    planned: bool = False
    http: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs(Event):
    """The tail of the container's own log."""

    kind: ClassVar[str] = "logs"
    container: str
    text: str
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLine(Event):
    """A line of the host's own log that bears on a VM (macOS). what: as `parse.macos` has it."""

    kind: ClassVar[str] = "host-log"
    text: str
    what: str = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState(Event):
    """What this host knows of a machine which the machine itself can not tell; `t` is since when.

    Attributes:
        what: killed · shut-down · still · agentless · clock-step · channel · engine ·
            unreachable, as `machine.HostSaid` has them.
        until: ns on the event's clock; None: it lasts, or it is an end.
    """

    kind: ClassVar[str] = "host"
    what: str
    why: str = ""
    until: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Event):
    """Anything else worth keeping with the trial: what and its data. Never evidence."""

    kind: ClassVar[str] = "note"
    what: str
    data: dict[str, Any] = field(default_factory=dict)


KINDS: dict[str, type[Event]] = {
    cls.kind: cls
    for cls in (
        Hello, SourceState, Gap, ClockReading, ClockJump, Pong, ClockLink, Cost, Refused,
        TraceLine, SignalSender, ProcEvent, PidfdExit, KernelLine,
        MainProcess, DeathSeen, CgroupSample, MountChange, NetworkChange, PostMortem,
        MachineSample, DaemonLog, DaemonState, DockerEvent, Syscall,
        Phase, ContainerRef, Status, Exec, ApiCall, Logs, HostLine, HostState, Note,
    )
}  # fmt: skip


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float


def _is_str(value: Any) -> bool:
    return type(value) is str


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _check(hint: Any) -> Callable[[Any], bool]:
    """A test for values of this annotation, as JSON brings them (no int is a bool)."""
    if hint in _SCALARS:
        return _SCALARS[hint]
    options = get_args(hint)
    if get_origin(hint) is UnionType:
        tests = [_check(option) for option in options if option is not NoneType]
        return lambda value: value is None or any(test(value) for test in tests)
    if get_origin(hint) is list:
        item = _check(options[0])
        return lambda value: type(value) is list and all(map(item, value))
    member = _check(options[1])  # JSON's keys are strings already
    return lambda value: type(value) is dict and all(map(member, value.values()))


_SCALARS: dict[Any, Callable[[Any], bool]] = {
    int: _is_int, float: _is_number, str: _is_str, bool: _is_bool, Any: lambda value: True,
}  # fmt: skip

_CHECKS: dict[str, dict[str, Callable[[Any], bool]]] = {
    kind: {f.name: _check(hints[f.name]) for f in fields(cls)}
    for kind, cls in KINDS.items()
    for hints in (get_type_hints(cls),)
}


def encode(event: Event) -> str:
    """One line, without its newline."""
    body = {"kind": event.kind}
    body.update((f.name, getattr(event, f.name)) for f in fields(event))
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def decode(line: str | bytes) -> Event | None:
    """Read one line; None when it is not an event of this version.

    Never raises. Unknown members are dropped (a newer probe may say more); an unknown
    kind, a missing member, one of a wrong type or broken JSON is None, and the caller
    counts it as a gap.
    """
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        return None
    kind = body.pop("kind", None) if type(body) is dict else None
    if type(kind) is not str or kind not in _CHECKS:
        return None
    checks = _CHECKS[kind]
    members = {}
    for name, value in body.items():
        check = checks.get(name)
        if check is not None:
            if not check(value):
                return None
            members[name] = value
    try:
        return KINDS[kind](**members)
    except TypeError:
        return None


def numbered(event: Event, n: int) -> Event:
    """The same event with the number a verdict cites."""
    return replace(event, n=n)
