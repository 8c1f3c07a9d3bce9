"""A VM is a machine: version 2 of control groups, PSI, a journal, and ends that only a VM has.

One VM for the whole file, made with what apt brings: as root on Debian or Ubuntu the
packages that are missing are installed by this test (qemu-system-x86, debootstrap, ...);
elsewhere it is skipped with the reason. The order of the tests is the VM's life.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import clock, engine, events, history, images, lease
from harness.attribution import judge
from harness.machine import guest, vm, vm_image, vm_qemu
from harness.matrix import plan
from harness.model.verdicts import Outcome
from harness.runner.link import ProbeLink
from harness.runner.trial import Trial
from harness.spec import load_experiment

pytestmark = pytest.mark.vm

BUSYBOX = SimpleNamespace(rootfs="busybox", ref=None, build=None)
MEMORY = 512 << 20
DISK = 1 << 30


class Heard:
    """Everything a link said; passed on to the trial that runs, if one does."""

    def __init__(self):
        self.events = []
        self.news = threading.Condition()
        self.trial = None

    def __call__(self, event):
        with self.news:
            self.events.append(event)
            self.news.notify_all()
        if self.trial is not None:
            self.trial.take(event)

    def wait(self, kind, deadline=90, where=lambda event: True, since=0):
        """The first event of this kind after so many others; fails when none comes."""
        end = time.monotonic() + deadline
        while True:
            with self.news:
                for event in self.events[since:]:
                    if isinstance(event, kind) and where(event):
                        return event
                left = end - time.monotonic()
                assert left > 0, f"no {kind.__name__} within {deadline} s"
                self.news.wait(min(left, 0.2))


def install():
    """What is missing comes by apt, or the reason why there is no VM here."""
    lacking = vm.missing()
    if lacking and shutil.which("apt-get") and os.geteuid() == 0:
        packages = sorted(set(lacking.values()))
        print("installing", *packages)
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for argv in (
            ["apt-get", "update"],
            ["apt-get", "install", "-y", "--no-install-recommends", *packages],
        ):
            done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"{' '.join(argv)}: {done.stderr.strip()[-300:]}")
    reason = vm.why_not()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def machine():
    """One VM, started; one processor, since emulating two on two costs more than it gives."""
    install()
    made = vm.Vm(memory=MEMORY, cpus=1, disk=DISK, inodes=50_000, start_deadline=400)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def link(machine):
    """(link, heard) for the VM's life."""
    heard = Heard()
    with ProbeLink(machine.probe_site(), on_event=heard) as started:
        yield started, heard


@pytest.fixture(scope="module")
def client(machine):
    connected = engine.connect(machine.docker_host, deadline=120)
    images.ensure(connected, BUSYBOX)
    yield connected
    connected.close()


class Writer:
    """Keeps a trial's events; tells `act` when the pre-task begins."""

    def __init__(self, act):
        self.events, self._act, self.subject, self.main = [], act, None, None

    def add(self, event):
        event = events.numbered(event, len(self.events) + 1)
        self.events.append(event)
        if event.kind == "container" and event.role == "subject":
            self.subject = event.container
        if event.kind == "main":
            self.main = event.pid
        if (event.kind, getattr(event, "phase", ""), getattr(event, "edge", "")) == (
            "phase", "pre-task", "begin",
        ) and self._act:  # fmt: skip
            threading.Thread(target=self._act, args=(self,), daemon=True).start()
        return event

    def text(self, *_):
        pass

    def close(self):
        return len(self.events), ""


@pytest.fixture
def trial(machine, link, client, tmp_path):
    """trial(container YAML, act, pre_task) → (events, judgement) of one whole trial."""
    started, heard = link

    def run(container, act=None, pre_task="sleep 60"):
        (tmp_path / "e.yaml").write_text(
            "name: e\ncontainer:\n  image: {rootfs: busybox}\n  network: none\n"
            + "".join(f"  {line}\n" for line in container)
            + f"pre_task: {{run: {pre_task}, timeout: 200s}}\nlinger: 2s\n"
            "deadlines: {start: 240s, create: 120s, post_mortem: 300s, clean: 120s, trial: 900s}\n"
        )
        (spec, *_) = plan(load_experiment(tmp_path / "e.yaml"), 0)
        writer = Writer(act)
        heard.trial = Trial(spec, machine=machine, engine=client, link=started, writer=writer)
        try:
            record = heard.trial.run()
        finally:
            heard.trial = None
        return writer.events, judge(history.build(writer.events), aborted=record.aborted)

    return run


