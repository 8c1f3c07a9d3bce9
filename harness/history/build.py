"""Events, in whatever order they came → a History.

Rule: one pass places events on the line, one pass reads them. Requests and answers are
paired after ordering, so that the order of arrival does not matter. Only a second boot
of the machine is told by arrival (its boottime begins anew).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness import events as e
from harness.history.clock import Clock
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
from harness.history.whole import History, SourceSaid
from harness.model.verdicts import Blind
from harness.parse.daemon import parse_daemon
from harness.parse.docker import engine_fact, parse_state
from harness.parse.kernel import parse_kernel
from harness.parse.trace import (
    Executed,
    Forked,
    OomVictim,
    Signal,
    TaskExit,
    TraceFact,
    parse_trace,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HZ = 100
"""USER_HZ where no Hello says it: it is 100 on every architecture Linux has users on."""


def build(events: Iterable[e.Event]) -> History:
    """The history of one trial. Events without a number get their place in the input."""
    given = list(events)
    if all(event.n == 0 for event in given):
        given = [e.numbered(event, n) for n, event in enumerate(given, 1)]
    placed = _place(given)
    hellos = [p for p in placed if isinstance(p.event, e.Hello)]
    hz = next((p.event.hz for p in hellos if isinstance(p.event, e.Hello)), HZ) or HZ
    sort: dict[str, list[Any]] = defaultdict(list)
    for p in placed:
        _sort(p, sort, hz)
    return History(
        placed=tuple(placed),
        begin=placed[0].at if placed else 0,
        end=max((p.at for p in placed), default=0),
        hellos=tuple(_seen(p, p.event) for p in hellos),
        sources=_grouped(sort["sources"]),
        gaps=_gaps(placed),
        containers=tuple(sort["containers"]),
        mains=_mains(sort["mains"]),
        signals=tuple(sort["signals"]),
        exits=tuple(sort["exits"]),
        victims=tuple(sort["victims"]),
        senders=tuple(sort["senders"]),
        forks=tuple(sort["forks"]),
        programs=tuple(sort["programs"]),
        procs=tuple(sort["procs"]),
        pidfds=tuple(sort["pidfds"]),
        ends=tuple(sort["ends"]),
        kernel=tuple(sort["kernel"]),
        engine=tuple(sort["engine"]),
        daemons=tuple(sort["daemons"]),
        daemon_log=tuple(sort["daemon_log"]),
        looks=tuple(sort["looks"]),
        attempts=_attempts(sort["exec"]),
        calls=_calls(sort["api"]),
        spans=_spans(sort["phase"]),
        files=tuple(sort["files"]),
        machine=tuple(sort["machine"]),
        mounts=tuple(sort["mounts"]),
        networks=tuple(sort["networks"]),
        logs=tuple(sort["logs"]),
        postmortems=tuple(sort["postmortems"]),
        syscalls=tuple(sort["syscalls"]),
        jumps=tuple(sort["jumps"]),
        host=tuple(sort["host"]),
        wall_offsets=tuple(sort["walls"]),
        numbers=frozenset(event.n for event in given),
    )


def _place(given: Sequence[e.Event]) -> list[Placed]:
    """Every event on the boottime of the machine's first boot."""
    boots = _boots(given)
    clocks = [Clock(part) for part in boots]
    first = clocks[0]
    placed: list[Placed] = []
    for clock, part in zip(clocks, boots, strict=True):
        # The harness's clock runs through a reboot of the machine: it ties the boots together.
        shift = 0
        if clock is not first:
            if clock.links and first.links:
                shift = first.links[-1].offset - clock.links[0].offset
            else:
                last = max((p.at for p in placed), default=0)
                shift = last + 1 - min((x.t for x in part if x.clock == "machine"), default=0)
        for event in part:
            on = first if event.clock == "harness" else clock
            at, error = on.place(event)
            placed.append(Placed(at + (0 if event.clock == "harness" else shift), error, event))
    placed.sort(key=lambda p: (p.at, p.event.n))
    return placed


def _boots(given: Sequence[e.Event]) -> list[list[e.Event]]:
    """The events split where a Hello names another boot."""
    parts: list[list[e.Event]] = [[]]
    boot: str | None = None
    for event in sorted(given, key=lambda x: x.n):
        if isinstance(event, e.Hello):
            if boot is not None and event.boot_id != boot:
                parts.append([])
            boot = event.boot_id
        parts[-1].append(event)
    return parts


def _seen(p: Placed, what: Any) -> Seen[Any]:
    return Seen(p.at, p.error, p.event.n, p.event.source, what)


_PLAIN: dict[str, str] = {
    "sender": "senders",
    "pidfd": "pidfds",
    "death": "ends",
    "machine": "machine",
    "mounts": "mounts",
    "network": "networks",
    "logs": "logs",
    "postmortem": "postmortems",
    "syscall": "syscalls",
    "clock-jump": "jumps",
}
"""Kinds that are kept as they are."""

