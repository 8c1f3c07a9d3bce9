"""The main job, as a user runs it: real containers die and the table says of what."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.real

EXPERIMENT = """
name: tiny
container:
  image: {rootfs: busybox}
  command: [sh, -c, "while [ ! -e /tmp/go ]; do sleep 0.05; done; tail /dev/zero"]
  memory: 16MiB
  network: none
setup: {run: "touch /tmp/go"}
delay: 300ms
pre_task: {run: "true"}
linger: 300ms
"""

MATRIX = """
name: tiny
experiment: tiny.yaml
machine: {kind: pen, memory: 256MiB}
axes:
  container.memory: [16MiB]
trials: {max: 2}
"""


def verb(*arguments, folder, **more):
    """Run a verb to its end, as the wrapper does."""
    return subprocess.run(
        [sys.executable, "-m", "harness.verbs", *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=120,
        **more,
    )


def environment(folder):
    """A state directory of the test's own, so that other sweeps on this machine do not count."""
    state = (folder / "state").read_text()
    return {
        **os.environ,
        "DEATHBENCH_ROOT": str(folder),
        "DEATHBENCH_STATE": state,
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture
def project(tmp_path):
    """Somebody's folder, its name with a space, with one experiment and one matrix.

    Whatever the test does to the sweep, nothing of it is left in the end.
    """
    folder = tmp_path / "my project"
    folder.mkdir()
    (folder / "tiny.yaml").write_text(EXPERIMENT)
    (folder / "matrix.yaml").write_text(MATRIX)
    # Short: a socket's path has 108 bytes.
    state = tempfile.mkdtemp(prefix="db-")
    (folder / "state").write_text(state)
    yield folder
    left = leftovers(state)
    shutil.rmtree(state, ignore_errors=True)
    assert left == []


def leftovers(state):
    """What a run must not leave: loop devices, mounts, leases; control groups go with a lease."""
    loops = subprocess.run(["losetup", "-a"], capture_output=True, text=True).stdout
    found = [line for line in loops.splitlines() if state in line]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if state in line]
    return found + [str(p) for p in Path(state).glob("run/*/lease.json")]


def test_a_sweep_runs_judges_and_tabulates_and_judge_repeats_it(project):
    """Every trial dies by its own limit; the stored events alone give the same table."""
    ran = verb("sweep", "matrix.yaml", "--json", folder=project)
    assert ran.returncode == 0, ran.stderr
    table = json.loads(ran.stdout)
    (cell,) = table["cells"]
    assert (2, 2) == (cell["trials"], cell["died"])
    assert {"container-resources": 2} == {k: v for k, v in cell["hypotheses"].items() if v}
    again = verb("judge", "--json", folder=project)
    assert json.loads(again.stdout)["cells"] == table["cells"]


def test_every_verdict_cites_events_that_exist(project):
    """`show` prints the cited events by number, the kernel's among them."""
    verb("sweep", "matrix.yaml", folder=project)
    shown = verb("show", "memory=16MiB/1", folder=project)
    assert shown.returncode == 0, shown.stderr
    assert "memory-limit-main" in shown.stdout
    assert "mark_victim" in shown.stdout or "oom-kill" in shown.stdout


def start(project, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "harness.verbs", "sweep", "matrix.yaml", *arguments],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_first_trial(project, running):
    """Wait for the first finished trial of the campaign under way."""
    for _ in range(600):
        lines = [p.read_text() for p in project.glob("results/*/trials.jsonl")]
        if any(lines):
            return
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    raise AssertionError("no trial finished")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_cleans_up_and_says_how_to_go_on(project, number):
    """Exit 130, nothing left, and the line it prints finishes the campaign."""
    running = start(project, "-o", "trials.max=30")
    until_first_trial(project, running)
    running.send_signal(number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "--resume" in said


def test_resume_goes_on_exactly(project):
    """The trials of an interrupted campaign and of its resumption are those of the plan."""
    running = start(project, "-o", "trials.max=4")
    until_first_trial(project, running)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    ran = verb("sweep", "--resume", "latest", "--json", folder=project)
    assert ran.returncode == 0, ran.stderr
    (cell,) = json.loads(ran.stdout)["cells"]
    assert cell["trials"] == 4
    lines = (project / "results/latest/trials.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["n"] for line in lines) == [1, 2, 3, 4]


def test_resume_refuses_a_changed_file_with_the_difference(project):
    """Trials of two experiments do not belong in one table."""
    verb("sweep", "matrix.yaml", folder=project)
    (project / "tiny.yaml").write_text(EXPERIMENT.replace("16MiB", "24MiB"))
    ran = verb("sweep", "--resume", "latest", folder=project)
    assert ran.returncode == 1
    assert "+  memory: 24MiB" in ran.stderr


def test_what_a_killed_sweep_left_is_found_and_removed(project):
    """kill -9: nothing goes on running, `clean` removes the rest and then finds nothing."""
    running = start(project, "-o", "trials.max=30")
    until_first_trial(project, running)
    running.kill()
    running.communicate()
    cleaned = verb("clean", folder=project)
    assert cleaned.returncode == 0, cleaned.stderr
    again = verb("clean", folder=project)
    assert "nothing" in (again.stdout + again.stderr)


def test_an_engine_that_dies_ends_the_sweep_with_what_was_finished(project):
    """Exit 3, the finished trials kept and in the table."""
    running = start(project, "-o", "trials.max=30")
    until_first_trial(project, running)
    for pid in engine_pids(running.pid):
        os.kill(pid, signal.SIGKILL)
    out, said = running.communicate(timeout=90)
    assert running.returncode == 3, said
    assert "engine" in said
    assert "16MiB" in out


def engine_pids(harness):
    """The dockerds among the descendants of one harness: nobody else's are touched."""
    parents = {}
    names = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            names[int(entry.name)] = stat.split("(")[1].rsplit(")", 1)[0]
            parents[int(entry.name)] = int(stat.rsplit(")", 1)[1].split()[1])

    def below(pid):
        while pid > 1:
            if pid == harness:
                return True
            pid = parents.get(pid, 0)
        return False

    return [pid for pid, name in names.items() if name == "dockerd" and below(pid)]
