"""Instances of the kernel's tracer: found, made, read, removed.

Rule: an instance's name carries the pid of its probe, so that whoever comes later can
tell a dead probe's instance from a living one's. The host's own tracer (the top
instance) is never touched, and a tracefs that was mounted nowhere is mounted where only
we see it.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

from . import linux
from .linux import boot

if TYPE_CHECKING:
    from typing import Iterator, List, Match, Optional

PLACES = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")

# "   comm-pid   (  tgid) [cpu] flags  secs.usecs: event: fields"; the name is whatever its
# owner chose, blanks, dashes and line feeds included. System calls print as themselves:
# "sys_kill(pid: 1, sig: 9)", "sys_clone -> 0x1f".
LINE = re.compile(
    r"^ *(?P<comm>.{0,16}?)-(?P<tid>\d+) +(?P<column>\( *(?P<tgid>[\d-]+)\) +)?\[\d+\] \S+ +"
    r"(?P<sec>\d+)\.(?P<usec>\d{6}): (?P<event>\w+)(?:: |(?=\(| -> ))(?P<rest>.*)$",
    re.S,
)
# How the fields of a line end whose name field may hold anything.
TAILS = {
    "signal_generate": re.compile(r" res=\d+$"),
    "sched_process_exit": re.compile(r" prio=-?\d+(?: group_dead=\w+)?$"),
    "sched_process_fork": re.compile(r" child_pid=\d+$"),
    "sched_process_exec": re.compile(r" old_pid=\d+$"),
    "task_newtask": re.compile(r" oom_score_adj=-?\d+$"),
    "cgroup_attach_task": re.compile(r" comm=", re.S),
}
LOST = re.compile(r"^CPU:(\d+) \[LOST (\d+) EVENTS\]")


def find() -> str:
    """Path of a tracefs; mounts one (in our own mount namespace) where there is none.

    Raises:
        OSError: this kernel has none, or we may not.
    """
    for place in PLACES:
        if os.path.isdir(place + "/instances"):
            return place
    linux.mount("tracefs", PLACES[0], "tracefs")
    return PLACES[0]


def stale(root: str, prefix: str) -> List[str]:
    """Names of instances beginning with prefix whose probe is gone."""
    found = []
    for name in os.listdir(root + "/instances"):
        match = re.match(re.escape(prefix) + r".*-(\d+)-\w+$", name)
        if match and (linux.stat(int(match.group(1))) or {}).get("name") != "deathbench-prob":
            found.append(name)
    return found


def remove_stale(root: str, prefix: str) -> List[str]:
    """Remove them; the names of those that went."""
    gone = []
    for name in stale(root, prefix):
        try:
            os.rmdir(root + "/instances/" + name)
            gone.append(name)
        except OSError:
            continue  # somebody reads it: not ours to take
    return gone


class Line:
    """One parsed line; text is the raw one without the tgid column."""

    __slots__ = ("comm", "event", "rest", "t", "text", "tgid", "tid")

    def __init__(self, match: Match[str], text: str) -> None:
        self.comm = match.group("comm")
        self.tid = int(match.group("tid"))
        tgid = match.group("tgid")
        self.tgid = int(tgid) if tgid and tgid.isdigit() else None
        self.t = int(match.group("sec")) * 1_000_000_000 + int(match.group("usec")) * 1000
        self.event = match.group("event")
        self.rest = match.group("rest")
        column = match.group("column")
        self.text = text.replace(column, "", 1) if column else text


class Instance:
    """One tracing instance with its own ring buffer, clock boottime; read as lines, or not."""

    def __init__(
        self, root: str, name: str, kib: int, clock: str = "boot", lines: bool = True
    ) -> None:
        self.path = "%s/instances/%s" % (root, name)
        os.mkdir(self.path)
        self.pipe = -1
        self.rest = ""
        self.held: Optional[str] = None
        self.lost = 0
        try:
            self.write("trace_clock", clock)
            self.write("buffer_size_kb", str(kib))
            for file, text in (
                ("buffer_percent", "0"),
                ("options/record-tgid", "1"),
                ("options/overwrite", "1"),
            ):
                try:
                    self.write(file, text)
                except OSError:
                    continue  # older kernels lack it and behave so anyway
            if lines:
                self.pipe = os.open(
                    self.path + "/trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
                )
        except OSError:
            self.remove()
            raise

    def write(self, file: str, text: str, *, more: bool = False) -> None:
        """Replace what stands there, or add to it."""
        how = os.O_APPEND if more else os.O_TRUNC
        fd = os.open(self.path + "/" + file, os.O_WRONLY | how | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def enable(self, event: str, filtered: Optional[str] = None) -> bool:
        """True when the event exists and is on."""
        try:
            if filtered is not None:
                self.write("events/%s/filter" % event, filtered)
            self.write("events/%s/enable" % event, "1")
            return True
        except OSError:
            return False

    def read(self, budget: int) -> Iterator[Line]:
        """Lines there are now, as many as `budget` ns allow. Never blocks."""
        end = boot() + budget
        while boot() < end:
            try:
                data = os.read(self.pipe, 65536)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EINTR:
                    continue
                raise
            if not data:
                break
            text = self.rest + data.decode("utf-8", "replace")
            pieces = text.split("\n")
            self.rest = pieces.pop()
            for piece in pieces:
                line = self._line(piece)
                if line is not None:
                    yield line

    def _line(self, piece: str) -> Optional[Line]:
        """A whole line once there is one: a line feed in a process's name cuts it in pieces."""
        lost = LOST.match(piece)
        if lost:
            self.lost += int(lost.group(2))
            return None
        text = piece if self.held is None else self.held + "\n" + piece
        match = LINE.match(text)
        if match is None and self.held is not None:
            text, match = piece, LINE.match(piece)  # what was held belongs to nothing
        if match is not None:
            tail = TAILS.get(match.group("event"))
            if tail is None or tail.search(match.group("rest")):
                self.held = None
                return Line(match, text)
        whole = text.strip() and text.count("\n") < 20
        self.held = text if whole else None
        return None

    def overruns(self) -> int:
        """Events lost since the last call: seen in the pipe, not yet told."""
        lost, self.lost = self.lost, 0
        return lost

    def remove(self) -> None:
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1
        try:
            os.rmdir(self.path)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
