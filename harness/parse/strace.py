r"""Lines of `strace -f -ttt`, as typed facts.

>>> parse_strace("811 1763900000.123456 kill(7, SIGKILL) = 0")
Call(pid=811, at=1763900000123456000, name='kill', arguments='7, SIGKILL', result=0, error=None)
>>> parse_strace("811 1763900000.2 +++ killed by SIGKILL (core dumped) +++")
Ended(pid=811, at=1763900000200000000, signal='SIGKILL', code=None)
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Call:
    """One finished (or resumed) system call. at: wall clock in ns, None when not stamped."""

    pid: int | None
    at: int | None
    name: str
    arguments: str
    result: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Begun:
    """A call that another process's line came into: what it asked for. Its answer is a Call later,
    without the arguments that stand here."""

    pid: int | None
    at: int | None
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The traced process ended: by a signal's name, or with a code."""

    pid: int | None
    at: int | None
    signal: str | None
    code: int | None


@dataclass(frozen=True, slots=True)
class Delivered:
    """A signal reached the traced process. sender is in the tracer's pid namespace."""

    pid: int | None
    at: int | None
    signal: str
    code: str
    sender: int | None


_HEAD = re.compile(
    r"(?:\[pid +(?P<p1>\d+)\] |(?P<p2>\d+) +)?(?:(?P<s>\d{9,11})\.(?P<f>\d{1,9}) )?(?P<body>.*)",
    re.DOTALL,
)
_CALL = re.compile(
    r"(?:<\.\.\. )?(?P<name>[a-z_]\w*)(?: resumed>|\()(?P<args>.*)\) += (?P<res>-?\d+|\?|0x[0-9a-f]+)"
    r"(?: (?P<err>E[A-Z0-9]+) \(.*\)| \(.*\)| ERESTART\w* \(.*\))?(?: <\d+\.\d+>)?",
    re.DOTALL,
)
_BEGUN = re.compile(r"(?P<name>[a-z_]\w*)\((?P<args>.*?)[, ]*<unfinished \.\.\.>", re.DOTALL)
_KILLED = re.compile(r"\+\+\+ killed by (?P<sig>SIG\w+)(?: \(core dumped\))? \+\+\+")
_EXITED = re.compile(r"\+\+\+ exited with (?P<code>\d+) \+\+\+")
_SIGNAL = re.compile(
    r"--- (?P<sig>SIG\w+) \{si_signo=SIG\w+, si_code=(?P<code>\w+)(?:, si_pid=(?P<pid>\d+))?.*\} ---"
)


def parse_strace(text: str) -> Call | Begun | Ended | Delivered | None:
    """Read one line; None for notes of strace itself, and anything else."""
    head = _HEAD.fullmatch(text.rstrip("\n"))
    if head is None:
        return None
    pid = next((int(p) for p in (head["p1"], head["p2"]) if p), None)
    at = None
    if head["s"] is not None:
        at = int(head["s"]) * 10**9 + int(head["f"].ljust(9, "0"))
    body = head["body"]
    if m := _KILLED.fullmatch(body):
        return Ended(pid, at, m["sig"], None)
    if m := _EXITED.fullmatch(body):
        return Ended(pid, at, None, int(m["code"]))
    if m := _SIGNAL.fullmatch(body):
        return Delivered(pid, at, m["sig"], m["code"], int(m["pid"]) if m["pid"] else None)
    if m := _BEGUN.fullmatch(body):
        return Begun(pid, at, m["name"], m["args"])
    if m := _CALL.fullmatch(body):
        result = None if m["res"] == "?" else int(m["res"], 0)
        return Call(pid, at, m["name"], m["args"].strip(), result, m["err"])
    return None
