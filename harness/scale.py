"""Many trials: the campaign's loop over machines and trials, here on this host.

Rules. TrialSpecs come in, trial directories come out. One machine at a time in each
worker thread, one trial at a time on it. A trial is judged when it is on the disk, from
the disk, exactly as `judge` will do it again. However the loop ends (complete, interrupted,
budget, machine lost), machines are taken down and everything finished is kept.
"""

from __future__ import annotations

import dataclasses
import gc
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from harness import attribution, history, process
from harness.clock import NS
from harness.errors import EnvironmentInvalid
from harness.machine import Witnessed
from harness.model.sizes import differences
from harness.runner.bystanders import Bystanders
from harness.runner.trial import Trial
from harness.runner.world import RealWorld
from harness.store import Ended, verdict_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from harness.clock import Clock
    from harness.engine import Engine
    from harness.events import Event
    from harness.machine import Machine
    from harness.model.container import ImageSpec
    from harness.model.experiment import TrialSpec
    from harness.model.verdicts import Judgement, TrialRecord
    from harness.report.progress import Progress
    from harness.runner.world import Link, World
    from harness.schedule import Schedule
    from harness.store import Campaign

# `docker system df` walks every layer: once in a while tells as much as every time.
USAGE_EVERY = 30 * NS

COMES_BACK = 60 * NS
"""Within this an engine in a VM is there again, on a busy host too."""
MOST_LOST = 3
"""VMs that end by themselves in one run: after so many it is the host's fault, or the matrix's."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How, and why in words. kept: commands to look at a dead container that was left."""

    how: Ended
    why: str = ""
    kept: tuple[str, ...] = ()


@dataclass
class Options:
    """How to run. budget in seconds.

    `auto` is the kind of machine that `kind: auto` came to when the campaign began.
    """

    monitors: str = "light"
    jobs: int = 1
    budget: float | None = None
    keep_dead: bool = False
    share_machine: bool = False
    auto: str = "pen"


def judge(campaign: Campaign, record: Mapping[str, Any]) -> Judgement:
    """Judge one stored trial from its stored events. Needs no engine."""
    return attribution.judge(
        history.build(campaign.events(str(record["trial"]))), aborted=record.get("aborted")
    )


def judge_late(campaign: Campaign, record: Mapping[str, Any]) -> str:
    """Judge and keep a trial that was saved and not judged: its writer was killed in between."""
    judgement = judge(campaign, record)
    campaign.add_verdict(str(record["trial"]), judgement)
    return judgement.outcome.value


@dataclass
class _Shared:
    """What all workers of one run write to; every access under `lock`."""

    schedule: Schedule
    # One that its holder may take again: a signal can come while another one is handled.
    lock: threading.RLock = field(default_factory=threading.RLock)
    stop: threading.Event = field(default_factory=threading.Event)
    ending: Ending | None = None
    trials: set[Trial] = field(default_factory=set)
    taken: set[int] = field(default_factory=set)
    machines: list[dict[str, Any]] = field(default_factory=list)
    corpse: Machine | None = None
    last_usage: int = 0
    lost: int = 0

    def block(self) -> int | None:
        """The next block that no other worker has."""
        with self.lock:
            for block in self.schedule.blocks():
                if block not in self.taken:
                    self.taken.add(block)
                    return block
        return None

    def end(self, ending: Ending) -> None:
        """The first reason to end is the reason; trials in flight are told."""
        with self.lock:
            if self.ending is None or self.ending.how is Ended.COMPLETE:
                self.ending = ending
            self.stop.set()
            flying = list(self.trials)
        if ending.how is Ended.INTERRUPTED:
            for trial in flying:
                trial.interrupt()


