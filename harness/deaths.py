"""History → the ends of the subjects' main processes, planned ones marked.

Rule: this room says that and when, never why. One end per start of a container,
whatever number of sources tell of it; the kernel's time before the engine's (the `die`
event comes tens of milliseconds, sometimes half a minute later). A stop that the harness
ordered is planned; whatever happens once the harness cleans up is no part of the trial.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.history.clock import ENGINE, KERNEL
from harness.model.verdicts import Death
from harness.parse.execs import DEATH_TEXTS, is_engine_text, parse_exec_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.events import ProcEvent
    from harness.history import Attempt, Call, History, Main, Seen
    from harness.parse.docker import EngineFact

ENDING_CALLS = frozenset({"stop", "kill", "restart", "rm", "remove"})
"""Requests of ours that end a main process."""


@dataclass(frozen=True, slots=True)
class Run:
    """One start of one container: from `begin` until the next start."""

    container: str
    begin: int
    until: int | None
    main: Main | None


@dataclass(frozen=True, slots=True)
class Ending:
    """A death with who told of it.

    Attributes:
        witnesses: Numbers of the events that say the main process ended, best first.
        sources: The sources they came from.
        die: The engine's own notice, if it came.
        by: Our own planned request that ended it.
        never_ran: The engine could not start it; `call` has the engine's words.
    """

    death: Death
    run: Run
    witnesses: tuple[int, ...]
    sources: tuple[str, ...]
    die: Seen[EngineFact] | None = None
    by: Call | None = None
    never_ran: bool = False
    call: Call | None = None


def deaths(history: History) -> tuple[Death, ...]:
    """Every end of a subject's main process, oldest first, planned ones too."""
    return tuple(ending.death for ending in endings(history))


def endings(history: History) -> tuple[Ending, ...]:
    """The same with their witnesses."""
    limit = trial_end(history)
    found = [
        ending
        for container in dict.fromkeys(c.id for c in history.subjects)
        for run in runs(history, container)
        if (ending := _ending(history, run, limit)) is not None
    ]
    return tuple(sorted(found, key=lambda x: (x.death.at, x.death.container)))


def trial_end(history: History) -> int | None:
    """When the harness began to clean up; None while it has not."""
    clean = history.phase("clean")
    return None if clean is None else clean.begin


FOUND_LATE = 5_000_000_000
"""A main process can be found so long after the engine said it started it."""


def runs(history: History, container: str) -> tuple[Run, ...]:
    """The starts of a container, by its main processes, and by the engine's word where none was found."""
    mains = history.mains_of(container)
    starts: list[tuple[int, Main | None]] = [(m.begin, m) for m in mains]
    words = [
        s
        for s in history.engine
        if s.what.id == container
        and s.what.type == "container"
        and s.what.action in ("start", "die")
    ]
    unclaimed = list(starts)
    for index, seen in enumerate(words):
        if seen.what.action != "start":
            continue
        mine = [s for s in unclaimed if s[0] <= seen.at + ENGINE]
        if mine:
            unclaimed = [s for s in unclaimed if s not in mine]
            continue
        # Found late: it is the same start unless the engine said something else in between.
        after = words[index + 1].at if index + 1 < len(words) else seen.at + FOUND_LATE
        late = [s for s in unclaimed if s[0] <= min(after, seen.at + FOUND_LATE)]
        if late:
            unclaimed.remove(late[0])
        else:
            starts.append((seen.at, None))
    starts.sort(key=lambda s: s[0])
    if not starts and (began := _began(history, container)) is not None:
        starts = [(began, None)]
    ends = [s[0] for s in starts[1:]] + [None]
    return tuple(
        Run(container, begin, until, main)
        for (begin, main), until in zip(starts, ends, strict=True)
    )


def _began(history: History, container: str) -> int | None:
    """When it was started, for want of a better witness: our own start, or a status that says so."""
    for call in history.calls:
        if call.container == container and call.call in ("start", "run"):
            return call.begin
    for seen in history.looks:
        if seen.what.container == container and seen.what.state is not None:
            return min(seen.at, next(c.at for c in history.containers if c.id == container))
    return next((c.at for c in history.containers if c.id == container), None)


