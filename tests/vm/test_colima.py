"""Colima, from start to nothing: the stand-ins over the VM of `kind: vm`, and the real programs.

The same questions to both. The real ones are asked where they are on PATH and can run: as a
user who is not root (DEATHBENCH_COLIMA_USER names one where the tests run as root), with
DEATHBENCH_COLIMA_IMAGE and DEATHBENCH_COLIMA_FLAGS where the machine needs them (a disk image
that is here already; "--cpu-type max" without KVM). The order of the tests is a profile's life.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import clock, lease
from harness.machine import colima_call, colima_start, leftovers, lima, vm, vm_image
from harness.machine.colima import Colima
from harness.model.verdicts import Outcome

sys.path.insert(0, str(Path(__file__).parents[1]))
from drills import Drills

pytestmark = [pytest.mark.vm, pytest.mark.soak]

GIB = 1 << 30
ROOT = Path(__file__).parents[2]


def stand_ins(patch):
    """The stand-ins and the modules they need, first on PATH, where another user can read them."""
    reason = vm.why_not()
    if reason:
        pytest.skip(reason)
    vm_image.ensure(say=print)
    folder = Path(tempfile.mkdtemp(prefix="db-standins-"))
    folder.chmod(0o755)
    for one in (ROOT / "tests/standins").iterdir():
        if one.name != "ssh":
            shutil.copy(one, folder)
            (folder / one.name).chmod(0o755)
    shutil.copytree(
        ROOT / "harness", folder / "harness", ignore=shutil.ignore_patterns("__pycache__")
    )
    patch.setenv("PATH", f"{folder}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    patch.setenv("STANDIN_VM", str(folder))
    return folder, {"user": "nobody", "cpus": 1}


def real(_):
    """The programs on PATH, or why they can not run here."""
    user = os.environ.get("DEATHBENCH_COLIMA_USER")
    reason = colima_start.why_not(user)
    if reason:
        pytest.skip(f"the real colima: {reason}")
    return None, {
        "user": user,
        "cpus": 2,
        "disk_image": os.environ.get("DEATHBENCH_COLIMA_IMAGE"),
        "flags": shlex.split(os.environ.get("DEATHBENCH_COLIMA_FLAGS", "")),
    }


@pytest.fixture(scope="module", params=[stand_ins, real], ids=["stand-in", "real"])
def programs(request):
    """What a machine is made with."""
    with pytest.MonkeyPatch.context() as patch:
        folder, options = request.param(patch)
        state = Path(tempfile.mkdtemp(prefix="db-"))
        yield {**options, "places": lease.Places(state / "run", state / "disk")}
        shutil.rmtree(state)
        if folder is not None:
            shutil.rmtree(folder)


@contextmanager
def started(programs):
    made = Colima(memory=GIB, disk=4 * GIB, **programs)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def machine(programs):
    with started(programs) as made:
        yield made


@pytest.fixture(scope="module")
def drills(machine, tmp_path_factory):
    with Drills(machine, tmp_path_factory.mktemp("drills")) as ready:
        yield ready


@pytest.fixture(scope="module")
def second(programs):
    """Another one: the first was stopped by somebody else."""
    with started(programs) as made:
        yield made


def heard(kept):
    """What this host said of the machine; Lima sets the clock whenever it likes."""
    return [e.what for e in kept if e.kind == "host" and e.what != "clock-step"]


def listed(machine):
    return colima_call.profiles(machine.call("list", "--json").text)[machine.profile]


def test_it_is_what_the_guest_says(machine):
    """Asked and effective are recorded side by side; `list` repeats what was asked."""
    facts = machine.facts()
    assert (facts.kind, facts.cgroup) == ("colima", 2)
    assert facts.asked == {"memory": GIB, "cpus": machine.wish.cpus, "disk": 4 * GIB}
    assert 0.85 * GIB < facts.effective["memory"] < GIB
    assert 0.9 * 4 * GIB < facts.effective["disk"] < 4 * GIB
    assert facts.effective["cpus"] == machine.wish.cpus
    assert (listed(machine)["memory"], listed(machine)["status"]) == (GIB, "Running")
    assert facts.versions["colima"].startswith("v")


def test_colima_loses_exit_codes_and_our_own_way_keeps_them(machine):
    """`colima ssh` says 1 for everything; limactl and our connection say 7."""
    seven = ("sh", "-c", "exit 7")
    lost = machine.call("ssh", "-p", machine.profile, "--", *seven)
    assert (lost.code, colima_call.reason(lost)) == (1, "exit status 7")
    home, user = machine.home, machine.user
    name = machine.instance.folder.name
    kept = colima_call.call(("limactl", "shell", name, *seven), home=home, private=home, user=user)
    assert kept.code == 7
    assert machine.root(seven).code == 7
    assert machine.root(("id", "-u")).text == "0\n"


def test_a_running_vm_takes_no_new_sizes(machine):
    """Exit 0 and a warning; nothing of the VM changes."""
    done = machine.call(
        "start", "-p", machine.profile, "--memory", "2", "--save-config=false", deadline=60
    )
    assert done.ok
    assert colima_call.was_running(done)
    assert machine.facts().effective["memory"] < GIB


def test_only_ssh_and_no_guest_port_is_open_on_this_host(machine):
    """Nothing of the guest listens on all of this host's addresses."""
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    ours = {str(pid) for pid, _ in lima.processes(str(machine.home))}
    wide = [
        line
        for line in listening.splitlines()
        if any(f"pid={pid}," in line for pid in ours) and "127.0.0.1:" not in line
    ]
    assert wide == []


