"""One trial on fakes: whatever fails, hangs, dies or falls silent, it ends, tells and cleans up."""

import sys
from pathlib import Path

import pytest

from harness import attribution, history, images
from harness import events as e
from harness.errors import EnvironmentInvalid
from harness.lifecycle import Phase
from harness.model.verdicts import Outcome
from harness.runner import phases

sys.path.insert(0, str(Path(__file__).parent))
from worlds import DEAF, experiment, world

WITH_ALL = {"setup": {"run": "true"}, "remount": {"how": "recreate"}, "delay": {"for": 0.2}}
PHASES = [p.value for p in Phase if p not in {Phase.DONE, Phase.OVERLAP}]


def judged(run):
    """What the judge says of the stored events."""
    return attribution.judge(history.build(run.written.events), aborted=run.record.aborted)


def test_a_trial_in_which_nothing_goes_wrong_survives_and_leaves_nothing():
    """All phases in order, both statuses running, the exec's code, an empty engine."""
    with world(experiment(**WITH_ALL)) as run:
        run.go()
        assert run.phases() == PHASES
        assert run.record.exec["before"] == run.record.exec["after"] == "running"
        assert run.record.exec["exit_code"] == 0
        assert (run.record.aborted, run.left, run.record.extra.get("trouble")) == (None, [], None)
        assert judged(run).outcome is Outcome.SURVIVED


def test_the_same_trial_takes_the_same_turns():
    """On fakes every run is like the first, event by event: a test that passed will pass."""

    def shape():
        with world(experiment(**WITH_ALL)) as run:
            run.go()
            return [(x.kind, x.t - run.began) for x in run.written.events]

    assert shape() == shape()


# --- what fails ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "aborted", "outcome"),
    [
        ("image", True, Outcome.INVALID),
        ("create", True, Outcome.INVALID),
        ("start", False, Outcome.DIED),
    ],
)
def test_what_the_engine_refuses_before_the_container_runs(call, aborted, outcome):
    """Before the start the trial is void; a refused start is what the user meets as a death."""
    with world() as run:
        run.engine.trouble(call, "refuse", text="no")
        run.go()
        assert bool(run.record.aborted) is aborted
        assert judged(run).outcome is outcome
        assert run.left == []


def test_a_refused_start_is_still_asked_for_its_exec():
    """The words that the user sees, "is not running", are in the record."""
    with world() as run:
        run.engine.trouble("start", "refuse", text="no")
        run.go()
        assert "pre-task" in run.phases()
        assert run.record.exec["status"] == 409
        assert "is not running" in run.record.exec["error"]


def test_a_set_up_that_fails_by_itself_voids_the_trial():
    """A script with an error says nothing about the container."""
    with world(experiment(setup={"run": "exit 3"})) as run:
        run.go()
        assert "exit code 3" in run.record.aborted
        assert "pre-task" not in run.phases()
        assert judged(run).outcome is Outcome.INVALID


def test_a_set_up_in_which_the_container_dies_is_a_death():
    """The exec is cut off with 137; the death is found and counts, the pre-task is refused."""
    with world(experiment(setup={"run": "sleep 5"})) as run:
        run.when("setup", lambda: run.machine.host_kill("main"), after=1)
        run.go()
        assert judged(run).outcome is Outcome.DIED
        assert run.record.exec is not None
        assert "remount" not in run.phases()


def test_a_set_up_that_the_engine_cut_off_is_no_fault_of_the_script():
    """An engine that goes away after the start is judged, not discarded."""
    with world(experiment(setup={"run": "sleep 5"})) as run:
        run.when("setup", run.machine.kill_engine, after=1)
        run.go()
        assert run.record.aborted is None
        assert "pre-task" in run.phases()
        assert judged(run).outcome is not Outcome.INVALID


