"""Many trials: the campaign's loop over machines and trials, here on this host.

Rules. TrialSpecs come in, trial directories come out. One machine at a time in each
worker thread, one trial at a time on it. A trial is judged when it is on the disk, from
the disk, exactly as `judge` will do it again. However the loop ends (complete, interrupted,
budget, machine lost), machines are taken down and everything finished is kept.
"""

from __future__ import annotations

import dataclasses
import itertools
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from harness import attribution, clock, engine, history
from harness.errors import EnvironmentInvalid
from harness.machine import choose
from harness.model.verdicts import Outcome
from harness.runner.bystanders import Bystanders
from harness.runner.link import ProbeLink
from harness.runner.trial import Trial
from harness.store import verdict_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from harness.engine import Engine
    from harness.events import Event
    from harness.machine import Machine
    from harness.model.experiment import TrialSpec
    from harness.model.verdicts import Judgement, TrialRecord
    from harness.report.progress import Progress
    from harness.store import Campaign

# `docker system df` walks every layer: once in a while tells as much as every time.
USAGE_EVERY = 30 * clock.NS


class Ended(StrEnum):
    """How a campaign's run ended."""

    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    BUDGET = "budget"
    ENVIRONMENT = "environment"


@dataclass(frozen=True, slots=True)
class Ending:
    """How, and why in words. kept: commands to look at a dead container that was left."""

    how: Ended
    why: str = ""
    kept: tuple[str, ...] = ()


@dataclass
class Options:
    """What the command line adds to the matrix. budget in seconds.

    `auto` is the kind of machine that `kind: auto` came to when the campaign began.
    """

    monitors: str = "light"
    jobs: int = 1
    budget: float | None = None
    until_deaths: int | None = None
    keep_dead: bool = False
    share_machine: bool = False
    auto: str = "pen"


def judge(campaign: Campaign, record: Mapping[str, Any]) -> Judgement:
    """Judge one stored trial from its stored events. Needs no engine."""
    return attribution.judge(
        history.build(campaign.events(str(record["trial"]))), aborted=record.get("aborted")
    )


