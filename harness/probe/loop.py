"""One epoll loop, timers, and one helper thread for calls that may block.

Rule: a callback that fails is said once as a problem of its source, and the loop goes
on; a callback that keeps failing is taken out. The loop knows when it did not run.
"""

from __future__ import annotations

import heapq
import itertools
import os
import queue
import select
import threading
import traceback
from typing import TYPE_CHECKING

from .linux import boot

if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from .out import Out

STALL = 1_000_000_000
"""Nanoseconds without a turn of the loop that count as not having watched."""

MAX_FAILURES = 20


class Loop:
    def __init__(self, out: Out) -> None:
        self.out = out
        self.poll = select.epoll()
        self.handlers: Dict[int, Tuple[Callable[..., Any], str]] = {}
        self.timers: List[Tuple[int, int, Callable[..., Any], str, int]] = []
        self.order = itertools.count()
        self.failures: Dict[str, int] = {}
        self.running = True
        self.slow = 1
        self.turned = boot()
        self.jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.add(self.wake_read, select.EPOLLIN, self._answered, "loop")
        self.helper: Optional[threading.Thread] = None
        self.writing = False
        out.want_write = self._want_write

    # --- file descriptors ---

    def add(self, fd: int, mask: int, callback: Callable[..., Any], source: str) -> None:
        """Call callback(mask) when fd is ready."""
        self.poll.register(fd, mask)
        self.handlers[fd] = (callback, source)

    def remove(self, fd: int) -> None:
        if self.handlers.pop(fd, None) is not None:
            try:
                self.poll.unregister(fd)
            except OSError:
                return

    def _want_write(self, on: bool) -> None:
        if on == self.writing:
            return
        self.writing = on
        if on:
            self.add(self.out.fd, select.EPOLLOUT, lambda mask: self.out.flush(), "link")
        else:
            self.remove(self.out.fd)

    # --- time ---

    def after(self, seconds: float, callback: Callable[..., Any], source: str) -> None:
        heapq.heappush(
            self.timers, (boot() + int(seconds * 1e9), next(self.order), callback, source, 0)
        )

    def every(self, seconds: float, callback: Callable[..., Any], source: str) -> None:
        """Regularly (`slow` times less often); a turn that comes late is not made up for.

        At whole multiples of the time: what is due as often, or half as often, is due
        together, and wakes us once.
        """
        step = int(seconds * 1e9)
        due = (boot() // step + 1) * step
        heapq.heappush(self.timers, (due, next(self.order), callback, source, step))

    # --- calls that may block ---

    def aside(self, job: Callable[[], Any], done: Callable[[Any], Any], source: str) -> None:
        """Run job() in the helper thread, then done(result) here; a failure is the source's."""
        if self.helper is None:
            threading.stack_size(512 << 10)  # locked memory counts whole stacks
            self.helper = threading.Thread(target=self._help, name="aside", daemon=True)
            self.helper.start()
        self.jobs.put((job, done, source))

    def _help(self) -> None:
        # As first in line as the loop: whoever holds the interpreter's lock and is put aside
        # puts the loop aside too.
        try:
            os.sched_setscheduler(0, os.sched_getscheduler(os.getpid()), os.sched_param(1))
        except OSError:
            pass  # the loop runs as everybody does, where a priority of 1 is refused
        while True:
            job, done, source = self.jobs.get()
            try:
                answer: Tuple[Any, ...] = (done, job(), source, None)
            except Exception:
                answer = (done, None, source, traceback.format_exc(limit=-2))
            self.answers.put(answer)
            try:
                os.write(self.wake_write, b"x")
            except BlockingIOError:
                pass  # the pipe is full of wake-ups already

    def _answered(self, mask: int) -> None:
        try:
            os.read(self.wake_read, 4096)
        except BlockingIOError:
            return
        while not self.answers.empty():
            done, result, source, problem = self.answers.get()
            if problem:
                self._failed(source, problem)
            else:
                self._call(done, (result,), source)

    # --- turning ---

    def _call(self, callback: Callable[..., Any], arguments: Tuple[Any, ...], source: str) -> bool:
        try:
            callback(*arguments)
            return True
        except Exception:
            self._failed(source, traceback.format_exc(limit=-3))
            return False

    def _failed(self, source: str, problem: str) -> None:
        count = self.failures[source] = self.failures.get(source, 0) + 1
        if count in (1, MAX_FAILURES):
            lines = problem.strip().splitlines()
            self.out.source(
                source, "partial", "failed %d times: %s" % (count, " | ".join(lines[-3:]))
            )

    def run(self) -> None:
        """Until `stop`. Every turn ends with what was said being sent."""
        self.turned = boot()
        while self.running and not self.out.broken:
            now = boot()
            wait = (self.timers[0][0] - now) / 1e9 if self.timers else 1.0
            try:
                ready = self.poll.poll(max(0.0, min(wait, 1.0)))
            except InterruptedError:
                ready = []
            now = boot()
            if now - self.turned > STALL + 1_000_000_000:
                # The poll itself waits a second at most.
                self.out.gap("probe", self.turned, now, "the probe did not run")
            self.turned = now
            for fd, mask in ready:
                handler = self.handlers.get(fd)
                if handler is None:
                    continue
                if not self._call(handler[0], (mask,), handler[1]):
                    if self.failures[handler[1]] >= MAX_FAILURES and fd in self.handlers:
                        self.remove(fd)
                        self.out.source(
                            handler[1], "unsupported", "given up after repeated failures"
                        )
            now = boot()
            while self.timers and self.timers[0][0] <= now and self.running:
                due, _, callback, source, step = heapq.heappop(self.timers)
                self._call(callback, (), source)
                if step:
                    due = (max(due, boot()) // step + self.slow) * step
                    heapq.heappush(self.timers, (due, next(self.order), callback, source, step))
            self.out.flush()

    def stop(self) -> None:
        self.running = False
