"""The loop of one trial: one thread reads one queue, asks `lifecycle`, performs.

What comes through the queue: events (the probe's and our own), results of steps that ran
in threads of their own, orders to stop. Deadlines are how long the queue is waited for.
Every event is stored, with its number, before anything else is done with it. However the
loop ends, nothing it began goes on making things.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import events as e
from harness.clock import NS, Clock, Inbox, RealClock
from harness.errors import EnvironmentInvalid
from harness.lifecycle import Action, Happened, Phase, Plan, State, step
from harness.runner import making, phases
from harness.runner.awake import Awake
from harness.runner.observed import Observed
from harness.runner.pretask import PreTask
from harness.runner.record import Diary, Measured
from harness.runner.stage import Stage, StepFailed, status

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.engine import Engine
    from harness.inject import Injector
    from harness.machine import Machine
    from harness.model.container import ImageSpec
    from harness.model.experiment import TrialSpec
    from harness.model.verdicts import TrialRecord
    from harness.runner.world import Link
    from harness.store import TrialWriter

_MAKING = frozenset({"prepare", "create", "start", "setup", "remount"})
_BY_THE_STEP = frozenset({Phase.REMOUNT})
"""Phases whose marks the step tells itself, with the instants of its work."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a step came to. error: why it failed; None when it went well."""

    phase: Phase
    name: str
    value: Any = None
    error: StepFailed | None = None


class Interrupt:
    """An order through the queue: stop now."""