@pytest.mark.parametrize("call", ["stop", "remove", "create", "start"])
def test_a_remount_that_fails_in_the_middle_goes_on_to_the_pre_task(call):
    """As the user's script would: what it meets is the finding."""
    with world(experiment(remount={"how": "recreate"})) as run:
        run.when("remount", lambda: run.engine.trouble(call, "refuse", text="no"))
        run.go()
        assert run.of(e.Note, what="failed")[0].data["phase"] == "remount"
        assert "delay" not in run.phases()
        assert run.record.exec is not None
        assert run.left == []


def test_a_before_hook_that_fails_voids_the_trial():
    """Nothing is made on the engine when the host is not as the experiment wants it."""
    hook = {"run": "echo not today; exit 4", "on": "host"}
    with world(experiment(before_trial=hook)) as run:
        run.go()
        assert "not today" in run.record.aborted
        assert run.of(e.ContainerRef) == []


def test_an_after_hook_runs_last_and_its_failure_is_told():
    """It sees the engine already empty; the trial stays what it was."""
    with world(experiment(after_trial={"run": "exit 5", "on": "host"})) as run:
        run.go()
        assert any("after_trial" in t for t in run.record.extra["trouble"])
        assert judged(run).outcome is Outcome.SURVIVED


def test_a_history_that_can_not_be_written_ends_the_trial_and_cleans_up():
    """A full disk under the results is the environment's, and nothing stays on the engine."""
    with world() as run:

        def full(event):
            if event.kind == "exec":
                raise OSError(28, "No space left on device")
            run.written.events.append(event)

        run.written.add = full
        with pytest.raises(EnvironmentInvalid, match="No space left"):
            run.go()
        assert run.left == []


# --- what hangs ---------------------------------------------------------------------------

HANGS = {
    "image": "prepare", "create": "create", "start": "start", "exec_create": "pre-task",
    "inspect": "create", "logs": "post-mortem", "ps": "post-mortem", "remove": "clean",
}  # fmt: skip


@pytest.mark.parametrize("call", HANGS)
@pytest.mark.parametrize("how", ["hang", "lost"])
def test_no_request_that_is_never_answered_holds_a_trial_up(call, how):
    """Every step has a deadline; the trial ends in the sum of them, not of the engine."""
    with world(experiment(pre_task={"run": "true", "timeout": 5.0})) as run:
        run.engine.trouble(call, how, times=99)
        run.go()
        assert run.written.closed
        seconds = (run.clock.now() - run.began) / 1e9
        assert seconds < 240, run.record.spans


def test_a_hung_exec_is_told_as_one_and_the_trial_goes_on():
    """The answer says timed_out at its deadline; the container is seen alive after it."""
    with world(experiment(pre_task={"run": "sleep 3600", "timeout": 5.0})) as run:
        run.go()
        assert run.record.exec["timed_out"] is True
        assert run.record.exec["after"] == "running"
        assert run.record.exec["seconds"] == 5.0
        assert judged(run).outcome is Outcome.EXEC_FAILED


def test_an_exec_that_hangs_before_it_is_created_is_told_with_its_request():
    """A hung daemon never says "created": the request's own instant is in the history all the same."""
    with world(experiment(pre_task={"run": "true", "timeout": 5.0})) as run:
        run.engine.trouble("exec_create", "hang")
        run.go()
        (request,) = run.of(e.Exec, label="pre-task", edge="request")
        (answer,) = run.of(e.Exec, label="pre-task", edge="answer")
        assert answer.timed_out
        assert answer.t - request.t == 5_000_000_000
        assert run.record.exec["before"] == "running"


@pytest.mark.parametrize("how", ["slow", "lost"])
def test_a_container_that_is_made_after_its_deadline_is_removed_all_the_same(how):
    """The answer came too late for anybody: the clean-up finds it by its label."""
    with world(experiment(deadlines={"create": 2.0})) as run:
        run.engine.trouble("create", how, seconds=3.0)
        run.when("clean", lambda: None)
        run.go()
        run.clock.sleep(60)
        if how == "lost":  # it was made before the clean-up
            assert run.left == []
        assert judged(run).outcome is Outcome.INVALID