def test_a_quiet_trial_survives(drills):
    """Nothing is done to it, and nothing is found."""
    _, judged = drills.trial(pre_task="true")
    assert judged.outcome is Outcome.SURVIVED


def test_limas_own_connection_may_die(drills, machine):
    """Its docker.sock is refused for ever after; ours, and the probe's, go on."""

    def act(_):
        lima.kill([p for p in lima.processes(str(machine.home)) if "[mux]" in p[1]])

    _, judged = drills.trial(act)
    assert judged.outcome is Outcome.SURVIVED
    assert listed(machine)["status"] == "Running"


def test_our_own_connection_that_dies_is_no_dead_daemon(drills, machine):
    """Invalid, with the reason; then it is there again."""
    kept, judged = drills.trial(lambda _: machine.inside.hang_up(), pre_task="sleep 20")
    assert judged.outcome is Outcome.INVALID
    assert "asked inside, the engine answered" in judged.why
    assert heard(kept) == ["channel"]
    assert clock.wait_until(lambda: drills.client.ping(deadline=5).ok, deadline=60, every=0.5)


def test_a_vm_that_stands_still_is_seen_from_here(drills, machine):
    """`list` says Running, `status` hangs; the exec's time-out is the machine's standing still."""
    seen = {}

    def act(_):
        machine.freeze()
        seen["status"] = machine.call("status", "-p", machine.profile, "--json", deadline=6)
        seen["list"] = listed(machine)["status"]
        machine.thaw()

    kept, judged = drills.trial(act, pre_task="sleep 1", timeout="3s")
    assert seen["status"].timed_out
    assert seen["list"] == "Running"
    assert judged.verdict.cause == "vm-suspended"
    assert "still" in heard(kept)


def test_a_dead_daemon_is_no_lost_way(drills, machine):
    """Our way to the engine stands, and nobody is at its end: a death, and the daemon's."""
    kept, judged = drills.trial(lambda _: machine.daemon("dockerd", "kill"), pre_task="sleep 30")
    assert (judged.outcome, judged.verdict.cause) == (Outcome.DIED, "dockerd-crash")
    assert "channel" not in heard(kept)
    assert clock.wait_until(lambda: drills.client.ping(deadline=5).ok, deadline=90, every=0.5)


def test_a_stop_by_somebody_else_is_a_shutdown(drills, machine):
    """`colima stop` ends the engine first and the VM after it: one order, and it is cited."""

    def act(_):
        machine.call("stop", "-p", machine.profile, deadline=240)

    kept, judged = drills.trial(act, pre_task="sleep 60", timeout="90s")
    assert (judged.outcome, judged.verdict.cause) == (Outcome.DIED, "vm-shutdown")
    assert heard(kept)[-1] == "shut-down"
    assert "Received SIGINT, shutting down the host agent" in judged.verdict.sentence


def test_a_vm_that_is_killed_takes_its_container_along(second, tmp_path):
    """No guest can tell it and nothing boots again: the verdict comes from this host."""
    with Drills(second, tmp_path) as ready:
        kept, judged = ready.trial(lambda _: second.power_cut(), pre_task="sleep 30")
    assert (judged.outcome, judged.verdict.cause) == (Outcome.DIED, "vm-reboot")
    assert heard(kept)[-1] == "killed"
    assert clock.wait_until(lambda: listed(second)["status"] == "Stopped", deadline=20, every=0.5)
    said = second.call("status", "-p", second.profile)
    assert (said.code, colima_call.reason(said)) == (
        1, f"colima [profile={second.profile}] is not running",
    )  # fmt: skip
    stray = [argv for _, argv in lima.processes(str(second.home)) if "usernet" in argv]
    assert stray, "what serves the network outlives a VM that was killed"


