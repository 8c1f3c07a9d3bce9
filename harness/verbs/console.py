"""The console: argv in, exit code out, and one form for everything that goes wrong.

Rule: whatever happens (a slip on the command line, a bad file, a full disk, Ctrl-C, a
bug of ours), stderr gets what, why and what to do; with `--json` stdout gets one
document of the verb's own shape with an `error` member, and nothing else. Nothing
heavy is imported here.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import json as jsonlib
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

from invoke.exceptions import Exit, ParseError
from invoke.program import Program

from harness import process
from harness.errors import BadInput, Bug, DeathbenchError, EnvironmentInvalid, ExitCode, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# What each verb prints is named after the noun, not the verb; every other document is
# called like its verb. The keys that readers rely on are there in an error too.
_NOUNS = {
    "sweep": "table", "run": "table", "wrap": "table", "judge": "table", "show": "trial",
}  # fmt: skip
_KEYS: dict[str, dict[str, Any]] = {
    "table": {"campaign": None, "matrix": None, "machine": None, "attribution": None, "cells": []},
    "trial": {
        "trial": None, "config": None, "outcome": None, "delay": None, "exec": None,
        "death": None, "verdict": None,
    },
    "compare": {"a": None, "b": None, "environment": [], "cells": [], "overall": None},
    "bisect": {
        "kind": None, "answer": None, "confidence": None, "trials": 0, "restarts": 0, "steps": [],
    },
    "confirm": {"trial": None, "cause": None, "changed": [], "confirmed": None},
    "nightly": {"campaign": None, "matrix": None, "table": None, "compare": None, "bisect": None},
    "watch": {
        "container": None, "at": None, "seen": None, "outcome": None, "death": None,
        "verdict": None, "history": None,
    },
    "selftest": {
        "machine": None, "n": 0, "right": None, "unknown": None, "wrong": None, "hypotheses": {},
        "causes": [], "not_possible": [],
    },
    "bench": {"machine": None, "ratios": []},
    "validate": {"files": []},
    "new": {"name": None, "files": []},
    "clean": {"removed": [], "stuck": [], "spared": []},
    "doctor": {"machines": [], "sources": [], "findings": []},
}  # fmt: skip

# A reader that left, or a terminal that was closed.
_NOBODY = (errno.EPIPE, errno.EIO)


def document(verb: str, error: DeathbenchError, code: int) -> dict[str, Any]:
    """The `--json` document of a verb that failed: its own keys, empty, and `error`."""
    noun = _NOUNS.get(verb, verb or "error")
    return {
        "format": f"deathbench.{noun}/1",
        **_KEYS.get(noun, {}),
        "exit": code,
        "error": error.document(),
    }


def answer(verb: str, main: Callable[[], int], *, json: bool) -> int:
    """Call a verb's main; print what goes wrong in it; return the exit code."""
    try:
        with _orderly():
            code = int(main())
            sys.stdout.flush()
        return code
    except DeathbenchError as error:
        return _say(verb, error, json=json)
    except KeyboardInterrupt as error:
        cut = EnvironmentInvalid("interrupted", why=str(error), mend="call it again")
        return _say(verb, cut, json=json, code=ExitCode.INTERRUPTED)
    except OSError as error:
        if error.errno in _NOBODY:
            _hush(sys.stdout)
            return int(ExitCode.OK)
        return _say(verb, _of_the_system(error), json=json)
    except Exception as error:
        import traceback

        traceback.print_exc()
        bug = Bug(f"{type(error).__name__}: {error}\n  this is a mistake in deathbench, not yours")
        return _say(verb, bug, json=json)


@contextlib.contextmanager
def _orderly() -> Iterator[None]:
    """`kill` and a closed terminal are heard like Ctrl-C, so that every `finally` runs."""

    def heard(number: int, _: Any) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {}
    with contextlib.suppress(ValueError):  # not in the main thread: somebody else decides
        for number in (signal.SIGTERM, signal.SIGHUP):
            # nohup's wish stands.
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, heard)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _of_the_system(error: OSError) -> DeathbenchError:
    """What the operating system refused, in our form."""
    mends = {
        errno.ENOSPC: "make room there and call again",
        errno.EDQUOT: "make room there and call again",
        errno.EROFS: "mount it for writing, or work in another folder",
        errno.EACCES: "make it yours, or work in another folder",
        errno.EPERM: "make it yours, or work in another folder",
        errno.EEXIST: "something else has that name: move it away",
        errno.ENOTDIR: "a file stands where a folder should: move it away",
    }
    return EnvironmentInvalid(
        error.strerror or f"{type(error).__name__}: {error}",
        where=error.filename if isinstance(error.filename, str) else "",
        mend=mends.get(error.errno or 0, ""),
    )


