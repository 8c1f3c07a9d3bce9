"""When the pre-task is asked for, in which container, and what was known of it then."""

import sys
from pathlib import Path

import pytest

from harness import attribution, history
from harness import events as e
from harness.model.verdicts import Outcome
from harness.process import Result

sys.path.insert(0, str(Path(__file__).parent))
from worlds import DEAF, LIVES, experiment, world

MOUNT = {"source": "/data", "target": "/work", "propagation": "rslave"}
HOWS = ("none", "restart", "recreate", "in-place", "propagate")


def remounting(how, seconds, *, after="remount-end", command=LIVES, **more):
    """An experiment with one mount that changes in this way."""
    change = {"how": how}
    if how != "none":
        change |= {"target": "/work", "mode": "ro", **more.pop("change", {})}
    return experiment(
        container={"command": command, "mounts": (MOUNT,)},
        remount=change, delay={"after": after, "for": seconds}, **more,
    )  # fmt: skip


def judged(run):
    return attribution.judge(history.build(run.written.events), aborted=run.record.aborted)


def the(run, kind, **members):
    (found,) = run.of(kind, **members)
    return found


def request(run):
    return the(run, e.Exec, label="pre-task", edge="request")


# --- from the remount's end -----------------------------------------------------------------


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("seconds", [0.0, 0.003, 0.05, 30.0])
def test_the_delay_is_counted_from_the_remounts_end(how, seconds):
    """To the nanosecond where nothing is slow; what happened is what is recorded."""
    with world(remounting(how, seconds)) as run:
        run.go()
        assert run.record.delay_happened == seconds
        assert run.record.delay_asked == seconds
        if how != "none":
            end = the(run, e.Phase, phase="remount", edge="end")
            assert request(run).t - end.t == int(seconds * 1e9)
        assert judged(run).outcome is Outcome.SURVIVED


def test_a_slow_command_on_the_machine_is_part_of_the_remount_not_of_the_delay():
    """in-place: what is counted begins when the mount is in place."""

    with world(remounting("in-place", 0.1)) as run:

        def slow(argv):
            if argv[0] == "python3":
                run.clock.sleep(2.5)
            return Result(tuple(argv), 0, b"", b"", 0.0)

        run.machine.rooted = slow
        run.go()
        assert run.record.delay_happened == 0.1
        begin, end = run.record.spans["remount"]
        assert end - begin == pytest.approx(2.5, abs=0.01)


def test_phases_meet_at_the_instant_the_pre_task_was_due():
    """The delay ends and the pre-task begins when it was asked for, not when the loop looked."""
    with world(remounting("restart", 0.2)) as run:
        run.go()
        at = request(run).t
        assert the(run, e.Phase, phase="delay", edge="end").t == at
        assert the(run, e.Phase, phase="pre-task", edge="begin").t == at


# --- what was known -------------------------------------------------------------------------


def before(run):
    return the(run, e.Status, label="before pre-task")


@pytest.mark.parametrize(("seconds", "by"), [(0.0, "observer"), (0.049, "observer"),
                                             (0.05, "inspect"), (10.0, "inspect")])  # fmt: skip
def test_the_check_before_lies_inside_the_delay_where_there_is_room(seconds, by):
    """Else the observer's own knowledge serves, at the instant of the request: it costs nothing."""
    with world(remounting("restart", seconds)) as run:
        run.go()
        status = before(run)
        assert (status.by, status.state["Status"]) == (by, "running")
        late = (request(run).t - status.t) / 1e9
        assert late == 0 if by == "observer" else 0 <= late <= 0.05


def test_a_check_that_is_answered_after_the_request_is_not_called_before():
    """A slow engine: the observer says what was known then, the late answer what it is."""
    with world(remounting("restart", 1.0)) as run:
        run.when("delay", lambda: run.engine.trouble("inspect", "slow", seconds=0.3), after=0.5)
        run.go()
        assert before(run).by == "observer"
        late = the(run, e.Status, label="during pre-task")
        assert late.t > request(run).t
        assert run.record.exec["before"] == "running"


