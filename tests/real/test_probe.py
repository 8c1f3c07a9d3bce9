"""The probe in a real pen: every source speaks, silence is said, and nothing stays behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from harness import clock, events
from harness.machine.pen import Pen
from harness.runner.link import ProbeLink, clear_instances

sys.path.insert(0, str(Path(__file__).parent))
from listening import Heard

pytestmark = pytest.mark.real


def execute(client, container, *argv):
    client.exec_start(client.exec_create(container, argv).need("exec"))


def instances():
    """Names of tracing instances, seen from a mount namespace of our own."""
    script = "mount -t tracefs t /sys/kernel/tracing 2>/dev/null; ls /sys/kernel/tracing/instances"
    command = ["unshare", "-m", "sh", "-c", script]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    return said.stdout.split()


def test_every_source_announces_itself(probe):
    """After the start each source is active, partial or unsupported, and says why it is not active."""
    link, _heard = probe
    states = {e.name: e for e in link.states() if isinstance(e, events.SourceState)}
    for name in ("trace", "lineage", "proc", "kernel", "cgroup", "docker", "daemons",
                 "daemon-log", "machine", "pressure", "mounts", "network"):  # fmt: skip
        assert states[name].state in ("active", "partial", "unsupported")
        assert states[name].state == "active" or states[name].why
    assert isinstance(link.states()[0], events.Hello)
    assert link.undecodable == 0


def test_a_life_of_milliseconds_has_a_whole_history(probe, run):
    """`true` as main process: identity, limits, end, wait status, mounts and Docker's view are all there."""
    link, heard = probe
    container = run("true", Memory=64 << 20)
    heard.wait(events.DockerEvent, id=container, action="die")
    assert link.flush(5)
    main = heard.wait(events.MainProcess, container=container)
    death = heard.wait(events.DeathSeen, container=container)
    assert main.t < death.t
    assert main.nspids[-1] == 1
    assert death.by == "trace"
    assert heard.wait(events.ProcEvent, pid=main.pid, what="exit").status == 0
    assert heard.wait(events.PidfdExit, container=container).pid == main.pid
    limits = {
        text for name, text in heard.wait(events.PostMortem, container=container).files.items()
        if container in name and name.endswith(("memory.limit_in_bytes", "memory.max"))
    }  # fmt: skip
    assert limits == {str(64 << 20)}
    assert any(
        " /etc/hosts " in line for line in heard.wait(events.MountChange, container=container).added
    )
    assert list(heard.of(events.DeathSeen, container=container)) == [death]


def test_the_first_post_mortem_comes_before_die(probe, run):
    """The control group's files are taken at the kernel's exit, while Docker still says running."""
    _link, heard = probe
    container = run("sleep", "0.2")
    die = heard.wait(events.DockerEvent, id=container, action="die")
    death = heard.wait(events.DeathSeen, container=container)
    first = heard.wait(events.PostMortem, container=container)
    assert death.t <= first.seen < die.t
    assert any(container in name and "memory" in name for name in first.files)


def test_a_kill_by_the_memory_limit_is_seen_by_five_witnesses(probe, run):
    """Signal, victim, kernel log, the group's own counter and the raw wait status agree on the main process."""
    link, heard = probe
    container = run("tail", "/dev/zero", Memory=32 << 20, MemorySwap=32 << 20)
    main = heard.wait(events.MainProcess, container=container)
    heard.wait(events.DeathSeen, container=container)
    assert heard.wait(events.ProcEvent, pid=main.pid, what="exit").status == 9
    assert link.flush(5)
    lines = [e.text for e in heard.of(events.TraceLine, instance="A")]
    assert any(f"mark_victim: pid={main.pid}" in line for line in lines)
    assert any(re.search(rf"sig=9 .*code=128 .* pid={main.pid} ", line) for line in lines)
    kernel = heard.wait(
        events.KernelLine, where=lambda e: "oom-kill:" in e.text and container in e.text
    )
    assert f"pid={main.pid}," in kernel.text
    post = heard.wait(events.PostMortem, container=container)
    counter = next(
        text for name, text in post.files.items()
        if container in name and name.endswith(("memory.oom_control", "memory.events"))
    )  # fmt: skip
    assert "oom_kill 1" in counter