def _say(verb: str, error: DeathbenchError, *, json: bool, code: int | None = None) -> int:
    code = int(error.exit_code if code is None else code)
    try:
        if json:
            print(jsonlib.dumps(document(verb, error, code)))
        sys.stdout.flush()
    except OSError:  # stdout itself is full or gone: what is left in it can not be told
        _hush(sys.stdout)
        json = False
    if not json:
        print(error, file=sys.stderr)
    return code


def _hush(stream: Any) -> None:
    """Nobody reads it any more; Python would complain once more while it shuts down."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# --- the program ------------------------------------------------------------------------


class Console(Program):
    """invoke's program with our errors in place of its own."""

    def parse_core(self, argv: list[str] | None) -> None:
        with self._told():
            super().parse_core(argv)

    def parse_tasks(self) -> None:
        with self._told():
            super().parse_tasks()

    def parse_cleanup(self) -> None:
        with self._told():
            super().parse_cleanup()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except ParseError as error:
            argv = list(getattr(self, "argv", sys.argv))[1:]
            verb = next((word for word in argv if not word.startswith("-")), "")
            names = [] if self.namespace is None else list(self.namespace.task_names)
            problem = explain(str(error), error.context, names)
            code = _say(
                verb if verb in names else "",
                BadInput([problem], about="the command line"),
                json=asks_for_json(argv),
            )
            raise Exit(code=code) from None


def asks_for_json(argv: Sequence[str]) -> bool:
    """Whether `--json` stands among our own words: what follows `--` is somebody else's."""
    own = list(argv)[: list(argv).index("--")] if "--" in argv else argv
    return "--json" in own


def explain(message: str, context: Any, verbs: Sequence[str]) -> Problem:
    """invoke's complaint in our form, with the nearest right word."""
    command = process.called()
    verb = getattr(context, "name", None)
    all_of_it = f"{command} --help {verb}" if verb else f"{command} --list"
    if unknown := re.match(r"No idea what '(.*)' is!$", message):
        word = unknown.group(1)
        if word.startswith("-"):
            known = list(getattr(context, "flags", ()) or ())
            flag = word.partition("=")[0]
            why = f"{verb} has no such option" if verb else "no such option"
            return Problem("command line", word, why, _nearest(flag, known, all_of_it))
        why = f"{verb} takes no more words, and it is no verb" if verb else "there is no such verb"
        return Problem("command line", word, why, _nearest(word, verbs, f"{command} --list"))
    if short := re.match(r"Flag .*?Argument: ([\w-]+)", message):
        flag = f"--{short.group(1)}"
        if "doesn't take any value" in message:
            return Problem("command line", flag, "it takes no value", f"{flag} alone")
        if "needed value" in message:
            return Problem("command line", flag, "it needs a value", f"{flag} VALUE; {all_of_it}")
        if wrong := re.search(r"takes a whole number, not (.*)$", message):
            given = wrong.group(1).strip("'")
            return Problem("command line", f"{flag} {given}", "not a whole number", f"{flag} 1")
    return Problem("command line", verb or "the words given", message, all_of_it)


def _nearest(word: str, known: Sequence[str], everything: str) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return (
        f"did you mean {close[0]}? {everything} shows all" if close else f"{everything} shows all"
    )


# --- the streams ------------------------------------------------------------------------


class _Narration(io.TextIOWrapper):
    """stderr that nobody has to read: a closed pipe or terminal does not stop a sweep."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            return self._unheard(error, len(text))

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._unheard(error, 0)

    def _unheard(self, error: OSError, count: int) -> int:
        if error.errno not in _NOBODY:
            raise error
        _hush(self)
        return count


def streams(*, json: bool) -> None:
    """Three open streams that take every character.

    A closed descriptor is opened on nothing, lest the next file of a campaign becomes
    "stdout". What the terminal's encoding does not have is replaced; JSON is UTF-8 anywhere.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8" if json else None, errors="replace")
    if isinstance(sys.stderr, io.TextIOWrapper):
        encoding = sys.stderr.encoding
        sys.stderr = _Narration(
            sys.stderr.detach(), encoding=encoding, errors="backslashreplace", line_buffering=True
        )


def main() -> None:
    """The program, whatever it was called as. Ends the process."""
    from harness import __version__
    from harness.verbs import namespace

    argv = sys.argv[1:]
    streams(json=asks_for_json(argv))
    program = Console(
        name="deathbench", binary="deathbench", namespace=namespace(), version=__version__
    )

    def run() -> int:
        try:
            program.run()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    verb = next((word for word in argv if not word.startswith("-")), "")
    sys.exit(answer(verb, run, json=asks_for_json(argv)))
