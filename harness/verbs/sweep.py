"""`sweep`: plan, run, judge, tabulate."""

from __future__ import annotations

import dataclasses
import difflib
import os
import platform
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness import clock, inject, matrix, process, scale, spec, units
from harness.errors import BadInput, EnvironmentInvalid, ExitCode, Problem
from harness.machine import choose, health
from harness.report.progress import Progress
from harness.runner.world import RealWorld
from harness.scale import Options
from harness.schedule import replay
from harness.stats import sequential
from harness.store import Campaign, Ended
from harness.verbs import table
from harness.verbs.known import known
from harness.verbs.plan import print_plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.model.experiment import TrialSpec
    from harness.runner.world import World
    from harness.scale import Ending
    from harness.schedule import Schedule
    from harness.spec import Loaded

MONITORS = ("off", "light", "full")


def main(
    matrix: str = "",
    overrides: Sequence[str] = (),
    *,
    plan: bool = False,
    resume: str | bool = "",
    seed: str = "",
    jobs: int = 1,
    budget: str = "",
    until_deaths: int = 0,
    keep_dead: bool = False,
    monitors: str = "",
    against: str = "",
    json: bool = False,
) -> int:
    """Run a matrix from the command line; the exit code says what the table says.

    against: another matrix or campaign; both run side by side, and what is printed is the
    comparison.
    """
    chosen = options(
        monitors=monitors, jobs=jobs, budget=budget, until_deaths=until_deaths, keep_dead=keep_dead
    )
    if resume and not against:
        found = Campaign.open(None if resume is True or resume == "latest" else str(resume))
        if found.meta().get("against"):
            from harness.verbs import against as side_by_side

            return side_by_side.resume(found, chosen, json=json)
    if resume:
        campaign, loaded, number = _unfinished(matrix, resume, overrides)
        chosen.monitors = monitors or str(campaign.meta().get("monitors") or chosen.monitors)
    else:
        loaded = spec.load_matrix(find(matrix, "matrix"), overrides)
        number = seed_of(seed, loaded)
        campaign = None
    for change in loaded.changes:
        print(f"changed: {change}", file=sys.stderr)
    if against:
        from harness.verbs import against as side_by_side

        chosen.monitors = monitors or loaded.matrix.monitors
        return side_by_side.main(loaded, against, chosen, seed=number, json=json)
    return execute(
        loaded,
        number,
        chosen,
        campaign=campaign,
        plan=plan,
        monitors=monitors,
        until_deaths=until_deaths or None,
        json=json,
    )


def execute(
    loaded: Loaded,
    seed: int,
    options: Options,
    *,
    campaign: Campaign | None = None,
    plan: bool = False,
    monitors: str = "",
    until_deaths: int | None = None,
    json: bool = False,
    world: World | None = None,
) -> int:
    """What `sweep` and `run` share: from checked nouns to a printed table.

    world: Where machines come from; None: this host's.
    """
    world = world or RealWorld()
    options.monitors = monitors or options.monitors or loaded.matrix.monitors
    options.share_machine = loaded.matrix.share_machine
    if options.budget is None:
        options.budget = loaded.matrix.budget
    specs = matrix.plan(loaded, seed)
    if plan:
        return print_plan(loaded, specs, seed, json=json)
    if campaign is None:
        # A machine that can not be had is said before anything is written.
        for one in _machines(specs):
            world.check(one)
        _refuse_injections(specs)
        _refuse_sources(specs)
        automatic = next((s.machine for s in specs if s.machine.kind == "auto"), None)
        options.auto = world.auto(automatic.user) if automatic else options.auto
        findings = [finding.what for finding in health.findings()]
        if findings:
            print(
                f"beware: {'; '.join(findings)} ({process.called()} doctor says more)",
                file=sys.stderr,
            )
        meta = {**frozen(loaded, seed, options), "findings": findings}
        campaign = Campaign.create(loaded.matrix.name, meta)
    else:
        options.auto = str(campaign.meta().get("auto") or options.auto)
    now = world.clock.now
    progress = Progress(lambda: now() / clock.NS, quiet=json)
    print(f"campaign {campaign.name}, seed {seed}: {campaign.path}", file=sys.stderr)
    plan_of_trials = _schedule(loaded, specs, campaign, options, until_deaths)
    progress.begin(plan_of_trials.expected_total(), done=sum(1 for _ in campaign.trials()))
    try:
        ending = scale.run(
            campaign, plan_of_trials, progress=progress, options=options, world=world
        )
        campaign.update_meta(
            ended=clock.utc().isoformat(),
            ending=ending.how.value,
            why=ending.why,
            stopped={
                **(_cut_off(campaign, ending.why) if ending.how is Ended.BUDGET else {}),
                **plan_of_trials.stopped(),
            },
            watched=plan_of_trials.watched,
            attribution=known(options.monitors),
            decisions=[d.document() for d in plan_of_trials.decisions],
        )
    except OSError as error:
        raise EnvironmentInvalid(
            f"the sweep stopped: {error.strerror or error}",
            where=str(error.filename or campaign.path),
            why="what it was writing could not be kept; the finished trials are whole",
            mend=f"mend that, then go on with: {process.called()} sweep --resume {campaign.name}",
        ) from error
    finally:
        progress.end()
    return _conclude(campaign, ending, json=json)


