"""`bisect`: where a threshold lies, where it began, which settings do it. On real trials.

bisect matrix/memory.yaml --axis container.memory --rate 20% --tolerance 10pp
bisect matrix/images.yaml --axis container.image
bisect --good experiments/a.yaml --bad experiments/b.yaml
bisect --candidates v1,v2,v3 --run './try-one'      # or git:GOOD..BAD
bisect experiments/a.yaml --as-bisect               # one candidate, for `git bisect run`
"""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import spec, units
from harness.errors import ExitCode
from harness.report import words
from harness.stats import sequential
from harness.stats.certify import Certify
from harness.store import Campaign, Ended
from harness.verbs import command_search, hunting, hunts, sweep
from harness.verbs.hunting import Answer, Hunt, bad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.matrix import Cell
    from harness.scale import Options
    from harness.spec import Loaded

FORMAT = "deathbench.bisect/1"

_WAYS = (
    "FILE --axis KEY, --good A.yaml --bad B.yaml, --candidates A,…,Z --run COMMAND, "
    "or FILE --as-bisect"
)

# What `git bisect run` understands: good, bad, can not be told.
_GOOD, _BAD, _SKIP = 0, 1, 125


def main(
    file: str = "",
    *,
    axis: str = "",
    rate: str = "",
    tolerance: str = "10pp",
    direction: str = "",
    good: str = "",
    bad_: str = "",
    candidates: str = "",
    run: str = "",
    overrides: Sequence[str] = (),
    most: int = 400,
    budget: str = "",
    restart: str = "",
    seed: str = "",
    monitors: str = "",
    resume: str | bool = "",
    no_history: bool = False,
    as_bisect: bool = False,
    below: str = "1%",
    above: str = "10%",
    json: bool = False,
) -> int:
    """Search, print each step, print the answer.

    Args:
        file: A matrix, or an experiment with -o for its axis.
        rate: The level of a threshold; left out: the axis is an ordered list, its first
            value good, its last bad.
        direction: rising or falling along the axis; left out: found out.
        good, bad_: Two configurations: experiments, or matrices of one cell.
        candidates, run: An ordered list and a command; `{}` in it is the candidate.
        most: Trials at most, history not counted.
        restart: What a machine restart costs, in trials; left out: by the kind of machine.
        as_bisect: Judge one configuration; exit 0 good, 1 bad, 125 can not be told.
    """
    options = sweep.options(monitors=monitors, budget=budget)
    if most < 1:
        raise bad(f"--most {most}", "nothing would run", "--most 100")
    charged = _number(restart) if restart else None
    if run or candidates:
        return command_search.main(
            candidates, run, most=most, budget=options.budget, resume=resume, json=json
        )
    if resume:
        campaign = Campaign.open(None if resume is True or resume == "latest" else str(resume))
        frozen = campaign.meta().get("bisect")
        if not frozen:
            raise bad(f"--resume {campaign.name}", "that campaign is no bisect", "the name of one")
        if frozen["kind"] == "command":
            return command_search.main(
                "", "", most=most, budget=options.budget, resume=campaign.name, json=json
            )
    else:
        campaign = None
        frozen = _frozen(
            file, axis=axis, rate=_share("--rate", rate), good=good, bad_=bad_,
            tolerance=_share("--tolerance", tolerance) or 0.1, direction=direction,
            overrides=list(overrides), as_bisect=as_bisect,
            limits=(_share("--below", below) or 0.0, _share("--above", above) or 0.1),
        )  # fmt: skip
        first = spec.thaw(frozen["files"][0])
        frozen["seed"] = sweep.seed_of(seed, first)
    hunt, cells, loaded = build(frozen)
    number = int(frozen["seed"])
    options.monitors = monitors or loaded.matrix.monitors
    if campaign is None:
        hunting.prepare(list(cells.values()), options)
        meta = {**sweep.frozen(loaded, number, options), "bisect": frozen, "cells": []}
        old = 0 if no_history else hunting.history(hunt, cells, meta)
        if old:
            print(f"{words.count(old, 'trial')} of earlier campaigns used", file=sys.stderr)
        if (why := hunting.too_dear(hunt, most)) is not None:
            return _print(hunt, None, json=json, code=int(ExitCode.INCONCLUSIVE), why=why)
        meta["bisect"] = {**frozen, "history": not no_history}
        campaign = Campaign.create(f"bisect-{loaded.matrix.name}", meta)
    else:
        options.auto = str(campaign.meta().get("auto") or options.auto)
        if frozen.get("history"):
            hunting.history(hunt, cells, campaign.meta(), but=campaign.name)
    print(f"campaign {campaign.name}, seed {number}: {campaign.path}", file=sys.stderr)
    return go(
        hunt,
        campaign,
        seed=number,
        most=most,
        options=options,
        restart=hunting.restart_cost(cells.values(), options.auto) if charged is None else charged,
        json=json,
    )


