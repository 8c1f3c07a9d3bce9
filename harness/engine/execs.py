"""An exec that is asked for at a wanted instant.

Rule: everything that takes time (thread, connection, version) is done before; what
remains after `go` is one wake-up and one request. Each step is told as it happens,
with its instant, because in a dying container the step that failed is the finding.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness import clock
from harness.engine.answers import Failure, Trouble, failure_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from harness.engine.client import Engine

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


class _Kept:
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


class Frames:
    """Takes apart the engine's two streams in one: 8 bytes of head (stream, length), then data.

    >>> f = Frames()
    >>> f.feed(b"\\x01\\0\\0\\0\\0\\0\\0\\x03on")
    [(1, b'on')]
    >>> f.feed(b"e\\x02\\0\\0\\0")
    [(1, b'e')]
    >>> f.feed(b"\\0\\0\\0\\x01!")
    [(2, b'!')]
    """

    def __init__(self) -> None:
        self._head = b""
        self._stream, self._rest = 1, 0

    def feed(self, chunk: bytes) -> list[tuple[int, bytes]]:
        """(stream, data) for every piece in this chunk, however it was cut."""
        found = []
        while chunk:
            if self._rest:
                piece, chunk = chunk[: self._rest], chunk[self._rest :]
                self._rest -= len(piece)
                found.append((self._stream, piece))
                continue
            need = 8 - len(self._head)
            self._head, chunk = self._head + chunk[:need], chunk[need:]
            if len(self._head) == 8:
                self._stream = self._head[0]
                self._rest = int.from_bytes(self._head[4:], "big")
                self._head = b""
        return found


class ExecStream:
    """A started exec's output. Asked for without an upgrade of the connection.

    The SDK's own reading goes past the buffer that held the answer's head, and loses
    output that came in the same packet: exactly the runtime's refusal in a dying container.
    """

    def __init__(self, sdk: Any, exec_id: str) -> None:
        url = sdk._url("/exec/{0}/start", exec_id)  # noqa: SLF001
        body = {"Tty": False, "Detach": False}
        self._answer = sdk._post_json(url, data=body, stream=True)  # noqa: SLF001
        try:
            sdk._raise_for_status(self._answer)  # noqa: SLF001
        except BaseException:
            self._answer.close()
            raise

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        frames = Frames()
        source = self._answer.raw._fp  # noqa: SLF001
        try:
            while chunk := source.read1(65536):
                yield from frames.feed(chunk)
        finally:
            self._answer.close()


class PreparedExec:
    """One exec, ready to go. `go` may be called from any thread, once.

    Args:
        tell: Called in the worker's thread after each step with the state so far; the last
            call has edge "answer". Not called any more after the deadline's answer.
        deadline: Seconds from `go` until the answer is `timed_out`.
    """

    def __init__(
        self,
        engine: Engine,
        container: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        user: str = "",
        deadline: float = 30.0,
        tell: Callable[[ExecAnswer], None] | None = None,
    ) -> None:
        self.container, self.argv, self.deadline = container, tuple(argv), deadline
        self._engine = engine
        self._options: dict[str, Any] = {
            "environment": dict(env or {}),
            "workdir": workdir,
            "user": user,
        }
        self._tell = tell
        self._state = ExecAnswer()
        self._out, self._err = _Kept(), _Kept()
        self._lock = threading.Lock()
        self._closed = False
        self._at: int | None = None
        self._warm, self._go = threading.Event(), threading.Event()
        self._done = threading.Event()
        self._cancelled = threading.Event()
        self._sdk: Any = None
        self._thread = threading.Thread(target=self._work, name="exec", daemon=True)
        self._thread.start()

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
                self._state = replace(
                    self._state,
                    edge="answer",
                    timed_out=True,
                    failure=late,
                    failed_at=self._stage(),
                    ended=clock.now(),
                    out=self._out.bytes(),
                    err=self._err.bytes(),
                )
                if self._tell:
                    self._tell(self._state)

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
        try:
            # A pool of its own: its one connection can not be lent to another call between
            # the warm-up and the request.
            self._sdk = sdk = self._engine.open()
            sdk.ping()
        except Exception:
            # Whatever is wrong will be wrong at `go` too, and be told then with its instant.
            self._sdk = None
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

    def _close(self) -> None:
        if self._sdk is not None:
            self._sdk.close()

    def _run(self) -> None:
        stage = "create"
        requested = clock.now()
        self._state = replace(self._state, requested=requested)
        try:
            sdk = self._sdk or self._engine.open()
            self._sdk = sdk
            exec_id = str(sdk.exec_create(self.container, list(self.argv), **self._options)["Id"])
            self._step(edge="created", created=clock.now(), exec_id=exec_id)
            stage = "start"
            stream = ExecStream(sdk, exec_id)
            self._step(edge="started", started=clock.now())
            stage = "run"
            for number, chunk in stream:
                with self._lock:
                    (self._err if number == 2 else self._out).add(chunk)
            ended = clock.now()
            stage = "inspect"
            code = self._exit_code(sdk, exec_id)
            self._step(
                edge="answer",
                ended=ended,
                exit_code=code,
                out=self._out.bytes(),
                err=self._err.bytes(),
            )
        except Exception as error:
            self._step(
                edge="answer",
                ended=clock.now(),
                failure=failure_of(error),
                failed_at=stage,
                out=self._out.bytes(),
                err=self._err.bytes(),
            )

    def _exit_code(self, sdk: Any, exec_id: str) -> int | None:
        """The output ends before the engine has booked the exit: ask until it has."""
        code: int | None = None

        def known() -> bool:
            nonlocal code
            said = sdk.exec_inspect(exec_id)
            code = said.get("ExitCode")
            return not said.get("Running") and code is not None

        clock.wait_until(known, deadline=min(self.deadline, 5.0), every=0.01)
        return code
