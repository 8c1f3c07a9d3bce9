"""A VM is a machine: version 2 of control groups, a journal, and ends that only a VM has.

One VM for the whole file. The order of the tests is its life, and the last ones end it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drills import SLEEPS

from harness import clock, events, lease
from harness.machine import guest, vm_qemu
from harness.model.verdicts import Outcome

pytestmark = pytest.mark.vm


def said(kept, kind, where=lambda event: True):
    return [e for e in kept if isinstance(e, kind) and where(e)]


def injected(kept):
    """What was caused in a trial, in order, each as it was noted."""
    return [note.data for note in said(kept, events.Note, lambda e: e.what == "injection")]


@pytest.fixture
def trial(drills):
    """One whole trial, with time enough for an emulated machine: (events, judgement)."""

    def run(container=SLEEPS, act=None, *, pre_task="sleep 60", timeout="200s", **more):
        return drills.trial(act, container=container, pre_task=pre_task, timeout=timeout, **more)

    return run


@pytest.fixture
def link(drills):
    """(link, heard): the probe's connection, and all it has said."""
    return drills.link, drills.heard


def test_it_is_what_was_asked_for(machine):
    """Sizes are read back from inside, and the hierarchy is version 2."""
    facts = machine.facts()
    assert facts.kind == "vm"
    assert facts.cgroup == 2
    assert facts.asked == {"memory": 512 << 20, "cpus": 1, "disk": 1 << 30, "inodes": 50_000}
    assert 0.85 * facts.asked["memory"] < facts.effective["memory"] < facts.asked["memory"]
    assert facts.effective["cpus"] == 1
    assert 0.85 * facts.asked["disk"] < facts.effective["disk"] < facts.asked["disk"]
    assert 50_000 <= facts.effective["inodes"] < 55_000
    assert facts.boot_id != lease.boot_id()
    assert facts.kernel != os.uname().release


def test_a_command_is_root_inside_and_its_exit_code_is_its_own(machine):
    """What a shell would take apart arrives whole; input and exit code pass."""
    result = machine.root(("sh", "-c", 'id -u; printf "%s|" "$@"; cat; exit 7', "x", "a b", "$c"),
                          stdin=b"in")  # fmt: skip
    assert result.text == "0\na b|$c|in"
    assert result.code == 7


def test_nothing_is_reachable_but_ssh_on_this_host(machine):
    """QEMU listens on 127.0.0.1 alone, at one port, and the guest reaches nothing."""
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    port = f"{machine.port:04X}"
    rows = [line.split() for line in listening.splitlines() if ":" in line]
    at = [row[1] for row in rows if row[1].endswith(f":{port}") and row[3] == "0A"]
    assert at == [f"0100007F:{port}"]
    tried = machine.root(("busybox", "wget", "-T", "2", "-O", "-", "http://10.0.2.2/"), deadline=60)
    assert tried.code != 0


def test_every_source_is_active(link):
    """In a VM the probe sees everything: pressure, journal, trace, connector, kernel log."""
    started, _ = link
    states = {e.name: e for e in started.states() if isinstance(e, events.SourceState)}
    wanted = {"trace", "lineage", "proc", "kernel", "cgroup", "docker", "daemons", "daemon-log",
              "machine", "pressure", "mounts", "network"}  # fmt: skip
    assert {n: states[n].why for n in wanted if states[n].state != "active"} == {}


def test_the_main_process_at_its_own_limit(trial):
    """Version 2: memory.events.local of the container counts the kill, the log names the cgroup."""
    kept, judgement = trial(
        ['command: [sh, -c, "sleep 1; exec tail /dev/zero"]', "memory: 32MiB"],
    )
    assert judgement.outcome is Outcome.DIED
    assert judgement.verdict.cause == "memory-limit-main"
    last = [e.files for e in said(kept, (events.CgroupSample, events.PostMortem))]
    counted = [t for files in last for name, t in files.items() if "memory.events.local" in name]
    assert any("oom_kill 1" in text for text in counted)
    assert said(kept, events.KernelLine, lambda k: "constraint=CONSTRAINT_MEMCG" in k.text)