_TRACE: tuple[tuple[type, str], ...] = (
    (Signal, "signals"),
    (OomVictim, "victims"),
    (TaskExit, "exits"),
    (Forked, "forks"),
    (Executed, "programs"),
)

# A file name can hold line feeds, so a program started from a hostile one can write
# whole lines into the instance that records program names. Signals, victims and exits
# are believed only from the instance that does not.
_LINEAGE_ONLY = frozenset({"forks", "programs"})


def _sort(p: Placed, to: dict[str, list[Any]], hz: int) -> None:
    event = p.event
    if event.kind in _PLAIN:
        to[_PLAIN[event.kind]].append(_seen(p, event))
        return
    match event:
        case e.TraceLine():
            fact = parse_trace(event.text)
            for kind, name in _TRACE:
                if (
                    fact is not None
                    and isinstance(fact, kind)
                    and (name in _LINEAGE_ONLY or event.instance != "B")
                ):
                    to[name].append(_seen(p, _by_process(fact, event.tgid)))
        case e.ProcEvent():
            to["procs"].append(_seen(p, event))
            if event.what == "fork" and event.child is not None:
                to["forks"].append(_seen(p, Forked(event.tgid, event.child, event.name or "")))
        case e.KernelLine():
            said = parse_kernel(event.text)
            if said is not None:
                to["kernel"].append(_seen(p, said))
        case e.DockerEvent():
            to["engine"].append(
                _seen(
                    p, engine_fact(event.type, event.action, event.id, event.wall, event.attributes)
                )
            )
        case e.DaemonLog():
            line = parse_daemon(event.text)
            if line is not None:
                to["daemon_log"].append(_seen(p, replace(line, daemon=event.daemon)))
        case e.DaemonState():
            to["daemons"].append(
                _seen(
                    p,
                    Daemon(
                        event.daemon,
                        event.pid,
                        event.start,
                        event.state,
                        event.container,
                        event.status,
                    ),
                )
            )
        case e.Status():
            look = Look(
                event.label,
                event.container,
                event.by,
                parse_state(event.state),
                event.error,
                event.http,
            )
            to["looks"].append(_seen(p, look))
        case e.ContainerRef():
            to["containers"].append(
                Container(
                    event.container,
                    event.name,
                    event.role,
                    event.image,
                    p.at,
                    event.n,
                    event.limits,
                    event.config,
                )
            )
        case e.MainProcess():
            # Its start counts from the boot it was seen in, like the event's own stamp.
            begin = event.start * 10**9 // hz + p.at - event.t if event.start else p.at
            begin = min(p.at, begin)
            init = len(event.nspids) > 1 and event.nspids[-1] == 1
            to["mains"].append(
                Main(
                    event.container,
                    event.pid,
                    event.start,
                    begin,
                    event.cgroup,
                    event.n,
                    event.source,
                    init,
                    event.name,
                )
            )
        case e.CgroupSample():
            to["files"].append(
                _seen(
                    p,
                    Files(event.container, event.scope, event.path, event.files, event.unreadable),
                )
            )
        case e.HostState():
            until = None if event.until is None else event.until + p.at - event.t
            to["host"].append(_seen(p, replace(event, until=until)))
        case e.SourceState():
            to["sources"].append((event.name, SourceSaid(p.at, event.state, event.why, event.n)))
        case e.ClockReading():
            to["walls"].append((p.at, event.boot + p.at - event.t - event.wall))
        case e.Exec() | e.ApiCall() | e.Phase():
            to[event.kind].append(p)
        case _:
            pass


def _by_process(fact: TraceFact, tgid: int | None) -> TraceFact:
    """The line names the running thread; where the tracer says its process, that is meant."""
    if tgid is None:
        return fact
    if isinstance(fact, Signal):
        return replace(fact, sender=tgid)
    if isinstance(fact, Forked):
        return Forked(tgid, fact.child, fact.name)  # many: `replace` would take most of the time
    return fact


def _grouped(said: list[tuple[str, SourceSaid]]) -> dict[str, tuple[SourceSaid, ...]]:
    found: dict[str, tuple[SourceSaid, ...]] = {}
    for name, one in said:
        found[name] = (*found.get(name, ()), one)
    return found


