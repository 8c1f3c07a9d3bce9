"""The sentence of a verdict: one that can be pasted into a bug report as it stands.

Rule: it says only what the clues say; names that others chose are cut and made plain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.model.causes import CAUSES, words
from harness.model.verdicts import Certainty

if TYPE_CHECKING:
    from harness.attribution.case import Case
    from harness.attribution.table import Clue, Clues

MOST_CLUES = 3

_SAID = frozenset(
    {"main-killed", "main-exited", "main-crashed", "main-never-ran", "child-killed", "child-crashed",
     "engine-stop", "successor-kill", "shim-cleanup", "exec-refused"}
)  # fmt: skip
"""Steps of a path that the end, or the words of the cause, already tell."""

_ONE = "one of its processes"

_ALWAYS_SO = (
    "the engine had started it",
    "the engine noticed the end",
    "the engine says exit code",
    "the main process left with status",
    "it was killed by signal",
    "it left with status",
)
_QUIET = {
    "main-exit-zero": "No signal to it, no OOM kill of what it had started and no request to the engine was seen before",
    "main-exit-error": "No signal to it, no OOM kill of what it had started, no request to the engine, no full disk and "
    "no change of its mounts was seen before",
}
"""Of a death with nothing before it the telling thing is who looked and saw nothing."""


def sentence(
    case: Case,
    cause: str,
    path: tuple[str, ...],
    clues: Clues,
    certainty: Certainty,
    why: str = "",
    disputed: Clues = (),
) -> str:
    """One death in one sentence, or two: what it died of, and by which events that is known."""
    head = f"Container {case.container[:12]} died"
    end = _end(case)
    if cause == "unknown":
        told = f": {why}" if why else ""
        return plain(f"{head}{end}; the evidence does not decide of what{told}.")
    because = "because" if certainty is Certainty.CERTAIN else "most likely because"
    quiet = f" {_QUIET[cause]}." if cause in _QUIET else ""
    seen = "; ".join(f"{c.words} [{c.n}]" for c in telling(clues))
    but = "".join(f" The sources disagree: {c.words} [{c.n}]." for c in disputed)
    return plain(f"{head}{end} {because} {_because(cause, path)}.{quiet} Evidence: {seen}.{but}")


def _because(cause: str, path: tuple[str, ...]) -> str:
    """What the cause did and, where nothing else in the sentence tells it, the steps from there."""
    about = CAUSES[cause].about
    if "child-killed" in path and "left because of it" not in about:
        if about.endswith(" killed it"):
            about = about.removesuffix("it") + _ONE
        about += ", and the main process left because of it"
    elif path[-1] == "main-killed":
        about = about.replace(f"chose {_ONE}", "chose its main process")
    steps = [words(step) for step in path[1:] if step not in _SAID]
    return "; ".join([about, *steps])


def telling(clues: Clues) -> Clues:
    """The few clues that tell most: each in its own words, first of sources that differ."""
    once = list({clue.words: clue for clue in reversed(clues)}.values())[::-1]
    plainly = [c for c in once if not c.words.startswith(_ALWAYS_SO)]
    rest = [c for c in once if c.words.startswith(_ALWAYS_SO)]
    first: dict[str, Clue] = {}
    for clue in plainly:
        first.setdefault(clue.channel, clue)
    chosen = [*first.values(), *(c for c in plainly if c not in first.values()), *rest]
    return tuple(sorted(chosen[:MOST_CLUES], key=once.index))


def _end(case: Case) -> str:
    death = case.death
    if death.signal is not None:
        return f" (killed by signal {death.signal})"
    if case.left_with is not None:
        return f" (it left with status {case.left_with})"
    if death.exit_code is not None:
        return f" (exit code {death.exit_code}, says the engine)"
    return ""


def plain(text: str) -> str:
    """One line of printable characters.

    >>> plain("a\\x1b[31m b\\nc")
    'a?[31m b c'
    """
    flat = " ".join(text.split())
    return "".join(ch if ch.isprintable() else "?" for ch in flat)[:1000]
