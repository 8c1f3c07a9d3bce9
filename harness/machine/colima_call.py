"""How colima is called, and what its words mean.

Rule: one door to colima's programs. Every call has a deadline (`status` hangs on a frozen
guest), a home of its own, nobody's docker configuration, and nothing of the user's profile in
its environment. Every failure is exit code 1: what happened stands in the words.
"""

from __future__ import annotations

import json
import os
import platform
import pwd
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import process

if TYPE_CHECKING:
    from collections.abc import Sequence

CALL_DEADLINE = 30.0
HOMEBREW = ("/opt/homebrew/bin", "/usr/local/bin")
"""Where Homebrew puts programs on Apple silicon and on Intel; a shell started by cron or by
launchd has neither on its PATH, and limactl then does not find qemu."""

_TAKEN = frozenset(
    {
        "COLIMA_HOME", "COLIMA_PROFILE", "COLIMA_SAVE_CONFIG", "COLIMA_BINARY",
        "LIMA_HOME", "LIMA_INSTANCE", "LIMA_WORKDIR", "LIMA_SHELL", "LIMA_SSH_PORT_FORWARDER",
    }
)  # fmt: skip
"""Members of the environment that would lead to another profile than ours."""

_FATAL = re.compile(r'level=(?:fatal|error) msg="((?:[^"\\]|\\.)*)"|(?:FATA|ERRO)\[\d+\] (.*)')
_RUNNING = "already running, ignoring"


def passwd(user: str | None) -> pwd.struct_passwd:
    """Of the user that colima runs as; None: of ourselves.

    Raises:
        KeyError: there is no such user.
    """
    return pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())


def call(
    argv: Sequence[str],
    *,
    home: Path | None,
    user: str | None,
    private: Path | None = None,
    deadline: float = CALL_DEADLINE,
) -> process.Result:
    """Run one of colima's programs as it wants to be run: no root, its home, nobody's docker.

    home, private: As `environment` has them. deadline: Seconds; at least one is given.
    """
    who = passwd(user)
    command = tuple(argv)
    if _becomes(user, who):
        command = (*_become(who.pw_name), *command)
    cwd = str(home) if home is not None and home.is_dir() else "/"
    env = environment(home, user, private=private)
    return process.run(command, deadline=max(deadline, 1.0), env=env, cwd=cwd)


def environment(
    home: Path | None, user: str | None, *, private: Path | None = None
) -> dict[str, str]:
    """What colima's programs find in theirs.

    home: COLIMA_HOME; None where they look themselves.
    private: A directory of ours for docker's configuration and passing files: a start makes a
        docker context there and a stop removes one. None: what is called does neither.
    """
    who = passwd(user)
    env = {k: v for k, v in os.environ.items() if not k.startswith("DOCKER_") and k not in _TAKEN}
    if _becomes(user, who):
        # Root's own directories: somebody else can not write there.
        env = {k: v for k, v in env.items() if not k.startswith("XDG_") and k != "TMPDIR"}
    env["HOME"] = who.pw_dir
    env["USER"] = env["LOGNAME"] = who.pw_name
    if platform.system() == "Darwin":
        known = env.get("PATH", "").split(":")
        env["PATH"] = ":".join([*known, *(p for p in HOMEBREW if p not in known)])
    # An emulated guest asks for its address late; Lima's own two minutes are short for one.
    env.setdefault("LIMA_USERNET_RESOLVE_IP_ADDRESS_TIMEOUT", "10")
    if home is not None:
        env["COLIMA_HOME"] = str(home)
        env["LIMA_HOME"] = str(home / "_lima" if home == private else lima_home(home, user))
    if private is not None:
        env["DOCKER_CONFIG"] = str(private / "docker")
        # `colima start` writes <instance>.yaml there: two users' would be one file.
        env["TMPDIR"] = str(private / "tmp")
    return env


