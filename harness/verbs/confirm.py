"""`confirm TRIAL|CELL`: take away only the suspected cause and run again. Does the rate drop?

Both configurations alternate, so that a machine that drifts can not take a side; looks
at four times, with the chance of a false alarm over all of them at most 5 %.
"""

from __future__ import annotations

import dataclasses
import difflib
import json as jsonlib
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from harness import matrix, spec, store
from harness.errors import ExitCode
from harness.model.causes import CAUSES
from harness.report.compare_text import points
from harness.stats import compare, twosample
from harness.stats.certify import Pair
from harness.store import Campaign, Ended
from harness.verbs import hunting, remedies, sweep
from harness.verbs.hunting import Answer, Hunt, bad

if TYPE_CHECKING:
    from harness.matrix import Cell
    from harness.verbs.remedies import Change

FORMAT = "deathbench.confirm/1"
# A rate that falls to a quarter is a cause found; what falls less had other causes too.
_REST = 0.25
_LEAST_STAGE = 3


def main(
    trial: str = "",
    *,
    cause: str = "",
    most: int = 200,
    budget: str = "",
    seed: str = "",
    monitors: str = "",
    resume: str | bool = "",
    json: bool = False,
) -> int:
    """Exit code 0: the rate drops without the cause; 2: that is not shown.

    Args:
        trial: CELL/N or CELL of the latest campaign, or CAMPAIGN:CELL/N.
        cause: Instead of what the verdict says.
    """
    options = sweep.options(monitors=monitors, budget=budget)
    if resume:
        campaign = Campaign.open(None if resume is True or resume == "latest" else str(resume))
        frozen = campaign.meta().get("confirm")
        if not frozen:
            raise bad(f"--resume {campaign.name}", "that campaign is no confirm", "the name of one")
        loaded = spec.thaw(campaign.meta()["frozen"])
    else:
        campaign = None
        if cause and cause not in CAUSES:
            near = difflib.get_close_matches(cause, CAUSES, 3) or ["memory-limit-main"]
            raise bad(
                f"--cause {cause}",
                "no such cause",
                f"one of docs/causes.md, e.g. {', '.join(near)}",
            )
        source, name = _find(trial)
        frozen = _suspect(source, name, cause)
        loaded = spec.thaw(source.meta()["frozen"])
        frozen["seed"] = sweep.seed_of(seed, loaded)
    cell = next((c for c in matrix.cells(loaded) if c.name == frozen["cell"]), None)
    if cell is None:
        raise bad(
            frozen["cell"], "its campaign's files do not make this cell any more", "another one"
        )
    found = remedies.without(cell, frozen["cause"])
    if isinstance(found, str):
        raise bad(f"confirm {frozen['cause']}", found, "--cause with another suspect")
    other, changes = found
    looks = design(frozen["died"], frozen["observed"])
    pair = Pair(looks, int(frozen["seed"]))
    hunt = build(pair, (cell, other), frozen["cause"], changes)
    options.monitors = monitors or loaded.matrix.monitors
    if campaign is None:
        hunting.prepare([cell, other], options)
        meta = sweep.frozen(loaded, int(frozen["seed"]), options)
        meta = {**meta, "confirm": frozen, "cells": [], "tolerance": {}}
        campaign = Campaign.create(f"confirm-{loaded.matrix.name}", meta)
    else:
        options.auto = str(campaign.meta().get("auto") or options.auto)
    print(f"campaign {campaign.name}: {campaign.path}", file=sys.stderr)
    for change in changes:
        print(f"without {frozen['cause']}: {change}", file=sys.stderr)
    asking, ending = hunting.run(
        hunt, campaign, seed=int(frozen["seed"]), most=min(most, 2 * looks.most),
        options=options, restart=hunting.restart_cost([cell, other], options.auto), quiet=json,
    )  # fmt: skip
    answer = hunt.answer()
    code = int(ExitCode.OK if answer.found else ExitCode.INCONCLUSIVE)
    code = hunting.conclude(campaign, ending, "confirm", code)
    document = {
        "format": FORMAT, "exit": code, "campaign": campaign.name, "trial": frozen["trial"],
        "cell": frozen["cell"], "cause": frozen["cause"],
        "changed": [c.document() for c in changes], **(answer.value or {}),
        "confirmed": answer.found, "restarts": asking.restarts,
    }  # fmt: skip
    campaign.update_meta(answer=answer.value)
    if json:
        print(jsonlib.dumps(document, ensure_ascii=False, default=str))
    else:
        print("\n".join(answer.lines))
        if ending.how is Ended.COMPLETE and not pair.done:
            print(asking.given_up or f"not decided after {sum(pair.ran)} trials")
    return code