def _ending(history: History, run: Run, limit: int | None) -> Ending | None:
    until = run.until
    told: list[tuple[int, int, int, str, Any]] = []  # rank, at, n, source, event
    if run.main is not None:
        told += _kernel_ends(history, run.main, until)
    die = _die(history, run)
    if die is not None:
        told.append((5, die.at, die.n, "docker", die))
    told += _looked(history, run)
    # runc's init is there for a moment even where the start fails: what became of it is
    # the start's failure, and the engine's words say why.
    failed = _not_started(history, run, told)
    if failed is not None:
        told = [t for t in told if t[3] not in ("status", "docker")]
        told.append((7, failed.end or failed.begin, failed.answer_n or failed.n, "api", failed))
    told += _with_its_machine(history, run)
    if not told:
        told += _refusals(history, run)
    if not told and until is not None:
        # It was started again, so it had ended, whoever was blind to that.
        told += [
            (10, until, m.n, "start", m)
            for m in history.mains_of(run.container)
            if m.begin == until
        ] or [
            (10, until, s.n, "start", s)
            for s in history.engine
            if s.what.id == run.container and s.what.action == "start" and s.at == until
        ]
    if not told:
        return None
    told.sort(key=lambda t: (t[0], t[1]))
    _, at, _, source, _ = told[0]
    if limit is not None and at > limit:
        return None
    by = _planned(history, run, at, source)
    status = _status(history, run.main, until) if run.main is not None and not failed else None
    engine_code = die.what.exit_code if die is not None else _looked_code(history, run)
    return Ending(
        Death(
            container=run.container,
            at=at,
            at_source=source,
            pid=run.main.pid if run.main is not None and not failed else None,
            wait_status=status,
            exit_code=engine_code if status is None else _code(status),
            signal=None if status is None else (status & 0x7F) or None,
            planned=by is not None,
        ),
        run,
        tuple(dict.fromkeys(t[2] for t in told)),
        tuple(dict.fromkeys(t[3] for t in told)),
        die,
        by,
        failed is not None and failed.end is not None,
        failed,
    )


def _code(status: int) -> int:
    """A raw wait status in Docker's manner: 128 + n for a signal."""
    return (status >> 8) & 0xFF if status & 0x7F == 0 else 128 + (status & 0x7F)


def _kernel_ends(
    history: History, main: Main, until: int | None
) -> list[tuple[int, int, int, str, Any]]:
    def mine(at: int) -> bool:
        # A pid is used again: the first end after this start is the one, before the next start.
        return at >= main.begin - KERNEL and (until is None or at <= until + KERNEL)

    early = _first_thread_only(history, main, until)
    told: list[tuple[int, int, int, str, Any]] = []
    for e in history.exits:
        if e.what.pid == main.pid and e.what.last is not False and mine(e.at) and not early(e.at):
            told.append((0, e.at, e.n, "trace", e))
            break
    for d in history.ends:
        if (
            d.what.container == main.container
            and d.what.pid == main.pid
            and mine(d.at)
            and not early(d.at)
        ):
            told.append((1 if d.what.by == "trace" else 3, d.at, d.n, d.what.by, d))
            break
    for p in history.procs:
        if (
            p.what.what == "exit"
            and p.what.pid == main.pid
            and p.what.tgid == main.pid
            and mine(p.at)
            and not early(p.at)
        ):
            told.append((2, p.at, p.n, "proc", p))
            break
    for f in history.pidfds:
        if f.what.pid == main.pid and mine(f.at):
            told.append((4, f.at, f.n, "pidfd", f))
            break
    return told


def _status(history: History, main: Main, until: int | None) -> int | None:
    early = _first_thread_only(history, main, until)
    for p in _statuses(history, main, until):
        return None if early(p.at) or _left_alone(history, main, until, p) else p.what.status
    return None


