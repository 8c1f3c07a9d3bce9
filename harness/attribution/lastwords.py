"""Clues of a container's last words: the end of its log.

Rule: what a container prints is its own story, and old stories stand in a log as well as
new ones. Its last lines show that something which was seen elsewhere was its reason, or
keep others from saying too much; alone they decide nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from harness.attribution.table import Clue, Clues

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.attribution.case import Case

LAST = 8
"""How many lines are the last: a complaint, and what a runtime prints behind it."""

NO_SPACE = ("no space left on device", "disk quota exceeded")
_READ_ONLY = ("read-only file system",)
_NO_FORK = (
    "resource temporarily unavailable",
    "can't fork",
    "cannot fork",
    "fork: retry",
    "pthread_create",
    "unable to create native thread",
    "unable to create new native thread",
    "can't start new thread",
    "failed to create new os thread",
)
_MISSING = (
    "no such file or directory",
    "nonexistent directory",
    "not found",
    "can't open",
    "stale file handle",
    "transport endpoint",
    "getcwd",
)
_CUT_OFF = (
    "network is unreachable",
    "network is down",
    "no route to host",
    "no such device",
    "bad address",
    "name resolution",
    "could not resolve",
    "unknown host",
    "unreachable",
)
_NO_FILES = ("too many open files", "no file descriptors available")
_TOO_LARGE = ("file too large", "file size limit exceeded")

SHORTAGES = (
    *NO_SPACE,
    *_READ_ONLY,
    *_NO_FORK,
    *_NO_FILES,
    *_TOO_LARGE,
    "input/output error",
    "cannot allocate memory",
    "out of memory",
    "stale file handle",
    "transport endpoint",
)


def _says(case: Case, phrases: Sequence[str], words: str, lines: int = LAST) -> Clues:
    for s in case.history.logs:
        if s.what.container == case.container:
            last = " ".join(s.what.text[-4000:].strip().splitlines()[-lines:]).lower()
            for phrase in phrases:
                if phrase in last:
                    return (Clue(s.n, "logs", f"{words}: {phrase}"),)
    return ()


_NOT_MADE = re.compile(
    r"(?:can't|cannot) (?:create|touch) [^\n]*(?:nonexistent directory|No such file or directory)"
)


def not_made(text: str) -> bool:
    """Do the last lines speak of a file that could not be made, for want of its directory?

    A root file system that lost its writable layer says the same as a wrong path.
    """
    return _NOT_MADE.search("\n".join(text[-4000:].strip().splitlines()[-LAST:])) is not None


def short_of(text: str, phrases: Sequence[str]) -> bool:
    """Do the last lines of what a command printed have one of these phrases?"""
    last = " ".join(text[-4000:].strip().splitlines()[-LAST:]).lower()
    return any(phrase in last for phrase in phrases)


def said_no_space(case: Case) -> Clues:
    """its log ends with words of no space left"""
    return _says(case, NO_SPACE, "its log says")


def said_read_only(case: Case) -> Clues:
    """its log ends with words of a read-only file system"""
    return _says(case, _READ_ONLY, "its log says")


def said_no_fork(case: Case) -> Clues:
    """its log ends with words of a process or thread that it could not make"""
    return _says(case, _NO_FORK, "its log says")


def said_missing(case: Case) -> Clues:
    """its log ends with words of a file that is not there"""
    return _says(case, _MISSING, "its log says")


def said_cut_off(case: Case) -> Clues:
    """its log ends with words of a network that can not be reached"""
    return _says(case, _CUT_OFF, "its log says")


def said_no_files(case: Case) -> Clues:
    """its log ends with words of too many open files"""
    return _says(case, _NO_FILES, "its log says")


def said_too_large(case: Case) -> Clues:
    """its log ends with words of a file that is too large"""
    return _says(case, _TOO_LARGE, "its log says")


def complains(case: Case) -> Clues:
    """its last words name a shortage that no source shows"""
    return _says(case, SHORTAGES, "its last words are", lines=3)


def could_not_make(case: Case) -> Clues:
    """its last words are of a file that it could not make, for want of its directory"""
    return tuple(
        Clue(s.n, "logs", "its log says that a file could not be made: its directory is missing")
        for s in case.history.logs
        if s.what.container == case.container and not_made(s.what.text)
    )[:1]
