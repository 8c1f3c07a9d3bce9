"""Many trials on fakes: order, machines, stops of every kind, and what a resumption finds."""

import io
import json
import sys
from pathlib import Path

import pytest

from harness import fakes, scale
from harness.errors import EnvironmentInvalid
from harness.model.experiment import MachineSpec, Neighbours
from harness.report.progress import Progress
from harness.runner.record import Measured
from harness.runner.trial import Trial
from harness.scale import Options
from harness.schedule import replay
from harness.store import Campaign, Ended

sys.path.insert(0, str(Path(__file__).parent))
from worlds import LIVES, experiment, trial_spec

DIES = ("sh", "-c", "sleep 0.3; exit 3")


class Sweep:
    """A campaign in a temporary directory, on a fake world."""

    def __init__(self, folder, clock):
        self.world = fakes.World(clock)
        self.clock = clock
        self.campaign = Campaign.create("m", {}, root=folder)
        self.notes = io.StringIO()

    def run(self, specs, *, options=None, until_deaths=None, **more):
        options = options or Options(**more)
        outcomes = {v["trial"]: v["outcome"] for v in self.campaign.verdicts()}
        finished = [{**t, "outcome": outcomes[t["trial"]]} for t in self.campaign.trials()]
        schedule = replay(specs, finished, until_deaths=until_deaths, budget=options.budget)
        progress = Progress(lambda: self.clock.now() / 1e9, stream=self.notes)
        return scale.run(
            self.campaign, schedule, progress=progress, options=options, world=self.world
        )

    @property
    def ran(self):
        return [t["trial"] for t in self.campaign.trials()]

    @property
    def outcomes(self):
        return {v["trial"]: v["outcome"] for v in self.campaign.verdicts()}

    @property
    def left(self):
        """What is still on an engine that was not taken down."""
        return [m for m in self.world.machines if m.started > m.stopped]


@pytest.fixture
def sweep(tmp_path):
    with fakes.Clock() as clock:
        yield Sweep(tmp_path, clock)


def cells(count=3, *, command=LIVES, blocks=1, **changes):
    """So many trials of one cell in each block."""
    made = experiment(container={"command": command})
    return [
        trial_spec(made, n=n, cell=f"c{block}", block=block, **changes)
        for block in range(blocks)
        for n in range(1, count + 1)
    ]


def test_a_sweep_runs_every_trial_in_order_and_judges_each(sweep):
    """One machine for the block, taken down in the end; a line and a verdict for each trial."""
    ending = sweep.run(cells(3, command=DIES))
    assert ending.how is Ended.COMPLETE
    assert sweep.ran == ["c0/1", "c0/2", "c0/3"]
    assert set(sweep.outcomes.values()) == {"died"}
    assert [(m.started, m.stopped) for m in sweep.world.machines] == [(1, 1)]
    assert [link.alive for link in sweep.world.links] == [False]


def test_every_block_has_a_machine_of_its_own_one_after_the_other(sweep):
    """With one job there is never more than one machine up."""
    up = []
    sweep.world.met = lambda engine: up.append(
        sum(m.started > m.stopped for m in sweep.world.machines)
    )
    specs = cells(2, blocks=3)
    assert sweep.run(specs).how is Ended.COMPLETE
    assert sweep.ran == [s.trial for s in specs]
    assert up == [1, 1, 1]


def test_jobs_run_blocks_side_by_side_on_machines_of_their_own(sweep):
    """Two jobs: two machines up at once, every trial once."""
    up = []
    sweep.world.met = lambda engine: up.append(
        sum(m.started > m.stopped for m in sweep.world.machines)
    )
    specs = cells(2, blocks=3)
    assert sweep.run(specs, jobs=2).how is Ended.COMPLETE
    assert max(up) == 2
    assert sorted(sweep.ran) == sorted(s.trial for s in specs)
    assert sweep.left == []


def test_jobs_share_a_machine_only_where_the_matrix_says_so(sweep):
    """Then trials overlap on one, and each hears of its own containers alone."""
    specs = cells(4, command=DIES)
    assert sweep.run(specs, jobs=2, share_machine=True).how is Ended.COMPLETE
    assert len(sweep.world.machines) == 1
    assert set(sweep.outcomes.values()) == {"died"}
    for trial in sweep.ran:
        subjects = {x.container for x in sweep.campaign.events(trial) if x.kind == "container"}
        assert len(subjects) == 1


