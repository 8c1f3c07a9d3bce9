"""What dockerd and containerd write: files, or journald.

Rule: lines go out raw, cut at 4000 characters; only the time in them is read, to place
them. A file that shrank or was replaced is read from its beginning, and that is a gap.
"""

from __future__ import annotations

import calendar
import json
import os
import re
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from .linux import boot
from .out import Bucket

if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

    from .clocks import Clocks
    from .loop import Loop
    from .out import Out

MOST = 4000
_STAMP = re.compile(r'time="?(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)"?')


def wall_of(text: str) -> Optional[int]:
    """Nanoseconds since 1970 of a logfmt line's time, or None."""
    match = _STAMP.search(text[:200])
    if match is None:
        return None
    try:
        seconds = calendar.timegm(time.strptime(match.group(1), "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None
    zone = match.group(3)
    if zone != "Z":
        minutes = int(zone[1:3]) * 60 + int(zone[4:6])
        seconds -= (minutes if zone[0] == "+" else -minutes) * 60
    return seconds * 1_000_000_000 + int((match.group(2) or "0").ljust(9, "0"))


class LogFile:
    """One file, followed."""

    def __init__(self, logs: Logs, daemon: str, path: str) -> None:
        self.logs, self.daemon, self.path = logs, daemon, path
        self.fd: Optional[int] = None
        self.rest = b""
        self.place: Optional[Tuple[int, int]] = None
        self.open(at_end=True)

    def open(self, at_end: bool) -> None:
        try:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        found = os.fstat(self.fd)
        self.place = (found.st_dev, found.st_ino)
        if at_end:
            os.lseek(self.fd, 0, os.SEEK_END)

    def read(self) -> None:
        if self.fd is None:
            self.open(at_end=False)
            if self.fd is None:
                return
        for _ in range(16):
            data = os.read(self.fd, 65536)
            if not data:
                break
            *lines, self.rest = (self.rest + data).split(b"\n")
            self.rest = self.rest[-65536:]
            for line in lines:
                self.logs.say(self.daemon, line.decode("utf-8", "replace"))

    def check(self) -> None:
        """Every second: is it still the file of this name, and no shorter than we read?"""
        if self.fd is None:
            return
        try:
            now = os.stat(self.path)
        except OSError:
            return  # being rotated
        cut = now.st_size < os.lseek(self.fd, 0, os.SEEK_CUR)
        if (now.st_dev, now.st_ino) != self.place or cut:
            self.read()
            if self.rest:
                self.logs.say(self.daemon, self.rest.decode("utf-8", "replace"))
                self.rest = b""
            os.close(self.fd)
            self.open(at_end=False)
            t = boot()
            self.logs.out.gap("daemon-log", t - 1_000_000_000, t, "%s was rotated" % self.path)

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class Logs:
    def __init__(self, loop: Loop, out: Out, clocks: Clocks) -> None:
        self.loop, self.out, self.clocks = loop, out, clocks
        self.files: List[LogFile] = []
        self.child: Any = None
        self.buffer = b""
        self.buckets: Dict[str, Bucket] = {}

    def start(self, files: Dict[str, str], journal: bool) -> None:
        for daemon, path in sorted(files.items()):
            self.files.append(LogFile(self, daemon, path))
        if self.files:
            self.loop.every(1.0, self.check, "daemon-log")
        if journal:
            self.follow()
        if not files and not journal:
            self.out.source("daemon-log", "unsupported", "no log files were named and no journal")
        elif self.files or self.child:
            self.out.source("daemon-log", "active")

    def read(self) -> None:
        for file in self.files:
            file.read()

    def check(self) -> None:
        for file in self.files:
            file.check()

    def follow(self) -> None:
        """journalctl as a child: its format is stable, its files' is not."""
        try:
            self.child = subprocess.Popen(
                ["journalctl", "-f", "-n", "0", "-o", "json", "-u", "docker", "-u", "containerd"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            self.out.source("daemon-log", "unsupported", "journalctl: %s" % error.strerror)
            return
        fd = self.child.stdout.fileno()
        os.set_blocking(fd, False)
        self.loop.add(fd, select.EPOLLIN, self.journal, "daemon-log")

    def journal(self, mask: int) -> None:
        try:
            data = os.read(self.child.stdout.fileno(), 65536)
        except BlockingIOError:
            return
        if not data:
            self.loop.remove(self.child.stdout.fileno())
            self.child.stdout.close()
            self.child.wait()
            self.child = None
            now = boot()
            self.out.gap("daemon-log", now, None, "journalctl ended")
            self.loop.after(1.0, self.follow, "daemon-log")
            return
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        self.buffer = self.buffer[-(1 << 20) :]
        for line in lines:
            self.record(line)

    def record(self, line: bytes) -> None:
        try:
            said = json.loads(line)
            text = said.get("MESSAGE")
            if isinstance(text, list):  # bytes that are no UTF-8
                text = bytes(text).decode("utf-8", "replace")
            wall = int(said["__REALTIME_TIMESTAMP"]) * 1000
            daemon = str(said.get("_COMM") or said.get("SYSLOG_IDENTIFIER") or "journal")
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        if text is not None:
            self.say(daemon, str(text), wall)

    def say(self, daemon: str, text: str, wall: Optional[int] = None) -> None:
        bucket = self.buckets.get(daemon)
        if bucket is None:
            bucket = self.buckets[daemon] = Bucket(200, 2000)
        seen = boot()
        if not bucket.take():
            self.out.shed("daemon-log", seen)
            return
        wall = wall_of(text) or wall
        t = seen if wall is None else self.clocks.wall_to_boot(wall)
        self.out.emit("daemon-log", "daemon-log", t, seen, daemon=daemon, text=text[:MOST])

    def stop(self) -> None:
        for file in self.files:
            file.close()
        if self.child is not None:
            self.loop.remove(self.child.stdout.fileno())
            self.child.send_signal(signal.SIGTERM)
            self.child.stdout.close()
            self.child.wait()
            self.child = None