def test_nothing_of_it_stays(second):
    """Its home, its disks, and what a killed VM leaves running are gone."""
    home = second.home
    second.stop()
    assert not home.exists()
    assert lima.processes(str(home)) == []


CHILD = """
import json, sys, tempfile, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from drills import Drills
from harness import lease
from harness.machine import lima
from harness.machine.colima import Colima
options = json.loads(sys.argv[1])
places = lease.Places(*(Path(options.pop(which)) for which in ("run", "disk_places")))
machine = Colima(places=places, **options)
machine.start()
def act(_):
    lima.kill([(machine.instance.agent(), "")])
with Drills(machine, Path(tempfile.mkdtemp(dir=places.run.parent))) as ready:
    kept, judged = ready.trial(act)
said = [[e.what, e.why] for e in kept if e.kind == "host" and e.what != "clock-step"]
print(json.dumps([str(machine.home), judged.outcome.value, said]), flush=True)
time.sleep(3600)
"""


def test_a_host_agent_that_dies_leaves_a_broken_profile_that_clean_removes(programs, request):
    """Its VM runs on, and so does the container; `start` fails, `stop` does nothing. Whoever is
    killed then leaves all of it to clean."""
    places = programs["places"]
    options = {**programs, "memory": GIB, "disk": 4 * GIB}
    options |= {"run": str(places.run), "disk_places": str(places.disk)}
    del options["places"]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(options), str(ROOT / "tests")],
        stdout=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    request.addfinalizer(lambda: (child.kill(), child.wait(), child.stdout.close()))
    home, outcome, said = json.loads(child.stdout.readline())
    home = Path(home)
    assert outcome == "survived"
    ((what, why),) = said
    assert what == "agentless"
    assert "runs on: colima calls that Broken" in why

    def call(*argv):
        return colima_call.call(
            ("colima", *argv), home=home, private=home, user=programs["user"], deadline=120
        )

    def status():
        return colima_call.profiles(call("list", "--json").text)["w1"]["status"]

    assert clock.wait_until(lambda: status() == "Broken", deadline=20, every=0.5)
    started = call("start", "-p", "w1", "--save-config=false")
    assert started.code == 1
    assert "host agent is not" in colima_call.reason(started)
    stopped = call("stop", "-p", "w1")
    assert (stopped.code, status()) == (0, "Broken")
    child.kill()
    child.wait()
    found = leftovers.clean(where=places, engines=False)
    assert found.stuck == []
    assert any(str(home) in line for line in found.removed)
    assert not home.exists()
    assert lima.processes(str(home)) == []


def test_a_sweep_over_two_memories_and_two_disks(programs, tmp_path):
    """The small VM kills by a global OOM, the large one does not, whatever its disk."""
    (tmp_path / "e.yaml").write_text(
        "name: e\ncontainer:\n  image: {rootfs: busybox}\n  network: none\n  command:\n"
        "    - sh\n    - -c\n    - |\n      mkfifo /held\n      until [ -e /go ]; do sleep 0.1; done\n"
        '      exec awk \'BEGIN { s = "x"; while (length(s) < 33554432) s = s s;'
        ' for (i = 0; i < 18; i++) held[i] = s; getline < "/held" }\'\n'
        "setup: {run: touch /go}\n"
        "pre_task:\n  timeout: 120s\n  run: |\n"
        "    until grep -q 'VmRSS:.* 6[0-9][0-9][0-9][0-9][0-9] kB' /proc/1/status; do sleep 0.2; done\n"
        "linger: 1s\ndeadlines: {start: 240s, create: 120s, post_mortem: 90s, trial: 600s}\n"
    )
    options = {"kind": "colima", **{k: v for k, v in programs.items() if k != "places" and v}}
    (tmp_path / "m.yaml").write_text(
        f"name: m\nexperiment: e.yaml\nmachine: {json.dumps(options)}\n"
        "axes: {machine.memory: [512MiB, 1GiB], machine.disk: [2GiB, 3GiB]}\ntrials: {max: 1}\n"
    )
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-m", "harness.verbs", "sweep", str(tmp_path / "m.yaml"), "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "DEATHBENCH_STATE": str(programs["places"].run.parent)},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(ran.stderr, f"{time.monotonic() - began:.0f} s")
    assert ran.returncode == 0, ran.stdout
    rows = {
        (cell["config"]["machine.memory"], cell["config"]["machine.disk"]): cell
        for cell in json.loads(ran.stdout)["cells"]
    }
    assert len(rows) == 4
    for (memory, _), row in rows.items():
        if memory == 512 << 20:
            assert (row["died"], row["hypotheses"]) == (1, {"vm-pressure": 1})
        else:
            assert (row["died"], row["survived"]) == (0, 1)
