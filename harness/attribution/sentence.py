"""The sentence of a verdict: one that can be pasted into a bug report as it stands.

Rule: it says only what the clues say; names that others chose are cut and made plain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.model.causes import CAUSES, words
from harness.model.verdicts import Certainty

if TYPE_CHECKING:
    from harness.attribution.case import Case
    from harness.attribution.table import Clues

MOST_CLUES = 4


def sentence(
    case: Case, cause: str, path: tuple[str, ...], clues: Clues, certainty: Certainty, why: str = ""
) -> str:
    """One death in one sentence."""
    head = f"Container {case.container[:12]} died"
    end = _end(case)
    if cause == "unknown":
        told = f": {why}" if why else ""
        return plain(f"{head}{end}; the evidence does not decide of what{told}.")
    sure = "" if certainty is Certainty.CERTAIN else " (likely)"
    seen = "; ".join(dict.fromkeys(f"{c.words} [{c.n}]" for c in clues[:MOST_CLUES]))
    steps = [words(step) for step in path[1:]]
    chain = f", then {', then '.join(steps)}" if steps else ""
    return plain(f"{head}{end} because {CAUSES[cause].about}{sure}{chain}. Evidence: {seen}.")


def _end(case: Case) -> str:
    death = case.death
    if death.signal is not None:
        return f" (killed by signal {death.signal})"
    if case.left_with is not None:
        return f" (it left with status {case.left_with})"
    if death.exit_code is not None:
        return f" (exit code {death.exit_code} by the engine)"
    return ""


def plain(text: str) -> str:
    """One line of printable characters.

    >>> plain("a\\x1b[31m b\\nc")
    'a?[31m b c'
    """
    flat = " ".join(text.split())
    return "".join(ch if ch.isprintable() else "?" for ch in flat)[:1000]