def test_kernel_log_and_tracer_agree_on_the_time(probe, run):
    """The kernel log's stamps are put on boottime to within a millisecond of the tracer's."""
    _link, heard = probe
    container = run("tail", "/dev/zero", Memory=32 << 20, MemorySwap=32 << 20)
    heard.wait(events.DeathSeen, container=container)
    line = heard.wait(
        events.KernelLine, where=lambda e: "oom-kill:" in e.text and container in e.text
    )
    main = heard.wait(events.MainProcess, container=container)
    victim = heard.wait(events.TraceLine, where=lambda e: f"mark_victim: pid={main.pid} " in e.text)
    # The kernel log comes first or second, printing in between.
    assert abs(victim.t - line.t) < 20_000_000


def test_docker_kill_is_sent_by_the_engine(probe, client, run):
    """`runc` made by a shim of ours: place engine, with the shim among its ancestors."""
    _link, heard = probe
    container = run("sleep", "100")
    heard.wait(events.MainProcess, container=container)
    client.kill(container).need("kill")
    sender = heard.wait(events.SignalSender, container=container, signal=9)
    assert (sender.place, sender.home) == ("engine", None)
    assert sender.name.startswith("runc")
    assert any(a["name"].startswith("containerd-shim") for a in sender.ancestors)


def test_a_killer_on_the_host_is_named_after_it_has_gone(probe, run):
    """kill(1) lives a millisecond; its name, program and maker are still told."""
    _link, heard = probe
    container = run("sleep", "100")
    main = heard.wait(events.MainProcess, container=container)
    subprocess.run(["sh", "-c", f"/bin/kill -9 {main.pid}; true"], check=True)
    sender = heard.wait(events.SignalSender, container=container, signal=9)
    assert (sender.place, sender.name, sender.to) == ("host", "kill", main.pid)
    assert sender.program == "/bin/kill"
    assert sender.ancestors[0]["name"] == "sh"
    assert heard.wait(events.DeathSeen, container=container).t >= sender.t


def test_a_signal_from_inside_has_the_containers_home(probe, client, run):
    """`docker exec … kill -TERM 1` is told as sent from the container itself."""
    _link, heard = probe
    container = run("sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done")
    main = heard.wait(events.MainProcess, container=container)
    execute(client, container, "sh", "-c", "kill -TERM 1")
    sender = heard.wait(events.SignalSender, container=container, signal=15, to=main.pid)
    assert (sender.place, sender.home) == ("same-container", container)
    assert heard.wait(events.ProcEvent, pid=main.pid, what="exit").status == 3 << 8


def test_children_of_the_dead_are_told_with_their_status(probe, run):
    """A child killed before its parent leaves has its own raw status in the history."""
    link, heard = probe
    container = run("sh", "-c", "sh -c 'kill -9 $$'; exit 5")
    main = heard.wait(events.MainProcess, container=container)
    heard.wait(events.DeathSeen, container=container)
    assert link.flush(5)
    ends = {e.pid: e.status for e in heard.of(events.ProcEvent, what="exit")}
    assert ends[main.pid] == 5 << 8
    child = [e for e in heard.of(events.ProcEvent, what="exit", status=9) if e.ppid == main.pid]
    assert child


