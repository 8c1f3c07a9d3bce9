"""The probe's parts without a machine: bounded, never blocking, never fooled, and saying what they lost."""

import json
import os
import socket
import sys
import textwrap
import threading
import time
import zipfile
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the probe runs on Linux")

if sys.platform == "linux":
    from harness import events
    from harness.machine import ProbeSite
    from harness.probe import cgroups, clocks, deaths, docker, kernel, lineage, logs, ring, tracefs
    from harness.probe import namespaces as spaces
    from harness.probe.loop import Loop
    from harness.probe.out import HARD, SOFT, Bucket, Out
    from harness.probe.watch import Watch
    from harness.runner.bundle import LOADER, archive
    from harness.runner.link import ProbeLink

ID = "ab" * 32


@pytest.fixture
def pipe():
    read, write = os.pipe()
    os.set_blocking(read, False)
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            continue


@pytest.fixture
def out(pipe):
    return Out(pipe[1])


@pytest.fixture
def loop(out):
    made = Loop(out)
    yield made
    for fd in (made.wake_read, made.wake_write):
        os.close(fd)
    made.poll.close()


def said(out):
    """What waits to be sent, decoded as the harness does; every line must be an event."""
    found = [events.decode(line) for line in out.waiting]
    assert None not in found
    return found


# --- the way out ---


def test_a_reader_that_stands_still_costs_bounded_memory(out):
    """Log lines without end for nobody: what repeats itself is dropped and counted, deaths are kept."""
    for number in range(9_000):
        out.emit("daemon-log", "daemon-log", number, daemon="dockerd", text="x" * 1000)
    out.emit("death", "death", 1, container=ID, pid=7, by="trace")
    assert out.size <= SOFT + 2000 < HARD
    assert out.dropped["daemon-log"] > 0
    assert isinstance(said(out)[-1], events.DeathSeen)


def test_what_was_dropped_is_a_gap_once_somebody_reads(out, pipe):
    """The gap carries both ends and the number lost."""
    while out.blind_since is None:
        out.emit("daemon-log", "daemon-log", 1, daemon="dockerd", text="x" * 4000)
    got = b""
    while out.waiting:
        out.flush()
        try:
            got += os.read(pipe[0], 1 << 20)
        except BlockingIOError:
            continue
    last = events.decode(got.splitlines()[-1])
    assert isinstance(last, events.Gap)
    assert (last.name, last.lost) == ("link", 1)
    assert last.begin <= last.end


def test_a_bucket_lets_a_burst_through_and_then_its_rate():
    """Burst first, then nothing until time passes."""
    bucket = Bucket(1, 5)
    assert [bucket.take() for _ in range(7)] == [True] * 5 + [False] * 2
    bucket.at -= 2_000_000_000
    assert bucket.take()


# --- the loop ---


def test_a_source_that_fails_is_said_and_does_not_stop_the_others(loop, out):
    """Its first failure is a `partial` with the reason; the next timer still runs."""
    ran = []
    loop.after(0, lambda: 1 / 0, "machine")
    loop.after(0, lambda: (ran.append(1), loop.stop()), "cgroup")
    out.flush = lambda: None
    loop.run()
    assert ran
    problem = [e for e in said(out) if isinstance(e, events.SourceState)]
    assert problem[0].state == "partial"
    assert "ZeroDivisionError" in problem[0].why


def test_a_call_that_may_block_does_not_block_the_loop(loop, out):
    """The helper thread has it; its answer comes back into the loop."""
    free, answers = threading.Event(), []
    loop.aside(free.wait, lambda result: (answers.append(result), loop.stop()), "machine")
    loop.after(0, free.set, "cgroup")
    out.flush = lambda: None
    loop.run()
    assert answers == [True]


# --- trace lines ---

LINE = (
    "            runc-16453   (  16400) [001] d..1.  2033.453556: signal_generate: "
    "sig=9 errno=0 code=0 comm=sleep pid=12786 grp=1 res=0"
)


def instance(pipe):
    made = tracefs.Instance.__new__(tracefs.Instance)
    made.pipe, made.rest, made.lost, made.held = pipe[0], "", 0, None
    return made


