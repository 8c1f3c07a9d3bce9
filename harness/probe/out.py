"""The way out: JSON lines to one file descriptor, never blocking, never growing.

Rule: what cannot be sent is dropped by rank (samples first, deaths last) and counted;
a reader that was too slow for us is a gap once it reads again, and so is what came faster
than it is sent, when it might have borne on a death.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from .linux import boot

if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional

SOFT = 4 << 20
"""Bytes waiting from which on what repeats itself (samples, log lines) is dropped."""
HARD = 24 << 20
"""Bytes waiting from which on everything is dropped."""

_REPEATS = frozenset(["cgroup", "machine", "daemon-log", "kernel", "syscall", "proc", "docker"])


class Bucket:
    """At most `rate` a second over time, `burst` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self.level, self.at = float(burst), boot()

    def take(self) -> bool:
        now = boot()
        self.level = min(self.burst, self.level + (now - self.at) * self.rate / 1e9)
        self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


class Out:
    """Everything the probe says goes through `emit`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.waiting: List[bytes] = []
        self.size = 0
        self.counts: Dict[str, int] = {}
        self.dropped: Dict[str, int] = {}
        self.blind_since: Optional[int] = None
        self.blind_lost = 0
        self.broken = False
        self.shedding: Dict[str, List[int]] = {}
        self.want_write: Callable[[bool], None] = lambda on: None
        os.set_blocking(fd, False)

    def emit(
        self,
        kind: str,
        source: str,
        t: int,
        seen: Optional[int] = None,
        **fields: Any,
    ) -> None:
        """One event; t and seen in ns of boottime."""
        if self.size > HARD or (self.size > SOFT and kind in _REPEATS):
            self.drop(source)
            self.blind_lost += 1
            if self.blind_since is None:
                self.blind_since = boot()
            return
        body = {"kind": kind, "t": t, "seen": boot() if seen is None else seen, "source": source}
        body.update(fields)
        line = json.dumps(body, separators=(",", ":")).encode("ascii") + b"\n"
        self.waiting.append(line)
        self.size += len(line)
        self.counts[source] = self.counts.get(source, 0) + 1

    def drop(self, source: str, number: int = 1) -> None:
        """Count what was seen and deliberately not sent."""
        self.dropped[source] = self.dropped.get(source, 0) + number

    def shed(self, source: str, t: int) -> None:
        """Drop, of a flood, what might have mattered (of time t): a gap will say so."""
        self.drop(source)
        span = self.shedding.setdefault(source, [t, t, 0])
        span[0], span[1], span[2] = min(span[0], t), max(span[1], t), span[2] + 1

    def own_up(self, age: int = 0) -> None:
        """Tell the gaps of what was shed, those that began at least `age` ns ago."""
        now = boot()
        for source, (begin, end, lost) in list(self.shedding.items()):
            if now - begin >= age:
                del self.shedding[source]
                self.gap(source, begin, end, "a flood: more came than is sent", lost)

    def source(self, name: str, state: str, why: str = "") -> None:
        now = boot()
        self.emit("source", name, now, now, name=name, state=state, why=why)

    def gap(
        self,
        name: str,
        begin: int,
        end: Optional[int],
        why: str,
        lost: Optional[int] = None,
    ) -> None:
        now = boot()
        self.emit("gap", name, now, now, name=name, begin=begin, end=end, why=why, lost=lost)

    def flush(self) -> None:
        """Write what the pipe takes; the rest waits for the loop to say it is writable."""
        while self.waiting and not self.broken:
            chunk = b"".join(self.waiting[:256])
            try:
                sent = os.write(self.fd, chunk)
            except BlockingIOError:
                self.want_write(True)
                return
            except OSError:
                self.broken = True
                return
            del self.waiting[:256]
            self.size -= sent
            if sent < len(chunk):
                self.waiting.insert(0, chunk[sent:])
                self.want_write(True)
                return
        self.want_write(False)
        if self.blind_since is not None:
            begin, lost = self.blind_since, self.blind_lost
            self.blind_since, self.blind_lost = None, 0
            self.gap("link", begin, boot(), "the harness read too slowly", lost)