def test_a_machine_is_asked_for_as_the_matrix_says(sweep):
    """Its sizes reach whoever makes it."""
    sweep.run(cells(1, machine=MachineSpec(memory=1 << 30)))
    assert sweep.world.wanted[0].memory == 1 << 30


# --- stops --------------------------------------------------------------------------------


def test_a_cell_stops_at_so_many_deaths_and_others_go_on(sweep):
    """Warm-up trials die uncounted; the cell that lives runs to its end."""
    dying = experiment(container={"command": DIES})
    specs = [
        trial_spec(dying, n=1, cell="d", warm_up=True, trial="d/w1"),
        *(trial_spec(dying, n=n, cell="d") for n in range(1, 6)),
        *(trial_spec(experiment(), n=n, cell="l") for n in range(1, 4)),
    ]
    assert sweep.run(specs, until_deaths=2).how is Ended.COMPLETE
    assert [t for t in sweep.ran if t.startswith("d/")] == ["d/w1", "d/1", "d/2"]
    assert [t for t in sweep.ran if t.startswith("l/")] == ["l/1", "l/2", "l/3"]


def test_deaths_before_an_interruption_count_after_it(sweep):
    """A resumed campaign stops its cell where an uninterrupted one would have."""
    specs = cells(6, command=DIES)
    sweep.run(specs[:2])
    sweep.run(specs, until_deaths=3)
    assert sweep.ran == ["c0/1", "c0/2", "c0/3"]


def test_a_budget_ends_the_sweep_with_what_was_finished(sweep):
    """The trial in flight is finished, the rest is left for a resumption."""
    ending = sweep.run(cells(50), budget=5.0)
    assert ending.how is Ended.BUDGET
    assert 2 <= len(sweep.ran) < 50
    assert sweep.left == []


def test_a_dead_container_is_kept_with_its_machine_when_asked(sweep):
    """The sweep ends there, with the commands to look at it; nothing is taken down."""
    ending = sweep.run(cells(5, command=DIES), keep_dead=True)
    assert ending.how is Ended.BUDGET
    assert sweep.ran == ["c0/1"]
    assert any("docker inspect" in line for line in ending.kept)
    (machine,) = sweep.world.machines
    assert (machine.kept, machine.stopped) == (True, 0)
    (box,) = machine.dockerd.boxes.values()
    assert box.name in ending.kept[1]


def test_a_survivor_is_not_kept(sweep):
    """Every trial runs; the machine goes."""
    assert sweep.run(cells(2), keep_dead=True).how is Ended.COMPLETE
    assert len(sweep.ran) == 2
    assert sweep.left == []


# --- what goes wrong ------------------------------------------------------------------------


def test_an_engine_that_dies_ends_the_sweep_and_keeps_what_there_is(sweep):
    """The trial it died under is judged and kept; the machine is taken down."""
    sweep.world.met = lambda engine: sweep.clock.after(2.0, engine.machine.kill_engine)
    ending = sweep.run(cells(20))
    assert ending.how is Ended.ENVIRONMENT
    assert "died during trial" in ending.why
    assert 1 <= len(sweep.ran) < 20
    assert sweep.left == []


def test_an_engine_that_comes_back_by_itself_ends_nothing(sweep):
    """A VM's init starts dockerd anew: the machine is waited for, not given up."""
    died = []

    def met(engine):
        dockerd = engine.machine.dockerd

        def back():
            dockerd.up = True

        if not died:
            died.append(1)
            sweep.clock.after(1.0, engine.machine.kill_engine)
            sweep.clock.after(9.0, back)

    sweep.world.met = met
    ending = sweep.run(cells(4))
    assert ending.how is Ended.COMPLETE
    assert len(sweep.ran) == 4
    assert len(sweep.world.machines) == 1


@pytest.mark.parametrize(("cuts", "how"), [(2, Ended.COMPLETE), (9, Ended.ENVIRONMENT)])
def test_a_machine_that_ends_is_a_finding_and_a_fresh_one_goes_on(sweep, cuts, how):
    """The trial is judged by what this host saw; a host that loses machine after machine is left."""
    cut = []

    def met(engine):
        if len(cut) < cuts:
            cut.append(1)
            sweep.clock.after(0.5, engine.machine.power_cut)

    sweep.world.met = met
    ending = sweep.run(cells(5))
    assert ending.how is how
    assert "a fresh one goes on" in sweep.notes.getvalue()
    assert len(cut) == min(cuts, scale.MOST_LOST + 1)
    assert list(sweep.outcomes.values()).count("died") == len(cut)
    assert sweep.left == []


