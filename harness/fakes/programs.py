"""What a command does in memory: the few words of shell that tests and examples use.

Rule: a command means here what it means to busybox, or it is not found (127). Nothing is
started and no time passes here: a program is a list of steps for the fake kernel.

    >>> read(["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.5; done"])
    Program(steps=(Sleep(seconds=0.5, again=True),), traps={15: 7})
    >>> read(["sh", "-c", "echo hello; sleep 0.1; exit 3"]).steps
    (Say(text='hello\\n'), Sleep(seconds=0.1, again=False), Exit(code=3))
    >>> read(["tail", "/dev/zero"]).steps
    (Hog(size=None),)
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SIGNALS = {"HUP": 1, "INT": 2, "QUIT": 3, "KILL": 9, "USR1": 10, "SEGV": 11, "USR2": 12, "TERM": 15}


@dataclass(frozen=True, slots=True)
class Sleep:
    """again: for ever, in turns of so many seconds; a trap runs between two turns."""

    seconds: float
    again: bool = False


@dataclass(frozen=True, slots=True)
class Exit:
    """code None: the status of the last command."""

    code: int | None


@dataclass(frozen=True, slots=True)
class Say:
    text: str


@dataclass(frozen=True, slots=True)
class Status:
    """A command that only has a status."""

    code: int


@dataclass(frozen=True, slots=True)
class Hog:
    """Take memory: so many bytes; None: without end."""

    size: int | None


@dataclass(frozen=True, slots=True)
class Kill:
    """A signal to the container's main process, or to itself."""

    signal: int
    main: bool


Step: TypeAlias = Sleep | Exit | Say | Status | Hog | Kill


@dataclass(frozen=True, slots=True)
class Program:
    """Steps one after the other. traps: signal → exit code."""

    steps: tuple[Step, ...]
    traps: Mapping[int, int] = field(default_factory=dict)


def read(argv: Sequence[str]) -> Program:
    """The program of a command line."""
    if argv and argv[0].rsplit("/", 1)[-1] in {"sh", "ash"} and list(argv[1:2]) == ["-c"]:
        return _script(argv[2])
    return Program((_command(list(argv)),))


# What is done between two sleeps takes no time here.
_LOOP = re.compile(r"while\s+(?::|true)\s*;\s*do\s+(?:[^;]*;\s*)*?sleep\s+([\d.]+)\s*;\s*done")
_TRAP = re.compile(r"trap\s+['\"]exit(?:\s+(\d+))?['\"]\s+(\w+)")


def _script(text: str) -> Program:
    traps: dict[int, int] = {}
    steps: list[Step] = []
    # A loop is one word before the text is cut at its semicolons.
    text = _LOOP.sub(lambda m: f"sleep-again {m[1]}", text)
    for part in re.split(r";|\n|&&", text):
        words = part.strip()
        trap = _TRAP.fullmatch(words)
        if trap:
            traps[SIGNALS[trap[2].removeprefix("SIG")]] = int(trap[1] or 0)
        elif words and not words.startswith("#"):
            steps.append(_command(shlex.split(words)))
    return Program(tuple(steps), traps)


def _command(words: list[str]) -> Step:
    match words:
        case ["exec", *rest]:
            return _command(rest)
        case ["sleep", amount]:
            return Sleep(3600.0 * 24 * 365 if amount in {"inf", "infinity"} else float(amount))
        case ["sleep-again", amount]:
            return Sleep(float(amount), again=True)
        case ["exit", *code]:
            return Exit(int(code[0]) if code else None)
        case ["true" | ":" | "touch" | "mkdir" | "sync", *_]:
            return Status(0)
        case ["false"]:
            return Status(1)
        case ["echo", *rest]:
            return Say(" ".join(rest) + "\n")
        case ["tail", "/dev/zero"]:
            return Hog(None)
        case ["head", "-c", amount, "/dev/zero"]:
            return Hog(int(amount))
        case ["kill", flag, target] if flag.startswith("-") and target in {"1", "$$"}:
            name = flag[1:].removeprefix("SIG")
            return Kill(int(name) if name.isdigit() else SIGNALS[name], target == "1")
        case _:
            return Status(127)