def test_a_mount_that_comes_and_goes_is_told(probe, pen, run):
    """A tmpfs mounted into the container's namespace from outside is added, then removed."""
    _link, heard = probe
    container = run("sleep", "100")
    main = heard.wait(events.MainProcess, container=container)
    heard.wait(events.MountChange, container=container)
    enter = ["nsenter", "-t", str(main.pid), "-m"]
    subprocess.run([*enter, "/bin/busybox", "mount", "-t", "tmpfs", "x", "/tmp"], check=True)
    heard.wait(events.MountChange, container=container,
               where=lambda e: any(" /tmp " in line for line in e.added))  # fmt: skip
    subprocess.run([*enter, "/bin/busybox", "umount", "/tmp"], check=True)
    heard.wait(events.MountChange, container=container,
               where=lambda e: any(" /tmp " in line for line in e.removed))  # fmt: skip


def test_a_network_that_goes_is_told(probe, client, run):
    """`docker network disconnect` takes the container's eth0 with it."""
    _link, heard = probe
    container = run("sleep", "100", network="bridge")
    heard.wait(events.NetworkChange, container=container, where=lambda e: "eth0" in e.added)
    client.network_disconnect("bridge", container).need("disconnect")
    heard.wait(events.NetworkChange, container=container, where=lambda e: "eth0" in e.removed)


def test_throttling_and_process_counts_are_sampled(probe, client, run):
    """A container at its CPU quota shows growing nr_throttled within a second."""
    _link, heard = probe
    container = run("sh", "-c", "while :; do :; done", NanoCpus=100_000_000)

    def throttled(event):
        for name, text in event.files.items():
            if name.endswith("cpu.stat"):
                return int(re.search(r"nr_throttled (\d+)", text)[1]) > 2
        return False

    heard.wait(events.CgroupSample, container=container, where=throttled)


def test_a_snapshot_says_everything_again(probe, run):
    """Limits, groups, mounts, daemons and clocks stand at the head of each trial's history."""
    link, heard = probe
    container = run("sleep", "100", PidsLimit=77)
    heard.wait(events.MountChange, container=container)
    assert link.flush(5)
    before = len(heard.events)
    link.snapshot(container)
    assert link.flush(5)
    said = heard.events[before:]
    own = next(e for e in said if isinstance(e, events.CgroupSample) and e.container == container)
    assert own.files["pids.max"] == "77"
    kinds = Counter(type(e) for e in said)
    for kind in (events.MountChange, events.MachineSample, events.DaemonState, events.ClockReading):
        assert kinds[kind] >= 1
    assert {e.daemon for e in said if isinstance(e, events.DaemonState)} >= {
        "dockerd", "containerd", "shim",
    }  # fmt: skip


def test_a_burst_is_neither_missed_nor_doubled(probe, run):
    """Twenty main processes killed within milliseconds give twenty deaths, by the tracer."""
    link, heard = probe
    containers = [run("sleep", "100") for _ in range(20)]
    pids = [heard.wait(events.MainProcess, container=c).pid for c in containers]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for container in containers:
        heard.wait(events.DeathSeen, container=container)
    for pid in pids:
        heard.wait(events.ProcEvent, pid=pid, what="exit", status=9)
    assert link.flush(10)
    deaths = Counter(e.container for e in heard.of(events.DeathSeen))
    assert [deaths[c] for c in containers] == [1] * 20


def test_a_restart_gives_a_second_main_process(probe, client, run):
    """The same id, another pid: both lives are told, each with one end."""
    _link, heard = probe
    container = run("sleep", "100")
    first = heard.wait(events.MainProcess, container=container)
    client.restart(container, grace=0).need("restart")
    second = heard.wait(events.MainProcess, container=container, where=lambda e: e.pid != first.pid)
    client.kill(container).need("kill")
    heard.wait(events.DeathSeen, container=container, pid=second.pid)
    assert [e.pid for e in heard.of(events.DeathSeen, container=container)] == [
        first.pid,
        second.pid,
    ]


def test_a_bad_command_is_refused_not_obeyed(probe):
    """Hostile ids do not reach the file system."""
    link, heard = probe
    link.watch("../../etc")
    link.unwatch("../../etc")
    assert "64" in heard.wait(events.Refused, command="watch").why
    assert link.flush(5)