def test_a_trace_line_is_read_with_and_without_the_thread_groups_column(pipe):
    """Kernel versions differ in columns; name, thread and time are the same."""
    os.write(pipe[1], (LINE + "\n" + LINE.replace("(  16400) ", "") + "\n").encode())
    first, second = instance(pipe).read(10**9)
    assert (first.comm, first.tid, first.tgid, first.t) == ("runc", 16453, 16400, 2033453556000)
    assert (second.comm, second.tid, second.tgid) == ("runc", 16453, None)
    assert first.text == second.text
    assert "16400" not in first.text


@pytest.mark.parametrize(
    "name",
    ["a b", "x-1", "a\nb", "-1 [000] 1.2:", "(1)", "é-é", "CPU:0 [LOST 9", "\n\n", "x: y: z"],
)
def test_a_hostile_process_name_hides_nothing(pipe, name):
    """Blanks, dashes, brackets and line feeds in a name leave the event and the next one whole."""
    hostile = LINE.replace("runc-", name + "-").replace("comm=sleep", "comm=" + name)
    os.write(pipe[1], (hostile + "\n" + LINE + "\n").encode())
    lines = list(instance(pipe).read(10**9))
    assert [line.tid for line in lines] == [16453, 16453]
    match = deaths._SIGNAL.match(lines[0].rest)
    assert (match["sig"], match["pid"]) == ("9", "12786")


def test_a_stream_cut_anywhere_gives_the_same_lines(pipe):
    """Reads end in the middle of lines and of characters' lines: nothing is lost or doubled."""
    text = (LINE + "\n").encode() * 3
    for cut in range(1, len(text), 17):
        one = instance(pipe)
        os.write(pipe[1], text[:cut])
        lines = [line.text for line in one.read(10**9)]
        os.write(pipe[1], text[cut:])
        lines += [line.text for line in one.read(10**9)]
        assert len(lines) == 3
        assert len(set(lines)) == 1


def test_lost_trace_events_are_counted(pipe):
    """The tracer's own word for an overrun is a number of lost events."""
    os.write(pipe[1], b"CPU:1 [LOST 4711 EVENTS]\n" + LINE.encode() + b"\n")
    one = instance(pipe)
    assert len(list(one.read(10**9))) == 1
    assert one.overruns() == 4711
    assert one.overruns() == 0


# --- lineage ---


class Line:
    def __init__(self, event, rest, *, tid=1, tgid=None, comm="x", t=5):
        self.event, self.rest, self.tid, self.tgid, self.comm, self.t = (
            event,
            rest,
            tid,
            tgid,
            comm,
            t,
        )
        self.text = rest


def newborn(maker, child, name="x", flags=0x1200011):
    return (5, 0, maker, ring.NEW, (child, name.encode() + b"\0", flags, 0))


def gone(pid, last=1):
    return (5, 0, pid, ring.EXIT, (pid, b"x\0", 120, last))


def became(pid, path):
    return (5, 0, pid, ring.EXEC, (pid, path.encode() + b"\0", pid))


def table(loop, out):
    return lineage.Lineage(loop, out, lambda what, task, record: None)


EMPTY = SimpleNamespace(take=lambda budget: [], overruns=lambda: 0)


def test_lineage_answers_for_the_dead_and_forgets_the_oldest(loop, out, monkeypatch):
    """Any number of short lives leaves a bounded table; the last ones still have their makers."""
    monkeypatch.setattr(lineage, "DEAD", 500)
    one = table(loop, out)
    one.take(newborn(4_000_000, 4_000_001, "sh"))
    for pid in range(4_100_000, 4_100_000 + 3 * lineage.DEAD):
        one.take(newborn(4_000_001, pid))
        one.take(gone(pid))
    assert len(one.tasks) <= lineage.DEAD + 2
    last = 4_100_000 + 3 * lineage.DEAD - 1
    assert one.tasks[last].maker == 4_000_001
    assert [a["pid"] for a in one.ancestors(last)] == [4_000_001]


def test_the_dead_whose_end_was_lost_are_swept_out(loop, out, monkeypatch):
    """After an overrun the table asks who lives; the living and the remembered dead stay."""
    monkeypatch.setattr(lineage, "CROWD", 50)
    one = table(loop, out)
    one.instance = EMPTY
    one.adopt(os.getpid(), "me", None)
    for pid in range(4_200_000, 4_200_100):
        one.take(newborn(4_000_000, pid))
    one.take(gone(4_200_099))
    one.drain()
    assert set(one.tasks) == {os.getpid(), 4_200_099}