def design(died: int, observed: int) -> twosample.Looks:
    """Looks that show a fall to a quarter of the rate that was seen, with 80 % power."""
    rate = min(0.98, max(0.1, (died + 0.5) / (observed + 1)))
    found = twosample.design_for(rate, rate * _REST)
    return found if found.stage >= _LEAST_STAGE else twosample.design(_LEAST_STAGE)


def build(pair: Pair, cells: tuple[Cell, Cell], cause: str, changes: list[Change]) -> Hunt:
    """The two arms and how they read."""

    def counts() -> str:
        with_, without = (f"{d}/{n}" for d, n in zip(pair.died, pair.ran, strict=True))
        return f"{with_} died as it was, {without} without {cause}"

    def answer() -> Answer:
        a_died, b_died = pair.died
        a, b = pair.ran
        difference = compare.newcombe(a_died, a, b_died, b)
        pooled = compare.mantel_haenszel(compare.Stratum(*s) for s in pair.strata)
        value = {
            "original": {"died": a_died, "trials": a}, "without": {"died": b_died, "trials": b},
            "difference": dict(zip(("point", "low", "high"), difference, strict=True)),
            "p": pooled.p, "verdict": pair.verdict, "looks": dataclasses.asdict(pair.looks),
        }  # fmt: skip
        point, low, high = difference
        confirmed = pair.verdict == "b dies less"
        head = {
            "b dies less": f"confirmed: without {cause} fewer die",
            "b dies more": f"refuted: without {cause} more die",
            "no difference shown": f"not confirmed: no difference without {cause} was shown",
            None: "not decided",
        }[pair.verdict]
        lines = [
            head,
            f"  {counts()}: {points(point)} [{points(low)} {points(high)}]",
            *(f"  changed {change}" for change in changes),
        ]
        return Answer(value, 0.95, tuple(lines), found=confirmed)

    return Hunt("confirm", pair, 2, lambda q: cells[q], counts, answer)


def _find(text: str) -> tuple[Campaign, str]:
    if not text:
        raise bad("confirm", "nothing to confirm", "confirm CELL/N, or CAMPAIGN:CELL/N")
    campaign, colon, name = text.rpartition(":")
    if not colon and (
        text == "latest" or (store.results_root() / text / "campaign.yaml").is_file()
    ):
        return Campaign.open(text), ""  # a campaign alone: its only cell
    return Campaign.open(campaign if colon else None), name


def _suspect(campaign: Campaign, name: str, cause: str) -> dict[str, Any]:
    """What the verdict of the trial, or most verdicts of the cell, say."""
    cells = {str(t["trial"]): str(t["cell"]) for t in campaign.trials() if not t["warm_up"]}
    outcomes = {str(v["trial"]): v for v in campaign.verdicts()}
    every = sorted(set(cells.values()))
    cell = cells.get(name, name) or (every[0] if len(every) == 1 else "")
    mine = [outcomes[t] for t, c in cells.items() if c == cell and t in outcomes]
    if not mine:
        known = ", ".join(every[:5]) + (", …" if len(every) > 5 else "")
        why = (
            f"no such trial or cell in {campaign.name}"
            if name
            else f"which cell of {campaign.name}?"
        )
        raise bad(f"confirm {name or campaign.name}", why, f"one of {known}")
    died = [v for v in mine if v["outcome"] == "died"]
    if not cause:
        asked = [outcomes[name]] if name in cells else died
        found = Counter(v["verdict"]["cause"] for v in asked if v.get("verdict"))
        if not found:
            raise bad(
                f"confirm {name}", "nothing died there, so there is no cause", "a trial that died"
            )
        cause = found.most_common(1)[0][0]
    observed = sum(v["outcome"] in {"died", "survived", "exec-failed"} for v in mine)
    return {
        "source": campaign.name, "trial": name, "cell": cell, "cause": cause,
        "died": len(died), "observed": observed,
    }  # fmt: skip
