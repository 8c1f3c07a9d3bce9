"""An exec through the `docker` program, as people run it, under strace where there is one.

Rule: the program says in words what the engine said as a status, and a script could say the
same words. So the exec first says a word that nobody else knows: where it was said, the exec
began, and nothing that follows is the engine's.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import threading
from typing import IO, TYPE_CHECKING

from harness import clock, process
from harness.engine.aimed import Aimed
from harness.engine.answers import Failure, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from harness.engine.aimed import ExecAnswer, Kept

TRACED = "trace=execve,kill,tgkill,exit_group,clone,clone3,connect"
"""What the client does that bears on an exec: whom it starts, whom it asks, how it ends."""

_REFUSED = re.compile(r"(?:docker: )?Error response from daemon: (.*)", re.DOTALL)
_ABSENT = re.compile(
    r"(?:Cannot connect to the Docker daemon|error during connect|"
    r"(?:docker: )?(?:unexpected EOF|.*: connection refused)).*",
    re.DOTALL | re.IGNORECASE,
)


_BEGIN = 'printf %s "$0" >&2; exec "$@"'
"""For /bin/sh: say the word, then become what was asked for."""


class CommandExec(Aimed):
    """`docker exec` as a child of ours; it is asked for when the child is started.

    Its request reaches the engine some tens of milliseconds after that: the price of the
    program, which the API does not have.

    Args:
        program: Path of the docker program.
        host: The engine, as DOCKER_HOST names it.
        argv: A command of a container that has /bin/sh.
        strace: Path of strace and of the file its lines go to; None: not traced.
    """

    def __init__(
        self,
        program: str,
        host: str,
        container: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        user: str = "",
        strace: tuple[str, str] | None = None,
        deadline: float = 30.0,
        tell: Callable[[ExecAnswer], None] | None = None,
    ) -> None:
        super().__init__(deadline=deadline, tell=tell)
        self._word = f"<{secrets.token_hex(8)}>"
        self.argv = (
            *((strace[0], "-f", "-qq", "-ttt", "-o", strace[1], "-e", TRACED) if strace else ()),
            *(program, "--host", host, "exec"),
            *(word for name, value in (env or {}).items() for word in ("--env", f"{name}={value}")),
            *(("--workdir", workdir) if workdir else ()),
            *(("--user", user) if user else ()),
            container,
            *("/bin/sh", "-c", _BEGIN, self._word),
            *argv,
        )
        self._child: process.Child | None = None
        self._begin()

    def cancel(self) -> None:
        super().cancel()
        self._end()

    def _late(self, why: str) -> None:
        super()._late(why)
        self._end()

    def _end(self) -> None:
        """Only the client goes: what it started in the container may still run."""
        if self._child is not None and self._child.alive:
            process.kill_session(self._child.popen)

    def _said(self) -> tuple[bytes, bytes]:
        out, err = super()._said()
        return out, err.replace(self._word.encode(), b"", 1)

    def _run(self) -> None:
        self._ask()
        try:
            self._child = process.spawn(self.argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        except OSError as error:
            said = Failure(Trouble.OTHER, f"{self.argv[0]}: {error.strerror}")
            self._step(edge="answer", ended=clock.now(), failure=said, failed_at="create")
            return
        if self._closed or self._cancelled.is_set():
            self._end()  # whoever gave up meanwhile found no child to end
        child = self._child.popen
        assert child.stdout is not None
        assert child.stderr is not None
        aside = threading.Thread(target=self._read, args=(child.stderr, self._err), daemon=True)
        aside.start()
        self._read(child.stdout, self._out)
        aside.join()
        code, ended = child.wait(), clock.now()
        begun = self._word.encode() in self._err.bytes()
        out, err = self._said()
        failure = None if begun and code >= 0 else failure_in(code, out, err)
        if failure is not None:
            self._step(edge="answer", ended=ended, failure=failure, failed_at="create", err=err)
        else:
            self._step(edge="answer", ended=ended, exit_code=code, out=out, err=err)

    def _read(self, pipe: IO[bytes], kept: Kept) -> None:
        with pipe:
            while chunk := pipe.read1(65536):  # type: ignore[attr-defined]
                with self._lock:
                    kept.add(chunk)


def failure_in(code: int, out: bytes, err: bytes) -> Failure | None:
    """What docker itself had to say of an exec that did not begin; None where it said nothing.

    Its own words come with status 1, alone on standard error.

    >>> failure_in(1, b"", b"Error response from daemon: Container 5f is not running\\n").text
    'Container 5f is not running'
    >>> failure_in(1, b"", b"cat: nofile: No such file\\n") is None
    True
    """
    if code < 0:
        return Failure(Trouble.OTHER, f"the docker program was ended by signal {-code}")
    said = err.decode(errors="backslashreplace").strip()
    if code != 1 or out:
        return None
    if m := _REFUSED.fullmatch(said):
        return Failure(Trouble.REFUSED, m[1].strip())
    if _ABSENT.fullmatch(said):
        return Failure(Trouble.ABSENT, said)
    return None