def said(kept, kind, where=lambda event: True):
    return [e for e in kept if isinstance(e, kind) and where(e)]


def test_it_is_what_was_asked_for(machine):
    """Sizes are read back from inside, and the hierarchy is version 2."""
    facts = machine.facts()
    assert facts.kind == "vm"
    assert facts.cgroup == 2
    assert 0.85 * MEMORY < facts.effective["memory"] < MEMORY
    assert facts.effective["cpus"] == 1
    assert 0.85 * DISK < facts.effective["disk"] < DISK
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


def test_a_whole_cgroup_is_killed_by_its_file(trial, machine):
    """cgroup.kill reaches the main process with no kill() that names it."""
    kept, judgement = trial(
        ["command: [sleep, '1000']"],
        lambda writer: machine.root(
            ("sh", "-c", f"echo 1 > /sys/fs/cgroup/docker/{writer.subject}/cgroup.kill")
        ),
    )
    assert judgement.outcome is Outcome.DIED
    assert judgement.verdict.cause == "cgroup-kill"
    assert said(kept, events.DeathSeen)


def test_the_whole_machine_runs_out(trial):
    """A container without a limit: a global OOM, which is the VM's death to answer for."""
    kept, judgement = trial(
        ['command: [sh, -c, "sleep 1; exec tail /dev/zero"]'], pre_task="sleep 110"
    )
    assert said(kept, events.KernelLine, lambda k: "constraint=CONSTRAINT_NONE" in k.text)
    assert judgement.outcome is Outcome.DIED
    assert judgement.verdict.hypothesis == "vm-pressure"


def test_pressure_is_told(link):
    """The OOM above left its mark in /proc/pressure/memory, of the machine and in the samples."""
    _, heard = link
    with heard.news:
        samples = [e for e in heard.events if isinstance(e, events.MachineSample)]
    assert all({"cpu", "memory", "io"} <= set(s.pressure) for s in samples)

    def total(sample):
        return int(sample.pressure["memory"].split("total=")[1].split()[0])

    assert total(samples[-1]) > total(samples[0])


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


def test_a_clock_step_is_an_event(machine, link):
    """The wall clock jumps by an hour; order does not rest on it."""
    _, heard = link
    since = len(heard.events)
    machine.clock_step(3600)
    jump = heard.wait(events.ClockJump, where=lambda e: e.which == "wall", since=since)
    assert abs(jump.by / clock.NS - 3600) < 5
    machine.clock_step(-3600)
    heard.wait(events.ClockJump, where=lambda e: e.which == "wall" and e.by < 0, since=since)


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


def test_a_power_cut_in_a_trial_is_another_boot(machine, link, trial):
    """The container goes with its kernel; probe and engine are found again, and the boot id tells."""
    started, _ = link
    first = started.states()[0].boot_id

    def cut(_writer):
        machine.root(("sync",), deadline=60)
        machine.power_cut()

    kept, judgement = trial(["command: [sleep, '1000']"], cut)
    second = [e.boot_id for e in said(kept, events.Hello) if e.boot_id != first]
    assert second, "the probe did not come back within the trial"
    assert judgement.outcome is Outcome.DIED
    assert judgement.verdict.cause == "vm-reboot"
    assert machine.facts().boot_id == second[0]


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


def test_the_harness_takes_it_along(tmp_path):
    """kill -9 of whoever holds a VM ends QEMU at once: nothing runs on alone."""
    install()
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


def test_an_accelerator_is_what_works():
    """Where KVM is claimed our kernel has run under it; the device alone proves nothing."""
    install()
    image = vm_image.ensure()
    found = vm_qemu.accelerator(image.kernel, image.initrd)
    assert found in {"kvm", "tcg"}
    assert found == "tcg" or os.access("/dev/kvm", os.W_OK)
    # A kernel that can not start proves that what is tried decides.
    assert vm_qemu.accelerator(Path("/dev/null"), image.initrd) == "tcg"
