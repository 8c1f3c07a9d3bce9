"""Raw text → a fact or None: whole, byte by byte, with a tail, hostile, and random."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.parse import below, container_of
from harness.parse.cgroup import is_unlimited, parse_counters, parse_limit, parse_pressure
from harness.parse.daemon import DaemonFact, parse_daemon, parse_record
from harness.parse.docker import parse_docker_event, parse_stamp, parse_state
from harness.parse.execs import is_engine_text, parse_exec_error
from harness.parse.kernel import (
    Crash,
    ForkRejected,
    LinkState,
    OomInvoked,
    OomKill,
    OomKilled,
    SeccompKill,
    StorageError,
    Suppressed,
    parse_kernel,
)
from harness.parse.macos import parse_macos
from harness.parse.mountinfo import parse_mount
from harness.parse.strace import Begun, Call, Delivered, Ended, parse_strace
from harness.parse.trace import Executed, Forked, OomVictim, Signal, TaskExit, parse_trace

ID = "ab" * 32
OOM = (
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset={home},mems_allowed={mems},"
    "oom_memcg={limit},task_memcg={home},task={comm},pid=19289,uid=0"
)

# --- kernel log ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mems", "limit", "home", "comm"),
    [
        pytest.param("0", "/docker/a", "/docker/a", "stress", id="plain"),
        pytest.param("0,2-4", "/docker/a", "/docker/a", "stress", id="list-with-commas"),
        pytest.param("0", "/docker", "/docker/a", "stress", id="limit-on-the-parent"),
        pytest.param("0", "/docker/a", "/docker/a", "x,pid=1,uid=0", id="hostile-name"),
        pytest.param("0", "/a", "/a", ",task=y,pid=7", id="name-that-looks-like-the-rest"),
        pytest.param("0-3", "/a b", "/a b/c,d", "(sd-pam)", id="paths-with-blanks-and-commas"),
    ],
)
def test_memcg_kill(mems, limit, home, comm):
    """A limit kill names the limit, the victim's home and the victim, whatever the names hold."""
    fact = parse_kernel(OOM.format(mems=mems, limit=limit, home=home, comm=comm))
    assert fact == OomKill(limit, home, 19289, comm)