def test_a_machine_without_its_agent_is_not_the_machine_of_the_next_trial(sweep):
    """It runs on, its trial counts; the others get one that is looked after."""
    lost = []

    def met(engine):
        if not lost:
            lost.append(1)
            sweep.clock.after(0.5, engine.machine.lose_agent)

    sweep.world.met = met
    ending = sweep.run(cells(4))
    assert ending.how is Ended.COMPLETE
    assert len(sweep.world.machines) == 2
    assert "its host agent is gone; starting it again" in sweep.notes.getvalue()
    assert set(sweep.outcomes.values()) == {"survived"}


def test_a_machine_that_can_not_be_had_ends_the_sweep(sweep):
    """In the words of whoever could not make it; nothing was run."""
    sweep.world.refuse = EnvironmentInvalid("no machine today")
    ending = sweep.run(cells(2))
    assert (ending.how, ending.why) == (Ended.ENVIRONMENT, "no machine today")
    assert sweep.ran == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_bug_of_ours_is_raised_after_everything_is_taken_down(sweep, monkeypatch, jobs):
    """It ends the run, not just its thread, and is not swallowed."""

    def broken(*arguments):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(Measured, "record", broken)
    with pytest.raises(ZeroDivisionError):
        sweep.run(cells(3), jobs=jobs, share_machine=jobs == 2)
    assert sweep.left == []


def test_a_history_that_can_not_be_written_is_the_environments(sweep, monkeypatch):
    """Exit 3 with the place, not a traceback."""
    from harness.store import TrialWriter

    def full(self, event):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TrialWriter, "add", full)
    ending = sweep.run(cells(3))
    assert ending.how is Ended.ENVIRONMENT
    assert "No space left" in ending.why
    assert sweep.left == []


def test_a_silent_probe_leaves_trials_unobserved_not_survived(sweep):
    """Its silence is a gap in the history of every trial that runs meanwhile."""
    specs = cells(2)
    sweep.world.met = lambda engine: sweep.clock.after(
        0.5,
        lambda: sweep.world.links[0].fall_silent(),  # noqa: PLW0108 - not there yet
    )
    sweep.run(specs)
    for trial in sweep.ran:
        kinds = [x.kind for x in sweep.campaign.events(trial)]
        assert "gap" in kinds


# --- failures on request --------------------------------------------------------------------


class Injections:
    """In place of the real ones: remembers when it was called, and breaks what it is told to."""

    def __init__(self, machine, injections, *, container_of, labels, tell):
        self.machine, self.phases, self.finished = machine, [], 0
        _MADE.append(self)

    def phase(self, phase, *, began=None):
        self.phases.append(phase)

    def finish(self):
        self.finished += 1
        return _LEAVES.pop() if _LEAVES else []


_MADE, _LEAVES = [], []


@pytest.fixture
def injections(monkeypatch):
    from harness.runner import phases

    _MADE.clear()
    _LEAVES.clear()
    monkeypatch.setattr(phases, "Injector", Injections)


BROKEN_ON_REQUEST = [{"at": "delay", "what": "dockerd-kill"}]


def injected(count):
    made = experiment(inject=tuple(BROKEN_ON_REQUEST))
    return [trial_spec(made, n=n) for n in range(1, count + 1)]


def test_injections_hear_of_every_phase_and_are_undone_before_the_clean_up(sweep, injections):
    """Once for each trial, finished once, also when the trial is interrupted."""
    sweep.run(injected(2))
    for one in _MADE:
        assert one.phases[0] == "create"
        assert one.phases[-1] == "clean"
        assert one.finished == 1
    assert len(_MADE) == 2


def test_a_machine_that_an_injection_spoiled_is_started_anew(sweep, injections):
    """The trial counts; the next one gets a fresh machine."""
    _LEAVES.append(["the disk is still full"])
    ending = sweep.run(injected(3))
    assert ending.how is Ended.COMPLETE
    assert sweep.ran == ["cell/1", "cell/2", "cell/3"]
    assert [m.stopped for m in sweep.world.machines] == [1, 1]
    assert "the disk is still full" in sweep.notes.getvalue()


def test_an_engine_that_was_killed_on_request_is_started_again(sweep, injections):
    """The sweep goes on where the same death unasked would have ended it."""
    killed = []

    def met(engine):
        if not killed:
            killed.append(1)
            sweep.clock.after(0.5, engine.machine.kill_engine)

    sweep.world.met = met
    ending = sweep.run(injected(3))
    assert ending.how is Ended.COMPLETE
    assert len(sweep.ran) == 3
    assert len(sweep.world.machines) == 2
    assert sweep.left == []


