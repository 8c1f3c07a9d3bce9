"""An exec that is asked for at a wanted instant, through the engine's API.

Rule: everything that takes time (thread, connection, version) is done before; what
remains after `go` is one wake-up and one request. Each step is told as it happens,
with its instant, because in a dying container the step that failed is the finding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness import clock
from harness.engine.aimed import Aimed
from harness.engine.answers import failure_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from harness.engine.aimed import ExecAnswer
    from harness.engine.client import Engine


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


class PreparedExec(Aimed):
    """One exec through the API. Shapes of `go`, `wait`, `tell`: see `Aimed`."""

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
        super().__init__(deadline=deadline, tell=tell)
        self.container, self.argv = container, tuple(argv)
        self._engine = engine
        self._options: dict[str, Any] = {
            "environment": dict(env or {}),
            "workdir": workdir,
            "user": user,
        }
        self._sdk: Any = None
        self._begin()

    def _get_ready(self) -> None:
        try:
            # A pool of its own: its one connection can not be lent to another call between
            # the warm-up and the request.
            self._sdk = sdk = self._engine.open()
            sdk.ping()
        except Exception:
            # Whatever is wrong will be wrong at `go` too, and be told then with its instant.
            self._sdk = None

    def _close(self) -> None:
        if self._sdk is not None:
            self._sdk.close()

    def _run(self) -> None:
        stage = "create"
        self._ask()
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
