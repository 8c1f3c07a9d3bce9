"""`bench`: how well we watch and how well we count, against what others do.

Rule: both sides of a ratio are measured in one run on one machine, side by side or
interleaved; a number without its competitor, its spread and its count is not printed.
"""

from __future__ import annotations

import json as jsonlib
import sys
from typing import TYPE_CHECKING, Any

from harness.errors import BadInput, ExitCode, Problem
from harness.verbs.bench.ratio import Ratio, lines

if TYPE_CHECKING:
    from types import ModuleType


def main(
    *,
    what: str = "observe",
    only: str = "",
    quick: bool = False,
    full: bool = False,
    json: bool = False,
) -> int:
    """Exit code 0 when every aim is met, 2 when one is not, 130 when it was cut short.

    What was measured before a Ctrl-C (or SIGTERM) is printed all the same.
    """
    from harness.verbs.bench import observe, stats

    known: dict[str, ModuleType] = {"observe": observe, "stats": stats}
    if what not in known:
        raise BadInput(
            [
                Problem(
                    "command line",
                    f"bench {what}",
                    "there is no such benchmark",
                    "bench observe or bench stats",
                )
            ]
        )
    parts = [part for part in only.split(",") if part]
    there = known[what].PARTS
    unknown = sorted(set(parts) - set(there))
    if unknown:
        why, fix = "there is no such part", "one of " + ", ".join(there)
        raise BadInput([Problem("command line", f"--only {p}", why, fix) for p in unknown])
    more = {"full": full} if what == "stats" else {}
    if full and (quick or not more):
        why = "it is the opposite of --quick" if quick else "only `bench stats` has a full run"
        raise BadInput([Problem("command line", "--full", why, "bench stats --full")])
    machine: dict[str, Any] | None = None
    ratios: list[Ratio] = []
    try:
        machine = known[what].run(parts or list(there), ratios, quick=quick, say=_narrate, **more)
        code = _code(ratios)
    except KeyboardInterrupt:
        _narrate("interrupted: this is what was measured until then")
        code = ExitCode.INTERRUPTED
    document = {
        "format": "deathbench.bench/1",
        "bench": what,
        "machine": machine,
        "ratios": [ratio.document() for ratio in ratios],
        "exit": int(code),
    }
    if json:
        print(jsonlib.dumps(document))
    else:
        print("\n".join(lines(ratios)))
    return int(code)


def _code(ratios: list[Ratio]) -> ExitCode:
    return ExitCode.INCONCLUSIVE if any(r.met is False for r in ratios) else ExitCode.OK


def _narrate(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
