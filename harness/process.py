"""The only door to subprocesses.

Rule: an argv is a tuple, never a shell string; every command has a deadline; what
came back is a value that the caller reads. A child outlives its owner only where
the owner says so: it lives in a session of its own, so that Ctrl-C on the terminal
reaches the harness alone and the harness decides what to stop.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Self

from harness import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

NOT_FOUND = 127
"""As a shell says it: the command is not there."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command came to.

    Attributes:
        code: Exit code; minus the signal's number when one ended it; 127 with the reason
            in `err` when it could not be started.
        seconds: From start to end, or to the deadline.
        timed_out: The deadline came first; the command and its whole session were killed.
    """

    argv: tuple[str, ...]
    code: int
    out: bytes
    err: bytes
    seconds: float
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        return self.code == 0 and not self.timed_out

    @property
    def text(self) -> str:
        """Standard output, decoded; bytes that are no UTF-8 stay visible as escapes."""
        return self.out.decode(errors="backslashreplace")

    def why(self) -> str:
        """One line that says how it failed, for a message."""
        said = (self.err or self.out).decode(errors="backslashreplace").strip().splitlines()
        last = said[-1] if said else "it said nothing"
        if self.timed_out:
            return f"{self.argv[0]}: no end after {self.seconds:.1f} s; {last}"
        how = f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}"
        return f"{self.argv[0]}: {how}; {last}"


def sees_all() -> bool:
    """Whether every process of the kernel has a number here: no PID namespace lies above ours.

    4026531836 is PROC_PID_INIT_INO of include/linux/proc_ns.h, the same on every kernel.
    """
    try:
        return os.readlink("/proc/self/ns/pid") == "pid:[4026531836]"
    except OSError:
        return False


def called() -> str:
    """How the user called this program, for the lines that they may copy: `./inv` says it."""
    return shlex.quote(os.environ.get("DEATHBENCH_CALLED") or "deathbench")


def which(name: str) -> str | None:
    """Path of a program; system directories count even where PATH lacks them."""
    found = shutil.which(name)
    return found or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin")


def run(
    argv: Sequence[str],
    *,
    deadline: float,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    started: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> Result:
    """Run to the end or to the deadline (seconds). Never raises for what the command does.

    started: told of the child at once, for an owner who may want to end it early (with
    `kill_session`, from another thread).
    """
    command = tuple(argv)
    begin = clock.now()
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        said = f"{command[0]}: {error.strerror}".encode()
        return Result(command, NOT_FOUND, b"", said, clock.seconds_since(begin))
    if started is not None:
        started(child)
    try:
        out, err = child.communicate(stdin, timeout=deadline)
        return Result(command, child.returncode, out, err, clock.seconds_since(begin))
    except subprocess.TimeoutExpired as late:
        kill_session(child)
        try:
            out, err = child.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            # Somebody who left the session still holds the pipe: what was read must do.
            out, err = late.stdout or b"", late.stderr or b""
            for pipe in (child.stdout, child.stderr, child.stdin):
                if pipe:
                    pipe.close()
        code = child.returncode if child.returncode is not None else -signal.SIGKILL
        return Result(command, code, out, err, clock.seconds_since(begin), timed_out=True)
    except BaseException:
        # Ctrl-C while we wait: the command must not go on alone.
        kill_session(child)
        child.wait()
        raise


def kill_session(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a child and everything that stayed in its session's first process group."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    except PermissionError:
        # macOS says so for a group that holds only zombies.
        child.kill()


class Child:
    """A long-lived process that somebody owns.

    Leaving the `with` block (or `stop`) ends it; there is no way to forget it short of
    dying, and then its standard input ends.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[bytes] | None = subprocess.PIPE,
        stdout: int | IO[bytes] | None = subprocess.PIPE,
        stderr: int | IO[bytes] | None = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.argv = tuple(argv)
        self.popen = subprocess.Popen(
            self.argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=None if env is None else dict(env),
            cwd=cwd,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    @property
    def code(self) -> int | None:
        return self.popen.poll()

    def end_of_input(self) -> None:
        """Close its standard input: for our own children, the order to leave."""
        if self.popen.stdin and not self.popen.stdin.closed:
            try:
                self.popen.stdin.close()
            except BrokenPipeError:
                # It left first, with unread bytes in the pipe: what we wanted.
                return

    def wait(self, deadline: float) -> bool:
        """True when it ended within so many seconds."""
        try:
            self.popen.wait(timeout=deadline)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, *, grace: float = 5.0) -> int | None:
        """End of input, then SIGTERM, then SIGKILL to its session; its exit code."""
        self.end_of_input()
        if not self.wait(grace):
            self.popen.terminate()
            if not self.wait(grace):
                kill_session(self.popen)
                self.wait(grace)
        for pipe in (self.popen.stdout, self.popen.stderr):
            if pipe and not pipe.closed:
                pipe.close()
        return self.popen.poll()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def spawn(
    argv: Sequence[str],
    *,
    stdin: int | IO[bytes] | None = subprocess.PIPE,
    stdout: int | IO[bytes] | None = subprocess.PIPE,
    stderr: int | IO[bytes] | None = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start a long-lived child in a session of its own; the caller owns it.

    Raises:
        OSError: it can not be started.
    """
    return Child(
        argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd, pass_fds=pass_fds
    )
