"""Trials on a fake machine or on a real pen: the shapes that runner tests share."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field

from harness import events as e
from harness import fakes
from harness.model.experiment import Experiment, MachineSpec, Neighbours, TrialSpec
from harness.runner.trial import Trial

LIVES = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
DEAF = ("sh", "-c", "while :; do sleep 0.1; done")


def experiment(**changes):
    """A container that lives, no set-up, no remount, a pre-task that does nothing."""
    container = {"image": {"ref": "busybox"}, "command": LIVES, **changes.pop("container", {})}
    given = {"name": "x", "container": container, "pre_task": {"run": "true"}, "linger": 1.0}
    return Experiment.model_validate({**given, **changes})


def trial_spec(made, n=1, cell="cell", **changes):
    given = {
        "trial": f"{cell}/{n}", "cell": cell, "n": n, "config": {}, "experiment": made,
        "machine": MachineSpec(), "seed": 1, "block": 0, "warm_up": False,
        "neighbours": Neighbours(),
    }  # fmt: skip
    return TrialSpec(**{**given, **changes})


class Written:
    """A history in memory, where a store would write it."""

    directory = "memory"

    def __init__(self):
        self.events, self.files, self.closed = [], {}, False

    def add(self, event):
        assert not self.closed
        self.events.append(e.numbered(event, len(self.events) + 1))

    def text(self, name, content):
        self.files[name] = content

    def close(self):
        self.closed = True
        return len(self.events), "sum"


@dataclass
class Run:
    """A finished trial and the world it ran in. Times in seconds since it began."""

    clock: fakes.Clock
    machine: fakes.Machine
    engine: fakes.Engine
    link: fakes.Link
    trial: Trial
    written: Written
    record: object = None
    began: int = 0
    marks: dict = field(default_factory=dict)

    def of(self, kind, **members):
        """Stored events of a kind with these members."""
        return [
            x
            for x in self.written.events
            if isinstance(x, kind) and all(getattr(x, k) == v for k, v in members.items())
        ]

    def phases(self):
        """The order in which phases were entered."""
        return [x.phase for x in self.of(e.Phase, edge="begin")]

    def at(self, seconds, do):
        """Have something happen so many seconds after the trial began."""
        self.clock.at(self.began + int(seconds * 1e9), do)

    def when(self, phase, do, after=0.0):
        """Have something happen when a phase is entered, or so long after."""
        self.marks.setdefault(phase, []).append((do, after))

    def go(self):
        self.record = self.trial.run()
        return self

    @property
    def left(self):
        """What is still on the engine."""
        docker = self.machine.dockerd
        return [*docker.boxes, *docker.networks, *docker.volumes]


@contextmanager
def world(made=None, *, memory=None, **options):
    """A trial on a fake machine, ready to go."""
    with fakes.Clock() as clock:
        machine = fakes.Machine(clock, memory=memory)
        engine = fakes.Engine(machine)
        written = Written()
        held = []
        link = fakes.Link(machine, on_event=lambda event: held[0].take(event))  # noqa: PLW0108 - not there yet
        link.start()
        trial = Trial(
            trial_spec(made or experiment()), machine=machine, engine=engine, link=link,
            writer=written, clock=clock, **options,
        )  # fmt: skip
        held.append(trial)
        run = Run(clock, machine, engine, link, trial, written, began=clock.now())
        _listen(run)
        yield run


def _listen(run):
    """Call what a test hung on a phase when the trial enters it."""
    enter = run.trial.measured.enter

    def entered(phase, instant=None):
        enter(phase, instant)
        for do, after in run.marks.get(phase, ()):
            run.clock.after(after, do) if after else do()

    run.trial.measured.enter = entered


# --- a real pen ---------------------------------------------------------------------------


@dataclass
class Real:
    """A started pen with its engine and its probe: trial after trial on it."""

    machine: object
    engine: object
    link: object
    held: list

    def trial(self, made, **options):
        """Run one; a Run without a fake world's parts."""
        return self.finish(self.prepare(made, **options))

    def prepare(self, made, **options):
        """The same, not run yet."""
        written = Written()
        written.directory = options.pop("directory", written.directory)
        trial = Trial(
            trial_spec(made), machine=self.machine, engine=self.engine, link=self.link,
            writer=written, **options,
        )  # fmt: skip
        return Run(trial.clock, self.machine, self.engine, self.link, trial, written)

    def finish(self, run):
        self.held[:] = [run.trial]
        try:
            return run.go()
        finally:
            self.held[:] = []

    def left(self):
        """Containers, networks and volumes that are still there."""
        rows = self.engine.ps().need("ps")
        networks = self.engine.networks(filters={"label": ["deathbench"]}).need("networks")
        volumes = self.engine.ask(lambda s: s.volumes()["Volumes"] or []).need("volumes")
        return [*rows, *networks, *volumes]


@contextmanager
def pen_world(**sizes):
    """A pen of these sizes, up, with its probe."""
    from harness import engine
    from harness.machine.pen import Pen
    from harness.runner.link import ProbeLink

    held = []
    with Pen(**sizes) as pen:
        connected = engine.connect(pen.docker_host)
        link = ProbeLink(pen.probe_site(), on_event=lambda x: [t.take(x) for t in held])
        try:
            link.start()
            yield Real(pen, connected, link, held)
        finally:
            link.stop()
            connected.close()