def test_a_flood_of_forks_whose_ends_are_lost_leaves_a_bounded_table(loop, out):
    """Three hundred thousand births in batches, the tracer losing every end: the table stays small."""
    one = table(loop, out)
    one.instance = EMPTY
    most = 0
    for batch in range(100):
        for n in range(3000):
            one.take(newborn(4_000_000, 4_200_000 + batch * 3000 + n))
        one.drain()
        most = max(most, len(one.tasks))
    living = len(os.listdir("/proc"))
    assert most <= lineage.CROWD + lineage.DEAD + 2 * living + 3000
    assert out.size < SOFT


def test_a_thousand_containers_that_are_not_ours_cost_nothing(loop, out, monkeypatch):
    """Their births, moves, signals and ends are read and said by nobody; nothing is opened for them."""
    one = table(loop, out)
    watching = Watch(loop, out, cgroups.Hierarchies(), one, "/")
    monkeypatch.setattr(watching, "_search", lambda watched: pytest.fail("looked for a stranger"))
    death = deaths.Deaths(
        loop, out, watching, one, None, SimpleNamespace(is_daemon=lambda pid: False), None
    )
    files = len(os.listdir("/proc/self/fd"))
    for n in range(1000):
        pid, path = 4_300_000 + n, f"/docker/{n:064x}"
        one.take(newborn(4_000_000, pid, "runc"))
        death.moved(Line("cgroup_mkdir", f"root=1 id=2 level=2 path={path}"))
        death.moved(
            Line(
                "cgroup_attach_task",
                f"dst_root=1 dst_id=2 dst_level=2 dst_path={path} pid={pid} comm=runc",
            )
        )
        death.signalled(
            Line("signal_generate", f"sig=9 errno=0 code=0 comm=sh pid={pid} grp=1 res=0")
        )
        one.take(gone(pid))
    assert watching.all == {} and watching.mains == {} and watching.parents == set()
    assert one.tasks[4_300_000].container == f"{0:064x}"  # who a sender is, should it be one
    assert len(os.listdir("/proc/self/fd")) == files
    assert out.waiting == []


def test_children_live_in_their_makers_container(loop, out):
    """A cgroup move makes a process the container's, and what it forks afterwards too."""
    one = table(loop, out)
    one.take(newborn(4_000_000, 4_000_001))
    one.adopt(4_000_001, "runc", ID)
    one.take(newborn(4_000_001, 4_000_002))
    assert one.tasks[4_000_002].container == ID


def test_a_thread_s_child_is_its_process_s(loop, out):
    """The tracer names the thread that forked; the maker is its process, also after both are gone."""
    one = table(loop, out)
    one.take(newborn(4_000_000, 4_000_001, "runc"))
    one.take(newborn(4_000_001, 4_000_002, "runc", flags=0x3D0F00 | lineage.CLONE_THREAD))
    one.take(newborn(4_000_002, 4_000_003, "runc:[1:CHILD]"))
    one.take(gone(4_000_002))
    one.take(gone(4_000_001))
    assert one.tasks[4_000_003].maker == 4_000_001
    assert set(one.tasks) == {4_000_001, 4_000_003}
    one.take(newborn(4_000_000, 4_000_002))  # the number again, a process now
    one.take(newborn(4_000_002, 4_000_004))
    assert one.tasks[4_000_004].maker == 4_000_002


def test_a_living_thread_that_was_never_seen_born_is_looked_up(loop, out):
    """Threads from before the start are asked for in /proc once."""
    one, free = table(loop, out), threading.Event()
    thread = threading.Thread(target=free.wait)
    thread.start()
    try:
        one.take(newborn(thread.native_id, 4_000_001))
    finally:
        free.set()
        thread.join()
    assert one.tasks[4_000_001].maker == os.getpid()


def test_a_first_thread_that_leaves_alone_ends_nothing(loop, out):
    """group_dead says that others of its process live on; None (an older kernel) says nothing."""
    one = table(loop, out)
    for pid in (4_000_001, 4_000_002):
        one.take(newborn(4_000_000, pid))
    one.take(gone(4_000_001, last=0))
    one.take(gone(4_000_002, last=None))
    assert (one.tasks[4_000_001].ended, one.tasks[4_000_002].ended) == (None, 5)


