"""What a rule is, and how one is held against a death.

Rule of rules: a rule claims only what its own evidence shows. Absence counts only where
somebody watched; a forbidden clue that could not have been seen lowers the certainty, or
stops the rule where it says so. A rule cites events by number, and every citation comes
from a clue it found. Two channels that do not depend on each other make it certain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from harness.model.verdicts import Certainty

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.attribution.case import Case
    from harness.model.verdicts import Sender


@dataclass(frozen=True, slots=True)
class Clue:
    """One piece of evidence: the event that shows it, by which channel, in words."""

    n: int
    channel: str
    words: str


Clues = tuple[Clue, ...]

CHANNELS = {
    "trace": "trace", "sender": "trace", "lineage": "trace",
    "proc": "proc", "pidfd": "pidfd", "kernel": "kernel", "cgroup": "cgroup",
    # The engine's stream and its State are one witness: they come from the same memory.
    "docker": "engine", "status": "engine", "api": "engine", "exec": "engine", "engine": "engine",
}  # fmt: skip
"""Source → channel, where they differ: sources that would err together are one channel."""


class Look(Protocol):
    """One thing to look for in a case. Its docstring says what; empty means it is not there."""

    __name__: str

    def __call__(self, case: Case, /) -> Clues: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One cause and its evidence.

    Attributes:
        needs: All must be found; their clues are cited.
        forbids: None may be found: each names what would make it something else.
        supports: May be found; they add citations and certainty.
        must_watch: Sources without which a forbidden clue could not have been seen: a
            gap of theirs around the end, or their absence, stops the rule.
        should_watch: The same, but it only lowers the certainty.
        most: The most this rule can ever say.
        proof: One of these must be found for more than `likely`: what shows that what came
            before the end was its reason, where the order of things alone does not.
        path: Root cause first, mechanism last.
        sender: Who sent the deadly signal, where one did.
        otherwise: What would have been seen, had it been something else.
    """

    cause: str
    needs: tuple[Look, ...]
    forbids: tuple[Look, ...] = ()
    supports: tuple[Look, ...] = ()
    must_watch: tuple[str, ...] = ()
    should_watch: tuple[str, ...] = ()
    proof: tuple[Look, ...] = ()
    most: Certainty = Certainty.CERTAIN
    path: Callable[[Case], tuple[str, ...]]
    sender: Callable[[Case], Sender | None] | None = None
    otherwise: str


@dataclass(frozen=True, slots=True)
class Held:
    """A rule held against a case. missing: why it does not apply, else None."""

    rule: Rule
    clues: Clues
    missing: str | None
    certainty: Certainty
    met: int

    @property
    def applies(self) -> bool:
        return self.missing is None

    @property
    def near(self) -> bool:
        """Something of it was there: worth naming among the rejected."""
        return self.met > 0


def hold(rule: Rule, case: Case) -> Held:
    """Does the rule apply to this case, by which clues, how surely?"""
    clues: list[Clue] = []
    missing: str | None = None
    met = 0
    for need in rule.needs:
        found = case.find(need)
        if found:
            met += 1
            clues.extend(found)
        elif missing is None:
            missing = f"not seen: {title(need)}"
    for forbidden in rule.forbids if missing is None else ():
        if found := case.find(forbidden):
            missing = f"but {found[0].words}"
            break
    if missing is None:
        for source in rule.must_watch:
            if not case.watched(source):
                missing = (
                    f"{source} was not watching, so nothing can be made of what it did not say"
                )
                break
    if missing is not None:
        return Held(rule, tuple(clues), missing, Certainty.UNKNOWN, met)
    for support in (*rule.proof, *rule.supports):
        clues.extend(case.find(support))
    return Held(rule, _once(clues), None, _certainty(rule, case, clues), met)


def _certainty(rule: Rule, case: Case, clues: list[Clue]) -> Certainty:
    channels = {CHANNELS.get(clue.channel, clue.channel) for clue in clues}
    if (
        rule.most is Certainty.CERTAIN
        and len(channels) >= 2
        and all(case.watched(source) for source in rule.should_watch)
        and (not rule.proof or any(case.find(proof) for proof in rule.proof))
    ):
        return Certainty.CERTAIN
    return Certainty.LIKELY


def _once(clues: list[Clue]) -> Clues:
    return tuple({clue.n: clue for clue in reversed(clues)}.values())[::-1]


def title(look: Look) -> str:
    """The first line of its docstring: what is looked for."""
    return (look.__doc__ or look.__name__).strip().splitlines()[0].rstrip(".")
