"""Something that is asked for at a wanted instant, and what came of it.

Rule: whatever can be done before is done before `go`; whoever waits always gets an answer,
at the deadline the latest; a late step is told to nobody.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness import clock
from harness.engine.answers import Failure, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = 64 * 1024
"""Of each output stream, bytes kept from its head and again from its tail."""
_PRECISE = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecAnswer:
    """An exec as far as it got. Instants are ns of `clock.now`, None: not reached.

    Attributes:
        edge: request | created | started | answer: the last step that was reached.
        requested: Just before the create request was written.
        created, started, ended: The engine's answers to create and start, the end of the
            output.
        exit_code: None when nobody could say.
        failure: Why it did not go on; its http and text are the engine's own.
        failed_at: create | start | run | inspect, where `failure` came from.
        out, err: The head and tail of its output. A refusal of the runtime arrives *in* the
            output with HTTP 200: it stands here, not in `failure`.
        timed_out: The deadline came first; the exec may still run.
    """

    edge: str = "request"
    exec_id: str | None = None
    requested: int | None = None
    created: int | None = None
    started: int | None = None
    ended: int | None = None
    exit_code: int | None = None
    failure: Failure | None = None
    failed_at: str | None = None
    out: bytes = b""
    err: bytes = b""
    timed_out: bool = False

    @property
    def seconds(self) -> float | None:
        if self.requested is None or self.ended is None:
            return None
        return (self.ended - self.requested) / clock.NS

    @property
    def http(self) -> int | None:
        return self.failure.http if self.failure else None

    @property
    def error(self) -> str | None:
        return self.failure.text if self.failure else None

    @property
    def output(self) -> str:
        """Both streams, decoded, standard error last."""
        return (self.out + self.err).decode(errors="backslashreplace")


class Kept:
    """The head and the tail of a stream of any length."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._dropped = 0

    def add(self, chunk: bytes) -> None:
        room = KEPT - len(self._head)
        self._head += chunk[:room]
        rest = chunk[room:] if room < len(chunk) else b""
        if rest:
            self._tail.append(rest)
            self._tail_size += len(rest)
        while self._tail and self._tail_size - len(self._tail[0]) >= KEPT:
            gone = self._tail.popleft()
            self._tail_size -= len(gone)
            self._dropped += len(gone)

    def bytes(self) -> bytes:
        middle = f"\n[… {self._dropped} bytes left out …]\n".encode() if self._dropped else b""
        return bytes(self._head) + middle + b"".join(self._tail)


class Aimed:
    """One exec, ready to go. `go` may be called from any thread, once.

    A way of asking says how it gets ready, how it asks, and what it leaves behind
    (`_get_ready`, `_run`, `_close`); all three run in the worker's thread.

    Args:
        tell: Called in the worker's thread after each step with the state so far; the last
            call has edge "answer". Not called any more after the deadline's answer.
        deadline: Seconds from `go` until the answer is `timed_out`.
    """

    def __init__(self, *, deadline: float, tell: Callable[[ExecAnswer], None] | None) -> None:
        self.deadline = deadline
        self._tell = tell
        self._state = ExecAnswer()
        self._out, self._err = Kept(), Kept()
        self._lock = threading.Lock()
        self._closed = False
        self._at: int | None = None
        self._warm, self._go = threading.Event(), threading.Event()
        self._done = threading.Event()
        self._cancelled = threading.Event()

    def _begin(self) -> None:
        """The last thing a way of asking does when it is made."""
        threading.Thread(target=self._work, name="exec", daemon=True).start()

    def _get_ready(self) -> None:
        """What takes time and can be done before; what fails here is found again by `_run`."""

    def _run(self) -> None:
        """Ask, and tell each step."""
        raise NotImplementedError

    def _close(self) -> None:
        """Let go of what was made ready."""

    def warm(self, *, deadline: float = 5.0) -> bool:
        """Wait until thread and connection are ready; False when the engine did not answer.

        `go` works all the same: an engine that is gone is then the exec's finding.
        """
        return self._warm.wait(deadline)

    def go(self, at: int | None = None) -> None:
        """Ask now, or at an instant of `clock.now` (the worker waits for it, precisely)."""
        self._at = at
        self._go.set()
        # The interpreter is handed to the thread that waits for this, now and not when we are done.
        clock.give_way()

    def cancel(self) -> None:
        """It is not needed: what has not been asked for never is; thread and connection go."""
        self._cancelled.set()
        self._go.set()
        if self._state.requested is None:
            self._done.set()

    def give_up(self) -> None:
        """Nobody waits any more: asked for and not answered yet, it is `timed_out` now.

        Not asked for yet, it never is, and there is no answer.
        """
        self.cancel()
        if self._state.requested is not None:
            self._late("nobody waits for it any more")
        self._done.set()

    def wait(self) -> ExecAnswer:
        """The answer; at the deadline (counted from `go`, or from `at`) what there is, `timed_out`."""
        begin = max(self._at or 0, clock.now())
        if not self._done.wait(self.deadline + (begin - clock.now()) / clock.NS):
            self._late(f"no answer within {self.deadline:g} s")
        return self._state

    def _late(self, why: str) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                late = Failure(Trouble.LATE, why)
                out, err = self._said()
                self._state = replace(
                    self._state,
                    edge="answer",
                    timed_out=True,
                    failure=late,
                    failed_at=self._stage(),
                    ended=clock.now(),
                    out=out,
                    err=err,
                )
                if self._tell:
                    self._tell(self._state)

    def _said(self) -> tuple[bytes, bytes]:
        """What is kept of both streams."""
        return self._out.bytes(), self._err.bytes()

    def _ask(self) -> None:
        """The request goes out now."""
        self._state = replace(self._state, requested=clock.now())

    def _stage(self) -> str:
        if self._state.created is None:
            return "create"
        return "start" if self._state.started is None else "run"

    def _step(self, **changes: Any) -> None:
        with self._lock:
            if self._closed:
                return
            self._state = replace(self._state, **changes)
            if changes.get("edge") == "answer":
                self._closed = True
            if self._tell:
                self._tell(self._state)
        if changes.get("edge") == "answer":
            self._done.set()

    def _work(self) -> None:
        clock.first_in_line()  # its instant is what an experiment measures
        self._get_ready()
        self._warm.set()
        self._go.wait()
        if self._at is not None:
            # The last milliseconds are waited precisely, whatever lies before can be called off.
            self._cancelled.wait((self._at - clock.now()) / clock.NS - _PRECISE)
            if not self._cancelled.is_set():
                clock.sleep_until(self._at)
        if self._cancelled.is_set():
            self._close()
            return
        try:
            self._run()
        finally:
            self._close()