def test_a_program_names_its_process_as_the_kernel_does(loop, out):
    """The last part of the path, cut at fifteen bytes; the whole path is kept."""
    one = table(loop, out)
    one.take(became(4_000_001, "/usr/bin/containerd-shim-runc-v2"))
    task = one.tasks[4_000_001]
    assert (task.name, task.program) == ("containerd-shim", "/usr/bin/containerd-shim-runc-v2")


def test_a_move_read_before_the_birth_is_kept(loop, out):
    """Moves wake us, births come in batches: the order of reading is not the order of things."""
    one = table(loop, out)
    one.adopt(4_000_001, "runc", ID)
    one.take(newborn(4_000_000, 4_000_001))
    assert one.tasks[4_000_001].container == ID


def test_a_reused_pid_is_another_process(loop, out):
    """A dead process's container is not inherited by the next one with its pid."""
    one = table(loop, out)
    one.adopt(4_000_001, "runc", ID)
    one.take(gone(4_000_001))
    one.take(newborn(4_000_000, 4_000_001))
    assert one.tasks[4_000_001].container is None


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (f"/docker/{ID}", ID),
        (f"/system.slice/docker-{ID}.scope", ID),
        (f"/docker/{'cd' * 32}/docker/{ID}", ID),
        ("/user.slice/session-1.scope", None),
        (f"/x{ID}", None),
        (f"/docker/{ID}a", None),
    ],
)
def test_the_container_in_a_cgroup_path(path, found):
    """The last full id that stands between slashes, with systemd's dress or without."""
    assert lineage.container_of(path) == found


# --- kernel log ---


def kernel_log(loop, out):
    return kernel.KernelLog(loop, out, clocks.Clocks(out))


def test_a_flood_of_kernel_lines_is_cut_and_the_telling_ones_pass(loop, out):
    """Thousands of lines of chatter do not keep an OOM line from being sent; the rest is counted."""
    log = kernel_log(loop, out)
    for number in range(6_000):
        log.record(b"6,%d,%d,-;br0: port 1 entered blocking state\n" % (number, number))
    log.record(b"6,6000,6000,-;oom-kill:constraint=CONSTRAINT_MEMCG,task=x,pid=7,uid=0\n")
    lines = [e for e in said(out) if isinstance(e, events.KernelLine)]
    assert len(lines) < 3000
    assert lines[-1].text.startswith("oom-kill:")
    assert out.dropped["kernel"] + len(lines) == 6_001
    assert len(log.recent) == log.recent.maxlen


def test_telling_lines_that_are_shed_are_a_gap(loop, out):
    """Eight thousand OOM lines at once: what is not sent is one gap, with its span and its number."""
    log = kernel_log(loop, out)
    for number in range(8_000):
        log.record(b"6,%d,%d,-;oom-kill: %d\n" % (number, 1_000_000 + number, number))
    out.own_up(10**15)
    sent = [e for e in said(out) if isinstance(e, events.KernelLine)]
    assert not [e for e in said(out) if isinstance(e, events.Gap)]
    out.own_up()
    (gap,) = [e for e in said(out) if isinstance(e, events.Gap)]
    assert (gap.name, gap.lost) == ("kernel", 8_000 - len(sent))
    assert gap.begin > sent[0].t
    assert gap.end - gap.begin < 8_000 * 1000
    out.own_up()
    assert len([e for e in said(out) if isinstance(e, events.Gap)]) == 1


def test_an_engine_that_floods_its_own_log_is_a_gap(loop, out):
    """A daemon in debug mode says more than is sent: its silence afterwards is no evidence."""
    one = logs.Logs(loop, out, clocks.Clocks(out))
    for number in range(5_000):
        one.say("dockerd", f"level=debug msg={number}")
    out.own_up()
    (gap,) = [e for e in said(out) if isinstance(e, events.Gap)]
    assert gap.name == "daemon-log"
    assert gap.lost == out.dropped["daemon-log"] > 0


def test_a_jump_of_the_sequence_is_a_gap(loop, out):
    """Records overwritten before they were read are counted exactly."""
    log = kernel_log(loop, out)
    log.record(b"6,10,1,-;a\n")
    log.record(b"6,18,2,-;b\n")
    gap = next(e for e in said(out) if isinstance(e, events.Gap))
    assert (gap.name, gap.lost) == ("kernel", 7)