def test_the_observer_says_what_was_true_at_the_request():
    """A death a moment after it does not change what was before it."""
    with world(experiment(delay={"for": 0.04})) as run:
        run.when("delay", lambda: run.machine.host_kill("main"), after=0.0401)
        run.go()
        assert before(run).state == {"Status": "running"}
    with world(experiment(delay={"for": 0.04})) as run:
        run.when("delay", lambda: run.machine.host_kill("main"), after=0.0399)
        run.go()
        assert before(run).state == {"Status": "exited"}


def test_the_status_after_is_asked_right_after_the_answer():
    """Not when the linger is over."""
    with world(experiment(linger=30.0)) as run:
        run.go()
        after = the(run, e.Status, label="after pre-task")
        answer = the(run, e.Exec, label="pre-task", edge="answer")
        assert 0 <= after.t - answer.t < 5_000_000


# --- at once with the remount ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["restart", "recreate"])
@pytest.mark.parametrize("seconds", [-2.0, -0.001, 0.0, 0.05, 0.5])
def test_an_overlap_is_counted_from_the_remounts_beginning(how, seconds):
    """Before it, with it, or inside it, by what was asked."""
    with world(remounting(how, seconds, after="remount-start")) as run:
        run.go()
        begin = the(run, e.Phase, phase="remount", edge="begin")
        assert request(run).t - begin.t == int(seconds * 1e9)
        assert run.record.delay_happened == seconds
        assert "delay" not in run.phases()
        assert run.left == []


def in_the_stop(how, **more):
    """A deaf container: the stop lasts its grace of one second, the exec falls into it."""
    return remounting(
        how, 0.3, after="remount-start", command=DEAF, change={"stop_timeout": 1.0}, **more
    )


@pytest.mark.parametrize("how", ["restart", "recreate"])
def test_an_exec_that_is_cut_off_by_our_own_stop_is_a_race(how):
    """It began while the container was told to stop, and was killed with it."""
    with world(in_the_stop(how, pre_task={"run": "sleep 3"})) as run:
        run.go()
        verdict = judged(run)
        assert verdict.outcome is Outcome.DIED
        assert verdict.verdict.hypothesis.value == "race"
        assert verdict.death.planned
        assert run.record.exec["exit_code"] == 137


def test_an_exec_that_finds_nobody_behind_the_name_is_a_race():
    """Between remove and create: 404, asked of the old container."""
    made = remounting("recreate", 0.2, after="remount-start", change={"stop_timeout": 0.0})
    with world(made) as run:
        run.when("overlap", lambda: run.engine.trouble("create", "slow", seconds=1.0))
        run.go()
        assert run.record.exec["status"] == 404
        old, new = [x.container for x in run.of(e.ContainerRef)]
        assert request(run).container == old != new
        assert judged(run).verdict.hypothesis.value == "race"


def test_an_exec_is_told_of_the_container_its_name_meant_when_it_was_asked_for():
    """Its answer comes when the name is the new one's already: it is the old one's all the same."""
    made = remounting("recreate", -0.2, after="remount-start", pre_task={"run": "sleep 0.5"})
    with world(made) as run:
        run.go()
        old, new = [x.container for x in run.of(e.ContainerRef)]
        told = run.of(e.Exec, label="pre-task")
        assert {x.container for x in told} == {old} != {new}
        assert told[-1].t > run.of(e.ContainerRef)[1].t - 1_000_000_000


def test_a_remount_that_hangs_in_an_overlap_is_given_up_at_the_deadline():
    """The exec has its answer, the remount never ends: the trial does."""
    made = remounting("restart", 0.0, after="remount-start", deadlines={"remount": 20.0})
    with world(made) as run:
        run.engine.trouble("restart", "hang")
        run.go()
        assert run.record.exec["exit_code"] == 0
        begin, end = run.record.spans["overlap"]
        assert 20 <= end - begin <= 60
        assert judged(run).outcome is Outcome.SURVIVED
        assert run.left == []


