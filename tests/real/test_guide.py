"""What people collect by hand with five terminals when containers die, found in one trial's history.

ROWS is the list: each line is something that a debugging guide has people run, by its part, and where
the trial has it. Parts 1 to 5 are what is watched and gathered; steps 1 to 3 are how it is put together.
"""

import sys
from pathlib import Path

import pytest

from harness import attribution, clock, history
from harness import events as e

sys.path.insert(0, str(Path(__file__).parent.parent))
from worlds import experiment, pen_world

pytestmark = pytest.mark.real

LIMIT = 24 << 20
CONTAINER = {
    "image": {"rootfs": "busybox"}, "memory": LIMIT, "memory_swap": LIMIT, "pids": 64,
    "cpu_shares": 512, "oom_kill_disable": False,
}  # fmt: skip
# It says something, so that there are last words; at a sign from the pre-task it asks for too much.
MAIN = "echo from the main process; while [ ! -e /tmp/go ]; do sleep 0.1; done; exec tail /dev/zero"


def of(kind, **members):
    """Events of this kind with these members; a callable member is a test."""

    def find(found):
        return [
            x
            for x in found
            if isinstance(x, kind)
            and all(
                test(getattr(x, name)) if callable(test) else getattr(x, name) == test
                for name, test in members.items()
            )
        ]

    return find


def file(suffix):
    """A file of the post-mortem whose path ends so."""
    return lambda found: [
        x for x in found
        if isinstance(x, e.PostMortem) and any(p.endswith(suffix) for p in x.files)
    ]  # fmt: skip


def sample(*names):
    """A sample of the container's own group that has one of these files (v1 or v2)."""
    return of(e.CgroupSample, scope="container", files=lambda files: any(n in files for n in names))


def has(*keys):
    return lambda mapping: mapping is not None and all(key in mapping for key in keys)


def either(*finds):
    return lambda found: [x for find in finds for x in find(found)]


LIGHT = [
    ("1 docker events", of(e.DockerEvent, type="container", action="create")),
    ("1 docker events: time, status, id, image", of(e.DockerEvent, action="die", attributes=has("image", "name", "exitCode"))),
    ("1 docker events: container lifecycle", of(e.DockerEvent, type="container", action="start")),
    ("1 kernel messages of the VM, live", of(e.KernelLine, text=lambda text: "oom-kill:" in text)),
    ("1 docker daemon's log, live", of(e.DaemonLog, daemon="dockerd")),
    ("1 containerd's log, live", of(e.DaemonLog, daemon="containerd")),
    ("1 docker stats: CPU", sample("cpuacct.usage", "cpu.stat")),
    ("1 docker stats: memory", sample("memory.usage_in_bytes", "memory.current")),
    ("1 docker stats: processes", sample("pids.current")),
    ("1 docker stats: block devices", sample("blkio.throttle.io_service_bytes", "io.stat")),
    ("1 docker stats: network", of(e.NetworkChange, traffic=has("lo"))),
    ("1 free -h", of(e.MachineSample, memory=has("MemTotal", "MemAvailable"))),
    ("1 ps aux | wc -l", of(e.MachineSample, processes=lambda n: n is not None and n > 1)),
    ("3 inspect before every exec: Status, Running, ExitCode, Error", of(e.Status, label="before pre-task", state=has("Status"))),
    ("3 docker ps -a", of(e.Note, what="ps -a", data=lambda data: bool(data["rows"]))),
    ("3 its status all the time", of(e.MainProcess)),
    ("3 CONTAINER DIED", of(e.DeathSeen)),
    ("3 docker logs | tail -20", of(e.Logs, text=lambda text: "from the main process" in text)),
    ("4 limits: Memory", of(e.ContainerRef, limits=lambda of: of.get("Memory") == LIMIT)),
    ("4 limits: CpuShares", of(e.ContainerRef, limits=lambda of: of.get("CpuShares") == 512)),
    ("4 limits: PidsLimit", of(e.ContainerRef, limits=lambda of: of.get("PidsLimit") == 64)),
    ("4 limits: OomKillDisable", of(e.ContainerRef, limits=has("OomKillDisable"))),
    ("4 limits: State", of(e.Status, label="post-mortem", state=has("Status", "ExitCode", "OOMKilled", "Error"))),
    ("4 limits as the kernel has them", sample("memory.limit_in_bytes", "memory.max")),
    ("5 docker logs", of(e.Logs, error=None)),
    ("5 the daemon's log afterwards", of(e.DaemonLog)),
    ("5 the VM's log: its daemons' ends and beginnings", of(e.DaemonState, daemon="dockerd")),
    ("5 dmesg | grep oom", of(e.KernelLine, text=lambda text: "Killed process" in text)),
    ("5 dmesg | grep killed: by number, raw", of(e.ProcEvent, what="exit", status=9)),
    ("5 /proc/meminfo", file("/proc/meminfo")),
    ("5 /proc/pressure/memory, or: no PSI support", either(
        file("/proc/pressure/memory"), of(e.SourceState, name="pressure", state="unsupported"))),
    ("step 1 before docker exec: the time", of(e.Exec, label="pre-task", edge="request")),
    ("step 1 before docker exec: inspect", of(e.Status, label="before pre-task", error=None)),
    ("step 1 after docker exec: exit code", of(e.Exec, label="pre-task", edge="answer")),
    ("step 1 after docker exec: inspect", of(e.Status, label="after pre-task")),
    ("step 2 all streams at once", of(e.SourceState, state="active", name="docker")),
    ("step 2 docker stats ten times a second", sample("memory.usage_in_bytes", "memory.current")),
    ("step 3 the moment of death", of(e.DeathSeen, by=lambda by: by in ("trace", "proc"))),
    ("step 3 docker ps -a", of(e.Note, what="ps -a")),
    ("step 3 docker logs | tail -50", of(e.Logs)),
    ("step 3 dmesg | tail -20", file("kernel log")),
    ("step 3 free -h", file("/proc/meminfo")),
    ("step 3 docker system df", of(e.Note, what="system df", data=has("layers_size", "containers"))),
    ("step 3 its groups' files while they exist", either(
        file("memory.oom_control"), file("memory.events"))),
]  # fmt: skip
FULL = [
    ("2 strace of the pre-task's docker exec", of(e.Syscall, of="pre-task", text=lambda t: "execve(" in t)),
    ("2 strace -f -p $(pgrep dockerd): execve", of(e.Syscall, of="daemons", text=lambda t: "exec" in t)),
    ("2 strace -f -p $(pgrep dockerd): clone", of(e.Syscall, of="daemons", text=lambda t: "clone" in t or "vfork" in t)),
    ("2 strace -f -p $(pgrep dockerd): exit", of(e.Syscall, of="daemons", text=lambda t: "exit" in t)),
    ("step 1 strace -f docker exec", of(e.SourceState, name="strace", state="active")),
]  # fmt: skip
# What a trial on this machine can not show, and the tests that hold it.
ELSEWHERE = {
    "4 colima stop; colima start --cpu --memory --disk": "test_colima.py: sizes are axes of a matrix",
    "5 macOS: log show --last 10m": "test_macos.py: the same events from recorded lines",
    "5 journalctl of a VM": "vm/test_vm.py: the journal speaks for the daemons",
}