def run(
    campaign: Campaign,
    schedule: Schedule,
    *,
    progress: Progress,
    options: Options,
    world: World | None = None,
) -> Ending:
    """Run what the schedule has left; returns how it ended.

    world: Where machines come from; None: this host's.

    Raises:
        EnvironmentInvalid: no machine can be had at all; nothing was run.
    """
    world = world or RealWorld()
    # What was loaded until now stays: a collection in the middle of a delay need not look at it.
    gc.collect()
    gc.freeze()
    shared = _Shared(schedule)
    worker = _Worker(campaign, progress, options, shared, world, world.clock.now())

    def work() -> None:
        try:
            while not shared.stop.is_set():
                block = shared.block()
                if block is None:
                    return
                worker.block(block)
        except EnvironmentInvalid as error:
            shared.end(Ending(Ended.ENVIRONMENT, str(error)))
        except Exception as error:
            worker.failed(error)  # no thread of ours ends without a word

    workers = 1 if options.share_machine else options.jobs
    with _signals(shared):
        # In threads even when there is one: signals reach only the main thread, which must
        # be free to hear them.
        _together(world.clock, [("runner", work)] * workers)
    if worker.bug is not None:
        raise worker.bug
    if shared.ending is None and schedule.blocks():
        return Ending(Ended.BUDGET, f"the budget of {options.budget:g} s is used up")
    return shared.ending or Ending(Ended.COMPLETE)


def _together(clock: Clock, bodies: Sequence[tuple[str, Callable[[], None]]]) -> None:
    """Run them all, each in a thread of its own, to their ends."""
    ended = clock.inbox()

    def whole(body: Callable[[], None]) -> Callable[[], None]:
        def work() -> None:
            try:
                body()
            finally:
                ended.put(True)

        return work

    for name, body in bodies:
        clock.thread(name, whole(body))
    for _ in bodies:
        while ended.get(clock.now() + NS) is None:
            pass  # in slices: Python handles a signal only between waits