@pytest.mark.soak
def test_a_group_kill_takes_the_main_process_along(trial, machine):
    """memory.oom.group: a child runs into the limit and everything is killed at once."""

    def together(writer):
        where = f"/sys/fs/cgroup/docker/{writer.subject}/memory.oom.group"
        order = f"echo 1 > {where}; touch /proc/{writer.main}/root/go"
        assert machine.root(("sh", "-c", order)).ok

    kept, judgement = trial(
        [
            'command: [sh, -c, "until [ -e /go ]; do sleep 0.3; done; tail /dev/zero; sleep 99"]',
            "memory: 32MiB",
        ],
        together,
    )
    assert judgement.outcome is Outcome.DIED
    assert judgement.verdict.hypothesis == "container-resources"
    assert said(kept, events.KernelLine, lambda k: "are going to be killed due to" in k.text)


def test_the_journal_speaks_for_the_daemons(machine, link):
    """A line of dockerd's unit arrives through journald, at its own time."""
    started, heard = link
    since = len(heard.events)
    machine.daemon("dockerd", "reload")
    line = heard.wait(events.DaemonLog, where=lambda e: "reload" in e.text.lower(), since=since)
    assert line.daemon == "dockerd"
    assert started.flush(60)


def test_a_killed_daemon_is_told_and_comes_back(machine, link):
    """SIGKILL to dockerd: gone with its raw status, and systemd brings another one."""
    _, heard = link
    since = len(heard.events)
    before = machine.pids["dockerd"]
    machine.daemon("dockerd", "kill")
    gone = heard.wait(
        events.DaemonState, where=lambda e: e.state == "gone" and e.pid == before, since=since
    )
    assert gone.status == 9
    back = heard.wait(
        events.DaemonState,
        where=lambda e: e.daemon == "dockerd" and e.state == "alive" and e.pid != before,
        since=since,
        deadline=180,
    )
    assert back.pid > 1
    assert clock.wait_until(lambda: guest.answers(machine.socket), deadline=180, every=0.5)


def test_a_whole_cgroup_is_killed_by_its_file_after_a_clock_step(trial, machine, link):
    """`inject: clock-step`: an hour forward; cgroup.kill then reaches the main process with no
    kill() that names it. The step is an event, and order rests on no wall clock."""
    _, heard = link
    since = len(heard.events)

    def act(kept):
        heard.wait(events.ClockJump, where=lambda e: e.which == "wall", since=since)
        file = f"/sys/fs/cgroup/docker/{kept.subject}/cgroup.kill"
        assert machine.root(("sh", "-c", f"echo 1 > {file}")).ok

    kept, judgement = trial(act=act, inject=["at: pre-task, after: 1s, what: clock-step, step: 1h"])
    assert (judgement.outcome, judgement.verdict.cause) == (Outcome.DIED, "cgroup-kill")
    assert said(kept, events.DeathSeen)
    (done,) = injected(kept)
    assert done["why"] is None
    jump = said(kept, events.ClockJump, lambda e: e.which == "wall")[0]
    assert abs(jump.by / clock.NS - 3600) < 5


def test_the_clock_is_right_again(machine):
    """What an injection did to it was undone when its trial was over."""
    wall = float(machine.root(("date", "+%s.%N")).text)
    assert abs(wall - time.time()) < 60


def test_a_freeze_is_silence_that_is_told(machine, link):
    """While it stands still nobody answers: a gap; afterwards its clock is behind by as much."""
    started, heard = link
    assert started.flush(60)
    before = started.clock
    since = len(heard.events)
    machine.freeze()
    try:
        gap = heard.wait(events.Gap, where=lambda e: e.name == "probe" and e.end is None,
                         since=since, deadline=30)  # fmt: skip
        time.sleep(5)
    finally:
        machine.thaw()
    closed = heard.wait(
        events.Gap, where=lambda e: e.name == "probe" and e.end is not None, since=since
    )
    assert closed.begin == gap.begin
    assert (closed.end - closed.begin) / clock.NS > 5
    assert clock.wait_until(
        lambda: (before.offset - started.clock.offset) / clock.NS > 5, deadline=60
    )


