"""The three kinds of error, by whose they are: yours, the machine's, ours.

Rule: an error says what happened, where, why it is wrong and what to do next,
in one piece; whoever catches it prints it and adds nothing. A bad file is
reported whole: `BadInput` carries every problem found, never the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class ExitCode(IntEnum):
    """What every verb says to the shell."""

    OK = 0
    USAGE = 1
    INCONCLUSIVE = 2
    ENVIRONMENT = 3
    WORSE = 4
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong in one place of a user's file or command line.

    Attributes:
        where: "file:line" or "command line" or "-o key".
        what: What was seen, e.g. 'container.memory: "256mb"'.
        why: Why it can not be taken.
        fix: What to write in its place.
    """

    where: str
    what: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where} {self.what}\n  why: {self.why}\n  fix: {self.fix}"


class DeathbenchError(Exception):
    """The base of everything we raise on purpose."""

    exit_code = ExitCode.USAGE

    def document(self) -> dict[str, Any]:
        """The `error` member of a `--json` document."""
        return {"what": str(self), "where": None, "why": None, "mend": None}


class BadInput(DeathbenchError):
    """Yours: a file or an option that can not be taken. Holds all problems."""

    def __init__(self, problems: Iterable[Problem], *, about: str = "") -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        places = {p.where.rsplit(":", 1)[0] for p in self.problems}
        where = about or (places.pop() if len(places) == 1 else "the input")
        body = "\n\n".join(str(p) for p in self.problems)
        super().__init__(f"{count} {noun} in {where}\n\n{body}")

    def document(self) -> dict[str, Any]:
        first = self.problems[0] if self.problems else None
        return {
            "what": first.what if first else str(self),
            "where": first.where if first else None,
            "why": first.why if first else None,
            "mend": first.fix if first else None,
            "problems": [
                {"where": p.where, "what": p.what, "why": p.why, "mend": p.fix}
                for p in self.problems
            ],
        }


class EnvironmentInvalid(DeathbenchError):
    """The machine's: nothing wrong with what you asked, but not here, not now."""

    exit_code = ExitCode.ENVIRONMENT

    def __init__(self, what: str, *, why: str = "", mend: str = "", where: str = "") -> None:
        self.what, self.why, self.mend, self.where = what, why, mend, where
        lines = [what]
        for label, text in (("where", where), ("why", why), ("try", mend)):
            if text:
                indented = text.replace("\n", "\n        ")
                lines.append(f"  {label:5} {indented}")
        super().__init__("\n".join(lines))

    def document(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "where": self.where or None,
            "why": self.why or None,
            "mend": self.mend or None,
        }


class Bug(DeathbenchError):
    """Ours: a promise of this program broken by this program."""