# --- interruption and resumption ------------------------------------------------------------


def interrupt(sweep, seconds):
    """As a signal would, while trials fly."""

    def stop():
        for shared in _SHARED:
            shared.end(scale.Ending(Ended.INTERRUPTED, "SIGINT"))

    sweep.clock.after(seconds, stop)


_SHARED = []


@pytest.fixture
def shared(monkeypatch):
    _SHARED.clear()
    made = scale._Shared

    def remember(*arguments):
        _SHARED.append(made(*arguments))
        return _SHARED[-1]

    monkeypatch.setattr(scale, "_Shared", remember)


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.5, 1.2, 2.6])
@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_sweep_and_its_resumption_are_one_campaign(sweep, shared, seconds, jobs):
    """Nothing is run twice, nothing is left out, nothing stays behind; the order is the plan's."""
    specs = cells(3, blocks=2)
    interrupt(sweep, seconds)
    ending = sweep.run(specs, jobs=jobs)
    assert ending.how is Ended.INTERRUPTED
    assert sweep.left == []
    before = sweep.ran
    assert len(before) < len(specs)
    _SHARED.clear()
    assert sweep.run(specs).how is Ended.COMPLETE
    assert sorted(sweep.ran) == sorted(s.trial for s in specs)
    if jobs == 1:
        assert sweep.ran == [s.trial for s in specs]
    assert set(sweep.outcomes) == set(sweep.ran)


def test_the_history_of_an_interrupted_trial_is_written_anew(sweep, shared):
    """Half a history has no line; the resumption's is whole."""
    specs = cells(1)
    interrupt(sweep, 0.5)
    sweep.run(specs)
    half = list(sweep.campaign.path.glob("trials/*/*/events.jsonl.zst"))
    assert len(half) == 1
    _SHARED.clear()
    sweep.run(specs)
    (line,) = sweep.campaign.trials()
    assert sum(1 for _ in sweep.campaign.events(line["trial"])) == line["events"]


# --- what stands around a trial ---------------------------------------------------------------


def test_neighbours_stand_by_in_the_number_each_trial_wants(sweep):
    """They are made before it and change only when the number does."""
    seen = []
    specs = [
        trial_spec(experiment(), n=n, cell="c", neighbours=Neighbours(count=count, busy=count > 1))
        for n, count in ((1, 1), (2, 1), (3, 3))
    ]
    real = Trial.run

    def run(self):
        boxes = self.stage.machine.dockerd.boxes.values()
        seen.append(sorted(b.id for b in boxes if b.running))
        return real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trial, "run", run)
        sweep.run(specs)
    assert [len(s) for s in seen] == [1, 1, 3]
    assert seen[0] == seen[1]
    assert sweep.world.machines[0].dockerd.boxes == {}


def test_each_trial_is_stored_with_files_for_people(sweep):
    """The exec's output and the container's log beside the history."""
    made = experiment(
        container={"command": ("sh", "-c", "echo from main; sleep 5")},
        pre_task={"run": "echo from exec"},
    )
    sweep.run([trial_spec(made)])
    folder = sweep.campaign.trial_directory("cell/1")
    assert (folder / "pre-task.log").read_text() == "from exec\n"
    assert (folder / "container.log").read_text() == "from main\n"


def test_the_machines_that_ran_are_in_the_campaign(sweep):
    """Their facts, each kind once."""
    sweep.run(cells(1, blocks=2))
    meta = sweep.campaign.meta()
    assert meta["machine"]["kind"] == "fake"
    assert len(meta["machines"]) == 1
    assert json.dumps(meta["machine"])


def test_a_machine_that_does_not_go_down_is_not_passed_over_in_silence(sweep, monkeypatch):
    """No thread of ours ends without a word."""

    def stuck(self):
        raise OSError("its cgroup is busy")

    monkeypatch.setattr(fakes.Machine, "stop", stuck)
    with pytest.raises(OSError, match="busy"):
        sweep.run(cells(1))
    assert sweep.ran == ["c0/1"]


def test_only_the_machine_with_the_corpse_is_kept(sweep):
    """Another worker's goes, whatever it is at."""
    dies = experiment(container={"command": DIES})
    specs = [trial_spec(dies, cell="d", block=0), *cells(5, blocks=2)[5:]]
    ending = sweep.run(specs, jobs=2, keep_dead=True)
    assert ending.kept
    assert sorted(m.kept for m in sweep.world.machines) == [False, True]
    assert sum(m.started > m.stopped for m in sweep.world.machines) == 1