def test_a_probe_that_is_killed_comes_back_and_watches_on(pen, run, probe, client, image):
    """SIGKILL to the probe: a gap with both ends, a new probe, the watch list replayed, stale instances removed."""
    heard = Heard()
    with ProbeLink(pen.probe_site(), on_event=heard) as link:
        container = client.create(None, {"Image": image, "Cmd": ["sleep", "100"]}).need("create")
        link.watch(container)
        client.start(container).need("start")
        main = heard.wait(events.MainProcess, container=container)
        first = heard.wait(events.Hello)
        os.kill(first.pid, signal.SIGKILL)
        gap = heard.wait(events.Gap, name="probe", where=lambda e: e.end is not None)
        assert gap.begin < gap.end
        assert link.restarts == 1
        again = heard.wait(
            events.MainProcess, container=container, where=lambda e: e.seen > main.seen
        )
        assert (again.pid, again.start) == (main.pid, main.start)
        client.remove(container, force=True)
        heard.wait(events.DeathSeen, container=container)
        assert not [name for name in instances() if f"-{first.pid}-" in name]


def test_silence_is_a_gap(pen):
    """A probe that is stopped for four seconds is a gap as soon as it is missed, closed when it answers."""
    heard = Heard()
    with ProbeLink(pen.probe_site(), on_event=heard) as link:
        pid = heard.wait(events.Hello).pid
        os.kill(pid, signal.SIGSTOP)
        try:
            heard.wait(events.Gap, name="probe", end=None)
            assert [e for e in link.states() if isinstance(e, events.Gap) and e.name == "probe"]
        finally:
            os.kill(pid, signal.SIGCONT)
        closed = heard.wait(events.Gap, name="probe", where=lambda e: e.end is not None)
        assert closed.end - closed.begin > 2 * clock.NS
        assert link.restarts == 0