@dataclass
class _Shared:
    """What all workers of one run write to; every access under `lock`."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)
    ending: Ending | None = None
    trials: set[Trial] = field(default_factory=set)
    deaths: dict[str, int] = field(default_factory=dict)
    machines: list[dict[str, Any]] = field(default_factory=list)
    last_usage: int = 0

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
    specs: Sequence[TrialSpec],
    *,
    progress: Progress,
    options: Options,
) -> Ending:
    """Run what is not finished yet, in the order of `specs`; returns how it ended.

    Raises:
        EnvironmentInvalid: no machine can be had at all; nothing was run.
    """
    shared = _Shared()
    done = {str(t["trial"]) for t in campaign.trials()}
    todo = [spec for spec in specs if spec.trial not in done]
    blocks = [list(group) for _, group in itertools.groupby(todo, key=lambda s: s.block)]
    waiting = iter(blocks)
    began = clock.now()
    worker = _Worker(campaign, progress, options, shared, began)

    def work() -> None:
        try:
            while not shared.stop.is_set():
                with shared.lock:
                    block = next(waiting, None)
                if block is None:
                    return
                worker.block(block)
        except EnvironmentInvalid as error:
            shared.end(Ending(Ended.ENVIRONMENT, str(error)))

    workers = 1 if options.share_machine else options.jobs
    with _signals(shared):
        # In threads even when there is one: signals reach only the main thread, which must
        # be free to hear them.
        _join([threading.Thread(target=work, name=f"runner-{n + 1}") for n in range(workers)])
    if worker.bug is not None:
        raise worker.bug
    return shared.ending or Ending(Ended.COMPLETE)


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.5)  # in slices: Python handles a signal only between waits


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
    began: int
    bug: BaseException | None = None

    def block(self, specs: list[TrialSpec]) -> None:
        """One stay on one machine."""
        todo = list(specs)
        while todo and not self.shared.stop.is_set():
            wanted = todo[0].machine
            kind = self.options.auto if wanted.kind == "auto" else wanted.kind
            machine = choose.make(wanted, kind=kind)
            try:
                self.progress.note(f"starting {machine.kind} for block {todo[0].block}")
                machine.start()
                todo = self._on(machine, todo)
            except EnvironmentInvalid:
                raise
            except BaseException as error:
                self.bug = error
                self.shared.end(Ending(Ended.ENVIRONMENT, f"{type(error).__name__}: {error}"))
                return
            finally:
                if self._kept():
                    machine.keep()
                else:
                    machine.stop()

    def _kept(self) -> bool:
        return self.shared.ending is not None and bool(self.shared.ending.kept)

    def _on(self, machine: Machine, todo: list[TrialSpec]) -> list[TrialSpec]:
        """Run on a started machine; returns what is left when it must be started again."""
        connected = engine.connect(machine.docker_host)
        feed = _Feed()
        link = ProbeLink(
            machine.probe_site(), monitors=self.options.monitors, on_event=feed.hear
        )
        try:
            link.start()
            self._record(machine)
            with Bystanders(connected, machine, todo[0].neighbours) as bystanders:
                stay = _Stay(machine, connected, link, feed, bystanders)
                if self.options.share_machine and self.options.jobs > 1:
                    return self._together(stay, todo)
                return self._in_turn(stay, todo)
        finally:
            link.stop()
            connected.close()

    def _in_turn(self, stay: _Stay, todo: list[TrialSpec]) -> list[TrialSpec]:
        for index, spec in enumerate(todo):
            if self._over(spec):
                continue
            if self.shared.stop.is_set():
                return []
            stay.bystanders.want(spec.neighbours)
            self._trial(spec, stay)
            if self.shared.stop.is_set():
                return []
            if stay.engine.ping(deadline=10).failure is not None:
                return self._lost(spec, stay.machine, todo[index + 1 :])
        return []

    def _together(self, stay: _Stay, todo: list[TrialSpec]) -> list[TrialSpec]:
        """Several trials at once on one machine: only where the matrix says so."""
        rest = list(todo)
        while rest and not self.shared.stop.is_set():
            now, rest = rest[: self.options.jobs], rest[self.options.jobs :]
            stay.bystanders.want(now[0].neighbours)
            threads = [
                threading.Thread(target=self._guarded, args=(spec, stay), name=f"trial {spec.trial}")
                for spec in now
                if not self._over(spec)
            ]
            _join(threads)
            if not self.shared.stop.is_set() and stay.engine.ping(deadline=10).failure is not None:
                return self._lost(now[-1], stay.machine, rest)
        return []

    def _guarded(self, spec: TrialSpec, stay: _Stay) -> None:
        """A bug in one trial's thread ends the run, not just its thread."""
        try:
            self._trial(spec, stay)
        except BaseException as error:
            self.bug = error
            self.shared.end(Ending(Ended.ENVIRONMENT, f"{type(error).__name__}: {error}"))

    def _record(self, machine: Machine) -> None:
        facts = machine.facts().document()
        with self.shared.lock:
            if facts not in self.shared.machines:
                self.shared.machines.append(facts)
                self.campaign.update_meta(machine=self.shared.machines[0], machines=self.shared.machines)

    def _over(self, spec: TrialSpec) -> bool:
        """Nothing more to run of this cell, or of anything."""
        options = self.options
        if options.budget is not None and clock.seconds_since(self.began) >= options.budget:
            self.shared.end(Ending(Ended.BUDGET, f"the budget of {options.budget:g} s is used up"))
            return True
        with self.shared.lock:
            deaths = self.shared.deaths.get(spec.cell, 0)
        return options.until_deaths is not None and deaths >= options.until_deaths

    def _lost(self, spec: TrialSpec, machine: Machine, rest: list[TrialSpec]) -> list[TrialSpec]:
        """The engine does not answer any more. Asked for, it is started anew; else we stop."""
        if spec.experiment.inject:
            self.progress.note(f"{machine.kind}: no engine after {spec.trial}; starting it again")
            return rest
        self.shared.end(
            Ending(
                Ended.ENVIRONMENT,
                f"the engine of {machine.name} died during trial {spec.trial}; "
                "the trial was judged and kept",
            )
        )
        return []

    def _trial(self, spec: TrialSpec, stay: _Stay) -> None:
        trial = Trial(
            spec,
            machine=stay.machine,
            engine=stay.engine,
            link=stay.link,
            writer=self.campaign.writer(spec.trial),
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
        if record is not None:
            self._finished(spec, record, trial, stay.machine)

    def _usage_due(self) -> bool:
        with self.shared.lock:
            due = clock.now() - self.shared.last_usage > USAGE_EVERY
            if due:
                self.shared.last_usage = clock.now()
            return due

    def _finished(
        self, spec: TrialSpec, record: TrialRecord, trial: Trial, machine: Machine
    ) -> None:
        with self.shared.lock:
            self.campaign.finish(record)
        judgement = judge(self.campaign, {"trial": record.trial, "aborted": record.aborted})
        with self.shared.lock:
            self.campaign.add_verdict(record.trial, judgement)
            if judgement.outcome is Outcome.DIED and not spec.warm_up:
                self.shared.deaths[spec.cell] = self.shared.deaths.get(spec.cell, 0) + 1
        self.progress.trial_done(
            dataclasses.asdict(record), verdict_line(record.trial, judgement)
        )
        if trial.kept:
            name = trial.kept[0]
            self.shared.end(
                Ending(
                    Ended.BUDGET,
                    f"{record.trial} died and was kept",
                    (
                        f"export DOCKER_HOST={machine.docker_host}",
                        f"docker inspect {name}",
                        f"docker logs {name}",
                        "./inv clean    # when you have seen enough",
                    ),
                )
            )


@dataclass(frozen=True)
class _Stay:
    """One started machine with everything that trials on it share."""

    machine: Machine
    engine: Engine
    link: ProbeLink
    feed: _Feed
    bystanders: Bystanders


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