def traced(link):
    return any(getattr(x, "name", "") == "syscalls" and x.state == "active" for x in link.states())


@pytest.fixture(scope="module", params=["light", "full"])
def told(request, tmp_path_factory):
    """(level, the history's events, whole History) of a trial whose container dies of its limit."""
    full = request.param == "full"
    made = experiment(
        container={**CONTAINER, "command": ("sh", "-c", MAIN)},
        pre_task={"run": "touch /tmp/go; sleep 20", "timeout": 60.0},
    )  # fmt: skip
    with pen_world() as pen:
        if full:
            pen.link.monitors("full")
            assert clock.wait_until(lambda: traced(pen.link), deadline=30)
        options = {"full": True, "directory": tmp_path_factory.mktemp("trial")} if full else {}
        run = pen.trial(made, usage=True, **options)
    return request.param, run.written.events, history.build(run.written.events)


def test_everything_that_is_done_by_hand_is_in_the_history(told):
    """Line by line; what only full monitoring has is asked of it alone."""
    level, found, _ = told
    rows = LIGHT + (FULL if level == "full" else [])
    assert [what for what, find in rows if not find(found)] == []


def test_all_of_it_is_on_one_clock(told):
    """Each of those events has its place among the others, and how far it may be off: the kernel's
    sources by 0.2 ms, Docker's by 10 ms."""
    level, _, whole = told
    at = {placed.event.n: placed for placed in whole.placed}
    for what, find in LIGHT + (FULL if level == "full" else []):
        for event in find([placed.event for placed in whole.placed]):
            placed = at[event.n]
            assert placed.error <= 10_000_000, what
            if event.source in ("trace", "proc", "death"):
                assert placed.error <= 200_000, what


def test_the_death_is_the_limits(told):
    """And what was collected is enough to say so."""
    judgement = attribution.judge(told[2])
    assert judgement.verdict is not None
    assert judgement.verdict.cause == "memory-limit-main"


def test_the_list_has_every_part():
    """Five parts and three steps."""
    parts = {what.split(" ")[0] for what, _ in LIGHT + FULL} | {w.split(" ")[0] for w in ELSEWHERE}
    steps = {what[:6] for what, _ in LIGHT if what.startswith("step ")}
    assert parts >= {"1", "2", "3", "4", "5"}
    assert steps == {"step 1", "step 2", "step 3"}
    for test in ELSEWHERE.values():
        assert (Path(__file__).parents[1] / test.partition(":")[0]).exists() or (
            Path(__file__).parent / test.partition(":")[0]
        ).exists()