class Trial:
    """One trial on one started machine. `run` may be called once.

    Attributes:
        kept: Containers that were left for somebody to look at.
        spoiled: Injected failures that could not be undone: the machine is not what it was.
    """

    def __init__(
        self,
        spec: TrialSpec,
        *,
        machine: Machine,
        engine: Engine,
        link: Link,
        writer: TrialWriter,
        clock: Clock | None = None,
        images: dict[ImageSpec, str] | None = None,
        full: bool = False,
        usage: bool = False,
        keep_dead: bool = False,
    ) -> None:
        self.spec, self.writer, self.link = spec, writer, link
        self.clock = clock or RealClock()
        self.inbox: Inbox[e.Event | Work | Interrupt] = self.clock.inbox()
        self.observed = Observed(lambda: 0 if link.clock is None else link.clock.offset)
        self.measured = Measured(self.clock)
        self.kept: list[str] = []
        self.spoiled: list[str] = []
        token = f"deathbench-{secrets.token_hex(3)}"
        self.stage = Stage(
            spec=spec,
            machine=machine,
            engine=engine,
            link=link,
            say=self.inbox.put,
            token=token,
            labels={
                "deathbench": token,
                "deathbench.trial": spec.trial,
                "deathbench.owner": machine.name,
            },
            cgroup=str(machine.probe_site().config.get("cgroup", "/")),
            clock=self.clock,
            known={} if images is None else images,
            full=Path(writer.directory) if full else None,
        )
        self.pre_task = PreTask(self.stage)
        self.diary = Diary(writer, self.observed, self.measured, self.pre_task)
        self.usage, self.keep_dead = usage, keep_dead
        self.injector: Injector | None = None
        self.noticed: Inbox[bool] = self.clock.inbox()
        self.idle: Inbox[bool] = self.clock.inbox()
        self.discarded = False
        experiment = spec.experiment
        mounts_change = experiment.remount.how != "none"
        self._plan = Plan(
            setup=experiment.setup is not None,
            remount=mounts_change,
            overlap=mounts_change and experiment.delay.after == "remount-start",
        )
        self._state = State()
        self._limit: int | None = None  # of the whole trial
        self._busy: Counter[str] = Counter()
        self.deadline: int | None = None  # of the current phase: past it, it has failed
        self.due: int | None = None  # when the current phase has lasted long enough
        self.look: int | None = None  # in the delay: when to ask for the status

    # --- from outside ---------------------------------------------------------------

    def take(self, event: e.Event) -> None:
        """An event of the probe; from any thread."""
        self.inbox.put(event)

    def interrupt(self) -> None:
        """Stop, clean up, forget the trial; from any thread or a signal handler."""
        self.inbox.put(Interrupt())

    # --- the loop -------------------------------------------------------------------

    def run(self) -> TrialRecord | None:
        """Run it; None when it was interrupted.

        Raises:
            EnvironmentInvalid: the history can not be written.
        """
        self.clock.ahead()
        awake = Awake()
        self.measured.begin()
        try:
            for event in self.link.states():
                self.diary.store(event)
            self.link.snapshot()
            self._enter(Phase.PREPARE)
            while self._state.phase is not Phase.DONE:
                self._turn()
            count, checksum = self.writer.close()
        except BaseException as error:
            self._wreck()
            if isinstance(error, OSError):
                what = f"the history of {self.spec.trial} can not be written: {error}"
                raise EnvironmentInvalid(what, where=str(self.writer.directory)) from error
            raise
        if self.discarded:
            return None
        self.measured.aborted = self.measured.aborted or awake.why_not()
        return self.measured.record(self.spec, self.pre_task, self.stage, count, checksum)

    def _wreck(self) -> None:
        """The loop itself broke: what it made goes, and the reason stays the reason."""
        self.end_history()
        if self.injector is not None:
            with contextlib.suppress(Exception):
                self.injector.finish()
        with contextlib.suppress(Exception):
            making.clean(self.stage)
        with contextlib.suppress(Exception):
            self.writer.close()

    def _turn(self) -> None:
        wake = [t for t in (self.deadline, self.due, self.look, self._limit) if t is not None]
        until = min(wake, default=None)
        # What is due goes first: a flood of events must not put off a deadline.
        late = until is not None and until <= self.clock.now()
        item = None if late else self.inbox.get(until)
        match item:
            case None:
                self._time_passed(self.clock.now())
            case Interrupt():
                self.happened(Happened.INTERRUPTED)
            case Work():
                self._worked(item)
            case e.Event():
                self._see(item)

    def _time_passed(self, instant: int) -> None:
        if self.look is not None and instant >= self.look:
            self.look = None
            phases.look(self)
        elif self.due is not None and instant >= self.due:
            self.happened(Happened.DONE, at=self.due)
        elif self.deadline is not None and instant >= self.deadline:
            self._late(Happened.DEADLINE, f"{self._state.phase}: no end within its deadline")
        elif self._limit is not None and instant >= self._limit:
            why = f"{self._state.phase}: the trial took longer than deadlines.trial"
            self._late(Happened.OVERDUE, why)

    def _late(self, happened: Happened, why: str) -> None:
        self.diary.note("deadline", {"phase": self._state.phase.value, "why": why})
        self.happened(happened, StepFailed(why))

    # --- events -----------------------------------------------------------------------

    def _see(self, event: e.Event) -> None:
        died = self.observed.died
        self.diary.hear(event)
        if self.observed.died and not died:
            self.happened(Happened.DIED)
        if self.observed.died and self.observed.noticed:
            self.noticed.put(True)
        if isinstance(event, e.DockerEvent) and event.action == "die" and self.observed.died:
            self._ask_at_death(event.id)

    def _ask_at_death(self, container: str) -> None:
        """A container that is being removed says so from its end until it is gone, some 20 ms:
        only a status asked for now can tell `rm -f` from a `kill`."""
        if container in self.observed.subjects and self.diary.open:
            self.spawn("status", lambda: status(self.stage, "at death", container))

    def end_history(self) -> None:
        """What happens from now on is no part of the trial, and nothing new is begun."""
        self.diary.open = False
        self.stage.abandon()
        self.pre_task.cancel()

    # --- phases -----------------------------------------------------------------------

    def happened(
        self, happened: Happened, why: StepFailed | None = None, *, at: int | None = None
    ) -> None:
        """at: when it did, where that is known better than by looking at the clock now."""
        before = self._state.phase
        state, actions = step(self._state, happened, self._plan)
        for action in actions:
            match action:
                case Action.ABORT:
                    reason = str(why or f"{before} failed")
                    self.measured.aborted = self.measured.aborted or reason
                case Action.DISCARD:
                    self.discarded = True
                case Action.GIVE_UP:
                    self.pre_task.give_up()
                case Action.SHORTEN:
                    self.due = min(self.due or 1 << 62, phases.aftermath(self))
        self._state = state
        if state.phase is not before:
            self._leave(before, at)
            self._enter(state.phase, at)

    def _leave(self, phase: Phase, at: int | None = None) -> None:
        self.deadline = self.due = self.look = None
        self.measured.leave(phase.value, at)
        if phase not in _BY_THE_STEP:
            self.diary.store(e.Phase(**self.stage.at(at), phase=phase.value, edge="end"))
        if phase is Phase.PREPARE:
            # Images may have been built until now: that is no part of the trial's own time.
            seconds = self.spec.experiment.deadlines.trial
            self._limit = self.clock.now() + int(seconds * NS)

    def _enter(self, phase: Phase, at: int | None = None) -> None:
        if phase is Phase.DONE:
            return
        if phase in {Phase.POST_MORTEM, Phase.CLEAN}:
            self._limit = None
        self.measured.enter(phase.value, at)
        if phase not in _BY_THE_STEP:
            self.diary.store(e.Phase(**self.stage.at(at), phase=phase.value, edge="begin"))
        if self.injector is not None:
            self.injector.phase(phase.value)
        phases.ENTER[phase](self)

    # --- work -------------------------------------------------------------------------

    def begin(self, seconds: float, name: str, work: Callable[[], Any]) -> None:
        """Work with a deadline: its end, or that, ends the phase."""
        self.deadline = self.clock.now() + int(seconds * NS)
        self.spawn(name, work)

    def spawn(self, name: str, work: Callable[[], Any]) -> None:
        """Do it in a thread of its own; its result comes through the queue, or too late."""
        phase = self._state.phase
        self._busy[name] += 1

        def body() -> None:
            done = Work(phase, name, error=StepFailed("cut off"))
            try:
                done = Work(phase, name, work())
            except StepFailed as error:
                done = Work(phase, name, error=error)
            except Exception as error:
                done = Work(phase, name, error=StepFailed(f"{type(error).__name__}: {error}"))
            self.inbox.put(done)

        self.clock.thread(f"trial-{name}", body)

    @property
    def making(self) -> bool:
        """Some step that makes things has not ended yet."""
        return any(self._busy[name] for name in _MAKING)

    def _worked(self, work: Work) -> None:
        self._busy[work.name] -= 1
        if not self.making:
            self.idle.put(True)
        if work.name == "exec" and work.error is None:
            self.pre_task.answer = work.value
        if work.phase is not self._state.phase or work.name == "status":
            return  # late: its phase was left
        if work.error is not None:
            why = str(work.error)
            self.diary.note("failed", {"phase": work.phase.value, "step": work.name, "why": why})
        phases.ended(self, work)