def go(
    hunt: Hunt,
    campaign: Campaign,
    *,
    seed: int,
    most: int,
    options: Options,
    restart: float,
    json: bool,
) -> int:
    """Run a hunt to its end, keep and print what it came to."""
    asking, ending = hunting.run(
        hunt, campaign, seed=seed, most=most, options=options, restart=restart, quiet=json
    )
    answer = hunt.answer()
    code = int(ExitCode.OK if answer.found else ExitCode.INCONCLUSIVE)
    if hunt.kind == "one" and ending.how is Ended.COMPLETE:
        code = int((answer.value or {}).get("exit", _SKIP))
    why = asking.given_up
    sure = answer.found or answer.nowhere
    if not sure and why is None and ending.how is Ended.COMPLETE:
        why = f"not certain after {words.count(len(asking.steps), 'trial')}"
    extra = {
        "campaign": campaign.name, "trials": len(asking.steps), "restarts": asking.restarts,
        "steps": [s.document() for s in asking.steps],
    }  # fmt: skip
    campaign.update_meta(answer={"value": answer.value, "confidence": answer.confidence})
    code = hunting.conclude(campaign, ending, "bisect", code)
    if hunt.kind == "one" and ending.how is not Ended.COMPLETE:
        code = _SKIP if code == ExitCode.ENVIRONMENT else code
    return _print(hunt, answer, json=json, code=code, why=why, **extra)


def _print(
    hunt: Hunt,
    answer: Answer | None,
    *,
    json: bool,
    code: int,
    why: str | None = None,
    **extra: Any,
) -> int:
    if json:
        document = {
            "format": FORMAT, "exit": code, "kind": hunt.kind,
            "answer": answer.value if answer is not None and answer.found else None,
            "best": None if answer is None else answer.value,
            "confidence": None if answer is None else answer.confidence,
            "trials": 0, "restarts": 0, "steps": [], "why": why, **extra,
        }  # fmt: skip
        print(jsonlib.dumps(document, ensure_ascii=False, default=str))
        return code
    if answer is not None:
        head = "" if answer.found or answer.nowhere else "not certain: "
        for i, line in enumerate(answer.lines):
            print((head if i == 0 else "") + line)
        said = f"confidence {words.percent(answer.confidence)}"
        if extra:
            said += f", {words.count(int(extra['trials']), 'trial')}"
            said += f", {words.count(int(extra['restarts']), 'machine restart')}"
        print(said)
    if why:
        print(why)
    return code


# --- what is searched, frozen so that it can be resumed --------------------------------------


