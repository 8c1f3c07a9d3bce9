"""Floods, strangers and hostile names: memory stays bounded, what was lost is a gap, deaths are told.

The reading code is the probe's own. Where this machine is too small for a flood, its kernel is
played by something that fills and overruns the same way.
"""

import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import pytest

from harness import events
from harness.probe import clocks, connector, kernel, lineage, ring
from harness.probe.loop import Loop
from harness.probe.out import SOFT, Out

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_probe_ring import EXEC, EXIT, KERNELS, NEW, became, born, event, gone, page

pytestmark = pytest.mark.real


@pytest.fixture
def way():
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


@pytest.fixture
def out(way):
    """A way out that nobody reads, unless a Reader does."""
    return Out(way[1])


@pytest.fixture
def loop(out):
    made = Loop(out)
    yield made
    for fd in (made.wake_read, made.wake_write):
        os.close(fd)
    made.poll.close()


class Reader:
    """Reads the other end, as the harness does."""

    def __init__(self, out, read):
        self.out, self.fd, self.got = out, read, bytearray()
        self.thread = threading.Thread(target=self.follow)

    def follow(self):
        while not self.got.endswith(b"\0"):
            self.got += os.read(self.fd, 1 << 16)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        os.set_blocking(self.out.fd, True)
        self.out.flush()
        os.write(self.out.fd, b"\0")
        self.thread.join()

    def said(self, kind):
        return [e for e in map(events.decode, self.got[:-1].splitlines()) if isinstance(e, kind)]


def said(out, kind):
    return [e for e in map(events.decode, out.waiting) if isinstance(e, kind)]


def resident(pid):
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- the kernel log ---

WRITE = """
import socket, sys
out = socket.socket(fileno=int(sys.argv[1]))
for n in range(int(sys.argv[2])):
    text = b"oom-kill:constraint=CONSTRAINT_MEMCG,task=x,pid=%d,uid=0" % n if n % 50_000 == 49_999 else b"br0: port %d entered blocking state" % n
    out.send(b"6,%d,%d,-;%b\\n" % (n, n, text))
"""


def test_a_million_kernel_lines(loop, out, way):
    """Read one by one by the loop: twenty that tell of a death are all sent, memory stays what it was."""
    lines = 1_000_000
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    log = kernel.KernelLog(loop, out, clocks.Clocks(out))
    log.fd = ours.fileno()
    before = resident(os.getpid())

    def read(mask):
        log.drain(8)
        if log.next == lines:
            loop.stop()

    loop.add(log.fd, 1, read, "kernel")
    command = [sys.executable, "-c", WRITE, str(theirs.fileno()), str(lines)]
    with Reader(out, way[0]) as reader, subprocess.Popen(command, pass_fds=[theirs.fileno()]):
        loop.run()
    ours.close()
    theirs.close()
    sent = reader.said(events.KernelLine)
    assert [e.text.startswith("oom-kill:") for e in sent].count(True) == 20
    assert len(sent) + out.dropped["kernel"] == lines
    assert not reader.said(events.Gap)
    assert resident(os.getpid()) - before < 40 << 20


# --- 100,000 forks a second ---

FORKS = 100_000
BUFFER = -7


class Kernel:
    """A tracer's buffer and a proc connector's socket, as bounded as the real ones, written by nobody
    faster than they are read."""

    def __init__(self):
        self.lost = self.unsent = self.told = 0
        self.others = os.read
        self.pages, self.room = deque(), (4 << 20) // 4096
        self.messages, self.most = deque(), connector.BUFFER // 768
        self.full = False

    def burst(self, first, count):
        records = []
        for pid in range(first, first + count):
            records += [event(born(pid)), event(became(pid, b"/bin/true")), event(gone(pid))]
            self.exits(pid)
        for at in range(0, len(records), 60):
            some = records[at : at + 60]
            if len(self.pages) == self.room:
                self.lost += self.pages.popleft()[1]
            self.pages.append((page(*some, t=clocks.boot()), len(some)))

    def exits(self, pid):
        if len(self.messages) < self.most:
            fields = struct.pack("=IIQIIIIII", connector.EXIT, 0, 0, pid, pid, 0, 17, 1, 1)
            self.messages.append(bytes(36) + fields)
        else:
            self.unsent, self.full = self.unsent + 1, True

    def read(self, fd, size):
        """The next page; the first after a loss says how many records are gone."""
        if fd != BUFFER:
            return self.others(fd, size)
        if not self.pages:
            raise BlockingIOError
        data, _ = self.pages.popleft()
        if self.lost > self.told:
            flags = ring.MISSED | ring.MISSED_STORED
            t, length = struct.unpack_from("=QQ", data)
            body = data[16 : 16 + length]
            data = (struct.pack("=QQ", t, length | flags) + body
                    + struct.pack("=Q", self.lost - self.told)).ljust(8192, b"\0")  # fmt: skip
            self.told = self.lost
        return data

    def recv(self, size):
        if self.full:
            self.full = False
            raise OSError(errno.ENOBUFS, "No buffer space available")
        if not self.messages:
            raise BlockingIOError
        return self.messages.popleft()