def _left_alone(history: History, main: Main, until: int | None, said: Seen[ProcEvent]) -> bool:
    """Is this the status of a first thread that left before the others, and maybe not the process's?

    The engine reaped the process itself: where it says the same, it is.
    """
    ends = [
        x.what.last
        for x in history.exits
        if x.what.pid == main.pid and abs(x.at - said.at) <= 5 * ENGINE
    ]
    if not ends or any(last is not False for last in ends):
        return False
    status = said.what.status or 0
    return not any(
        s.what.id == main.container
        and s.what.action == "die"
        and s.at >= main.begin
        and (until is None or s.at <= until + 2 * ENGINE)
        and s.what.exit_code == _code(status)
        for s in history.engine
    )


def _statuses(history: History, main: Main, until: int | None) -> Iterator[Seen[ProcEvent]]:
    for p in history.procs:
        if (
            (
                p.what.what == "exit"
                and p.what.pid == p.what.tgid == main.pid
                and p.what.status is not None
            )
            and p.at >= main.begin - KERNEL
            and (until is None or p.at <= until + KERNEL)
        ):
            yield p


AFTER_FIRST = 2_000_000_000
"""A process whose first thread ends with the others is gone well within this, teardown and all."""


def _first_thread_only(history: History, main: Main, until: int | None) -> Callable[[int], bool]:
    """Did only the first thread of the main process end at that time, and the process live on?

    Its first thread may leave before the others, or another one may become a new program in
    its place: both look like its end. A process that has ended is confirmed by its pidfd or by
    the engine, and with the same status.
    """
    ends = [x for x in history.exits if x.what.pid == main.pid and x.at >= main.begin - KERNEL]
    if any(x.what.last for x in ends):
        return lambda at: False
    alone = [x.at for x in ends if x.what.last is False]
    statuses = [p.what.status for p in _statuses(history, main, until)]
    gone = [f.at for f in history.pidfds if f.what.pid == main.pid and f.at >= main.begin]
    codes = [
        s.what.exit_code
        for s in history.engine
        if s.what.id == main.container
        and s.what.action == "die"
        and s.at >= main.begin
        and (until is None or s.at <= until + 2 * ENGINE)
    ]

    def early(at: int) -> bool:
        if alone and abs(at - alone[0]) <= 5 * ENGINE:
            if codes and statuses and statuses[0] is not None:
                told = codes[0] in (None, 255, _code(statuses[0]))
                return not told or (bool(gone) and gone[0] > at + AFTER_FIRST)
            return not codes and not any(g <= at + AFTER_FIRST for g in gone)
        # A kernel that does not say which thread was the last: an exec that ran to its good
        # end later ran in a living container.
        return (
            not gone
            and not codes
            and any(
                a.container == main.container
                and a.begin > at + KERNEL
                and a.exit_code == 0
                and (until is None or a.begin < until)
                for a in history.attempts
            )
        )

    return early


def _die(history: History, run: Run) -> Seen[EngineFact] | None:
    """The engine's `die` of this run. A restart's die comes before the next start, give or take."""
    for seen in history.engine:
        fact = seen.what
        if (
            fact.id == run.container
            and fact.type == "container"
            and fact.action == "die"
            and (
                seen.at >= run.begin - ENGINE
                and (run.until is None or seen.at <= run.until + 2 * ENGINE)
            )
        ):
            return seen
    return None


def _with_its_machine(history: History, run: Run) -> list[tuple[int, int, int, str, Any]]:
    """The machine's own end, which nothing on it outlives: this host saw it go, or it has booted
    again. What the engine says after a boot is no witness against it: what the disk had not
    been told yet never happened, and a container may be back as `created`."""
    found: list[tuple[int, int, int, str, Any]] = [
        (8, s.at, s.n, "host", s)
        for s in history.host
        if s.what.what in MACHINE_ENDS and s.at >= run.begin
    ]
    boots = history.hellos
    found += [
        (9, s.at, s.n, "boot", s)
        for s in boots
        if s.what.boot_id != boots[0].what.boot_id and s.at >= run.begin
    ]
    return [one for one in found if run.until is None or one[1] <= run.until][:1]


MACHINE_ENDS = frozenset({"killed", "shut-down"})
"""Of what this host says of a machine: its hypervisor is gone."""