def test_a_step_that_still_makes_a_container_when_the_trial_is_over_takes_it_back():
    """An interrupt in the middle of a slow create: the worker that made it removes it."""
    with world() as run:
        run.engine.trouble("create", "slow", seconds=20.0)
        run.when("create", run.trial.interrupt, after=1)
        run.go()
        assert run.record is None
        run.clock.sleep(60)
        assert run.left == []


def test_a_trial_over_its_own_deadline_is_cut_off_where_it_stands():
    """With the pre-task asked for, the missing answer is the finding; before, the trial is void."""
    slow = {"run": "sleep 600", "timeout": 900.0}
    with world(experiment(pre_task=slow, deadlines={"trial": 60.0})) as run:
        run.go()
        assert run.record.aborted is None
        assert run.record.exec["timed_out"]
        assert run.record.spans["post-mortem"][0] == pytest.approx(60, abs=1)
        assert judged(run).outcome is Outcome.EXEC_FAILED
    with world(experiment(setup=slow, deadlines={"trial": 60.0})) as run:
        run.go()
        assert "deadlines.trial" in run.record.aborted
        assert judged(run).outcome is Outcome.INVALID
        assert run.record.exec is None


def test_building_an_image_is_no_part_of_the_trials_own_time():
    """A first trial that waits ten minutes for its image is not cut off for it."""
    with world(experiment(deadlines={"trial": 60.0})) as run:
        run.engine.trouble("image", "slow", seconds=25.0)
        run.when("create", lambda: None)
        run.go()
        assert run.record.aborted is None


def test_a_flood_of_events_does_not_put_off_a_deadline():
    """What is due goes first, however many events are waiting."""
    with world(experiment(linger=1.0)) as run:
        noise = e.Note(t=0, seen=0, source="x", what="noise")

        def add(event):
            if event.kind == "note" and len(run.written.events) < 300:
                run.clock.sleep(0.01)  # each is dear, and where it came from are more
                run.trial.take(noise)
            run.written.events.append(event)

        run.written.add = add
        run.when("linger", lambda: run.trial.take(noise))
        run.go()
        begin, end = run.record.spans["linger"]
        assert end - begin == pytest.approx(1.0, abs=0.02)


# --- what dies ----------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_an_engine_that_dies_in_any_phase_ends_the_trial(phase):
    """It is judged or void, by whether the container had started; never stuck, never raised."""
    with world(experiment(**WITH_ALL)) as run:
        run.when(phase, run.machine.kill_engine, after=0.0002)
        run.go()
        assert run.written.closed
        early = phase in {"prepare", "create"}
        assert bool(run.record.aborted) is early
        assert (judged(run).outcome is Outcome.INVALID) is early


@pytest.mark.parametrize("phase", ["start", "setup", "delay", "pre-task", "linger"])
def test_a_container_that_is_killed_in_any_phase_is_a_death(phase):
    """Killed by somebody of the host: died, and every stage of it is in the history."""
    slow = {"run": "sleep 0.1"}
    with world(experiment(setup=slow, delay={"for": 0.2}, pre_task=slow)) as run:
        after = 0.001 if phase == "start" else 0.01
        run.when(phase, lambda: run.machine.host_kill("main"), after=after)
        run.go()
        verdict = judged(run)
        assert verdict.outcome is Outcome.DIED
        assert not verdict.death.planned
        assert run.of(e.DockerEvent, action="die")
        assert run.left == []


def test_a_machine_that_is_being_shut_down_is_waited_for():
    """Its engine leaves first: which of the two it was is known when the machine has gone."""
    with world(experiment(pre_task={"run": "sleep 5"})) as run:
        run.when("pre-task", run.machine.shut_down, after=1.0)
        run.go()
        assert [said.what for said in run.of(e.HostState)] == ["shut-down"]


def test_a_death_in_the_delay_does_not_stop_the_pre_task_from_being_asked():
    """At its own instant: the refusal is what the user sees."""
    with world(experiment(delay={"for": 2.0})) as run:
        run.when("delay", lambda: run.machine.host_kill("main"), after=0.5)
        run.go()
        assert run.record.delay_happened == 2.0
        assert run.record.exec["before"] == "exited"
        assert run.record.exec["status"] == 409


