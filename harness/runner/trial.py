"""The loop of one trial: one thread reads one queue, asks `lifecycle`, performs.

What comes through the queue: events (the probe's and our own), results of steps that ran
in one-shot threads, orders to stop. Deadlines are `queue.get(timeout)`. Every event is
stored, with its number, before anything else is done with it.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness import clock
from harness import events as e
from harness.inject import Done, Injector
from harness.lifecycle import Action, Happened, Phase, Plan, State, step
from harness.model.verdicts import TrialRecord
from harness.runner import steps
from harness.runner.observed import Observed
from harness.runner.steps import MAIN, Stage, StepFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.engine import Engine, ExecAnswer, PreparedExec
    from harness.machine import Machine
    from harness.model.experiment import TrialSpec
    from harness.runner.link import ProbeLink
    from harness.store import TrialWriter

# A status asked of the engine takes 1–5 ms; where the delay is shorter than this there is no
# room for it inside, and the observer's own knowledge is used: it costs no time at all.
ROOM_FOR_INSPECT = 0.05
# The loop leaves its queue this long before an instant it must meet, and waits precisely.
PRECISE = 0.004
# Docker's `die` comes 30–90 ms after the kernel's exit when idle, a second under load; past
# this it is Docker's silence that is the finding.
NOTICE = 10.0
# After a death the kernel's and the daemons' last lines still come in.
AFTERMATH = 0.3
FLUSH = 5.0


@dataclass(frozen=True, slots=True)
class Work:
    """What a step came to. error: words for people; None when it went well."""

    phase: Phase
    name: str
    value: Any = None
    error: str | None = None


class Interrupt:
    """An order through the queue: stop now."""


class Trial:
    """One trial on one started machine. `run` may be called once."""

    def __init__(
        self,
        spec: TrialSpec,
        *,
        machine: Machine,
        engine: Engine,
        link: ProbeLink,
        writer: TrialWriter,
        usage: bool = False,
        keep_dead: bool = False,
    ) -> None:
        self.spec, self.writer, self.link = spec, writer, link
        self.inbox: queue.Queue[e.Event | Work | Interrupt] = queue.Queue()
        self.observed = Observed()
        self.kept: list[str] = []
        token = f"deathbench-{secrets.token_hex(3)}"
        self.stage = Stage(
            spec=spec,
            machine=machine,
            engine=engine,
            link=link,
            say=self.inbox.put,
            token=token,
            labels={"deathbench": token, "deathbench.trial": spec.trial},
            cgroup=str(machine.probe_site().config.get("cgroup", "/")),
        )
        self._usage, self._keep_dead = usage, keep_dead
        experiment = spec.experiment
        overlap = experiment.remount.how != "none" and experiment.delay.after == "remount-start"
        self._plan = Plan(
            setup=experiment.setup is not None,
            remount=experiment.remount.how != "none",
            overlap=overlap,
        )
        self._state = State()
        self._aborted: str | None = None
        self._discarded = False
        self._began = 0
        self._spans: dict[str, tuple[float, float | None]] = {}
        self._deadline: int | None = None  # of the current phase
        self._due: int | None = None  # an instant to be met precisely
        self._zero: int | None = None  # what the delay is counted from
        self._exec: PreparedExec | None = None
        self._answer: ExecAnswer | None = None
        self._before: str | None = None
        self._after: str | None = None
        self._storing = True
        self._injector = Injector(
            machine,
            experiment.inject,
            container_of=lambda name: self.stage.ids[name or MAIN],
            labels=self.stage.labels,
            tell=self._injected,
        )
        self._waiting = False  # in the post-mortem: for the engine to notice the death
        self._notice: threading.Timer | None = None

    # --- from outside ---------------------------------------------------------------

    def take(self, event: e.Event) -> None:
        """An event of the probe; from any thread."""
        self.inbox.put(event)

    def interrupt(self) -> None:
        """Stop, clean up, forget the trial; from any thread or a signal handler."""
        self.inbox.put(Interrupt())

    # --- the loop -------------------------------------------------------------------

    def run(self) -> TrialRecord | None:
        """Run it; None when it was interrupted."""
        self._began = clock.now()
        self._limit = self._began + int(self.spec.experiment.deadlines.trial * clock.NS)
        wall = clock.utc().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for event in self.link.states():
            self._store(event)
        self._enter(Phase.PREPARE)
        while self._state.phase is not Phase.DONE:
            item = self._next()
            if isinstance(item, e.Event):
                self._see(item)
            elif isinstance(item, Interrupt):
                self._happened(Happened.INTERRUPTED)
            elif isinstance(item, Work):
                self._worked(item)
            else:
                self._time_passed()
        count, checksum = self.writer.close()
        if self._discarded:
            return None
        return TrialRecord(
            trial=self.spec.trial,
            cell=self.spec.cell,
            n=self.spec.n,
            config=dict(self.spec.config),
            seed=self.spec.seed,
            block=self.spec.block,
            warm_up=self.spec.warm_up,
            began=wall,
            delay_asked=self.spec.experiment.delay.seconds,
            delay_happened=self._delay_happened(),
            exec=self._exec_document(),
            spans=self._spans,
            aborted=self._aborted,
            events=count,
            sha256=checksum,
            extra={"containers": dict(self.stage.ids)},
        )

    def _next(self) -> e.Event | Work | Interrupt | None:
        """The next item, or None when a deadline or a precise instant comes first."""
        wake = [t for t in (self._deadline, self._due) if t is not None]
        if self._due is not None:
            wake.append(self._due - int(PRECISE * clock.NS))
        if self._state.phase not in {Phase.POST_MORTEM, Phase.CLEAN}:
            wake.append(self._limit)
        if not wake:
            return self.inbox.get()
        timeout = (min(wake) - clock.now()) / clock.NS
        with contextlib.suppress(queue.Empty):
            if timeout <= 0:
                return self.inbox.get_nowait() if self._due is None else None
            return self.inbox.get(timeout=timeout)
        return None

    def _time_passed(self) -> None:
        instant = clock.now()
        if self._due is not None and instant >= self._due - int(PRECISE * clock.NS):
            due, self._due = self._due, None
            if self._state.phase is Phase.DELAY:
                clock.sleep_until(due)
            self._happened(Happened.DONE)
        elif self._deadline is not None and instant >= self._deadline:
            self._late(f"{self._state.phase}: no end within its deadline")
        elif instant >= self._limit and self._state.phase not in {Phase.POST_MORTEM, Phase.CLEAN}:
            self._limit = instant + 3600 * clock.NS  # said once; the rest has its own deadlines
            self._aborted = self._aborted or (
                f"{self._state.phase}: the trial took longer than deadlines.trial"
            )
            self._move(State(Phase.POST_MORTEM, self._state.died))

    def _late(self, why: str) -> None:
        self._deadline = None
        self._note("deadline", {"phase": self._state.phase.value, "why": why})
        self._happened(Happened.DEADLINE, why)

    # --- events -----------------------------------------------------------------------

    def _store(self, event: e.Event) -> None:
        if self._storing:
            self.writer.add(event)
        self.observed.see(event)

    def _see(self, event: e.Event) -> None:
        died = self.observed.died
        self._store(event)
        if isinstance(event, e.Status) and event.by == "inspect":
            self._status_came(event)
        if self.observed.died and not died and self._state.phase is not Phase.DONE:
            self._happened(Happened.DIED)
        if self._state.phase is Phase.POST_MORTEM and self._waiting and self.observed.noticed:
            self._collect()

    def _status_came(self, event: e.Status) -> None:
        word = (event.state or {}).get("Status") if event.state else event.error
        if event.label == "before pre-task":
            self._before = word
        elif event.label == "after pre-task":
            self._after = word

    def _note(self, what: str, data: dict[str, Any]) -> None:
        self._store(e.Note(**steps.now(), what=what, data=data))

    # --- phases -----------------------------------------------------------------------

    def _happened(self, happened: Happened, why: str | None = None) -> None:
        if happened is Happened.DIED and self._state.phase in {Phase.PREPARE, Phase.CREATE}:
            return
        state, actions = step(self._state, happened, self._plan)
        for action in actions:
            if action is Action.ABORT:
                self._aborted = self._aborted or why or f"{self._state.phase} failed"
            elif action is Action.DISCARD:
                self._discarded = True
            elif action is Action.SHORTEN:
                soon = clock.now() + int(AFTERMATH * clock.NS)
                self._due = None
                self._deadline = soon if self._deadline is None else min(self._deadline, soon)
        self._move(state)

    def _move(self, state: State) -> None:
        before, self._state = self._state.phase, state
        if state.phase is not before:
            self._leave(before)
            self._enter(state.phase)

    def _leave(self, phase: Phase) -> None:
        self._deadline = self._due = None
        begin, _ = self._spans[phase.value]
        self._spans[phase.value] = (begin, round(clock.seconds_since(self._began), 6))
        if phase not in {Phase.REMOUNT, Phase.OVERLAP}:  # told by the step, to the microsecond
            self._store(e.Phase(**steps.now(), phase=phase.value, edge="end"))

    def _enter(self, phase: Phase) -> None:
        if phase is Phase.DONE:
            return
        self._spans[phase.value] = (round(clock.seconds_since(self._began), 6), None)
        if phase not in {Phase.REMOUNT, Phase.OVERLAP}:
            self._store(e.Phase(**steps.now(), phase=phase.value, edge="begin"))
        self._ENTER[phase](self)
        self._injector.phase(phase.value)

    def _injected(self, done: Done) -> None:
        """From the injection's own thread: kept with the trial, never evidence."""
        common = {**steps.now(), "t": done.began}
        self.inbox.put(e.Note(**common, what="inject", data=done.document()))

    def _begin_step(self, seconds: float, work: Callable[[Stage], Any]) -> None:
        self._deadline = clock.now() + int(seconds * clock.NS)
        self._spawn(self._state.phase, work.__name__, lambda: work(self.stage))

    def _spawn(self, phase: Phase, name: str, work: Callable[[], Any]) -> None:
        """Do it in a thread of its own; its result comes through the queue, or too late."""

        def body() -> None:
            try:
                done = Work(phase, name, work())
            except StepFailed as error:
                done = Work(phase, name, error=str(error))
            except Exception as error:
                done = Work(phase, name, error=f"{type(error).__name__}: {error}")
            self.inbox.put(done)

        threading.Thread(target=body, name=f"trial-{name}", daemon=True).start()

    def _worked(self, work: Work) -> None:
        if work.name == "exec":
            self._answer = work.value
        if work.phase is not self._state.phase or work.name == "status":
            return  # late: its phase was left at a deadline
        if work.error is not None:
            self._note("failed", {"phase": work.phase.value, "step": work.name, "why": work.error})
        if work.phase is Phase.OVERLAP:
            half = Happened.EXEC_ENDED if work.name == "exec" else Happened.REMOUNT_ENDED
            if half in self._state.open:
                self._happened(half)
        elif work.name == "notice":
            if self._waiting:
                self._collect()
        elif work.name == "post_mortem":
            # What the probe saw until now must have arrived before the history ends.
            self._spawn(Phase.POST_MORTEM, "flush", lambda: self.link.flush(FLUSH))
        else:
            self._happened(Happened.DONE if work.error is None else Happened.FAILED, work.error)

    def _prepare(self) -> None:
        self._begin_step(120.0, steps.prepare)

    def _create(self) -> None:
        self._begin_step(self.spec.experiment.deadlines.create * 2, steps.create)

    def _start(self) -> None:
        self._begin_step(self.spec.experiment.deadlines.start, steps.start)

    def _setup(self) -> None:
        script = self.spec.experiment.setup
        self._begin_step((script.timeout if script else 0) + 15, steps.setup)

    def _remount(self) -> None:
        def remount(stage: Stage) -> int:
            return self._timed_remount(stage)

        self._begin_step(self.spec.experiment.deadlines.remount, remount)

    def _timed_remount(self, stage: Stage) -> int:
        """The remount between its two marks; the instant of its end is the delay's zero."""
        self._ready_exec()
        stage.say(e.Phase(**steps.now(), phase=Phase.REMOUNT.value, edge="begin"))
        try:
            steps.remount(stage)
        finally:
            common = steps.now()
            stage.say(e.Phase(**common, phase=Phase.REMOUNT.value, edge="end"))
            if not self._plan.overlap:
                self._zero = common["t"]
        return int(common["t"])

    def _ready_exec(self) -> None:
        """Thread and connection of the pre-task's exec, ready before the delay is counted.

        By name, so that it can be made before the container it will meet.
        """
        script = self.spec.experiment.pre_task
        if self._exec is None and script.on == "container":
            self._exec = steps.prepare_exec(self.stage, script, "pre-task")
            self._exec.warm(deadline=2.0)

    def _delay(self) -> None:
        """From the remount's end. The status check lies inside, where there is room for it."""
        self._ready_exec()
        if self._zero is None:
            self._zero = clock.now()
        seconds = self.spec.experiment.delay.seconds
        self._due = self._zero + int(seconds * clock.NS)
        if (self._due - clock.now()) / clock.NS >= ROOM_FOR_INSPECT:
            subject = self.stage.subject
            self._spawn(
                Phase.DELAY, "status", lambda: steps.status(self.stage, "before pre-task", subject)
            )

    def _pre_task(self) -> None:
        script = self.spec.experiment.pre_task
        self._deadline = clock.now() + int((script.timeout + 15) * clock.NS)
        if script.on == "host":
            host = lambda: steps.on_host(self.stage, script, "pre-task")  # noqa: E731
            self._spawn(Phase.PRE_TASK, "host", host)
            return
        self._ready_exec()
        assert self._exec is not None
        self._exec.go()
        # After `go`: telling what we knew costs the exec nothing.
        self._tell_before()
        self._spawn(Phase.PRE_TASK, "exec", self._exec.wait)

    def _tell_before(self) -> None:
        if self._before is not None or not self.stage.subject:
            return
        self._before = self.observed.status()
        self._store(
            e.Status(
                **steps.now(),
                label="before pre-task",
                container=self.stage.subject,
                by="observer",
                state={"Status": self._before},
            )
        )

    def _overlap(self) -> None:
        """Remount and exec from one zero; a negative delay asks for the exec first."""
        delay = self.spec.experiment.delay.seconds
        script = self.spec.experiment.pre_task
        self._ready_exec()
        lead = 0.01  # both threads are waiting by then
        self._zero = clock.now() + int((lead + max(0.0, -delay)) * clock.NS)
        wanted = self._zero + int(delay * clock.NS)
        self._deadline = clock.now() + int(
            (self.spec.experiment.deadlines.remount + script.timeout + abs(delay)) * clock.NS
        )
        self._tell_before()

        def remount() -> int:
            clock.sleep_until(self._zero or 0)
            return self._timed_remount(self.stage)

        def host() -> Any:
            clock.sleep_until(wanted)
            return steps.on_host(self.stage, script, "pre-task")

        if self._exec is None:
            self._spawn(Phase.OVERLAP, "exec", host)
        else:
            self._exec.go(wanted)
            self._spawn(Phase.OVERLAP, "exec", self._exec.wait)
        self._spawn(Phase.OVERLAP, "remount", remount)

    def _linger(self) -> None:
        self._due = clock.now() + int(self.spec.experiment.linger * clock.NS)
        subject = self.stage.subject
        if subject:
            self._spawn(
                Phase.LINGER, "status", lambda: steps.status(self.stage, "after pre-task", subject)
            )
        if self.observed.died:
            self._due = clock.now() + int(AFTERMATH * clock.NS)

    def _post_mortem(self) -> None:
        """When Docker has noticed the death, or at once where there was none."""
        self._waiting = self.observed.died and not self.observed.noticed
        self._deadline = clock.now() + int(
            (self.spec.experiment.deadlines.post_mortem + NOTICE) * clock.NS
        )
        if self._waiting:
            noticed = threading.Timer(NOTICE, lambda: self.inbox.put(Work(Phase.POST_MORTEM, "notice")))
            noticed.daemon = True
            noticed.start()
            self._notice = noticed
        else:
            self._collect()

    def _collect(self) -> None:
        self._waiting = False
        if self._notice is not None:
            self._notice.cancel()
        self._spawn(
            Phase.POST_MORTEM,
            "post_mortem",
            lambda: steps.post_mortem(self.stage, usage=self._usage),
        )

    def _clean(self) -> None:
        """The history ends here: what the clean-up kills is no finding."""
        self._store(e.Phase(**steps.now(), phase="history", edge="end"))
        self._storing = False
        self.stage.abandoned.set()
        if self._exec is not None:
            self._exec.cancel()
        if self._keep_dead and self.observed.died and not self._discarded:
            self.kept = [self.stage.title(MAIN)]
            self._happened(Happened.DONE)
            return

        def clean(stage: Stage) -> None:
            left = self._injector.finish()
            steps.clean(stage)
            if left:
                raise StepFailed("; ".join(left))

        self._begin_step(self.spec.experiment.deadlines.clean * 2, clean)

    _ENTER: dict[Phase, Callable[[Trial], None]] = {
        Phase.PREPARE: _prepare,
        Phase.CREATE: _create,
        Phase.START: _start,
        Phase.SETUP: _setup,
        Phase.REMOUNT: _remount,
        Phase.DELAY: _delay,
        Phase.PRE_TASK: _pre_task,
        Phase.OVERLAP: _overlap,
        Phase.LINGER: _linger,
        Phase.POST_MORTEM: _post_mortem,
        Phase.CLEAN: _clean,
    }

    # --- the record -------------------------------------------------------------------

    def _delay_happened(self) -> float | None:
        asked = self._answer.requested if self._answer is not None else None
        if asked is None or self._zero is None:
            return None
        return round((asked - self._zero) / clock.NS, 6)

    def _exec_document(self) -> dict[str, Any] | None:
        answer = self._answer
        if answer is None:
            return None
        return {
            "before": self._before,
            "after": self._after,
            "exit_code": answer.exit_code,
            "status": answer.http,
            "error": answer.error,
            "seconds": answer.seconds,
            "output": answer.output[-2000:],
            "timed_out": answer.timed_out,
        }