def test_the_kernels_rate_limit_is_a_gap(loop, out):
    """`N callbacks suppressed` says how many lines were never printed."""
    log = kernel_log(loop, out)
    log.record(b"6,1,1000000,-;oom-kill:constraint=CONSTRAINT_MEMCG,task=x,pid=7,uid=0\n")
    log.record(b"4,2,6500000,-;oom_kill_process: 12 callbacks suppressed\n")
    gap = next(e for e in said(out) if isinstance(e, events.Gap))
    assert (gap.lost, gap.end - gap.begin) == (12, 5_500_000_000)


@pytest.mark.parametrize("raw", [b"", b"x", b"6,1,1", b"a,b,c;d", b";;;", b"6,1,1,-;\xff\xfe\n"])
def test_a_broken_kernel_record_is_no_event_and_no_error(loop, out, raw):
    """The log is shared with everybody who may write to /dev/kmsg."""
    kernel_log(loop, out).record(raw)
    assert len(said(out)) <= 1


# --- clocks ---


class FakeTime:
    """Stands in for a reading; boottime goes on by a second a step."""

    def __init__(self):
        self.now = {"boot": 10**9, "wall": 10**18, "mono": 10**9, "tai_offset": 0, "error": 500}

    def step(self, *, wall=0, suspend=0):
        self.now = {
            **self.now,
            "boot": self.now["boot"] + 10**9 + suspend,
            "wall": self.now["wall"] + 10**9 + suspend + wall,
            "mono": self.now["mono"] + 10**9,
        }

    def __call__(self):
        return dict(self.now)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({}, [], id="quiet"),
        pytest.param({"wall": 400_000}, [], id="ntp-slew"),
        pytest.param({"wall": 3600 * 10**9}, [("wall", 3600 * 10**9)], id="hour-forward"),
        pytest.param({"wall": -(10**9)}, [("wall", -(10**9))], id="second-back"),
        pytest.param({"suspend": 60 * 10**9}, [("suspend", 60 * 10**9)], id="suspend"),
    ],
)
def test_steps_of_clocks_are_events(out, monkeypatch, change, expected):
    """A step of the wall clock and a suspend are told apart and measured; slewing is neither."""
    fake = FakeTime()
    monkeypatch.setattr(clocks, "reading", fake)
    one = clocks.Clocks(out)
    fake.step(**change)
    one.read()
    jumps = [e for e in said(out) if isinstance(e, events.ClockJump)]
    assert [(e.which, e.by) for e in jumps] == expected


def test_docker_times_follow_the_wall_clocks_steps(out, monkeypatch):
    """After a step the same wall time is another boottime."""
    fake = FakeTime()
    monkeypatch.setattr(clocks, "reading", fake)
    one = clocks.Clocks(out)
    before = one.wall_to_boot(10**18)
    fake.step(wall=5 * 10**9)
    one.read()
    assert before - one.wall_to_boot(10**18) == 5 * 10**9


# --- control groups ---


def hierarchy(tmp_path, version):
    made = cgroups.Hierarchies.__new__(cgroups.Hierarchies)
    made.version = version
    names = ("memory", "pids", "cpu", "cpuacct", "freezer") if version == 1 else ("",)
    made.mounts = {}
    for name in names:
        made.mounts[name] = str(tmp_path / (name or "unified"))
    return made


def fill(made, path, files):
    for (controller, name), text in files.items():
        folder = Path(made.mounts[controller] + path)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("version", "files", "shown"),
    [
        (1, {("memory", "memory.usage_in_bytes"): "5\n", ("memory", "memory.limit_in_bytes"): "9\n",
             ("cpu", "cpu.stat"): "nr_throttled 3\n", ("pids", "pids.current"): "2\n"},
         {"memory.usage_in_bytes": "5", "memory.limit_in_bytes": "9", "cpu/cpu.stat": "nr_throttled 3",
          "pids.current": "2"}),
        (2, {("", "memory.current"): "5\n", ("", "memory.max"): "9\n", ("", "cpu.stat"): "nr_throttled 3\n",
             ("", "memory.events.local"): "oom 0\noom_kill 1\n"},
         {"memory.current": "5", "memory.max": "9", "cpu.stat": "nr_throttled 3",
          "memory.events.local": "oom 0\noom_kill 1"}),
    ],
)  # fmt: skip
def test_both_versions_of_control_groups(tmp_path, out, version, files, shown):
    """The first sample has everything, the next only what changed, a full one everything again."""
    made = hierarchy(tmp_path, version)
    fill(made, f"/docker/{ID}", files)
    group = cgroups.Group(made, ID, "container", f"/docker/{ID}")
    group.say(out)
    group.say(out)
    changed = next(iter(files))
    fill(made, f"/docker/{ID}", {changed: "77\n"})
    group.say(out)
    group.say(out, full=True)
    samples = [e.files for e in said(out)]
    assert samples[0] == shown
    assert list(samples[1].values()) == ["77"]
    assert samples[2] == {**shown, **samples[1]}
    assert said(out)[-1].unreadable
    group.close()