def test_the_end_of_the_harness_is_the_end_of_the_probe(pen, tmp_path):
    """SIGKILL to the harness: its probe leaves and takes its tracing instances along."""
    script = textwrap.dedent(
        """
        import json, sys, time
        from harness.machine import ProbeSite
        from harness.runner.link import ProbeLink
        said = json.loads(sys.argv[1])
        link = ProbeLink(ProbeSite(python=tuple(said["python"]), config=said["config"]), on_event=lambda e: None)
        link.start()
        print(link.states()[0].pid, flush=True)
        time.sleep(60)
        """
    )
    import json

    site = pen.probe_site()
    said = json.dumps({"python": site.python, "config": dict(site.config)})
    child = subprocess.Popen(
        [sys.executable, "-c", script, said], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    pid = int(child.stdout.readline())
    assert any(f"-{pid}-" in name for name in instances())
    child.kill()
    child.wait()
    child.stdout.close()
    assert clock.wait_until(lambda: not Path(f"/proc/{pid}").exists(), deadline=10)
    assert not any(f"-{pid}-" in name for name in instances())


def test_what_a_killed_probe_left_can_be_cleared(pen):
    """With nobody to restart it, `clear_instances` removes a dead probe's instances and no living one's."""
    heard = Heard()
    label = "deathbench-cleartest"
    site = pen.probe_site()
    site = replace(site, config={**site.config, "label": label})
    link = ProbeLink(site, on_event=heard)
    link.start()
    assert clear_instances(site, label) == []
    link._leaving.set()  # nobody restarts it
    os.kill(heard.wait(events.Hello).pid, signal.SIGKILL)
    assert clock.wait_until(lambda: not link.alive, deadline=5)
    found = clear_instances(site, label, dry=True)
    assert len(found) == 3
    assert clear_instances(site, label) == found
    assert clear_instances(site, label) == []
    link.stop()


def test_an_engine_that_restarts_is_a_gap_and_a_new_daemon(client, image):
    """dockerd killed and started again: its end with the raw status, the stream's gap, the new pid."""
    heard = Heard()
    with Pen(disk=1 << 30) as own, ProbeLink(own.probe_site(), on_event=heard) as link:
        old = own.pids["dockerd"]
        own.daemon("dockerd", "kill")
        gone = heard.wait(events.DaemonState, daemon="dockerd", state="gone")
        assert (gone.pid, gone.status) == (old, 9)
        assert clock.wait_until(lambda: "dockerd" not in own.pids, deadline=5)
        new = own.daemon("dockerd", "start")
        heard.wait(events.DaemonState, daemon="dockerd", state="alive", pid=new)
        gap = heard.wait(events.Gap, name="docker", where=lambda e: e.end is not None)
        assert gap.begin <= gone.seen
        assert heard.of(events.Gap, name="docker", end=None)
        assert not [e for e in link.states() if isinstance(e, events.Gap)]
        assert heard.wait(events.SignalSender, to=old, signal=9).place == "host"


def test_a_hung_daemon_is_told(client):
    """SIGSTOP to containerd shows as stopped within two seconds, and as alive again."""
    heard = Heard()
    with Pen(disk=1 << 30) as own, ProbeLink(own.probe_site(), on_event=heard):
        own.daemon("containerd", "hang")
        heard.wait(events.DaemonState, daemon="containerd", state="stopped")
        own.daemon("containerd", "resume")
        heard.wait(
            events.DaemonState, daemon="containerd",
            where=lambda e: e.state == "alive" and e.seen > heard.of(
                events.DaemonState, state="stopped")[0].seen,
        )  # fmt: skip


@pytest.mark.parametrize("tracer", ["tracefs", "strace"])
def test_full_monitors_trace_the_daemons_system_calls(pen, client, image, tracer):
    """`full` shows runc being executed for a start, by either tracer; the daemons go on after it ends."""
    if tracer == "strace" and shutil.which("strace") is None:
        pytest.skip("no strace on this host")
    heard = Heard()
    site = pen.probe_site()
    site = replace(site, config={**site.config, "tracer": tracer})
    with ProbeLink(site, monitors="full", on_event=heard):
        assert heard.wait(events.SourceState, name="syscalls").state == "active"
        container = client.create(None, {"Image": image, "Cmd": ["true"]}).need("create")
        client.start(container).need("start")
        heard.wait(events.Syscall, where=lambda e: "exec" in e.text and "runc" in e.text)
        heard.wait(events.Syscall, where=lambda e: "kill" in e.text or "clone" in e.text)
    assert client.remove(container, force=True).ok


def test_numbers_of_another_namespace_are_no_evidence(pen):
    """In a PID namespace of its own the probe claims neither tracer nor connector."""
    heard = Heard()
    site = pen.probe_site()
    apart = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "/usr/bin/python3")
    with ProbeLink(replace(site, python=apart), on_event=heard):
        for name, state in (
            ("trace", "unsupported"),
            ("proc", "unsupported"),
            ("kernel", "partial"),
        ):
            said = heard.wait(events.SourceState, name=name, state=state)
            assert "PID namespace" in said.why
        # Nothing else of the same name takes that back.
        assert heard.of(events.SourceState, name="trace", state="active") == []
        assert heard.of(events.SourceState, name="kernel")[-1].state == "partial"


def test_monitors_off_leaves_docker_alone(pen, client, image):
    """`off` opens no kernel source: Docker's events and the clock are all there is."""
    heard = Heard()
    with ProbeLink(pen.probe_site(), monitors="off", on_event=heard) as link:
        container = client.create(None, {"Image": image, "Cmd": ["true"]}).need("create")
        link.watch(container)
        client.start(container).need("start")
        heard.wait(events.DockerEvent, id=container, action="die")
        pid = heard.wait(events.Hello).pid
        assert not any(f"-{pid}-" in name for name in instances())
    assert {type(e) for e in heard.events} <= {
        events.Hello, events.SourceState, events.DockerEvent, events.ClockReading, events.Pong,
        events.ClockLink, events.Cost, events.Gap,
    }  # fmt: skip
    client.remove(container, force=True)