def test_after_a_death_the_linger_is_cut_short_but_not_the_engines_notice():
    """Nothing more to wait for but the last lines; `die` is in the history."""
    with world(experiment(linger=60.0)) as run:
        run.when("linger", lambda: run.machine.host_kill("main"), after=1)
        run.go()
        begin, end = run.record.spans["linger"]
        assert end - begin == pytest.approx(1 + phases.AFTERMATH, abs=0.01)
        assert run.of(e.DockerEvent, action="die")


def test_a_death_that_the_engine_never_notices_is_waited_for_only_so_long():
    """Its silence is the finding: ten seconds, then the post-mortem is made all the same."""
    with world() as run:

        def lost():
            run.machine.dockerd._notice = lambda box, process: None
            run.machine.host_kill("main")

        run.when("linger", lost)
        run.go()
        begin, end = run.record.spans["post-mortem"]
        assert 10 <= end - begin < 12
        (status,) = run.of(e.Status, label="post-mortem")
        assert status.state["Status"] == "running"


def test_an_answer_of_the_engine_that_knows_of_the_death_is_its_notice():
    """Where its event stream is broken, nobody waits for what was said in another way."""
    with world(experiment(linger=0.0, delay={"for": 1.0})) as run:
        wanted = run.link._wanted
        run.link._wanted = lambda x: wanted(x) and not isinstance(x, e.DockerEvent)
        run.when("delay", lambda: run.machine.host_kill("main"), after=0.1)
        run.go()
        begin, end = run.record.spans["post-mortem"]
        assert end - begin < 2
        assert judged(run).outcome is Outcome.DIED


# --- the probe ----------------------------------------------------------------------------


def test_a_probe_that_goes_silent_makes_a_gap_that_stays_open():
    """What it saw last never arrived: nobody may say it survived on the probe's word."""
    with world(experiment(linger=10.0)) as run:
        run.when("pre-task", run.link.fall_silent)
        run.go()
        gaps = run.of(e.Gap, name="probe")
        assert [g.end for g in gaps] == [None, None]
        assert "hand over" in gaps[-1].why


def test_what_a_silent_probe_held_back_is_in_the_history_when_it_speaks_again():
    """A gap that is closed, and the death with the kernel's own time."""
    with world(experiment(linger=10.0)) as run:
        run.when("linger", run.link.fall_silent)
        run.when("linger", lambda: run.machine.host_kill("main"), after=1)
        run.when("linger", run.link.speak, after=5)
        run.go()
        assert judged(run).outcome is Outcome.DIED
        assert judged(run).death.at_source == "trace"


def test_a_probe_that_dies_before_the_death_leaves_it_to_the_engine():
    """Nobody saw it: the post-mortem's status is the only witness, and the gap is told."""
    with world(experiment(linger=10.0)) as run:
        run.when("linger", run.link.die)
        run.when("linger", lambda: run.machine.host_kill("main"), after=1)
        run.go()
        assert run.of(e.Gap, name="probe")
        verdict = judged(run)
        assert verdict.outcome is Outcome.DIED
        assert verdict.death.at_source == "status"


# --- interrupts ---------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("after", [0.0, 0.0007])
def test_an_interrupt_in_any_phase_forgets_the_trial_and_leaves_nothing(phase, after):
    """Ctrl-C at once or in the middle of a request: no record, an empty engine, no exec later."""
    with world(experiment(**WITH_ALL)) as run:
        run.when(phase, run.trial.interrupt, after=after)
        run.go()
        execs = run.engine.calls.count("exec")
        run.clock.sleep(120)
        assert run.record is None
        assert run.left == []
        assert run.engine.calls.count("exec") == execs
        assert run.written.closed


def test_a_second_interrupt_changes_nothing():
    """Somebody who presses Ctrl-C twice gets the same clean engine."""
    with world() as run:
        run.when("linger", run.trial.interrupt)
        run.when("clean", run.trial.interrupt, after=0.001)
        run.go()
        assert (run.record, run.left) == (None, [])