def test_members_of_a_group_that_is_gone_are_none(tmp_path):
    """A directory that went away between two looks is no error."""
    assert hierarchy(tmp_path, 2).members("/docker/x") == []


# --- Docker's stream ---


def event(number, action="start", kind="container"):
    body = {"Type": kind, "Action": action, "timeNano": 10**18 + number,
            "Actor": {"ID": ID, "Attributes": {"name": "x\ny", "n": number}}}  # fmt: skip
    return json.dumps(body).encode() + b"\n"


def chunked(*lines):
    head = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n"
    )
    return head + b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in lines)


def stream(loop, out):
    one = docker.Events(loop, out, clocks.Clocks(out), "/nowhere", lambda said, container: True)
    one.since = 0
    return one


def test_dockers_stream_cut_anywhere_gives_the_same_events(loop, out):
    """Fed byte by byte, and with records that span chunks."""
    one = stream(loop, out)
    whole = event(1) + event(2, "die")
    for byte in chunked(whole[:30], whole[30:31], whole[31:]):
        one.buffer += bytes([byte])
        assert one.parse() is None
    found = [e for e in said(out) if isinstance(e, events.DockerEvent)]
    assert [(e.action, e.wall) for e in found] == [("start", 10**18 + 1), ("die", 10**18 + 2)]
    assert found[0].attributes == {"name": "x\ny", "n": "1"}


def test_what_since_repeats_is_told_once(loop, out):
    """A reconnect asks for the last event again; it is one event."""
    one = stream(loop, out)
    for _ in range(2):
        one.record(event(1))
    assert len([e for e in said(out) if isinstance(e, events.DockerEvent)]) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Oops\r\n\r\n",
        b"\r\n\r\n",
        chunked(b"").replace(b"0\r\n", b"zz\r\n"),
        chunked(b""),
    ],
)
def test_an_engine_that_talks_nonsense_is_a_broken_stream(loop, out, answer):
    """Anything but a 200 with well-formed chunks says why and is tried again."""
    one = stream(loop, out)
    one.buffer = answer
    assert one.parse()


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"null", b'{"timeNano":"x"}', b'{"timeNano":1,"Actor":[]}']
)
def test_a_record_that_is_no_event_is_dropped_and_counted(loop, out, line):
    """The stream goes on after it."""
    stream(loop, out).record(line)
    assert out.dropped["docker"] == 1


def test_an_engine_that_is_not_there_is_an_open_gap(loop, out, tmp_path):
    """Then a stream that comes up closes it."""
    path = str(tmp_path / "d.sock")
    one = docker.Events(loop, out, clocks.Clocks(out), path, lambda said, container: True)
    one.start()
    assert said(out)[-1].end is None
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    one.connect()
    link, _ = server.accept()
    link.sendall(chunked(event(3, "die")))
    one.drain()
    gap = [e for e in said(out) if isinstance(e, events.Gap)][-1]
    assert gap.end is not None
    assert isinstance(said(out)[-1], events.DockerEvent)
    link.close()
    one.drain()
    assert [e for e in said(out) if isinstance(e, events.Gap)][-1].end is None
    one.stop()
    server.close()


# --- logs ---


@pytest.mark.parametrize(
    ("text", "wall"),
    [
        ('time="2026-11-23T13:43:35.669777976Z" level=info msg="x"', 1795441415669777976),
        ('time="2026-11-23T14:43:35.5+01:00" level=info', 1795441415500000000),
        ('time="2026-11-23T13:43:35Z"', 1795441415000000000),
        ('level=info msg="time=\\"never\\""', None),
        ("panic: runtime error", None),
        ('time="2026-99-99T13:43:35Z"', None),
    ],
)
def test_the_time_in_a_daemons_line(text, wall):
    """Nanoseconds of the wall clock, any zone; a line without one has none."""
    assert logs.wall_of(text) == wall


