"""The engine's event stream over its unix socket, by hand.

Rule: events carry the engine's own time; a break is a gap from the last byte to the
reconnect, and the new stream is asked `since` the last event (the engine keeps 256 in
memory, and none across a restart: that is why a break stays a gap even when events come
after it).
"""

from __future__ import annotations

import json
import select
import socket
import time
from typing import TYPE_CHECKING

from .linux import boot
from .out import Bucket

if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Optional

    from .clocks import Clocks
    from .loop import Loop
    from .out import Out

RETRY_FIRST, RETRY_MOST = 0.05, 1.0
REMEMBER = 512
# Lifecycle and daemon records are always wanted; the rest only where it is about ours.
MOST = 1 << 20
"""Bytes of one unfinished record after which the stream is given up."""


class Events:
    def __init__(
        self,
        loop: Loop,
        out: Out,
        clocks: Clocks,
        path: Optional[str],
        wanted: Callable[[Dict[str, Any], Optional[str]], bool],
    ) -> None:
        """wanted(event dict, container id or None) -> bool."""
        self.loop, self.out, self.clocks, self.path, self.wanted = loop, out, clocks, path, wanted
        self.socket: Optional[socket.socket] = None
        self.buffer = b""
        self.body = b""
        self.headers: Optional[bytes] = None
        self.since = 0
        self.blind_since: Optional[int] = None
        self.connected = False
        self.told = False
        self.retry = RETRY_FIRST
        self.recent: Dict[Any, None] = {}
        self.flood = Bucket(500, 5000)
        self.last_byte = boot()
        self.chunk_left: Optional[int] = None

    def start(self) -> None:
        if not self.path:
            self.out.source("docker", "unsupported", "no engine socket was named")
            return
        self.since = time.time_ns()
        self.blind_since = boot()
        self.out.source("docker", "partial", "connecting")
        self.connect()

    def connect(self) -> None:
        if self.socket is not None:
            return
        # A nanosecond's worth of repetition is taken out by `recent`.
        since = "%d.%09d" % divmod(self.since, 1_000_000_000)
        request = (
            "GET /events?since=%s HTTP/1.1\r\nHost: docker\r\nAccept: application/json\r\n\r\n"
        )
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            link.connect(str(self.path))
            # Fits any socket's buffer; an engine that is just leaving answers EPIPE.
            link.sendall((request % since).encode())
        except OSError as error:
            link.close()
            self._unreachable(error.strerror or str(error))
            self._later()
            return
        self.socket, self.buffer, self.body, self.headers = link, b"", b"", None
        self.chunk_left = None
        self.loop.add(link.fileno(), select.EPOLLIN, self.ready, "docker")

    def _later(self) -> None:
        self.loop.after(self.retry, self.connect, "docker")
        self.retry = min(RETRY_MOST, self.retry * 2)

    def _unreachable(self, why: str) -> None:
        if not self.told:
            self.told = True
            self.out.source("docker", "partial", "no stream: %s" % why)
            self.out.gap("docker", self.blind_since or boot(), None, "no stream: %s" % why)

    def _broken(self, why: str) -> None:
        self._hang_up()
        if self.blind_since is None:
            self.blind_since = self.last_byte
        self.connected = False
        self._unreachable(why)
        self._later()

    def drain(self) -> None:
        """For a barrier: what the engine has already written."""
        if self.socket is not None:
            self.ready(select.EPOLLIN)

    def ready(self, mask: int) -> None:
        while self.socket is not None:
            try:
                data = self.socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                self._broken(error.strerror or "reset")
                return
            if not data:
                self._broken("the engine closed the stream")
                return
            self.last_byte = boot()
            self.buffer += data
            problem = self.parse()
            if problem is None and max(len(self.buffer), len(self.body)) > MOST:
                problem = "a record without end"
            if problem:
                self._broken(problem)
                return

    def parse(self) -> Optional[str]:
        """HTTP head, chunks, lines; returns what is wrong or None."""
        if self.headers is None:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return None
            status = head.split(b"\r\n", 1)[0].split()
            if len(status) < 2 or status[1] != b"200":
                return "the engine answered %r" % head[:80].decode("utf-8", "replace")
            self.headers = head.lower()
            self.buffer = rest
            self._connected()
        if b"transfer-encoding: chunked" not in self.headers:
            self.body, self.buffer = self.body + self.buffer, b""
        else:
            while self.buffer:
                if self.chunk_left is None:
                    size, found, rest = self.buffer.partition(b"\r\n")
                    if not found:
                        break
                    try:
                        self.chunk_left = int(size.split(b";")[0], 16)
                    except ValueError:
                        return "broken chunk"
                    self.buffer = rest
                    if self.chunk_left == 0:
                        return "the engine ended the stream"
                if len(self.buffer) < self.chunk_left + 2:
                    break
                self.body += self.buffer[: self.chunk_left]
                self.buffer = self.buffer[self.chunk_left + 2 :]
                self.chunk_left = None
        *lines, self.body = self.body.split(b"\n")
        for line in lines:
            if line.strip():
                self.record(line)
        return None

    def _connected(self) -> None:
        now = boot()
        self.connected, self.retry = True, RETRY_FIRST
        if self.blind_since is not None and self.told:
            self.out.gap("docker", self.blind_since, now, "reconnected")
        self.blind_since, self.told = None, False
        self.out.source("docker", "active")

    def record(self, line: bytes) -> None:
        seen = boot()
        try:
            said = json.loads(line)
            wall = int(said["timeNano"])
            actor = said.get("Actor") or {}
            attributes = {str(k): str(v)[:2000] for k, v in (actor.get("Attributes") or {}).items()}
            kind, action = str(said.get("Type", "")), str(said.get("Action", ""))
            name = str(actor.get("ID", ""))
            if not kind or not action:
                raise ValueError("no event")
        except (ValueError, KeyError, TypeError, AttributeError):
            self.out.drop("docker")
            return
        key = (wall, kind, action, name)
        if key in self.recent:
            return  # `since` repeats
        self.recent[key] = None
        if len(self.recent) > REMEMBER:
            self.recent.pop(next(iter(self.recent)))
        self.since = max(self.since, wall)
        container = name if kind == "container" else attributes.get("container")
        if not self.wanted(said, container):
            return
        if not self.flood.take():
            self.out.shed("docker", self.clocks.wall_to_boot(wall))
            return
        self.out.emit(
            "docker",
            "docker",
            self.clocks.wall_to_boot(wall),
            seen,
            type=kind,
            action=action[:2000],
            id=name,
            wall=wall,
            attributes=attributes,
        )

    def _hang_up(self) -> None:
        if self.socket is not None:
            self.loop.remove(self.socket.fileno())
            self.socket.close()
            self.socket = None

    def stop(self) -> None:
        self._hang_up()