@pytest.mark.parametrize(
    ("without", "by"),
    [(["tracefs"], "pidfd proc"), (["tracefs", "pidfd"], "proc"), (["proc", "pidfd"], "trace")],
)
def test_one_witness_will_do(pen, client, image, without, by):
    """Without tracefs, pidfds or the proc connector the main process and its end are still told, once."""
    heard = Heard()
    site = pen.probe_site()
    site = replace(site, config={**site.config, "without": without})
    with ProbeLink(site, on_event=heard) as link:
        container = client.create(None, {"Image": image, "Cmd": ["sleep", "0.5"]}).need("create")
        link.watch(container)
        client.start(container).need("start")
        main = heard.wait(events.MainProcess, container=container)
        death = heard.wait(events.DeathSeen, container=container)
        heard.wait(events.DockerEvent, id=container, action="die")
        assert link.flush(5)
        assert (death.pid, len(heard.of(events.DeathSeen))) == (main.pid, 1)
        assert death.by in by
        assert 0 <= death.seen - death.t < 2 * clock.NS
        blind = {e.name for e in link.states() if getattr(e, "state", "") == "unsupported"}
        assert blind
    client.remove(container, force=True)


def _old_python():
    # A version manager's stand-in on PATH answers only where its version is chosen.
    found = sorted(Path("~/.pyenv/versions").expanduser().glob("3.8*/bin/python"))
    return str(found[0]) if found else shutil.which("python3.8")


@pytest.mark.skipif(_old_python() is None, reason="no Python 3.8 on this host")
def test_the_oldest_python_will_do(pen, client, image):
    """Python 3.8, which has no pidfd_open: the same sources, the same death."""
    heard = Heard()
    site = replace(pen.probe_site(), python=(_old_python(),))
    with ProbeLink(site, on_event=heard) as link:
        assert heard.wait(events.Hello).python.startswith("3.8")
        container = client.create(None, {"Image": image, "Cmd": ["sleep", "0.3"]}).need("create")
        link.watch(container)
        client.start(container).need("start")
        heard.wait(events.DeathSeen, container=container)
        heard.wait(events.PidfdExit, container=container)
        assert link.undecodable == 0
        assert not [e for e in link.states() if getattr(e, "state", "") == "unsupported"]
    client.remove(container, force=True)


def test_the_cost_is_stated_and_small(pen):
    """Two seconds of watching an idle engine cost less than a fifth of a second, and it is said."""
    heard = Heard()
    with ProbeLink(pen.probe_site(), on_event=heard) as link:
        link.cost()
        first = heard.wait(events.Cost)
        time.sleep(2)
    last = heard.of(events.Cost)[-1]
    assert 0 < last.cpu - first.cpu < 0.2
    assert last.rss < 100 << 20
    assert last.dropped == {}


def test_every_line_was_an_event(probe):
    """After all of the above: nothing the probe wrote failed to decode, and no source failed."""
    link, heard = probe
    assert link.flush(10)
    assert link.undecodable == 0
    assert link.restarts == 0
    troubles = [
        e for e in heard.of(events.SourceState) if e.state == "partial" and "failed" in e.why
    ]
    assert troubles == []
    kinds = {type(e) for e in heard.events}
    assert kinds >= {
        events.Hello, events.SourceState, events.ClockReading, events.Pong, events.ClockLink,
        events.TraceLine, events.SignalSender, events.ProcEvent, events.PidfdExit, events.KernelLine,
        events.MainProcess, events.DeathSeen, events.CgroupSample, events.MountChange,
        events.NetworkChange, events.PostMortem, events.MachineSample, events.DaemonLog,
        events.DaemonState, events.DockerEvent, events.Refused,
    }  # fmt: skip