def test_a_log_that_is_rotated_is_read_on(loop, out, tmp_path):
    """Replaced and truncated files are read from their beginning, and that is said."""
    path = tmp_path / "dockerd.log"
    path.write_text("old\n")
    one = logs.Logs(loop, out, clocks.Clocks(out))
    one.start({"dockerd": str(path)}, False)
    with path.open("a") as file:
        file.write("first\nsec")
    one.read()
    path.rename(tmp_path / "dockerd.log.1")
    path.write_text("second\n")
    one.check()
    one.read()
    texts = [e.text for e in said(out) if isinstance(e, events.DaemonLog)]
    assert texts == ["first", "sec", "second"]
    assert any(isinstance(e, events.Gap) for e in said(out))
    one.stop()


def test_journald_records_are_daemon_lines(loop, out):
    """A message that is no UTF-8 comes as numbers; broken records are skipped."""
    one = logs.Logs(loop, out, clocks.Clocks(out))
    for record in (
        {"MESSAGE": "API listen", "__REALTIME_TIMESTAMP": "1795441415000000", "_COMM": "dockerd"},
        {
            "MESSAGE": [72, 105, 255],
            "__REALTIME_TIMESTAMP": "1795441415000001",
            "_COMM": "containerd",
        },
        {"MESSAGE": None, "__REALTIME_TIMESTAMP": "1"},
        {"MESSAGE": "x"},
        [],
    ):
        one.record(json.dumps(record).encode())
    found = [(e.daemon, e.text) for e in said(out)]
    assert found == [("dockerd", "API listen"), ("containerd", "Hi\ufffd")]


# --- namespaces ---


def test_a_network_is_its_interfaces_its_routes_and_its_bytes():
    """As the engine's statistics have them: bytes in and bytes out of each interface."""
    names, traffic = spaces.interfaces(os.getpid())
    assert "lo" in names
    assert set(traffic) <= set(names)
    came, went = traffic["lo"]
    assert came == went
    assert spaces.interfaces(4_190_000) is None


def test_a_difference_names_what_came_and_what_went():
    """Order is the table's own; the first table is all new."""
    assert spaces.difference(None, ["a", "b"]) == (["a", "b"], [])
    assert spaces.difference(["a", "b"], ["b", "c"]) == (["c"], ["a"])


@pytest.mark.parametrize("settled", [False, True])
def test_a_death_of_a_change_that_had_not_settled_tells_it(loop, out, monkeypatch, settled):
    """A writer that a read-only mount ends within milliseconds: the table is told once, as it was at the change."""
    watch = SimpleNamespace(on_found=[], on_gone=[], all={})
    table = ["1 0 8:1 / /work rw - ext4 /dev/sda rw"]
    monkeypatch.setattr(spaces.linux, "read_text", lambda path, *size: "\n".join(table))
    monkeypatch.setattr(spaces.linux, "stat", lambda pid: {"name": "sh"})
    seen = spaces.Namespaces(loop, out, watch)
    watched = SimpleNamespace(id=ID, main=SimpleNamespace(pid=os.getpid(), dead=False))
    seen.found(watched)
    seen.spaces[ID].net = False
    seen.settle(watched)
    table[:] = [table[0].replace(" rw -", " ro -")]
    seen.changed(watched)
    if settled:
        seen.settle(watched)
    table.clear()
    seen.died(watched, watched.main, 1)
    told = [e for e in said(out) if e.kind == "mounts"]
    assert [len(e.removed) for e in told] == [0, 1]
    assert " ro -" in told[1].added[0]


# --- the bundle and the link ---


def test_the_bundle_has_every_module_and_nothing_of_ours():
    """The probe imports only the standard library and itself, so it runs where nothing is installed."""
    bundle = zipfile.ZipFile(BytesIO(archive()))
    here = Path(tracefs.__file__).parent
    assert {n.rpartition("/")[2] for n in bundle.namelist()} == {p.name for p in here.glob("*.py")}
    for name in bundle.namelist():
        assert b"harness." not in b"".join(
            line
            for line in bundle.read(name).splitlines()
            if line.lstrip().startswith((b"from", b"import"))
        )
    assert archive() == archive()
    assert "'" not in LOADER