def lima_home(home: Path, user: str | None) -> Path:
    """Where Lima's instances stand in a COLIMA_HOME of the user's: a LIMA_HOME of his counts."""
    named = os.environ.get("LIMA_HOME")
    if named and not becomes(user):
        return Path(named)
    return home / "_lima"


def becomes(user: str | None) -> bool:
    """Does root run colima as somebody else, whose variables are not ours?"""
    return _becomes(user, passwd(user))


def _becomes(user: str | None, who: pwd.struct_passwd) -> bool:
    return bool(user) and os.geteuid() == 0 and who.pw_uid != 0


def _become(user: str) -> tuple[str, ...]:
    """An argv prefix by which root becomes somebody else and keeps the environment."""
    if process.which("runuser"):
        return ("runuser", "-u", user, "--")
    return ("sudo", "-n", "-E", "-u", user, "--")


def which(program: str) -> str | None:
    """Path of a program of colima's; Homebrew's directories count on a Mac."""
    found = process.which(program)
    if found is None and platform.system() == "Darwin":
        places = (Path(folder) / program for folder in HOMEBREW)
        found = next((str(p) for p in places if os.access(p, os.X_OK)), None)
    return found


# --- what it says -----------------------------------------------------------------------


def reason(done: process.Result) -> str:
    """Why a call failed: the last fatal or error line of both streams, else the last line.

    >>> said = b'level=fatal msg="error starting vm: no \\\\"x\\\\""'
    >>> reason(process.Result(("colima",), 1, b"", said, 1.0))
    'error starting vm: no "x"'
    """
    if done.timed_out:
        return f"no end of `{_short(done.argv)}` after {done.seconds:.0f} s"
    found = [str(a or b).replace('\\"', '"') for a, b in _FATAL.findall(words(done))]
    if len(found) > 1 and re.search(r"exit status \d+$", found[-1]):
        # colima says of limactl that it failed; why, limactl says itself, on the other stream.
        return f"{found[-1]}: {found[-2]}"
    if found:
        return found[-1]
    if was_running(done):
        return "it was running already: the new sizes were not taken"
    return done.why()


def words(done: process.Result) -> str:
    """Both streams: limactl's lines come on standard output, colima's own on standard error."""
    return (done.out + b"\n" + done.err).decode(errors="backslashreplace")


def was_running(done: process.Result) -> bool:
    """A running VM takes no new values, says so in a warning, and exits with 0."""
    return _RUNNING in words(done)


def warnings(done: process.Result) -> list[str]:
    """What a call warned of, although it went well: a disk that is not reduced, a value discarded.

    >>> said = b'time="x" level=warning msg="disk size cannot be reduced, ignoring..." context=vm'
    >>> warnings(process.Result(("colima",), 0, b"", said, 1.0))
    ['disk size cannot be reduced, ignoring...']
    """
    pattern = r'level=warning msg="((?:[^"\\]|\\.)*)"|WARN\[\d+\] (.*)'
    return [(a or b).replace('\\"', '"') for a, b in re.findall(pattern, words(done))]


def _short(argv: Sequence[str]) -> str:
    start = next((i for i, a in enumerate(argv) if a in ("colima", "limactl")), 0)
    return " ".join(argv[start : start + 4])


def profiles(text: str) -> dict[str, dict[str, Any]]:
    """Profile → what `list --json` says of it: one object a line, limactl's words in between.

    What it says of sizes is what was asked for; its status never looks inside the guest.

    >>> profiles('{"name":"w1","status":"Running"}\\ntime="x" level=info msg="y"\\n')
    {'w1': {'name': 'w1', 'status': 'Running'}}
    """
    found = {}
    for line in text.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and isinstance(said.get("name"), str):
            found[said["name"]] = said
    return found


def version(text: str) -> str | None:
    """Of `colima version`.

    >>> version("colima version v0.10.3\\ngit commit: 00f6c297\\n\\nruntime: docker\\n")
    'v0.10.3'
    """
    match = re.search(r"^colima version (\S+)", text, re.MULTILINE)
    return match[1] if match else None