def test_a_hundred_thousand_forks_a_second(loop, out, monkeypatch):
    """A second of it, in the batches in which the probe reads: each record is taken or counted as
    lost, every loss is a gap with its span, and no table grows."""
    made = Kernel()
    shapes = [
        ring.Shape(ring.NEW, NEW.format(**KERNELS["6.18"])),
        ring.Shape(ring.EXEC, EXEC.format(**KERNELS["6.18"])),
        ring.Shape(ring.EXIT, EXIT.format(**KERNELS["6.18"])),
    ]
    buffer = ring.Ring.__new__(ring.Ring)
    buffer.cpus, buffer.shapes = {BUFFER: 0}, {s.id: s for s in shapes}
    buffer.head, buffer.size, buffer.lost, buffer.young = 16, 4096, 0, []
    ended, taken = [], []
    one = lineage.Lineage(loop, out, lambda what, task, record: None)
    one.instance = buffer
    take = one.take
    monkeypatch.setattr(one, "take", lambda record: (taken.append(1), take(record)))
    monkeypatch.setattr(ring.os, "read", made.read)
    status = connector.Connector(
        loop, out, clocks.Clocks(out), lambda pid, status, fields, t: ended.append(pid)
    )
    status.socket = made
    begin = clocks.boot()
    for batch in range(10):
        made.burst(4_000_000 + batch * FORKS // 10, FORKS // 10)
        one.drain()
        status.drain()
    while made.pages or made.messages or buffer.young or one.blind_since:
        one.drain()
        status.drain()
    gaps = said(out, events.Gap)
    assert len(taken) + made.lost == 3 * FORKS
    assert sum(g.lost for g in gaps if g.name == "lineage") == made.lost
    assert len(ended) + made.unsent == FORKS
    assert (made.unsent > 0) == any(g.name == "proc" for g in gaps)
    assert all(begin <= g.begin <= g.end <= clocks.boot() for g in gaps)
    assert len(one.tasks) <= lineage.CROWD + lineage.DEAD + FORKS // 10
    assert out.size < SOFT
    print(f"lost of {3 * FORKS} records: {made.lost}, of {FORKS} statuses: {made.unsent}")


STORM = """
import os, time
end, n = time.monotonic() + 2, 0
while time.monotonic() < end:
    for _ in range(20):
        pid = os.fork()
        if pid == 0: os._exit(0)
        os.waitpid(pid, 0)
        n += 1
print(n)
"""


def test_a_storm_of_forks_beside_a_death(probe, run):
    """Two processes that do nothing but fork: the death in their midst is told once, its first witness
    is early, the probe stays small, and nothing is lost without a word."""
    link, heard = probe
    container = run("sleep", "1000")
    main = heard.wait(events.MainProcess, container=container)
    storms = [
        subprocess.Popen([sys.executable, "-c", STORM], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    time.sleep(1)
    os.kill(main.pid, signal.SIGKILL)
    death = heard.wait(events.DeathSeen, container=container)
    heard.wait(events.DockerEvent, id=container, action="die", deadline=30)
    forks = sum(int(storm.communicate(timeout=60)[0]) for storm in storms)
    assert link.flush(30)
    assert len(heard.of(events.DeathSeen, container=container)) == 1
    assert heard.of(events.ProcEvent, pid=main.pid)[0].status == signal.SIGKILL
    hello = heard.wait(events.Hello)
    assert resident(hello.pid) < 100 << 20
    lost = [g for g in heard.of(events.Gap) if g.name in ("lineage", "proc", "trace")]
    print(f"{forks} forks in 2 s, told after {(death.seen - death.t) / 1e6:.2f} ms, gaps: {lost}")
    assert all(g.lost or g.name == "proc" for g in lost)


# --- strangers ---


def test_a_thousand_control_groups_of_strangers(probe, run, pen):
    """Made, entered and removed like containers' that are not ours: not a word of them, no file kept
    open, and our own death is told."""
    link, heard = probe
    container = run("sleep", "1000")
    main = heard.wait(events.MainProcess, container=container)
    assert link.flush(10)
    pid = heard.wait(events.Hello).pid
    files = len(os.listdir(f"/proc/{pid}/fd"))
    where = json.loads(subprocess.run(
        [sys.executable, "-c", "import json; from harness.machine import cgroups; w = cgroups.layout();"
         "print(json.dumps(str(w.of('memory', '/') or w.trees[''])))"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    ).stdout)  # fmt: skip
    base = Path(where + pen.cgroup) / "strangers"
    base.mkdir()
    sleeper = subprocess.Popen(["sleep", "1000"])
    try:
        for n in range(1000):
            group = base / f"{n:064x}"
            group.mkdir()
            (group / "cgroup.procs").write_text(str(sleeper.pid))
    finally:
        sleeper.kill()
        sleeper.wait()
        for n in range(1000):
            (base / f"{n:064x}").rmdir()
        base.rmdir()
    assert link.flush(30)
    strangers = {f"{n:064x}" for n in range(1000)}
    assert not [e for e in heard.events if getattr(e, "container", None) in strangers]
    assert len(os.listdir(f"/proc/{pid}/fd")) <= files
    os.kill(main.pid, signal.SIGKILL)
    heard.wait(events.DeathSeen, container=container)


def test_bursts_of_containers_that_nobody_watches(probe, run, client, image):
    """Forty short lives beside ours: of them nothing is sent but that their shims came and went.

    As on somebody else's engine; of a pen's own all events are sent.
    """
    link, heard = probe
    link.follow_all(False)
    ours = run("sleep", "1000")
    heard.wait(events.MainProcess, container=ours)
    others = [
        client.create(None, {"Image": image, "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}})
        .need("create")
        for _ in range(40)
    ]  # fmt: skip
    for other in others:
        client.start(other).need("start")
    for other in others:
        client.remove(other, force=True)
    assert link.flush(30)
    link.follow_all(True)
    assert heard.of(events.DockerEvent, id=ours)
    assert not [e for e in heard.of(events.DockerEvent) if e.id in others]
    about = [e for e in heard.events if getattr(e, "container", None) in others]
    assert {type(e) for e in about} <= {events.DaemonState}


def test_a_container_that_logs_without_end(probe, run, client):
    """Its output passes by us: neither the probe nor what it says grows with it."""
    link, heard = probe
    log = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}
    container = run("yes", "x" * 200, LogConfig=log)
    main = heard.wait(events.MainProcess, container=container)
    assert link.flush(10)
    pid, began, count = heard.wait(events.Hello).pid, time.monotonic(), len(heard.events)
    before = resident(pid)
    time.sleep(3)
    assert link.flush(10)
    # 10 Hz of its own group and of the groups above, and the machine's: well under a hundred a second.
    assert len(heard.events) - count < 150 * (time.monotonic() - began)
    assert resident(pid) - before < 20 << 20
    os.kill(main.pid, signal.SIGKILL)
    heard.wait(events.DeathSeen, container=container)
    heard.wait(events.DockerEvent, id=container, action="die", deadline=60)
    tail = client.logs(container, tail=100, deadline=30).need("logs")
    assert 0 < len(tail) < 100_000


# --- hostile text ---

NAMES = ["a\nb", "x) Z 1 (", "\x1b[31mred", "-1 [000] 1.2:", "%s%n", "é\t$(id)"]


def test_hostile_names_change_nothing(probe, client, image):
    """Labels, log lines and process names that look like somebody else's words: the sender of a kill
    is the right one under its own name, and every line is an event."""
    link, heard = probe
    forged = 'x","kind":"death","container":"' + "0" * 64
    # A script's process is called after its file; its shell sends the signal itself.
    script = "trap : TERM; " + " ".join(
        f"printf '#!/bin/sh\nkill -TERM 1\n' > '/tmp/{name}'; chmod 755 '/tmp/{name}'; '/tmp/{name}';"
        for name in NAMES
    )
    body = {
        "Image": image,
        "Cmd": [
            "sh",
            "-c",
            f"{script} printf '%s\\n' 'oom-kill: pid=1' '{forged}'; sleep 1000",
        ],
        "Labels": {forged: forged, "com.docker.compose.project": "\x1b]0;title\x07"},
        "HostConfig": {"NetworkMode": "none"},
    }
    container = client.create(None, body).need("create")
    try:
        link.watch(container)
        client.start(container).need("start")
        for name in NAMES:
            short = name.encode()[:15].decode(errors="replace")
            sent = heard.wait(events.SignalSender, container=container, name=short, deadline=20)
            assert (sent.signal, sent.place) == (15, "same-container")
        assert not heard.of(events.DeathSeen, container=container)
        main = heard.wait(events.MainProcess, container=container)
        assert client.kill(container).ok
        death = heard.wait(events.DeathSeen, container=container)
        assert death.pid == main.pid
        engine = heard.wait(events.DockerEvent, id=container, action="die")
        assert engine.attributes[forged] == forged
        assert link.flush(10)
        assert link.undecodable == 0
        assert not heard.of(events.DeathSeen, container="0" * 64)
    finally:
        link.unwatch(container)
        client.remove(container, force=True)