FAKE = """
import json, os, struct, sys, time
def take(n):
    b = b""
    while len(b) < n:
        d = os.read(0, n - len(b))
        if not d: sys.exit(3)
        b += d
    return b
for _ in range(2):
    take(struct.unpack(">I", take(4))[0])
offset = 0
def say(kind, **more):
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + offset
    body = dict(kind=kind, t=now, seen=now, source="fake", **more)
    os.write(1, json.dumps(body).encode() + b"\\n")
say("hello", version=1, boot_id="b", kernel="k", python="3", cgroup=2, hz=100, monitors="light", pid=os.getpid())
say("source", name="trace", state="active")
"""


def fake(tmp_path, body):
    """A site whose probe is this script: it gets the loader as an argument and ignores it."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE + textwrap.dedent(body))
    return ProbeSite(python=(sys.executable, "-I", "-S", str(script)), config={})


ANSWER = """
for line in os.fdopen(0, "rb", buffering=0):
    said = json.loads(line)
    if said["do"] == "flush":
        say("pong", token=said["token"], what="flush")
    elif said["do"] == "ping":
        say("pong", token=said["token"])
        offset -= FREEZE
    elif said["do"] == "watch":
        EXTRA
"""


def until(predicate):
    end = time.monotonic() + 5
    while not predicate():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_freeze_of_the_machine_is_a_jump_of_its_clock(tmp_path):
    """Boottime that falls back against the harness's is told as a freeze of that length."""
    heard = []
    body = ANSWER.replace("FREEZE", "2_000_000_000").replace("EXTRA", "pass")
    with ProbeLink(fake(tmp_path, body), on_event=heard.append) as link:
        link.flush(5)
        until(lambda: [e for e in heard if isinstance(e, events.ClockLink)])
        # The pinger waits a second between pings; this one does not.
        link._send({"do": "ping", "token": time.clock_gettime_ns(time.CLOCK_BOOTTIME)})
        until(lambda: [e for e in heard if isinstance(e, events.ClockJump)])
    jump = next(e for e in heard if isinstance(e, events.ClockJump))
    assert jump.which == "freeze"
    assert abs(jump.by - 2_000_000_000) < 500_000_000


def test_lines_that_are_no_events_are_gaps_not_errors(tmp_path):
    """Garbage on the wire is counted, and what follows it is heard."""
    heard = []
    extra = 'os.write(1, b"\\xff{garbage\\n[]\\n"); say("death", container=said["container"], pid=1, by="trace")'
    body = ANSWER.replace("FREEZE", "0").replace("EXTRA", extra)
    with ProbeLink(fake(tmp_path, body), on_event=heard.append) as link:
        link.watch(ID)
        assert link.flush(5)
        assert link.undecodable == 2
    assert next(e for e in heard if isinstance(e, events.Gap)).name == "link"
    assert any(isinstance(e, events.DeathSeen) for e in heard)


def test_a_probe_that_dies_is_started_again_and_told_again(tmp_path):
    """The watch list is replayed and the gap has both ends, with the dead one's last words."""
    heard = []
    flag = tmp_path / "died"
    extra = (
        f"if os.path.exists({str(flag)!r}): say('death', container=said['container'], pid=1, by='trace')\n"
        f"        else: open({str(flag)!r}, 'w').close(); sys.exit('last words')"
    )
    body = ANSWER.replace("FREEZE", "0").replace("EXTRA", extra)
    with ProbeLink(fake(tmp_path, body), on_event=heard.append) as link:
        link.watch(ID)
        until(lambda: any(isinstance(e, events.DeathSeen) for e in heard))
        until(lambda: [e for e in heard if isinstance(e, events.Gap) and e.end])
    gaps = [e for e in heard if isinstance(e, events.Gap)]
    assert (gaps[0].name, gaps[0].end) == ("probe", None)
    assert "last words" in gaps[-1].why
    assert link.restarts == 1


def test_no_probe_is_an_invalid_environment_with_its_last_words(tmp_path):
    """Whoever reads the error learns what the machine said."""
    from harness.errors import EnvironmentInvalid

    script = tmp_path / "broken.py"
    script.write_text("import sys; sys.exit('no python here')")
    site = ProbeSite(python=(sys.executable, "-I", "-S", str(script)), config={})
    with pytest.raises(EnvironmentInvalid, match="no python here"):
        ProbeLink(site, on_event=lambda e: None).start(5)
    with pytest.raises(EnvironmentInvalid, match="No such file"):
        ProbeLink(ProbeSite(python=("/nowhere/python",), config={}), on_event=print).start(0.1)
