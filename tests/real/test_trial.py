"""A trial on a real pen in which something goes wrong: it ends, tells, and leaves nothing."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from harness import attribution, clock, history
from harness import events as e
from harness.model.verdicts import Outcome

sys.path.insert(0, str(Path(__file__).parent.parent))
from worlds import LIVES, experiment, pen_world

pytestmark = pytest.mark.real

BOX = {"image": {"rootfs": "busybox"}, "command": LIVES, "network": "none"}


@pytest.fixture(scope="module")
def pen():
    with pen_world() as real:
        yield real


def judged(run):
    return attribution.judge(history.build(run.written.events), aborted=run.record.aborted)


def during(pen, made, phase, do, **options):
    """Run a trial and have something done, in a thread of its own, when a phase is entered."""
    trial = pen.prepare(made, **options)
    enter = trial.trial.measured.enter

    def entered(name, instant=None):
        enter(name, instant)
        if name == phase:
            threading.Thread(target=do, args=(trial,), daemon=True).start()

    trial.trial.measured.enter = entered
    return pen.finish(trial)


def main_pid(pen, run):
    """The subject's main process as the kernel numbers it."""
    found = run.of(e.MainProcess)
    assert found
    return found[-1].pid


def test_a_dockerd_that_stands_still_does_not_hang_the_trial(pen):
    """The exec is told as timed out at its deadline; the daemon goes on, nothing is left."""
    dockerd = pen.machine.pids["dockerd"]

    def stop(run):
        os.kill(dockerd, signal.SIGSTOP)
        clock.RealClock().sleep(3)
        os.kill(dockerd, signal.SIGCONT)

    made = experiment(
        container=BOX, delay={"for": 0.3}, pre_task={"run": "true", "timeout": 1.5}, linger=0.0
    )
    try:
        run = during(pen, made, "delay", stop)
    finally:
        os.kill(dockerd, signal.SIGCONT)
    assert run.record.exec["timed_out"]
    assert run.record.aborted is None
    verdict = judged(run)
    assert verdict.outcome is Outcome.EXEC_FAILED
    assert verdict.verdict.cause == "dockerd-hung"
    assert pen.left() == []


def test_a_container_killed_from_the_host_in_the_delay_is_refused_and_told(pen):
    """The check before says exited, the engine's own words follow, the death is the kernel's."""

    def kill(run):
        os.kill(main_pid(pen, run), signal.SIGKILL)

    run = during(pen, experiment(container=BOX, delay={"for": 0.4}), "delay", kill)
    assert run.record.exec["before"] == "exited"
    assert run.record.exec["status"] == 409
    assert "is not running" in run.record.exec["error"]
    verdict = judged(run)
    assert verdict.outcome is Outcome.DIED
    assert verdict.verdict.cause == "host-kill"
    assert verdict.death.at_source == "trace"
    begin, end = run.record.spans["linger"]
    assert end - begin < 1.0
    assert pen.left() == []


def test_an_interrupt_while_the_container_is_remounted_leaves_nothing(pen):
    """In the middle of a recreate: no record, no container, no exec."""

    def stop(run):
        clock.RealClock().sleep(0.3)
        run.trial.interrupt()

    made = experiment(container=BOX, remount={"how": "recreate"}, delay={"for": 5.0})
    run = during(pen, made, "remount", stop)
    assert run.record is None
    assert run.of(e.Exec) == []
    assert pen.left() == []


def test_a_probe_that_is_killed_is_a_gap_and_the_next_one_sees_the_death(pen):
    """It is started again and told what to watch; the gap has a beginning and an end."""

    def kill(run):
        os.kill(pen.link._child.pid, signal.SIGKILL)
        clock.wait_until(lambda: bool(run.of(e.Gap, name="probe")), deadline=15)
        clock.RealClock().sleep(1.0)
        os.kill(main_pid(pen, run), signal.SIGKILL)

    made = experiment(container=BOX, pre_task={"run": "sleep 6", "timeout": 20.0}, linger=1.0)
    run = during(pen, made, "pre-task", kill)
    gaps = run.of(e.Gap, name="probe")
    assert any(gap.end is not None for gap in gaps)
    assert run.record.exec["exit_code"] == 137
    assert judged(run).outcome is Outcome.DIED
    assert pen.left() == []


def test_full_runs_execs_through_the_docker_program_under_strace(pen, tmp_path):
    """Set-up and pre-task: their client's calls are in the history and whole in a file."""
    script = {"run": "echo said; echo wrong >&2; exit 3"}
    run = pen.trial(
        experiment(container=BOX, setup={"run": "true"}, pre_task=script),
        full=True, directory=tmp_path,
    )  # fmt: skip
    (answer,) = run.of(e.Exec, label="pre-task", edge="answer")
    assert (answer.exit_code, answer.error) == (3, None)
    assert (run.record.exec["exit_code"], run.trial.pre_task.answer.out) == (3, b"said\n")
    assert {x.state for x in run.of(e.SourceState, name="strace")} == {"active"}
    (asked,) = run.of(e.Exec, label="pre-task", edge="request")
    for label in ("setup", "pre-task"):
        told = run.of(e.Syscall, of=label)
        assert any("execve(" in x.text and '"exec"' in x.text for x in told)
        assert any("connect(" in x.text and "docker.sock" in x.text for x in told)
        assert "exit_group" in (tmp_path / f"strace.{label}").read_text()
    # On the trial's clock: between the request and the answer, within the wall clock's slew.
    assert asked.t - 10**7 <= min(x.t for x in told) <= max(x.t for x in told) <= answer.t + 10**7


def test_full_tells_a_refusal_of_the_docker_program_as_the_engines_own(pen, tmp_path):
    """The verdict is the same as through the API: the container was gone before the exec."""
    made = experiment(container=BOX, delay={"for": 1.0})
    run = during(
        pen, made, "delay", lambda run: os.kill(main_pid(pen, run), signal.SIGKILL),
        full=True, directory=tmp_path,
    )  # fmt: skip
    (answer,) = run.of(e.Exec, label="pre-task", edge="answer")
    assert answer.exit_code is None
    assert answer.error.endswith("is not running")
    assert judged(run).verdict.cause == "host-kill"


def test_full_is_not_fooled_by_a_script_that_speaks_like_the_engine(pen, tmp_path):
    """The same words out of the container are its output: it was not paused, and nobody says so."""
    words = "Error response from daemon: Container x is paused, unpause the container before exec"
    script = {"run": f"echo '{words}' >&2; exit 1"}
    run = pen.trial(experiment(container=BOX, pre_task=script), full=True, directory=tmp_path)
    (answer,) = run.of(e.Exec, label="pre-task", edge="answer")
    assert (answer.exit_code, answer.error, answer.output.strip()) == (1, None, words)
    assert judged(run).verdict.cause == "exec-error"


def test_an_engine_that_is_killed_under_a_trial_is_judged():
    """SIGKILL for dockerd in the delay: the exec finds nobody, the trial is not discarded."""
    with pen_world() as pen:

        def kill(run):
            os.kill(pen.machine.pids["dockerd"], signal.SIGKILL)

        made = experiment(container=BOX, delay={"for": 0.5}, linger=0.2)
        run = during(pen, made, "delay", kill)
        assert run.record.aborted is None
        assert run.record.exec["status"] is None
        assert run.record.exec["error"]
        assert run.record.extra["trouble"]
        verdict = judged(run)
        assert verdict.outcome in {Outcome.EXEC_FAILED, Outcome.DIED}
        assert verdict.verdict.hypothesis.value in {"daemon", "unknown"}