KERNEL = [
    (
        "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
        f"task_memcg=/system.slice/docker-{ID}.scope,task=hog,pid=12,uid=1000",
        OomKill(None, f"/system.slice/docker-{ID}.scope", 12, "hog"),
    ),
    (
        "Memory cgroup out of memory: Killed process 812 (tail) total-vm:34MB, anon-rss:1kB, UID:0 pgtables:100kB oom_score_adj:0",
        OomKilled(812, "tail", cgroup_limit=True),
    ),
    (
        "Out of memory: Killed process 99 (a) b (c)) total-vm:1kB, anon-rss:0kB oom_score_adj:0",
        OomKilled(99, "a", cgroup_limit=False),
    ),
    ("Out of memory: Kill process 7 (java) score 900 or sacrifice child", OomKilled(7, "java", cgroup_limit=False)),
    ("runc:[2:INIT] invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0", OomInvoked("runc:[2:INIT]", 0)),
    ("sh invoked oom-killer: gfp_mask=0x6000c0(GFP_KERNEL), nodemask=(null), order=-1, oom_score_adj=-5", OomInvoked("sh", -1)),
    (f"cgroup: fork rejected by pids controller in /docker/{ID}", ForkRejected(f"/docker/{ID}")),
    ("segv[4711]: segfault at 0 ip 000000000040100c sp 00007ffd error 6 in segv[401000+1000]", Crash(4711, "segv", "segfault")),
    ("segv[4711]: segfault at 0 ip 00 sp 00 error 6 in segv[401000+1000] likely on CPU 1 (core 1, socket 0)", Crash(4711, "segv", "segfault")),
    ("traps: x[5] general protection fault ip:4 sp:7 error:0 in x[4+1]", Crash(5, "x", "general protection fault")),
    ("traps: a b[6] trap invalid opcode ip:4 sp:7 error:0", Crash(6, "a b", "trap invalid opcode")),
    (
        'audit: type=1326 audit(1.2:3): auid=4294967295 uid=0 gid=0 ses=1 pid=77 comm="sh" exe="/bin/sh" sig=31 arch=c000003e syscall=57 compat=0 ip=0x7 code=0x80000000',
        SeccompKill(77, "sh"),
    ),
    ("blk_update_request: I/O error, dev loop0, sector 2048 op 0x0:(READ) flags 0x0", StorageError("loop0", "io")),
    ("I/O error, dev vdb, sector 1 op 0x1:(WRITE)", StorageError("vdb", "io")),
    ("EXT4-fs error (device loop0): ext4_find_entry:1455: inode #2: comm sh: reading directory lblock 0", StorageError("loop0", "fs-error")),
    ("EXT4-fs (loop0): Remounting filesystem read-only", StorageError("loop0", "read-only")),
    ("docker0: port 1(veth12ab) entered disabled state", LinkState("veth12ab", "disabled")),
    ("oom_kill_process: 23 callbacks suppressed", Suppressed("oom_kill_process", 23)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fact"), KERNEL, ids=lambda x: str(x)[:40])
def test_kernel_records(text, fact):
    """Each record of interest becomes its fact; cut off anywhere it becomes none or no other kind."""
    assert parse_kernel(text) == fact
    for end in range(len(text)):
        part = parse_kernel(text[:end])
        assert part is None or type(part) is type(fact)


@pytest.mark.parametrize(
    "text",
    [
        "ODEBUG: Out of memory. ODEBUG disabled",
        "my program said: Memory cgroup out of memory: Killed process 1 (x) total-vm",
        "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null)",
        "oom_reaper: reaped process 812 (tail), now anon-rss:0kB",
        "x: cgroup: fork rejected by pids controller in /docker/a",
        "",
    ],
)
def test_kernel_records_of_no_interest(text):
    """What only looks like a record of interest is none."""
    assert parse_kernel(text) is None


# --- trace lines ----------------------------------------------------------------------

HEAD = "{comm:>16}-{pid:<7} [001] d..2.  5331.914523: "
HOSTILE = [
    "sh",
    "a-1",
    "a b-2 [000]",
    "runc:[2:INIT]",
    "x: y=1 pid=3",
    "-1 [000]",
    "comm=x pid=9 gr",
    "é\u0301",
]


@pytest.mark.parametrize("sender", HOSTILE)
@pytest.mark.parametrize("victim", HOSTILE)
def test_signals_whatever_the_names(sender, victim):
    """A signal's numbers are read right whatever sender and receiver call themselves."""
    text = (
        HEAD.format(comm=sender, pid=77)
        + f"signal_generate: sig=9 errno=0 code=128 comm={victim} pid=4200 grp=1 res=0"
    )
    assert parse_trace(text) == Signal(
        77, sender.strip(), 9, 128, 4200, victim, group=True, result=0
    )
    text = text.replace("-77      [001]", "-77      (     70) [001]")
    assert parse_trace(text) == Signal(
        77, sender.strip(), 9, 128, 4200, victim, group=True, result=0
    )


TRACES = [
    ("sched_process_exit: comm=a pid=1 b pid=16399 prio=120 group_dead=true", TaskExit(16399, "a pid=1 b", last=True)),
    ("sched_process_exit: comm=sleep pid=16399 prio=120 group_dead=false", TaskExit(16399, "sleep", last=False)),
    ("sched_process_exit: comm=sleep pid=16399 prio=-100", TaskExit(16399, "sleep", last=None)),
    ("mark_victim: pid=23229", OomVictim(23229, 77, "sh")),
    ("mark_victim: pid=23229 comm=x pid=1 total-vm=1kB oom_score_adj=0", OomVictim(23229, 77, "sh")),
    ("sched_process_fork: comm=sh pid=77 child_comm=a child_pid=5 child_pid=78", Forked(77, 78, "a child_pid=5")),
    ("task_newtask: pid=78 comm=sh clone_flags=1200000 oom_score_adj=0", Forked(77, 78, "sh")),
    ("sched_process_exec: filename=/bin/x pid=4 old_pid=4 pid=78 old_pid=78", Executed(78, "/bin/x pid=4 old_pid=4")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fact"), TRACES, ids=lambda x: str(x)[:30])
def test_trace_lines(text, fact):
    """Each tracepoint's line becomes its fact; cut off it is never another kind."""
    whole = HEAD.format(comm="sh", pid=77) + text
    assert parse_trace(whole) == fact
    assert parse_trace(whole + "\n") == fact
    for end in range(len(whole)):
        part = parse_trace(whole[:end])
        assert part is None or type(part) is type(fact)


def test_a_thread_is_no_process():
    """A new thread (CLONE_THREAD) is not taken for a new process."""
    text = (
        HEAD.format(comm="sh", pid=77)
        + "task_newtask: pid=78 comm=sh clone_flags=3d0f00 oom_score_adj=0"
    )
    assert parse_trace(text) is None


# --- daemons --------------------------------------------------------------------------

DAEMON = [
    ('time="2026-01-01T00:00:00Z" level=info msg="Processing signal \'terminated\'"', "signal", None),
    ('level=info msg="Starting up"', "starting", None),
    ('{"level":"info","msg":"Loading containers: start.","time":"x"}', "loading", None),
    ('level=info msg="Loading containers: done."', "loaded", None),
    ('level=info msg="Daemon shutdown complete"', "shutdown", None),
    (f'level=info msg="shim disconnected" id={ID} namespace=moby', "shim-gone", ID),
    (f'level=warning msg="cleaning up after shim disconnected" id={ID} namespace=moby', "shim-gone", ID),
    (
        f'level=info msg="Container failed to exit within 10s of signal 15 - using the force" container={ID}',
        "force", ID,
    ),
    (f'level=error msg="get state for {ID}" error="context deadline exceeded: unknown"', "task-timeout", ID),
    ('level=error msg="Failed to log msg \\"\\" for logger json-file: write /x: no space left on device"', "unlogged", None),
    ('level=error msg="http: Accept error: accept unix /x: accept4: too many open files; retrying in 5ms"', "no-fds", None),
    ("failed to start daemon: pid file found, ensure docker is not running or delete /x", "pidfile", None),
    ("panic: runtime error: invalid memory address", "crash", None),
    ("SIGQUIT: quit", "crash", None),
    ('level=error msg="containerd did not exit successfully" error="signal: killed" module=libcontainerd', "containerd-died", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "what", "container"), DAEMON, ids=lambda x: str(x)[:30])
def test_daemon_lines(text, what, container):
    """Each daemon line of interest says what it says, in logfmt as in JSON."""
    fact = parse_daemon(text)
    assert fact is not None
    assert (fact.what, fact.container) == (what, container)


@pytest.mark.parametrize(
    "text",
    [
        'level=info msg="ignoring event" module=libcontainerd topic="Processing signal \'terminated\'"',
        "level=info msg=\"a container said: Processing signal 'terminated'\"",
        'level=info msg="x" container="API listen on /x"',
        "hello",
        '{"msg": 5}',
        "[1]",
        'level=info msg="unterminated',
    ],
)
def test_daemon_lines_of_no_interest(text):
    """Words quoted inside another message or member are not the daemon's own."""
    assert parse_daemon(text) is None


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text(max_size=20), max_size=4)
)
def test_logfmt_round_trip(fields):
    """Whatever stands between the quotes comes out as it went in."""
    fields["msg"] = fields.get("msg", "m")
    quoted = {
        k: v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        for k, v in fields.items()
    }
    record = parse_record(" ".join(f'{k}="{v}"' for k, v in quoted.items()))
    assert record is not None
    assert record.fields == fields


# --- docker ---------------------------------------------------------------------------


def test_docker_events():
    """An event's command, labels and numbers are kept apart, whatever the command says."""
    text = (
        '{"Type":"container","Action":"exec_create: sh -c die: exitCode=0","Actor":{"ID":"' + ID + '","Attributes":'
        '{"exitCode":"137","signal":"x","name":"die"}},"timeNano":5}'
    )  # fmt: skip
    fact = parse_docker_event(text)
    assert (fact.action, fact.exit_code, fact.signal, fact.wall) == ("exec_create", 137, None, 5)
    for end in range(len(text)):
        assert parse_docker_event(text[:end]) is None


def test_stamps():
    """Docker's times are read to the nanosecond; its zero time is none."""
    assert parse_stamp("2026-11-23T13:22:50.123456789Z") == 1795440170123456789
    assert parse_stamp("2026-11-23T14:22:50.1+01:00") == 1795440170100000000
    assert parse_stamp("0001-01-01T00:00:00Z") is None
    assert parse_stamp("2026-13-40T00:00:00Z") is None


def test_states():
    """A State with members of wrong types loses those, not the rest."""
    state = parse_state(
        {
            "Status": "Exited",
            "ExitCode": "1",
            "Pid": True,
            "OOMKilled": 1,
            "Error": None,
            "Health": 3,
        }
    )
    assert (state.status, state.exit_code, state.oom_killed, state.error) == (
        "exited",
        None,
        None,
        "",
    )
    assert parse_state({"Running": True}) is None
    assert parse_state(None) is None


# --- exec answers ---------------------------------------------------------------------

ANSWERS = [
    (f"Container {ID} is not running", "not-running"),
    (f"container {ID} is not running", "not-running"),
    (f"Container {ID} is not running: Exited (137) Less than a second ago", "not-running"),
    (f"Container {ID} is not running: Removal In Progress", "removing"),
    ("No such container: web", "no-such-container"),
    (f"No such exec instance: {ID}", "no-such-exec"),
    ("Container web is paused, unpause the container before exec", "paused"),
    (f"Container {ID} is restarting, wait until the container is running", "restarting"),
    ("cannot exec in a stopped state: unknown", "dying"),
    ("cannot exec in a deleted state: unknown", "dying"),
    ("OCI runtime exec failed: exec failed: cannot exec in a stopped container: unknown", "dying"),
    ("OCI runtime exec failed: exec failed: unable to start container process: error writing config to pipe: write init-p: broken pipe: unknown", "dying"),
    ("OCI runtime exec failed: exec failed: unable to start container process: error executing setns process: exit status 1: unknown", "dying"),
    ("OCI runtime exec failed: exec failed: unable to start container process: read init-p: connection reset by peer: unknown", "dying"),
    ("OCI runtime exec failed: exec failed: unable to create new parent process: namespace path: lstat /proc/7/ns/ipc: no such file or directory: unknown", "dying"),
    ("ttrpc: closed: unknown", "dying"),
    ("container is not running", "shim-gone"),
    ("transport is closing: unavailable", "containerd-down"),
    ('connection error: desc = "transport: Error while dialing dial unix /x: connect: connection refused": unavailable', "containerd-down"),
    ("OCI runtime exec failed: exec failed: cannot exec in a paused container (use --ignore-paused to override): unknown", "frozen"),
    ("Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?", "dockerd-unreachable"),
    ("failed to open stdout fifo: error creating fifo /x: too many open files", "no-fds"),
    ('OCI runtime exec failed: exec failed: unable to start container process: exec: "/bin/nosuch": stat /bin/nosuch: no such file or directory: unknown', "command-missing"),
    ('OCI runtime exec failed: exec failed: unable to start container process: exec: "nosuch": executable file not found in $PATH: unknown', "command-missing"),
    ('OCI runtime exec failed: exec failed: unable to start container process: exec: "/etc/hosts": permission denied: unknown', "not-executable"),
    ('OCI runtime exec failed: exec failed: unable to start container process: chdir to cwd ("/nosuch") set in config.json failed: no such file or directory: unknown', "bad-cwd"),
    ("OCI runtime exec failed: exec failed: unable to start container process: current working directory is outside of container mount namespace root -- possible container breakout detected: unknown", "cwd-outside"),
    ("unable to find user nosuch: no matching entries in passwd file", "bad-user"),
    ("exec /bin/badelf: exec format error", "bad-format"),
    ("No exec command specified", "bad-request"),
    ("the input device is not a TTY", "bad-tty"),
    ('error mounting "/src" to rootfs at "/x": stat /src: no such file or directory', "source-missing"),
    ('invalid mount config for type "bind": bind source path does not exist: /src', "source-missing"),
    ("network 0123 not found", "network-missing"),
    ("error loading seccomp filter into kernel: error creating scratch pipe: pipe2: too many open files: unknown", "nofile"),
    ("mkdir /var/lib/docker/overlay2/x-init: no space left on device", "no-space"),
    ("failed to start shim: start failed: : fork/exec /usr/bin/containerd-shim-runc-v2: resource temporarily unavailable: unknown", "no-pids"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "what"), ANSWERS, ids=lambda x: str(x)[:30])
def test_answers_of_the_engine(text, what):
    """Each text of the engine and its runtime has one place, with the command line's prefix too."""
    assert parse_exec_error(text).what == what
    if what != "shim-gone":
        assert parse_exec_error("Error response from daemon: " + text).what == what


@pytest.mark.parametrize(
    "text", ["sh: can't open '/x'", "", "done", "exit status 1", "a: not found"]
)
def test_words_of_a_command_are_no_answer(text):
    """What a command may print is none of the engine's refusals."""
    assert parse_exec_error(text) is None
    assert not is_engine_text(text)


# --- files ----------------------------------------------------------------------------


def test_limits():
    """No limit is said in so many words; a file of another shape says nothing."""
    assert (parse_limit("max"), parse_limit("9223372036854771712"), parse_limit("4096\n")) == (
        None,
        None,
        4096,
    )
    assert (is_unlimited("max\n"), is_unlimited("9223372036854771712"), is_unlimited("12"), is_unlimited("x")) == (
        True, True, False, False,
    )  # fmt: skip
    assert parse_pressure("full avg10=0.36 avg60=0.00 avg300=0.00 total=12")["full"].avg10 == 0.36


def test_mounts():
    """Escapes, optional fields and hostile mount points are read as the kernel wrote them."""
    mount = parse_mount(
        r"41 30 0:40 / /a\040-\040b ro,nosuid shared:1 master:2 - tmpfs tmp\134fs rw,size=64k"
    )
    assert (mount.point, mount.source, mount.read_only, mount.size) == (
        "/a - b",
        "tmp\\fs",
        True,
        65536,
    )
    assert parse_mount("41 30 0:40 / /a ro") is None


def test_cgroup_paths():
    """A container's id is the last id-like step of a path, plain or as a systemd scope."""
    other = "cd" * 32
    assert container_of(f"/docker/{other}/docker/{ID}") == ID
    assert container_of(f"/system.slice/docker-{ID}.scope/init.scope") == ID
    assert container_of("/docker/" + "ab" * 31) is None
    assert (below("/a/b", "/"), below("/", "/"), below("/ab", "/a")) == (True, False, False)


def test_strace_lines():
    """Calls, signals and ends are told apart; unfinished calls are none."""
    assert (
        parse_strace('[pid  12] 1763900000.5 execve("/bin/x", ["x"], 0x7ff /* 3 vars */) = 0')
        is not None
    )
    call = parse_strace(
        '7 1763900000.25 openat(AT_FDCWD, "/x) = 5", O_RDONLY) = -1 ENOSPC (No space left on device)'
    )
    assert call == Call(
        7, 1763900000250000000, "openat", 'AT_FDCWD, "/x) = 5", O_RDONLY', -1, "ENOSPC"
    )
    assert parse_strace("7 wait4(-1,  <unfinished ...>") == Begun(7, None, "wait4", "-1")
    assert parse_strace("7 <... wait4 resumed>NULL, 0, NULL) = 9") == Call(
        7, None, "wait4", "NULL, 0, NULL", 9, None
    )
    assert parse_strace("+++ exited with 3 +++") == Ended(None, None, None, 3)
    line = "7 --- SIGTERM {si_signo=SIGTERM, si_code=SI_USER, si_pid=44, si_uid=0} ---"
    assert parse_strace(line) == Delivered(7, None, "SIGTERM", "SI_USER", 44)


def test_macos_lines():
    """Sleep and the end of a VM are known by who says it, not by the words alone."""
    line = '{{"timestamp":"2026-11-23 14:00:01.000001+0100","processImagePath":"/usr/{who}","processID":1,"eventMessage":"{said}"}}'
    assert parse_macos(line.format(who="powerd", said="Entering Sleep state")).what == "sleep"
    assert parse_macos(line.format(who="chatty", said="Entering Sleep state")).what == "other"
    assert parse_macos(line.format(who="limactl", said="the VM was stopped")).what == "vm-stopped"
    assert parse_macos('{"count":3,"finished":1}') is None


# --- all of them -----------------------------------------------------------------------

PARSERS = [
    parse_kernel, parse_trace, parse_daemon, parse_docker_event, parse_exec_error, parse_mount,
    parse_strace, parse_macos, parse_counters, parse_limit, parse_pressure, parse_stamp, container_of,
    is_engine_text, parse_record,
]  # fmt: skip
SEEDS = [
    *(text for text, _ in KERNEL), *(HEAD.format(comm="sh", pid=7) + text for text, _ in TRACES),
    *(text for text, _, _ in DAEMON), *(text for text, _ in ANSWERS),
    '{"timestamp":"2026-11-23 14:00:01.000001+0100","processImagePath":"/x","processID":1,"eventMessage":"y"}',
    "36 35 254:0 /src//deleted /x rw,noatime master:1 - ext4 /dev/root rw,errors=continue",
    "811 1763900000.123456 kill(7, SIGKILL) = 0",
]  # fmt: skip


@pytest.mark.parametrize("parser", PARSERS, ids=lambda p: p.__name__)
def test_no_text_is_an_exception(parser):
    """Arbitrary text, and damaged real text, is a fact or None: never an exception."""

    @settings(max_examples=40, deadline=None)
    @given(st.text() | _damaged())
    def check(text):
        parser(text)

    check()


@st.composite
def _damaged(draw):
    """A real line with something cut out and something put in."""
    seed = draw(st.sampled_from(SEEDS))
    begin = draw(st.integers(0, len(seed)))
    end = draw(st.integers(begin, len(seed)))
    return seed[:begin] + draw(st.text(max_size=12)) + seed[end:]


def test_no_parser_takes_long():
    """A long hostile line costs no more than its length: no expression backtracks over it."""
    import time

    for parser in PARSERS:
        for text in (
            "a" * 60000,
            " " * 60000,
            '"' * 60000,
            "oom-kill:constraint=CONSTRAINT_MEMCG," * 1500,
            "/" * 60000,
            "a=b " * 15000,
        ):
            begin = time.process_time()
            parser(text)
            assert time.process_time() - begin < 1.0, (parser.__name__, text[:20])


def test_daemon_fact_names_its_daemon():
    """Whose log a line stood in is no part of the line: the history adds it."""
    assert parse_daemon('level=info msg="Starting up"') == DaemonFact("starting", None, "")