def _frozen(
    file: str, *, axis: str, rate: float | None, tolerance: float, direction: str, good: str, bad_: str,
    overrides: list[str], as_bisect: bool, limits: tuple[float, float],
) -> dict[str, Any]:  # fmt: skip
    """Everything that `build` needs, as plain values."""
    if good or bad_:
        if not (good and bad_):
            raise bad("--good, --bad", "one of them is missing", "--good A.yaml --bad B.yaml")
        loaded = [hunts.one_cell(str(_find(f)), overrides)[0] for f in (good, bad_)]
        return {"kind": "culprit", "files": [one.frozen() for one in loaded]}
    if not file and not as_bisect:
        raise bad("bisect", "nothing says what to search", _WAYS)
    path = str(_find(file))
    if as_bisect:
        one, _ = hunts.one_cell(path, overrides)
        return {"kind": "one", "files": [one.frozen()], "below": limits[0], "above": limits[1]}
    if not axis:
        raise bad(f"bisect {file}", "nothing says what to search in it", _WAYS)
    if direction not in {"", "rising", "falling"}:
        raise bad(f"--direction {direction}", "no such direction", "rising or falling")
    first = spec.load(path, overrides)
    if rate is not None and (values := hunts.axis_values(first, axis)) is not None:
        overrides = [*overrides, f"{axis}={','.join(values)}"]
        first = spec.load(path, overrides)
    elif rate is None and axis not in {a.key for a in first.axes}:
        hunts.axis_values(first, axis)
    kind = "step" if rate is None else "threshold"
    return {
        "kind": kind, "files": [first.frozen()], "axis": axis, "rate": rate,
        "tolerance": tolerance, "direction": direction,
    }  # fmt: skip


def build(frozen: dict[str, Any]) -> tuple[Hunt, dict[int, Cell], Loaded]:
    """The hunt, the cells about which earlier campaigns may know, the file it came from."""
    kind = frozen["kind"]
    first = spec.thaw(frozen["files"][0])
    match kind:
        case "threshold" | "step":
            key = frozen["axis"]
            cells = hunts.along(first, key)
            if kind == "step":
                hunt = hunts.step(cells, key, frozen["direction"])
            else:
                rising = {"rising": True, "falling": False}.get(frozen["direction"])
                hunt = hunts.threshold(cells, key, frozen["rate"], frozen["tolerance"], rising)
            return hunt, dict(enumerate(cells)), first
        case "culprit":
            (_, good), (_, worse) = (hunts.from_mapping(f) for f in frozen["files"])
            hunt = hunts.culprit(good, worse, seed=0)
            return (
                hunt,
                {0: hunt.cell_of(0), hunt.questions - 1: hunt.cell_of(hunt.questions - 1)},
                first,
            )
        case _:
            _, cell = hunts.from_mapping(frozen["files"][0])
            return one(cell, frozen["below"], frozen["above"]), {0: cell}, first


def one(cell: Cell, below: float, above: float) -> Hunt:
    """One configuration, good or bad, for somebody else's bisection."""
    search = Certify([0], sequential.rule(10_000, below=below, above=above))

    def say() -> str:
        died, ran = search.counts[0]
        return f"{died}/{ran} died"

    def answer() -> Answer:
        verdict = search.verdicts[0] or "undecided"
        exit_code = (
            _BAD if verdict.startswith("above") else _GOOD if verdict.startswith("below") else _SKIP
        )
        return Answer(
            {"verdict": verdict, "exit": exit_code}, 0.95, (verdict, say()), exit_code != _SKIP
        )

    return Hunt("one", search, 1, lambda _: cell, say, answer)


def _find(file: str) -> Path:
    for noun in ("matrix", "experiment"):
        path = sweep.find(file, noun)
        if path.is_file():
            return path
    return Path(file)


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e6:
        raise bad(f"--restart {text}", "no number of trials", "--restart 5")
    return found


def _share(option: str, text: str) -> float | None:
    if not text:
        return None
    try:
        return units.parse_rate(text.removesuffix("pp") + "%" if text.endswith("pp") else text)
    except ValueError as error:
        raise bad(f"{option} {text}", str(error), f"{option} 10%") from None