def _cut_off(campaign: Campaign, why: str) -> dict[str, str]:
    """The reason of every cell that nothing but the budget has stopped."""
    return {str(cell["cell"]): why for cell in campaign.meta()["cells"]}


def _schedule(
    loaded: Loaded,
    specs: Sequence[TrialSpec],
    campaign: Campaign,
    options: Options,
    until_deaths: int | None,
) -> Schedule:
    """The order of trials, told what a resumed campaign has already."""
    stop = loaded.matrix.trials.stop
    rule = None
    if stop is not None:
        rule = sequential.rule(
            loaded.matrix.trials.max, below=stop.below, above=stop.above, alpha=stop.alpha
        )
    outcomes = {v["trial"]: v["outcome"] for v in campaign.verdicts()}
    finished = [
        {**t, "outcome": outcomes.get(t["trial"]) or scale.judge_late(campaign, t)}
        for t in campaign.trials()
    ]
    return replay(
        specs, finished, rule=rule, until_deaths=until_deaths, budget=options.budget,
        control=campaign.meta().get("control"),
    )  # fmt: skip


def _refuse_injections(specs: Sequence[TrialSpec]) -> None:
    """What must not be broken is not broken: said before anything starts."""
    seen: set[tuple[object, str, bool]] = set()
    for one in specs:
        key = (one.experiment.inject, one.machine.kind, one.experiment.own)
        if one.experiment.inject and key not in seen:
            seen.add(key)
            kind = choose.resolve(one.machine.kind, one.machine.user)
            inject.refuse(one.experiment.inject, kind=kind, own=one.experiment.own)


def _refuse_sources(specs: Sequence[TrialSpec]) -> None:
    """A container that would find an empty directory where this host has files."""
    seen: set[tuple[object, object]] = set()
    for one in specs:
        experiment = one.experiment
        containers = (experiment.container, *experiment.beside)
        mounts = tuple(mount for container in containers for mount in container.mounts)
        key = (one.machine, (mounts, experiment.remount.source))
        if key not in seen:
            seen.add(key)
            named = (*(mount.source for mount in mounts), experiment.remount.source)
            sources = [source for source in named if source is not None]
            kind = choose.resolve(one.machine.kind, one.machine.user)
            choose.refuse_sources(one.machine, kind, sources)


def _machines(specs: Sequence[TrialSpec]) -> list[Any]:
    found: list[Any] = []
    for one in specs:
        if one.machine not in found:
            found.append(one.machine)
    return found


def _conclude(campaign: Campaign, ending: Ending, *, json: bool) -> int:
    """The table, and how it came to an end that is not the plan's own, with its exit code."""
    again = f"{process.called()} sweep --resume {campaign.name}"
    found = table.of(campaign)
    cut = {Ended.INTERRUPTED: ExitCode.INTERRUPTED, Ended.ENVIRONMENT: ExitCode.ENVIRONMENT}
    code = cut.get(ending.how, found.exit)
    if ending.how in cut:
        what = "interrupted" if ending.how is Ended.INTERRUPTED else "stopped"
        error = {"what": what, "where": campaign.name, "why": ending.why, "mend": again}
        found = dataclasses.replace(found, extra={**found.extra, "exit": int(code), "error": error})
    try:
        table.show(found, json=json)
    finally:  # whatever becomes of the table: the line that goes on is said
        match ending.how:
            case Ended.INTERRUPTED:
                print(f"interrupted ({ending.why}); go on with: {again}", file=sys.stderr)
            case Ended.ENVIRONMENT:
                print(f"stopped: {ending.why}\ngo on with: {again}", file=sys.stderr)
            case Ended.BUDGET:
                print(f"stopped: {ending.why}; go on with: {again}", file=sys.stderr)
                for line in ending.kept:
                    print(f"    {line}", file=sys.stderr)
            case Ended.COMPLETE:
                pass
    return int(code)


# --- arguments -------------------------------------------------------------------------


def find(path: str, noun: str) -> Path:
    """The file the user means: from the current folder, else from the project's.

    Raises:
        BadInput: none was named, or there is none.
    """
    root = Path(os.environ.get("DEATHBENCH_ROOT", "."))
    folder = root / ("matrix" if noun == "matrix" else "experiments")
    if not path:
        there = sorted(p.name for p in folder.glob("*.yaml"))
        raise BadInput(
            [
                Problem(
                    "command line",
                    f"no {noun} file",
                    "nothing says what to run",
                    f"name one, e.g. {folder.name}/{there[0]}" if there else f"name a {noun} file",
                )
            ],
            about="the command line",
        )
    for candidate in (Path(path), root / path):
        if candidate.is_file():
            return candidate
    known = {p.stem: p for p in folder.glob("*.y*ml")}
    close = difflib.get_close_matches(Path(path).stem, known, n=1)
    if close and not Path(path).exists():
        near = known[close[0]]
        problem = Problem(
            "command line",
            path,
            f"no such {noun} file in {Path.cwd()}, nor in the project",
            f"did you mean {folder.name}/{near.name}?",
        )
        raise BadInput([problem], about="the command line")
    return Path(path)  # the loader says what is wrong with it