def test_a_power_cut_in_a_trial_is_another_boot(machine, drills, trial):
    """`inject: power-cut`: container and kernel go; probe and engine come back, the boot id tells."""
    first = machine.facts().boot_id
    kept, judgement = trial(
        inject=[
            "at: pre-task, what: command, run: [sync]",
            "at: pre-task, after: 4s, what: power-cut",
        ],
    )
    assert [done["why"] for done in injected(kept)] == [None, None]
    second = [e.boot_id for e in said(kept, events.Hello) if e.boot_id != first]
    assert second, "the probe did not come back within the trial"
    assert (judgement.outcome, judgement.verdict.cause) == (Outcome.DIED, "vm-reboot")
    assert machine.facts().boot_id == second[0]
    assert clock.wait_until(lambda: drills.client.ping(deadline=10).ok, deadline=180, every=0.5)


def test_a_hypervisor_that_stands_still_is_seen_from_here(machine, trial):
    """SIGSTOP to QEMU, and on again: the exec's time-out is the machine's standing still."""

    def act(_):
        os.kill(machine.qemu_pid, signal.SIGSTOP)
        time.sleep(15)
        os.kill(machine.qemu_pid, signal.SIGCONT)

    kept, judgement = trial(act=act, pre_task="sleep 5", timeout="8s")
    assert [e.what for e in said(kept, events.HostState, lambda e: e.what == "still")] == ["still"]
    assert (judgement.outcome, judgement.verdict.cause) == (Outcome.EXEC_FAILED, "vm-suspended")


def test_a_hypervisor_that_is_killed_takes_its_container_along(machine, trial):
    """Nothing in the guest can tell it and nothing boots again: the verdict is this host's."""
    pid = machine.qemu_pid
    kept, judgement = trial(act=lambda _: os.kill(pid, signal.SIGKILL))
    assert (judgement.outcome, judgement.verdict.cause) == (Outcome.DIED, "vm-reboot")
    (end,) = said(kept, events.HostState, lambda e: e.what in ("killed", "shut-down"))
    assert (end.what, end.why) == (
        "killed", f"process {pid}, its hypervisor, was ended by SIGKILL",
    )  # fmt: skip
    assert end.n in judgement.verdict.cites


def test_nothing_stays(machine):
    """Disks, directory, processes: all gone, and a second stop does no harm."""
    name, run = machine.name, machine.run
    machine.stop()
    machine.stop()
    assert not run.exists()
    assert not list(lease.places().disk.glob(f"{name}*"))
    left = [p for p in Path("/proc").glob("[0-9]*/cmdline") if name in _text(p)]
    assert left == []


HOLDER = """
import sys, time
from pathlib import Path
from harness import clock
from harness.machine import vm_image, vm_qemu
folder, image = Path(sys.argv[1]), vm_image.ensure()
hardware = vm_qemu.Hardware(
    memory=256 << 20, cpus=1, root=folder / "root", data=folder / "data", kernel=image.kernel,
    initrd=image.initrd, arguments="panic=0",
)
qemu = vm_qemu.Qemu(hardware, folder, accel="tcg")
port = qemu.start(clock.now() + 60 * clock.NS)
print(qemu.pid, port, flush=True)
time.sleep(600)
"""


@pytest.mark.usefixtures("image")
def test_the_harness_takes_it_along(tmp_path):
    """kill -9 of whoever holds a VM ends QEMU at once: nothing runs on alone."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "root", "1M"], check=True)
    (tmp_path / "data").write_bytes(bytes(1 << 20))
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True
    ) as holder:
        pid, port = holder.stdout.readline().split()
        argv = Path(f"/proc/{pid}/cmdline").read_bytes()
        holder.kill()
    assert b"qemu" in argv
    assert int(port) > 0
    assert clock.wait_until(lambda: not Path(f"/proc/{pid}").exists(), deadline=10)


def _text(path):
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_an_accelerator_is_what_works(image):
    """Where KVM is claimed our kernel has run under it; the device alone proves nothing."""
    found = vm_qemu.accelerator(image.kernel, image.initrd)
    assert found in {"kvm", "tcg"}
    assert found == "tcg" or os.access("/dev/kvm", os.W_OK)
    # A kernel that can not start proves that what is tried decides.
    assert vm_qemu.accelerator(Path("/dev/null"), image.initrd) == "tcg"