def test_an_interrupt_before_the_trial_began_is_heard():
    """The order was in the queue already."""
    with world() as run:
        run.trial.interrupt()
        run.go()
        assert (run.record, run.left) == (None, [])


def test_an_interrupt_ends_a_script_on_the_host():
    """It must not outlive the trial that started it."""
    import threading
    import time

    with world(experiment(before_trial={"run": "exec sleep 30", "on": "host"})) as run:
        began = time.monotonic()
        threading.Timer(0.1, run.trial.stage.abandon).start()
        run.go()
        assert time.monotonic() - began < 5
        assert run.record.aborted


# --- kept dead ----------------------------------------------------------------------------


def test_a_dead_container_is_kept_when_asked_and_a_living_one_is_not():
    """The corpse stays under the name that is told; survivors go as always."""
    with world(keep_dead=True) as run:
        run.when("linger", lambda: run.machine.host_kill("main"))
        run.go()
        assert run.trial.kept
        assert [b.name for b in run.machine.dockerd.boxes.values()] == run.trial.kept
    with world(keep_dead=True) as run:
        run.go()
        assert (run.trial.kept, run.left) == ([], [])


def test_an_interrupted_trial_keeps_nothing():
    """Whoever stops a sweep wants it gone."""
    with world(experiment(linger=5.0), keep_dead=True) as run:
        run.when("linger", lambda: run.machine.host_kill("main"))
        run.when("linger", run.trial.interrupt, after=0.1)
        run.go()
        assert (run.trial.kept, run.left) == ([], [])


# --- who comes first ----------------------------------------------------------------------


def test_whoever_lends_a_namespace_is_made_first():
    """A chain of three, written in the wrong order."""
    beside = tuple(
        {"name": name, "image": {"ref": "busybox"}, "network": f"container:{of}"}
        for name, of in (("third", "second"), ("second", "main"))
    )
    with world(experiment(beside=beside)) as run:
        run.go()
        assert [x.name for x in run.of(e.ContainerRef)] == ["main", "second", "third"]
        assert run.left == []


@pytest.mark.parametrize("here", [True, False], ids=["host", "guest"])
def test_an_image_is_made_once_for_all_trials_of_an_engine(monkeypatch, here):
    """And again where the engine has lost it. The busybox may be the guest's alone."""
    if not here:
        monkeypatch.setattr(images, "static_busybox", lambda: None)
    elif images.static_busybox() is None:
        pytest.skip("this host has no static busybox")
    known = {}
    rootfs = {"image": {"rootfs": "busybox"}}
    with world(experiment(container=rootfs), images=known) as run:
        run.go()
        assert run.engine.calls.count("import") == 1
    (tag,) = known.values()
    for there, imports in ((True, 0), (False, 1)):
        with world(experiment(container=rootfs), images=known) as run:
            run.machine.dockerd.images.update({tag} if there else set())
            run.go()
            assert run.engine.calls.count("import") == imports
            assert run.record.aborted is None


# --- restarts ------------------------------------------------------------------------------


def test_a_container_that_its_policy_starts_again_is_a_death_and_goes_on():
    """The first end counts; the clean-up is not undone by the policy."""
    made = experiment(container={"restart": "always"}, linger=3.0)
    with world(made) as run:
        run.when("linger", lambda: run.machine.host_kill("main"))
        run.go()
        assert judged(run).outcome is Outcome.DIED
        run.clock.sleep(60)
        assert run.left == []


def test_a_deaf_container_is_killed_when_its_grace_is_over():
    """SIGTERM does nothing to a PID 1 without a handler: the stop takes its grace period."""
    made = experiment(container={"command": DEAF}, remount={"how": "restart", "stop_timeout": 3.0})
    with world(made) as run:
        run.go()
        begin, end = run.record.spans["remount"]
        assert end - begin == pytest.approx(3.1, abs=0.05)
        assert judged(run).outcome is Outcome.SURVIVED