@contextmanager
def _signals(shared: _Shared) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal end the run in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}

    def stop(number: int, _: Any) -> None:
        shared.end(Ending(Ended.INTERRUPTED, signal.Signals(number).name))

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class _Worker:
    """Runs blocks, each on a machine of its own."""

    campaign: Campaign
    progress: Progress
    options: Options
    shared: _Shared
    world: World
    began: int
    bug: BaseException | None = None

    def block(self, block: int) -> None:
        """One stay on one machine; a second one where the first was lost on purpose."""
        schedule, stop = self.shared.schedule, self.shared.stop
        while not stop.is_set() and schedule.waiting(block) and not self._exhausted():
            wanted = schedule.peek(block).machine
            kind = self.options.auto if wanted.kind == "auto" else wanted.kind
            machine = self.world.machine(wanted, kind)
            try:
                self.progress.note(f"starting {machine.kind} for block {block}")
                machine.start()
                if self._on(machine, block):
                    return
            except EnvironmentInvalid:
                raise
            except BaseException as error:
                self.failed(error)
                return
            finally:
                if self.shared.corpse is machine:
                    machine.keep()
                else:
                    machine.stop()

    def failed(self, error: BaseException) -> None:
        """Ours: the run ends with it when everything is taken down."""
        self.bug = self.bug or error
        self.shared.end(Ending(Ended.ENVIRONMENT, f"{type(error).__name__}: {error}"))

    def _exhausted(self) -> bool:
        return self.shared.schedule.exhausted(self._elapsed())

    def _elapsed(self) -> float:
        return (self.world.clock.now() - self.began) / NS

    def _on(self, machine: Machine, block: int) -> bool:
        """Run a block on a started machine; False when it must go on on a fresh one."""
        connected = self.world.engine(machine)
        feed = _Feed()
        link = self.world.link(machine, monitors=self.options.monitors, on_event=feed.hear)
        try:
            link.start()
            self._record(machine)
            first = self.shared.schedule.peek(block).neighbours
            with Bystanders(connected, machine, first) as bystanders:
                stay = _Stay(machine, connected, link, feed, bystanders)
                return self._stay(stay, block)
        finally:
            link.stop()
            connected.close()

    def _stay(self, stay: _Stay, block: int) -> bool:
        """Trial after trial; several at once only where the matrix lets them share a machine."""
        together = self.options.jobs if self.options.share_machine else 1
        while not self.shared.stop.is_set():
            specs = self._take(block, together)
            if not specs:
                return True
            stay.bystanders.want(specs[0].neighbours)
            if together == 1:
                self._trial(specs[0], stay)
            else:
                bodies = [(f"trial {s.trial}", partial(self._guarded, s, stay)) for s in specs]
                _together(self.world.clock, bodies)
            if stay.spoiled:
                again = "; starting it again" if self.shared.schedule.waiting(block) else ""
                self.progress.note(f"{stay.machine.kind}: {stay.spoiled[0]}{again}")
                return False
            if not self.shared.stop.is_set() and not self._answers(stay):
                return self._lost(specs[-1], stay.machine)
        return True

    def _take(self, block: int, most: int) -> list[TrialSpec]:
        found: list[TrialSpec] = []
        with self.shared.lock:
            while len(found) < most:
                spec = self.shared.schedule.next(block, self._elapsed())
                if spec is None:
                    break
                found.append(cast("TrialSpec", spec))
        return found

    def _guarded(self, spec: TrialSpec, stay: _Stay) -> None:
        """A bug in one trial's thread ends the run, not just its thread."""
        try:
            self._trial(spec, stay)
        except EnvironmentInvalid as error:
            self.shared.end(Ending(Ended.ENVIRONMENT, str(error)))
        except Exception as error:
            self.failed(error)

    def _record(self, machine: Machine) -> None:
        known = machine.facts()
        facts = known.document()
        for line in differences(known.asked, known.effective):
            self.progress.note(f"{machine.kind} {machine.name}: {line}")
        with self.shared.lock:
            if facts not in self.shared.machines:
                self.shared.machines.append(facts)
                self.campaign.update_meta(
                    machine=self.shared.machines[0], machines=self.shared.machines
                )

    def _answers(self, stay: _Stay) -> bool:
        """Is its engine there? A VM's init starts a daemon that died anew: that takes a while."""
        clock, machine = self.world.clock, stay.machine
        end = clock.now() + (COMES_BACK if isinstance(machine, Witnessed) else 0)
        while stay.engine.ping(deadline=10).failure is not None:
            if clock.now() >= end or self._ended(machine):
                return False
            clock.sleep(0.5)
        return True

    def _ended(self, machine: Machine) -> bool:
        """Has this host seen the machine itself end?"""
        return isinstance(machine, Witnessed) and any(s.ended for s in machine.testimony(0))

    def _lost(self, spec: TrialSpec, machine: Machine) -> bool:
        """The engine does not answer any more. Asked for, it is started anew; else we stop.

        A VM that ended is a finding about its size, too: a fresh one goes on, a few times.
        """
        if self._ended(machine) and not spec.experiment.inject:
            with self.shared.lock:
                self.shared.lost += 1
            if self.shared.lost <= MOST_LOST:
                self.progress.note(
                    f"{machine.kind} {machine.name} ended in {spec.trial}; a fresh one goes on"
                )
                return False
        if spec.experiment.inject:
            self.progress.note(f"{machine.kind}: no engine after {spec.trial}; starting it again")
            return False
        why = f"the engine of {machine.name} died during trial {spec.trial}"
        self.shared.end(Ending(Ended.ENVIRONMENT, f"{why}; the trial was judged and kept"))
        return True

    def _trial(self, spec: TrialSpec, stay: _Stay) -> None:
        trial = Trial(
            spec,
            machine=stay.machine,
            engine=stay.engine,
            link=stay.link,
            writer=self.campaign.writer(spec.trial),
            clock=self.world.clock,
            images=stay.images,
            full=self.options.monitors == "full",
            usage=self._usage_due(),
            keep_dead=self.options.keep_dead,
        )
        with self.shared.lock:
            self.shared.trials.add(trial)
        self.progress.trial_started(spec.trial)
        if self.shared.stop.is_set():
            trial.interrupt()
        try:
            with stay.feed.to(trial):
                record = trial.run()
        finally:
            with self.shared.lock:
                self.shared.trials.discard(trial)
        stay.spoiled.extend(trial.spoiled)
        stay.spoiled.extend(_spoilt(stay.machine))
        if record is not None:
            self._finished(spec, record, trial, stay.machine)

    def _usage_due(self) -> bool:
        with self.shared.lock:
            now = self.world.clock.now()
            due = now - self.shared.last_usage > USAGE_EVERY
            if due:
                self.shared.last_usage = now
            return due

    def _finished(
        self, spec: TrialSpec, record: TrialRecord, trial: Trial, machine: Machine
    ) -> None:
        with self.shared.lock:
            self.campaign.finish(record)
        judgement = judge(self.campaign, {"trial": record.trial, "aborted": record.aborted})
        with self.shared.lock:
            self.campaign.add_verdict(
                record.trial, judgement, seconds=self._since(judgement, machine)
            )
            stopped = self.shared.schedule.finished(
                record.trial, record.cell, judgement.outcome.value, warm_up=spec.warm_up
            )
            total = self.shared.schedule.expected_total()
        line = verdict_line(record.trial, judgement)
        self.progress.trial_done(dataclasses.asdict(record), line, total=total)
        if stopped is not None:
            self.progress.note(f"{spec.cell} stops: {stopped}")
        if trial.kept:
            self._keep(record.trial, trial.kept[0], machine)

    def _keep(self, trial: str, name: str, machine: Machine) -> None:
        """The run ends here; this machine, and no other, stays for somebody to look at."""
        ending = Ending(
            Ended.BUDGET,
            f"{trial} died and was kept",
            (
                f"export DOCKER_HOST={machine.docker_host}",
                f"docker inspect {name}",
                f"docker logs {name}",
                f"{process.called()} clean    # when you have seen enough",
            ),
        )
        self.shared.end(ending)
        if self.shared.ending is ending:
            self.shared.corpse = machine

    def _since(self, judgement: Judgement, machine: Machine) -> float | None:
        """Seconds from the kernel's exit to the verdict, where both are on one clock."""
        now = self.world.clock.now()
        elsewhere = machine.kind in {"vm", "colima"}  # a kernel, and a clock, of its own
        if judgement.death is None or elsewhere or judgement.death.at > now:
            return None
        return round((now - judgement.death.at) / NS, 3)


@dataclass(frozen=True)
class _Stay:
    """One started machine with everything that trials on it share.

    spoiled: What an injection broke for good: no more trials on this one. images: What
    its engine was given already.
    """

    machine: Machine
    engine: Engine
    link: Link
    feed: _Feed
    bystanders: Bystanders
    spoiled: list[str] = field(default_factory=list)
    images: dict[ImageSpec, str] = field(default_factory=dict)


def _spoilt(machine: Machine) -> list[str]:
    """Why this machine is not what the others are any more, although it runs."""
    if not isinstance(machine, Witnessed):
        return []
    return [said.why for said in machine.testimony(0) if said.spoils]


class _Feed:
    """Hands each event of a machine's probe to the trials that run there now."""

    def __init__(self) -> None:
        self._trials: tuple[Trial, ...] = ()
        self._lock = threading.Lock()

    def hear(self, event: Event) -> None:
        for trial in self._trials:
            trial.take(event)

    @contextmanager
    def to(self, trial: Trial) -> Iterator[None]:
        with self._lock:
            self._trials = (*self._trials, trial)
        try:
            yield
        finally:
            with self._lock:
                self._trials = tuple(t for t in self._trials if t is not trial)