def _gaps(placed: list[Placed]) -> dict[str, tuple[Blind, ...]]:
    """Gaps by source. One that was open when it was first told is told again when it ends."""
    found: dict[tuple[str, int], Blind] = {}
    for p in placed:
        if isinstance(p.event, e.Gap):
            gap = p.event
            move = p.at - gap.t  # the same shift its own stamp took
            end = None if gap.end is None else gap.end + move
            key = (gap.name, gap.begin + move)
            known = found.get(key)
            if known is None or known.end is None or (end is not None and end > known.end):
                why = gap.why if known is None else known.why
                found[key] = Blind(gap.name, gap.begin + move, end, why)
    grouped: dict[str, list[Blind]] = defaultdict(list)
    for (name, _), gap_ in sorted(found.items(), key=lambda item: item[0][1]):
        grouped[name].append(gap_)
    return {name: tuple(gaps) for name, gaps in grouped.items()}


def _mains(found: list[Main]) -> tuple[Main, ...]:
    once: dict[tuple[str, int, int], Main] = {}
    for main in found:
        once.setdefault((main.container, main.pid, main.start), main)
    return tuple(sorted(once.values(), key=lambda m: (m.begin, m.n)))


def _attempts(found: list[Placed]) -> tuple[Attempt, ...]:
    """Pair exec edges: per label, in order; exec ids decide where they are there.

    Not per container: an exec is asked for by name, and a recreate puts another container
    behind that name while it is under way. The one that was meant at the request counts.
    """
    done: list[Attempt] = []
    open_: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for p in found:
        event = p.event
        assert isinstance(event, e.Exec)
        waiting = open_[event.label]
        if event.edge == "request":
            waiting.append(
                {"begin": p.at, "n": event.n, "id": event.exec_id, "of": event.container}
            )
            continue
        one = next((w for w in waiting if w["id"] is not None and w["id"] == event.exec_id), None)
        one = one or next((w for w in waiting if w["id"] is None), None)
        if one is None:
            # Only the answer was kept: it is what we know.
            begin = p.at - int((event.seconds or 0) * 1e9)
            one = {"begin": begin, "n": event.n, "id": event.exec_id, "of": event.container}
            waiting.append(one)
        one["id"] = event.exec_id or one["id"]
        if event.edge in ("created", "started"):
            one[event.edge] = True
        elif event.edge == "answer":
            waiting.remove(one)
            done.append(_attempt(event.label, one, p.at, event))
    for label, waiting in open_.items():
        done.extend(_attempt(label, one, None, None) for one in waiting)
    return tuple(sorted(done, key=lambda a: (a.begin, a.n)))


def _attempt(label: str, one: dict[str, Any], end: int | None, answer: e.Exec | None) -> Attempt:
    return Attempt(
        label=label,
        container=one["of"],
        begin=one["begin"],
        end=end,
        exec_id=one["id"],
        exit_code=answer.exit_code if answer else None,
        http=answer.http if answer else None,
        error=answer.error if answer else None,
        output=answer.output if answer else "",
        seconds=answer.seconds if answer else None,
        timed_out=answer.timed_out if answer else False,
        n=one["n"],
        answer_n=answer.n if answer else None,
        created=one.get("created", False),
        started=one.get("started", False),
    )


def _calls(found: list[Placed]) -> tuple[Call, ...]:
    done: list[Call] = []
    open_: dict[tuple[str, str], list[Placed]] = defaultdict(list)
    for p in found:
        event = p.event
        assert isinstance(event, e.ApiCall)
        key = (event.call, event.container)
        if event.edge == "request":
            open_[key].append(p)
        elif event.edge == "answer":
            asked = open_[key].pop(0) if open_[key] else p
            done.append(_call(asked, p))
    for waiting in open_.values():
        done.extend(_call(asked, None) for asked in waiting)
    return tuple(sorted(done, key=lambda c: (c.begin, c.n)))


def _call(asked: Placed, answered: Placed | None) -> Call:
    ask = asked.event
    answer = None if answered is None else answered.event
    assert isinstance(ask, e.ApiCall)
    planned, http, error, n = ask.planned, ask.http, ask.error, None
    if isinstance(answer, e.ApiCall):
        planned, http, error, n = planned or answer.planned, answer.http, answer.error, answer.n
    end = None if answered is None else answered.at
    return Call(ask.call, ask.container, asked.at, end, planned, http, error, ask.n, n)


def _spans(found: list[Placed]) -> tuple[Span, ...]:
    done: list[Span] = []
    open_: dict[str, Placed] = {}
    for p in found:
        event = p.event
        assert isinstance(event, e.Phase)
        if event.edge == "begin":
            open_[event.phase] = p
        elif event.phase in open_:
            start = open_.pop(event.phase)
            begun = start.event
            assert isinstance(begun, e.Phase)
            done.append(Span(event.phase, start.at, p.at, event.detail or begun.detail, begun.n))
    for name, start in open_.items():
        begun = start.event
        assert isinstance(begun, e.Phase)
        done.append(Span(name, start.at, None, begun.detail, begun.n))
    return tuple(sorted(done, key=lambda s: (s.begin, s.n)))
