"""Every verb as an invoke task: names, arguments, help, and nothing else.

Rule: this module imports invoke and nothing heavy; a verb's own module is imported when
the verb is called. What goes wrong in it is `console`'s to tell.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.exceptions import Exit
from invoke.tasks import task

from harness.verbs import console
from harness.verbs.words import Verb

if TYPE_CHECKING:
    from collections.abc import Callable

    from invoke.context import Context

_JSON = "one JSON document on stdout, nothing else there"
_OVERRIDE = "override a key: -o container.memory=64MiB,128MiB (again for more)"
_CAMPAIGN = "a directory, a name below results/, or nothing for the latest"


def _call(verb: str, *, json: bool, arguments: dict[str, Any]) -> None:
    """Import the verb's module, call its main, turn what comes into an exit code."""

    def main() -> int:
        module = importlib.import_module(f"harness.verbs.{verb}")
        return int(module.main(json=json, **arguments))

    if code := console.answer(verb, main, json=json):
        raise Exit(code=code)


_TASKS: list[Any] = []


def _verb(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """An invoke task that carries its help and joins the catalogue."""

    def wrap(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        def quiet(c: Context, **arguments: Any) -> None:
            function(c, **arguments)

        made = task(klass=Verb, **options)(quiet)
        _TASKS.append(made)
        return made

    return wrap


@_verb(
    positional=["matrix"],
    iterable=["o"],
    optional=["resume"],
    help={
        "matrix": "a matrix file",
        "o": _OVERRIDE,
        "plan": "print trials, machine restarts, time and disk; run nothing",
        "resume": "go on with an unfinished campaign (its name, or 'latest')",
        "seed": "of every random choice; printed, so that a sweep can be repeated",
        "jobs": "machines side by side",
        "budget": "stop after this long, e.g. 2h",
        "until-deaths": "stop a cell after so many deaths",
        "keep-dead": "leave the first dead container and its machine, with the commands to look at it",
        "monitors": "off, light or full",
        "against": "another matrix or campaign, run side by side in blocks of two: what changed",
        "json": _JSON,
    },
)
def sweep(
    c: Context,
    matrix: str = "",
    o: list[str] = [],  # noqa: B006 - invoke reads the kind of an argument from its default
    plan: bool = False,
    resume: str = "",
    seed: str = "",
    jobs: int = 1,
    budget: str = "",
    until_deaths: int = 0,
    keep_dead: bool = False,
    monitors: str = "",
    against: str = "",
    json: bool = False,
) -> None:
    """Plan, run, judge, tabulate: the main job."""
    _call(
        "sweep",
        json=json,
        arguments={
            "matrix": matrix, "overrides": o, "plan": plan, "resume": resume, "seed": seed,
            "jobs": jobs, "budget": budget, "until_deaths": until_deaths,
            "keep_dead": keep_dead, "monitors": monitors, "against": against,
        },
    )  # fmt: skip


@_verb(
    positional=["experiment"],
    iterable=["o"],
    help={
        "experiment": "an experiment file",
        "trials": "how many",
        "o": _OVERRIDE,
        "seed": "of every random choice",
        "keep-dead": "leave the first dead container and its machine, with the commands to look at it",
        "monitors": "off, light or full",
        "json": _JSON,
    },
)
def run(
    c: Context,
    experiment: str = "",
    trials: int = 5,
    o: list[str] = [],  # noqa: B006
    seed: str = "",
    keep_dead: bool = False,
    monitors: str = "",
    json: bool = False,
) -> None:
    """One experiment, N trials, no matrix."""
    _call(
        "run",
        json=json,
        arguments={
            "experiment": experiment, "trials": trials, "overrides": o, "seed": seed,
            "keep_dead": keep_dead, "monitors": monitors,
        },
    )  # fmt: skip


@_verb(
    positional=["containers"],
    help={
        "containers": "names or ids, comma-separated",
        "label": "every container with this label: KEY or KEY=VALUE",
        "compose": "every container of this Compose project",
        "all": "every container",
        "context": "a docker context or URL; nothing: what docker itself would use",
        "monitors": "off, light or full",
        "json": "one JSON object a line on stdout",
    },
)
def watch(
    c: Context,
    containers: str = "",
    label: str = "",
    compose: str = "",
    all: bool = False,  # noqa: A002 - the option's own name
    context: str = "",
    monitors: str = "light",
    json: bool = False,
) -> None:
    """Report each death among containers that somebody else manages, as it happens."""
    _call(
        "watch",
        json=json,
        arguments={
            "containers": containers, "label": label, "compose": compose, "all": all,
            "context": context, "monitors": monitors,
        },
    )  # fmt: skip


@_verb(positional=["campaign"], help={"campaign": _CAMPAIGN, "json": _JSON})
def judge(c: Context, campaign: str = "", json: bool = False) -> None:
    """Attribute again from the stored events; no Docker needed."""
    _call("judge", json=json, arguments={"campaign": campaign})


@_verb(
    positional=["campaign"],
    help={
        "campaign": _CAMPAIGN,
        "level": "the rate whose crossing dose-response curves show, e.g. 10%",
        "picture": "a folder for those curves as SVG files",
        "markdown": "as Markdown",
        "json": _JSON,
    },
)
def table(
    c: Context,
    campaign: str = "",
    level: str = "",
    picture: str = "",
    markdown: bool = False,
    json: bool = False,
) -> None:
    """The table of a stored campaign."""
    _call(
        "table",
        json=json,
        arguments={"campaign": campaign, "level": level, "picture": picture, "markdown": markdown},
    )


@_verb(
    positional=["a", "b"],
    iterable=["filter"],
    help={
        "a": "the campaign before; several, comma-separated, are one group",
        "b": "the campaign after; nothing: the latest",
        "filter": "only cells with KEY=VALUE (again for more)",
        "only-changed": "only the cells that changed",
        "row": "an axis for the rows",
        "col": "an axis for the columns",
        "margin": "no regression: the rate must not rise by more than this, e.g. 5%",
        "markdown": "as Markdown",
        "json": _JSON,
    },
)
def compare(
    c: Context,
    a: str = "",
    b: str = "",
    filter: list[str] = [],  # noqa: A002, B006
    only_changed: bool = False,
    row: str = "",
    col: str = "",
    margin: str = "",
    markdown: bool = False,
    json: bool = False,
) -> None:
    """What changed between two campaigns, or two groups of them."""
    _call(
        "compare",
        json=json,
        arguments={
            "a": a, "b": b, "filters": filter, "only_changed": only_changed, "row": row,
            "col": col, "margin": margin, "markdown": markdown,
        },
    )  # fmt: skip


@_verb(
    help={
        "n": "trials of each cause",
        "cause": "only these, comma-separated names of experiments/causes",
        "monitors": "off, light or full",
        "jobs": "so many machines at once",
        "load": "between bystanders that keep the processors busy, start and die",
        "vm": "what needs a virtual machine, and only that",
        "resume": "go on with an unfinished one: its name, or latest",
        "json": _JSON,
    },
)
def selftest(
    c: Context,
    n: int = 3,
    cause: str = "",
    monitors: str = "light",
    jobs: int = 1,
    load: bool = False,
    vm: bool = False,
    resume: str = "",
    json: bool = False,
) -> None:
    """Cause every death on purpose and hold the verdicts to it."""
    _call(
        "selftest",
        json=json,
        arguments={
            "n": n, "cause": cause, "monitors": monitors, "jobs": jobs, "load": load, "vm": vm,
            "resume": resume,
        },
    )  # fmt: skip


@_verb(
    positional=["trial"],
    help={"trial": "CELL/N of the latest campaign, or CAMPAIGN:CELL/N", "json": _JSON},
)
def show(c: Context, trial: str = "", json: bool = False) -> None:
    """One trial in words: what it came to, why, and the events that say so."""
    _call("show", json=json, arguments={"trial": trial})


@_verb(
    positional=["files"], help={"files": "experiments and matrices, comma-separated", "json": _JSON}
)
def validate(c: Context, files: str = "", json: bool = False) -> None:
    """Read files and report every problem; run nothing."""
    _call("validate", json=json, arguments={"files": [f for f in files.split(",") if f]})


@_verb(positional=["noun"], help={"noun": "experiment or matrix", "json": "it always is"})
def schema(c: Context, noun: str = "experiment", json: bool = False) -> None:
    """JSON Schema of the files, for editors."""
    _call("schema", json=json, arguments={"noun": noun})


@_verb(positional=["name"], help={"name": "of the experiment", "json": _JSON})
def new(c: Context, name: str = "", json: bool = False) -> None:
    """A first experiment and its matrix, commented, in the current folder."""
    _call("new", json=json, arguments={"name": name})


@_verb(help={"dry": "say what would be removed", "json": _JSON})
def clean(c: Context, dry: bool = False, json: bool = False) -> None:
    """Remove what killed runs left behind; living sweeps are spared."""
    _call("clean", json=json, arguments={"dry": dry})


@_verb(help={"fix": "mend what can be mended", "json": _JSON})
def doctor(c: Context, fix: bool = False, json: bool = False) -> None:
    """Which machines are to be had here, what the probe will see, what spoils results."""
    _call("doctor", json=json, arguments={"fix": fix})


@_verb(
    # More options than letters.
    auto_shortflags=False,
    positional=["file"],
    iterable=["o"],
    optional=["resume"],
    help={
        "file": "a matrix, or an experiment with -o for its axis",
        "axis": "search along it: for a threshold with --rate, else for the first bad value",
        "rate": "the death rate to find, e.g. 20%",
        "tolerance": "how far from it the answer may be, e.g. 10pp; half of it costs four times as much",
        "direction": "deaths along the axis: rising or falling; nothing: found out",
        "good": "a configuration that lives",
        "bad": "a configuration that dies: which of the settings that differ does it?",
        "candidates": "an ordered list, good to bad: OLD,...,NEW or git:GOOD..BAD",
        "run": "a command that tries one candidate ({}): exit 0 lived, 125 can not be told",
        "o": _OVERRIDE,
        "most": "trials at most",
        "budget": "time for all, e.g. 2h",
        "restart": "what a machine restart costs, in trials; nothing: by the kind of machine",
        "seed": "of every random choice",
        "monitors": "off, light or full",
        "resume": "go on with an unfinished search (its name, or 'latest')",
        "no-history": "use nothing of earlier campaigns",
        "as-bisect": "judge one configuration for `git bisect run`: exit 0 good, 1 bad, 125 unknown",
        "below": "with --as-bisect: a rate that is good",
        "above": "with --as-bisect: a rate that is bad",
        "json": _JSON,
    },
)
def bisect(
    c: Context,
    file: str = "",
    axis: str = "",
    rate: str = "",
    tolerance: str = "10pp",
    direction: str = "",
    good: str = "",
    bad: str = "",
    candidates: str = "",
    run: str = "",
    o: list[str] = [],  # noqa: B006
    most: int = 400,
    budget: str = "",
    restart: str = "",
    seed: str = "",
    monitors: str = "",
    resume: str = "",
    no_history: bool = False,
    as_bisect: bool = False,
    below: str = "1%",
    above: str = "10%",
    json: bool = False,
) -> None:
    """Where it begins: the threshold on an axis, the first bad of a list, the settings that kill."""
    _call(
        "bisect",
        json=json,
        arguments={
            "file": file, "axis": axis, "rate": rate, "tolerance": tolerance,
            "direction": direction, "good": good, "bad_": bad, "candidates": candidates,
            "run": run, "overrides": o, "most": most, "budget": budget, "restart": restart,
            "seed": seed, "monitors": monitors, "resume": resume, "no_history": no_history,
            "as_bisect": as_bisect, "below": below, "above": above,
        },
    )  # fmt: skip


@_verb(
    positional=["trial"],
    optional=["resume"],
    help={
        "trial": "CELL/N or CELL of the latest campaign, or CAMPAIGN:CELL/N",
        "cause": "take away this one instead of what the verdict says",
        "most": "trials at most",
        "budget": "time for all, e.g. 30m",
        "seed": "of every random choice",
        "monitors": "off, light or full",
        "resume": "go on with an unfinished one (its name, or 'latest')",
        "json": _JSON,
    },
)
def confirm(
    c: Context,
    trial: str = "",
    cause: str = "",
    most: int = 200,
    budget: str = "",
    seed: str = "",
    monitors: str = "",
    resume: str = "",
    json: bool = False,
) -> None:
    """Take away only the suspected cause and run both again: does the rate drop?"""
    _call(
        "confirm",
        json=json,
        arguments={
            "trial": trial, "cause": cause, "most": most, "budget": budget, "seed": seed,
            "monitors": monitors, "resume": resume,
        },
    )  # fmt: skip


@_verb(
    positional=["matrix"],
    iterable=["o"],
    help={
        "matrix": "a matrix file",
        "o": _OVERRIDE,
        "budget": "time for the sweep and the bisection together, e.g. 1h",
        "seed": "of every random choice",
        "monitors": "off, light or full",
        "against": "how many of the last good nights are the baseline",
        "no-bisect": "do not search what got worse",
        "json": _JSON,
    },
)
def nightly(
    c: Context,
    matrix: str = "",
    o: list[str] = [],  # noqa: B006
    budget: str = "",
    seed: str = "",
    monitors: str = "",
    against: int = 1,
    no_bisect: bool = False,
    json: bool = False,
) -> None:
    """Sweep, compare with the last good night, bisect what got worse, write reports."""
    _call(
        "nightly",
        json=json,
        arguments={
            "matrix_file": matrix, "overrides": o, "budget": budget, "seed": seed,
            "monitors": monitors, "against": against, "no_bisect": no_bisect,
        },
    )  # fmt: skip


@_verb(
    positional=["what"],
    help={
        "what": "observe: detection, cost, perturbation, nothing missed; stats: trials and errors",
        "only": "parts, comma-separated: detection, missed, cost, perturbation; stats: a1 to g",
        "quick": "few repetitions: shows that it runs, decides little",
        "full": "stats: 1000 repetitions a row, for which its aims are made",
        "json": _JSON,
    },
)
def bench(
    c: Context,
    what: str = "observe",
    only: str = "",
    quick: bool = False,
    full: bool = False,
    json: bool = False,
) -> None:
    """How well we watch and how well we count, as ratios against what others do."""
    arguments = {"what": what, "only": only, "quick": quick, "full": full}
    _call("bench", json=json, arguments=arguments)


@_verb(
    help={
        "fast": "only what needs no engine",
        "soak": "what takes an hour under software emulation, too",
        "k": "as pytest -k",
    }
)
def test(c: Context, fast: bool = False, soak: bool = False, k: str = "") -> None:
    """All tests: fast ones, and real ones on an engine that they start themselves."""
    _call("test", json=False, arguments={"fast": fast, "soak": soak, "k": k})


@_verb()
def check(c: Context) -> None:
    """ruff, mypy --strict, fast tests, doctests and the import order, in seconds."""
    _call("check", json=False, arguments={})


def collection() -> Collection:
    """All of them, for tasks.py and for the installed program."""
    return Collection(*_TASKS)