def options(
    *,
    monitors: str = "",
    jobs: int = 1,
    budget: str = "",
    until_deaths: int = 0,
    keep_dead: bool = False,
) -> Options:
    """What the command line says, checked."""
    problems = []

    def wrong(what: str, why: str, fix: str) -> None:
        problems.append(Problem("command line", what, why, fix))

    if monitors and monitors not in MONITORS:
        wrong(f"--monitors {monitors}", "no such level", "off, light or full")
    if jobs < 1:
        wrong(f"--jobs {jobs}", "nothing would run", "--jobs 1 or more")
    if until_deaths < 0:
        wrong(f"--until-deaths {until_deaths}", "no cell has fewer than no deaths", "1 or more")
    seconds = None
    if budget:
        try:
            seconds = units.parse_seconds(budget)
        except ValueError as error:
            wrong(f"--budget {budget}", str(error), "--budget 2h")
    if problems:
        raise BadInput(problems, about="the command line")
    return Options(
        monitors=monitors,
        jobs=jobs,
        budget=seconds,
        keep_dead=keep_dead,
    )


def seed_of(given: str, loaded: Loaded) -> int:
    """As given, else the matrix's own, else a fresh one."""
    if not given:
        ordered = loaded.matrix.order.seed
        return secrets.randbelow(1 << 32) if ordered is None else ordered
    try:
        return int(given)
    except ValueError:
        problem = Problem("command line", f"--seed {given}", "not a whole number", "--seed 7")
        raise BadInput([problem], about="the command line") from None


# --- what is frozen, and going on with it ---------------------------------------------------


def frozen(loaded: Loaded, seed: int, options: Options) -> dict[str, Any]:
    """What campaign.yaml needs so that anybody can repeat or resume the campaign."""
    found = matrix.cells(loaded)
    return {
        "seed": seed,
        "monitors": options.monitors,
        "auto": options.auto,
        "started": clock.utc().isoformat(),
        "versions": {"deathbench": harness.__version__, "python": platform.python_version()},
        "host": {
            "system": platform.system(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
        },
        "git": _git(Path(loaded.main).parent),
        "changes": [str(c) for c in loaded.changes],
        "tolerance": {str(k): v for k, v in loaded.matrix.tolerance.items()},
        "cells": [{"cell": c.name, "config": dict(c.config)} for c in found],
        "control": next((c.name for c in found if c.control), None),
        "frozen": loaded.frozen(),
    }


def _git(folder: Path) -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout the matrix stands in; None outside of one."""
    head = process.run(("git", "-C", str(folder), "rev-parse", "HEAD"), deadline=5)
    if not head.ok:
        return None
    changed = process.run(("git", "-C", str(folder), "status", "--porcelain"), deadline=10)
    return {"commit": head.text.strip(), "clean": changed.ok and not changed.out.strip()}


def _unfinished(
    matrix_file: str, resume: str | bool, overrides: Sequence[str]
) -> tuple[Campaign, Loaded, int]:
    """The campaign to go on with, as it was frozen; refused when its files have changed."""
    campaign = Campaign.open(None if resume is True or resume == "latest" else str(resume))
    meta = campaign.meta()
    problems = []
    if overrides:
        problems.append(
            Problem(
                "command line",
                f"-o {overrides[0]}",
                "a campaign goes on with what it was started with",
                "leave -o out, or start a new campaign without --resume",
            )
        )
    kept: Mapping[str, str] = meta.get("frozen", {}).get("files", {})
    for path, then in kept.items():
        if (now := _text(path)) is not None and now != then:
            problems.append(_changed(path, then, now))
    main_file = meta.get("frozen", {}).get("main")
    if (
        matrix_file
        and main_file
        and find(matrix_file, "matrix").resolve() != Path(main_file).resolve()
    ):
        problems.append(
            Problem(
                "command line",
                f"{matrix_file} --resume {campaign.name}",
                f"that campaign ran {main_file}",
                f"--resume {campaign.name} alone",
            )
        )
    if problems:
        raise BadInput(problems, about=f"the campaign {campaign.name}")
    if not kept:
        raise EnvironmentInvalid(
            f"{campaign.name} can not go on", why="its campaign.yaml holds no frozen files"
        )
    return campaign, spec.thaw(meta["frozen"]), int(meta["seed"])


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        # Gone or unreadable now: the frozen text is what counts.
        return None


def _changed(path: str, then: str, now: str) -> Problem:
    lines = list(
        difflib.unified_diff(then.splitlines(), now.splitlines(), "then", "now", lineterm="")
    )
    shown = "\n       ".join(lines[:40])
    return Problem(
        path,
        "changed since the campaign began",
        f"its trials would not belong together\n       {shown}",
        "change it back, or start a new campaign without --resume",
    )