_ENDED = frozenset({"exited", "dead", "removing"})


def _looked(history: History, run: Run) -> list[tuple[int, int, int, str, Any]]:
    """The first status that says it is over; its FinishedAt when the wall clock is known."""
    for seen in history.looks:
        look = seen.what
        if look.container != run.container or seen.at < run.begin:
            continue
        if run.until is not None and seen.at > run.until:
            break
        if look.http == 404 and look.by == "inspect":
            return [(7, seen.at, seen.n, "status", seen)]
        if look.state is not None and look.state.status in _ENDED:
            return [
                (6, _finished(history, look.state.finished, run, seen.at), seen.n, "status", seen)
            ]
    return []


def _finished(history: History, wall: int | None, run: Run, seen: int) -> int:
    offsets = [o for at, o in history.wall_offsets if at <= seen] or [
        o for _, o in history.wall_offsets
    ]
    if wall is None or not offsets:
        return seen
    at = wall + offsets[-1]
    return at if run.begin - ENGINE <= at <= seen else seen


def _looked_code(history: History, run: Run) -> int | None:
    for _, _, _, _, seen in _looked(history, run):
        state = getattr(seen.what, "state", None)
        if state is not None:
            code: int | None = state.exit_code
            return code
    return None


def _not_started(
    history: History, run: Run, told: list[tuple[int, int, int, str, Any]]
) -> Call | None:
    """Our start of it that the engine refused (a refusal has the engine's words and status)."""
    for call in history.calls:
        if call.container != run.container or call.call not in ("start", "restart", "run"):
            continue
        refused = call.http is not None and call.http >= 400
        if (
            not refused
            or call.end is None
            or not (run.main is None or call.covers(run.begin, ENGINE))
        ):
            continue
        end = call.end + 5 * ENGINE
        # Inside a restart lies the end of the run before: that `die` is no word of this one.
        since = max(call.begin, run.begin) if call.call == "restart" else call.begin
        started = any(
            s.what.id == run.container
            and s.what.action in ("start", "die")
            and since <= s.at <= end
            for s in history.engine
        )
        kernel = [t for t in told if t[3] not in ("status", "docker")]
        if not started and all(t[1] <= end for t in kernel):
            return call
    return None


def _refusals(history: History, run: Run) -> list[tuple[int, int, int, str, Any]]:
    """An exec of ours that the engine refused because it is dead: the weakest witness."""
    for attempt in history.attempts:
        if (
            attempt.container == run.container
            and attempt.end is not None
            and attempt.begin >= run.begin
        ):
            if run.until is not None and attempt.end > run.until:
                break
            if refused_as_dead(attempt):
                return [(9, attempt.end, attempt.answer_n or attempt.n, "exec", attempt)]
    return []


def refused_as_dead(attempt: Attempt) -> bool:
    """Do the engine's words (not the command's) say that the container is not running?"""
    text = attempt.error or ""
    if not text and attempt.exit_code in (126, 255) and is_engine_text(attempt.output):
        return False  # the words of a runtime that met a dying process prove no death alone
    fault = parse_exec_error(text, attempt.http)
    return fault is not None and attempt.http in (409, 500) and fault.what in DEATH_TEXTS


def _planned(history: History, run: Run, at: int, source: str) -> Call | None:
    """Our planned request that was under way when it ended (until the stop was answered).

    A restart's own start lies inside its request: the main process that began there was not
    there to be stopped, and its end is nobody's plan.
    """
    # The request is stamped before it is sent and the kernel ends the process before the
    # engine answers; the engine's own `die` can come after its answer.
    slack = {"trace": KERNEL, "proc": ENGINE, "pidfd": 5 * ENGINE}.get(source, 200 * ENGINE)
    for call in history.calls:
        if (
            call.planned
            and call.container == run.container
            and call.call in ENDING_CALLS
            and run.begin <= call.begin
            and (
                call.begin - min(slack, ENGINE) <= at
                and (call.end is None or at <= call.end + slack)
            )
        ):
            return call
    return None