def test_a_trial_over_its_deadline_in_an_overlap_is_cut_off():
    """Both halves are left; the exec that was asked for is told as not answered."""
    made = remounting(
        "restart", 0.0, after="remount-start", deadlines={"trial": 30.0, "remount": 300.0},
        pre_task={"run": "sleep 500", "timeout": 400.0},
    )  # fmt: skip
    with world(made) as run:
        run.engine.trouble("restart", "hang")
        run.go()
        assert run.record.exec["timed_out"]
        assert run.record.spans["post-mortem"][0] == pytest.approx(30, abs=1)
        assert run.record.aborted is None
        assert run.left == []


@pytest.mark.parametrize("after", [0.0, 0.005, 0.1, 1.05])
@pytest.mark.parametrize("what", ["interrupt", "engine"])
def test_an_overlap_can_be_interrupted_or_lose_its_engine_at_any_time(after, what):
    """Before either half began, in the middle, when one has ended: nothing is left or stuck."""
    with world(in_the_stop("recreate")) as run:
        stop = run.trial.interrupt if what == "interrupt" else run.machine.kill_engine
        run.when("overlap", stop, after=after)
        run.go()
        run.clock.sleep(120)
        if what == "interrupt":
            assert (run.record, run.left) == (None, [])
        else:
            assert judged(run).outcome is not Outcome.INVALID


def test_a_container_that_was_dead_before_the_remount_is_not_remounted():
    """There is nothing to overlap with: the pre-task is asked and refused."""
    made = remounting("restart", 0.0, after="remount-start", setup={"run": "sleep 1"})
    with world(made) as run:
        run.when("setup", lambda: run.machine.host_kill("main"), after=0.5)
        run.go()
        assert "overlap" not in run.phases()
        assert run.record.exec is not None
        assert judged(run).outcome is Outcome.DIED


# --- on the host ----------------------------------------------------------------------------


def test_a_pre_task_on_the_host_keeps_its_instant_too():
    """The delay is that of its start; it has no exec of ours."""
    script = {"run": "true", "on": "host"}
    with world(remounting("restart", 0.5, pre_task=script)) as run:
        run.go()
        assert run.record.delay_happened == 0.5
        assert run.record.exec is None
        assert run.of(e.Note, what="pre-task on host")


# --- planned ends ---------------------------------------------------------------------------


def test_a_container_that_crashes_when_the_restart_starts_it_is_a_death():
    """The new main process ends before the restart is answered: nobody planned that."""
    with world(remounting("restart", 0.2)) as run:
        docker = run.machine.dockerd
        start = docker.start

        def start_and_die(ref):
            started = start(ref)
            box = docker.find(ref)
            run.clock.after(0.0002, lambda: run.machine.kernel.signal(box.process, 9, by="inside"))
            return started

        run.when("remount", lambda: setattr(docker, "start", start_and_die))
        run.go()
        verdict = judged(run)
        assert verdict.outcome is Outcome.DIED
        assert not verdict.death.planned
        assert run.record.exec["before"] == "exited"


@pytest.mark.parametrize("how", ["restart", "recreate"])
def test_a_container_that_dies_just_before_our_stop_is_a_death(how):
    """By the kernel's time it was before the request, whatever was told first."""
    with world(remounting(how, 0.2, setup={"run": "sleep 1"})) as run:
        run.link.lag = 0.05
        run.when("setup", lambda: run.machine.host_kill("main"), after=1.003)
        run.go()
        stops = run.of(e.ApiCall, edge="request", planned=True)
        (death, *_) = run.of(e.DeathSeen)
        assert not stops or death.t < stops[0].t
        assert judged(run).outcome is Outcome.DIED
        assert not judged(run).death.planned
